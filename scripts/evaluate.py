"""Tests a trained network. See commands/evaluate.py and `--help`."""

from cifar_lightning.cli import main
from cifar_lightning.commands.evaluate import script

if __name__ == "__main__":
    main(script)
