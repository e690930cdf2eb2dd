"""Says what images there are, or writes them in another shape. See commands/data.py; `--help` says how."""

from cifar_lightning.cli import main
from cifar_lightning.commands.data import script

if __name__ == "__main__":
    main(script)
