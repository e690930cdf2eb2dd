"""Writes a trained network into a file or folder for other programs. See commands/export.py and `--help`."""

from cifar_lightning.cli import main
from cifar_lightning.commands.export import script

if __name__ == "__main__":
    main(script)
