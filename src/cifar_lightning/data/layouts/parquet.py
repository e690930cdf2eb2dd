"""Reads images as Hugging Face stores them, CIFAR's or the user's own: parquet files of encoded pictures and labels."""

import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cifar_lightning.data.cache import Decoded
from cifar_lightning.data.cifar10 import CIFAR100_CLASSES, CIFAR100_COARSE_CLASSES, CLASSES
from cifar_lightning.data.layouts.class_folders import VALIDATION
from cifar_lightning.data.layouts.held import Held
from cifar_lightning.data.pictures.decoding import Remarks, check_sums, pillows_warnings, to_pixels
from cifar_lightning.errors import InputError, brief
from cifar_lightning.files import is_file, listed

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

# Where the files are: in a clone or download of the data set, in its parquet folder itself, or as others upload it.
FOLDERS = {
    "cifar10": ("plain_text", "cifar10", "", "data"),
    "cifar100": ("cifar100", "", "data"),
    "folder": ("", "data"),
}
FOLDERS["cifar100-coarse"] = FOLDERS["cifar100"]
IMAGES = ("img", "image")
INSTALL = "install it with: pip install 'cifar-lightning[parquet]'"
_FINE = dict.fromkeys(("fine_label", "fine_labels"), CIFAR100_CLASSES)
# Possible columns of labels, of which the first one found is read; and what its numbers mean if the file does not say.
LABELS: dict[str, dict[str, tuple[str, ...]]] = {
    "cifar10": dict.fromkeys(("label", "labels"), CLASSES),
    "cifar100": {**_FINE, "label": CIFAR100_CLASSES},
    "cifar100-coarse": {
        **dict.fromkeys(("coarse_label", "coarse_labels"), CIFAR100_COARSE_CLASSES),
        **_FINE,
        "label": CIFAR100_COARSE_CLASSES,
    },
    "folder": dict.fromkeys(("label", "labels"), ()),
}
MISSPELT = {"cra": "crab"}  # https://huggingface.co/datasets/uoft-cs/cifar100/blob/main/README.md
# Rows to read at a time. They are never read by row groups: some writers put 50,000 images into one.
BATCH = 1_000
SHAPE = "parquet files"


def find(place: Path, source: str) -> Held | None:
    """Finds the files of all splits in a folder, or those beside a given one; None if there are none for train or test.

    Raises:
        InputError: Some of a split's files are missing, or those of a split beside the given one.
    """
    is_one = place.suffix == ".parquet" and is_file(place)
    home = place.parent if is_one else place
    if files := _splits(home, source):
        every = [path for paths in files.values() for path in paths]
        return Held(home, every, SHAPE, partial(_decode, files, source), named=False)
    if is_one:
        raise InputError(
            f"data_dir {place} is not in a folder with train-*.parquet and test-*.parquet: both are needed"
        )
    return None


def _splits(home: Path, source: str) -> dict[str, list[Path]]:
    """Finds the files of each split, in order; the folder source may have a third, named like a validation folder."""
    for folder in FOLDERS[source]:
        files = {split: _files(home / folder, split) for split in ("train", "test")}
        if all(files.values()):
            others = VALIDATION if source == "folder" else ()
            return files | {split: found for split in others if (found := _files(home / folder, split))}
    return {}


def _decode(files: Mapping[str, Sequence[Path]], source: str, split: str, own: bool) -> Decoded:
    """Decodes a split: "train", with the validation images of the user's own, or "test"."""
    every = [path for paths in files.values() for path in paths]
    if source != "folder":
        return read(files[split], source, _names_in(every, source))
    parts = [paths for name, paths in files.items() if (name == "test") == (split == "test")]
    counts = [_count(paths) for paths in parts]
    decoded = read(list(chain(*parts)), source, dict.fromkeys(LABELS[source], _classes(every)))
    return decoded._replace(held_out=sum(counts[1:]))


def _names_in(files: Iterable[Path], source: str) -> dict[str, tuple[str, ...]]:
    """Returns what the numbers in each column of labels mean, according to the first file that says so."""
    found: dict[str, tuple[str, ...]] = {}
    for path in files:
        with _opened(path) as file:
            column = _column(file, path, LABELS[source], source)
            if names := _names(file, column, source):
                found.setdefault(column, names)
    return found


def read(files: Sequence[Path], source: str, names: Mapping[str, tuple[str, ...]]) -> Decoded:
    """Decodes the files of one split, in order.

    Args:
        files: The files.
        source: The source to which they belong.
        names: What the numbers in a column mean, in all splits; see `_names_in`. For other columns, `source` decides.

    Raises:
        InputError: pyarrow is not installed; or a file is damaged, has other classes than the others, or lacks the
            columns, pictures of 32×32 pixels or labels that it should have.
    """
    classes: tuple[str, ...] = ()
    count, done, remarks = _count(files), 0, Remarks()
    images, labels = np.empty((count, 32, 32, 3), np.uint8), np.empty(count, np.int64)
    for path in files:
        with _opened(path) as file, pillows_warnings():
            pictures, column = (_column(file, path, known, source) for known in (IMAGES, LABELS[source]))
            here = names.get(column, LABELS[source][column])
            if (done and classes != here) or _names(file, column, source) not in ((), here):
                raise InputError(f"{path} has other classes than the files before it: all files need the same")
            classes = here
            rows, end = _rows(file, path, (pictures, column), classes, remarks), done + file.metadata.num_rows
            for row, (pixels, label) in zip(range(done, end), rows, strict=True):  # lengths may differ if damaged
                images[row], labels[row] = pixels, label
            done = end
    return Decoded(images, labels, classes, notes=remarks.notes())


