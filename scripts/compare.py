"""Says what runs differ in, and whether that is more than noise. See commands/compare.py; `--help` says how."""

from cifar_lightning.cli import main
from cifar_lightning.commands.compare import script

if __name__ == "__main__":
    main(script)
