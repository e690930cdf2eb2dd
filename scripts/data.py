"""Describes the images of a folder, or writes them in another layout. See commands/data.py and `--help`."""

from cifar_lightning.cli import main
from cifar_lightning.commands.data import script

if __name__ == "__main__":
    main(script)
