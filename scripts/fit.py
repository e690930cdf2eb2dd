"""Trains a network on CIFAR-10, tests it, draws and reports. See commands/fit.py and `--help`."""

from cifar_lightning.cli import main
from cifar_lightning.commands.fit import script

if __name__ == "__main__":
    main(script)
