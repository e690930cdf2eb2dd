"""Tells how far a run has come, and whether there is more to do. See commands/status.py and `--help`."""

from cifar_lightning.cli import main
from cifar_lightning.commands.status import script

if __name__ == "__main__":
    main(script)
