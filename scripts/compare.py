"""Compares runs, and tells whether they differ by more than noise. See commands/compare.py and `--help`."""

from cifar_lightning.cli import main
from cifar_lightning.commands.compare import script

if __name__ == "__main__":
    main(script)