def _count(files: Sequence[Path]) -> int:
    """Counts the images of a split; there must be at least one."""
    count = 0
    for path in files:
        with _opened(path) as file:
            there = file.metadata
            if there.num_rows != sum(there.row_group(i).num_rows for i in range(there.num_row_groups)):
                raise ValueError("its two counts of rows differ")
            count += there.num_rows
    if not count:
        raise InputError(f"{files[0]} has no images: replace it")
    return count


def _files(folder: Path, split: str) -> list[Path]:
    """Finds `train-00000-of-00002.parquet` and so on, `train.parquet`, or whatever is in `train/`."""
    parts: dict[str, Path] = {}
    for path in sorted(listed(folder, f"{split}*.parquet")):
        name = re.fullmatch(rf"{split}(?:-(\d+)-of-(\d+)(?:-[0-9a-f]+)?)?\.parquet", path.name)
        if name and name[1] is None:
            return [path]
        if name:
            parts[name[1]] = path
            count = int(name[2])
    if parts and len(parts) != count:
        raise InputError(f"{folder} has {len(parts)} of {count} files {split}-*.parquet: download the others")
    return list(parts.values()) or sorted(listed(folder / split, "[!.]*.parquet"))


@contextmanager
def _opened(path: Path) -> Iterator["ParquetFile"]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise InputError(f"{path} is a parquet file, which needs pyarrow; {INSTALL}") from error
    try:
        with parquet.ParquetFile(path) as file:
            yield file
    except InputError:
        raise
    except (OSError, ValueError, ArrowException) as error:
        reason = " ".join(str(error).split())  # some messages have several lines
        raise InputError(f"{path} is damaged, or cannot be read ({reason}): replace it") from error


def _classes(files: Sequence[Path]) -> tuple[str, ...]:
    """Returns the names of the user's own classes: from the first file that has names, or else from the labels."""
    values: set[str | int] = set()
    for path in files:
        with _opened(path) as file:
            column = _column(file, path, LABELS["folder"], "folder")
            if names := _names(file, column, "folder"):
                return names
            for batch in file.iter_batches(columns=[column]):
                values.update(value for value in batch.column(column).to_pylist() if type(value) in (str, int))
    if texts := sorted(value for value in values if isinstance(value, str)):
        return tuple(texts)
    highest = max((value for value in values if type(value) is int), default=-1)
    return tuple(map(str, range(min(highest + 1, 10**6))))  # larger numbers are no labels, and are refused


def _names(file: "ParquetFile", column: str, source: str) -> tuple[str, ...]:
    """Returns the classes from Hugging Face's metadata; () if there are none, since other writers drop them."""
    try:
        features = json.loads((file.schema_arrow.metadata or {})[b"huggingface"])["info"]["features"]
        names = features[column]["names"]
    except (KeyError, TypeError, ValueError):
        return ()
    if not isinstance(names, list):
        return ()
    misspelt = {} if source == "folder" else MISSPELT
    return tuple(misspelt.get(name, name) for name in names if isinstance(name, str))


def _column(file: "ParquetFile", path: Path, names: Iterable[str], source: str) -> str:
    first, *others = names
    there = file.schema_arrow.names
    for name in (first, *others):
        if name in there:
            return name
    instead = f"rename one to {first}" if source == "folder" else f"it is not {source} from Hugging Face"
    raise InputError(f"{path} has no column {first}, only {', '.join(there)}: {instead}")


def _rows(
    file: "ParquetFile", path: Path, columns: tuple[str, str], classes: tuple[str, ...], remarks: Remarks
) -> Iterator[tuple[npt.NDArray[np.uint8], int]]:
    numbers = {name: label for label, name in enumerate(classes)}
    row = 0
    for batch in file.iter_batches(BATCH, columns=list(columns)):
        for picture, value in zip(*(batch.column(name).to_pylist() for name in columns), strict=True):
            label: Any = numbers.get(value, numbers.get(MISSPELT.get(value, ""))) if isinstance(value, str) else value
            if type(value) not in (str, int):
                raise InputError(
                    f"{path}: row {row} has the label {brief(value)}: must be a whole number or the name of a class"
                )
            if label is None or not 0 <= label < len(classes):
                raise InputError(
                    f"{path}: row {row} has the label {value!r}, not one of 0..{len(classes) - 1}: fix the file"
                )
            # {bytes, path}, or the bytes alone
            yield _pixels(picture.get("bytes") if isinstance(picture, dict) else picture, path, row, remarks), label
            row += 1


def _pixels(data: Any, path: Path, row: int, remarks: Remarks) -> npt.NDArray[np.uint8]:
    """Decodes a picture by the rules for picture files, for transparency, 16 bits per value and orientation."""
    from PIL import Image, UnidentifiedImageError

    if not isinstance(data, bytes):
        raise InputError(f"{path}: row {row} has no bytes of a picture: write the pictures into the file")
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as image:
            size = image.size
            if size == (32, 32):
                check_sums(data)
                return to_pixels(image, f"{path}: row {row}", remarks)
    except Exception as error:  # a damaged picture can make a decoder raise anything
        reason = "it is not a PNG or JPEG image" if isinstance(error, UnidentifiedImageError) else error
        raise InputError(f"{path}: the picture of row {row} cannot be read ({reason}): replace it") from error
    raise InputError(f"{path}: the picture of row {row} has {size[0]}×{size[1]} pixels: scale it to 32×32, as in CIFAR")
