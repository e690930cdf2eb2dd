"""Finds the user's own images, other than class folders, in a data folder or a file."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from cifar_lightning.data.cache import Decoded
from cifar_lightning.data.layouts import arrays, parquet
from cifar_lightning.data.layouts.official import Held, find_test_set
from cifar_lightning.errors import InputError
from cifar_lightning.files import is_file


def find(place: Path) -> Held | None:
    """Finds arrays, parquet files or a published test set; None if there are none.

    Raises:
        InputError: There are several, files that belong to them are missing, or what there is cannot be read.
    """
    if files := arrays.find(place):
        return Held(files[0].parent, files, arrays.SHAPE, partial(_read_arrays, files))
    one = place.suffix == ".parquet" and is_file(place)
    home = place.parent if one else place
    if parts := parquet.find(home, "folder"):
        files = [path for paths in parts.values() for path in paths]
        return Held(home, files, parquet.SHAPE, partial(_read_parquet, parts))
    if one:
        raise InputError(f"data_dir {place} {parquet.ALONE}")
    return find_test_set(place, "folder")


def _read_arrays(files: Sequence[Path], split: str, own: bool) -> Decoded:
    return arrays.read(files, split)


def _read_parquet(parts: Mapping[str, Sequence[Path]], split: str, own: bool) -> Decoded:
    return parquet.read_own(parts, split)
