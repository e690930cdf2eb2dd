"""Held: images that have been found, in whatever layout."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from cifar_lightning.data.cache import Decoded


class Held(NamedTuple):
    """Images that have been found.

    Attributes:
        home: The data folder, in which the decoded images are cached.
        files: All files of the images, in the order in which their SHA-256 is computed.
        shape: The name of the layout.
        decode: Reads a split; its arguments are the split, and whether the images are the user's own, not the official
            ones.
        splits: The splits that there are.
        named: Whether a file or folder name identifies the data set; if not, it may be another one in the same layout.
        decodes: Whether `decode` takes so long that its result is worth caching.
        parts: If this is a folder of many test sets, the files, one test set each.
    """

    home: Path
    files: list[Path]
    shape: str
    decode: Callable[[str, bool], Decoded]
    splits: tuple[str, ...] = ("train", "test")
    named: bool = True
    decodes: bool = True
    parts: tuple[Path, ...] = ()
