"""Names what is in a picture, with the three most probable classes. See commands/predict.py and `--help`."""

from cifar_lightning.cli import main
from cifar_lightning.commands.predict import script

if __name__ == "__main__":
    main(script)
