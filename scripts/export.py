"""Writes a trained network into one file for other programs. See commands/export.py; `--help` says how."""

from cifar_lightning.cli import main
from cifar_lightning.commands.export import script

if __name__ == "__main__":
    main(script)
