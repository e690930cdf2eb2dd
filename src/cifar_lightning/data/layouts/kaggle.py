"""The pictures of Kaggle's competition `cifar-10`: train/1.png and so on, and trainLabels.csv with the class of each.

Kaggle's image n is the official image n - 1. Kaggle does not publish the labels of its test pictures, 10,000 among
290,000 that do not count. If you have them, write a testLabels.csv in the same format; pictures that it does not list
are passed over.
"""

import csv
import os
import shlex
from pathlib import Path

import numpy as np

from cifar_lightning.data.cache import Decoded
from cifar_lightning.data.cifar10 import CLASSES
from cifar_lightning.data.layouts.held import Held
from cifar_lightning.data.pictures import reading
from cifar_lightning.errors import InputError
from cifar_lightning.files import is_dir, is_file

TRAIN_LABELS = "trainLabels.csv"
TEST_LABELS = "testLabels.csv"


def find(home: Path, source: str) -> Held | None:
    """Finds the pictures in a folder, and the files that have their labels; None if there is no trainLabels.csv."""
    tables = [path for name in (TRAIN_LABELS, TEST_LABELS) if is_file(path := home / name)]
    if source != "cifar10" or not tables or tables[0].name != TRAIN_LABELS:
        return None
    files = [*tables, *(path for table in tables for path, _ in _listed(table))]
    splits = ("train", "test")[: len(tables)]
    return Held(home, files, "Kaggle's pictures", lambda split, own: read(home, split), splits)


def read(home: Path, split: str) -> Decoded:
    """Decodes one split, in the order of the pictures' numbers.

    Raises:
        InputError: A line of the labels is invalid, a picture is missing or cannot be read, or there are no labels.
    """
    table = home / (TRAIN_LABELS if split == "train" else TEST_LABELS)
    if not is_file(table):
        raise InputError(
            f"data_dir {home} has Kaggle's pictures, which come without test labels: to test, put the official archive "
            f"there, or a {TEST_LABELS} like {TRAIN_LABELS}; to predict, which needs no labels, use "
            f"predict RUN {shlex.quote(str(home / 'test'))}"
        )
    listed = _listed(table)
    labels = np.array([CLASSES.index(name) for _, name in listed], dtype=np.int64)
    size = sum(path.stat().st_size for path, _ in listed)
    images, notes = reading.read([str(path) for path, _ in listed], size)
    return Decoded(images, labels, CLASSES, notes=notes)


def _listed(table: Path) -> list[tuple[Path, str]]:
    """Returns the pictures and their classes, sorted by number."""
    folder = table.parent / table.name.removesuffix("Labels.csv")
    there = {entry.name for entry in os.scandir(folder)} if is_dir(folder) else set()
    found: dict[int, str] = {}
    with open(table, encoding="utf-8-sig", newline="") as file:
        try:
            for line in csv.DictReader(file):
                number, name = line.get("id") or "", line.get("label")
                if not number.isascii() or not number.isdigit() or name not in CLASSES or int(number) in found:
                    raise InputError(
                        f"{table} has the line {line}: a line needs its own id, and a CIFAR-10 class as label"
                    )
                if f"{int(number)}.png" not in there:
                    raise InputError(
                        f"{table} lists {number}, but {folder / number}.png does not exist: unpack it there"
                    )
                found[int(number)] = name
        except (csv.Error, UnicodeDecodeError) as error:
            raise InputError(f"{table} is not a table of id,label ({error}): replace it") from error
    if not found:
        raise InputError(f"{table} lists no pictures: replace it")
    return [(folder / f"{number}.png", found[number]) for number in sorted(found)]
