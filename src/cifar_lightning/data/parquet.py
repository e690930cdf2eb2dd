"""CIFAR as Hugging Face keeps it: parquet files of encoded pictures and labels."""

import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cifar_lightning.data.cache import Decoded
from cifar_lightning.data.cifar10 import CIFAR100_CLASSES, CIFAR100_COARSE_CLASSES, CLASSES
from cifar_lightning.errors import InputError

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

# Where the files lie: in a clone or download of the data set, in its parquet folder itself, as others upload it.
FOLDERS = {"cifar10": ("plain_text", "cifar10", "", "data"), "cifar100": ("cifar100", "", "data")}
FOLDERS["cifar100-coarse"] = FOLDERS["cifar100"]
IMAGES = ("img", "image")
_FINE = dict.fromkeys(("fine_label", "fine_labels"), CIFAR100_CLASSES)
# Columns of labels, the first that there is, and what its numbers mean where the file does not say.
LABELS: dict[str, dict[str, tuple[str, ...]]] = {
    "cifar10": dict.fromkeys(("label", "labels"), CLASSES),
    "cifar100": {**_FINE, "label": CIFAR100_CLASSES},
    "cifar100-coarse": {
        **dict.fromkeys(("coarse_label", "coarse_labels"), CIFAR100_COARSE_CLASSES),
        **_FINE,
        "label": CIFAR100_COARSE_CLASSES,
    },
}
MISSPELT = {"cra": "crab"}  # https://huggingface.co/datasets/uoft-cs/cifar100/blob/main/README.md
# By batches, never by row groups: some writers put 50,000 images into one.
BATCH = 1_000


def find(home: Path, source: str) -> dict[str, list[Path]]:
    """The files of each split, in their order; empty where there are no such files of both.

    Raises:
        InputError: Some of a split's files are missing.
    """
    for folder in FOLDERS[source]:
        files = {split: _files(home / folder, split) for split in ("train", "test")}
        if all(files.values()):
            return files
    return {}


def read(files: Sequence[Path], source: str) -> Decoded:
    """Decodes one split's files, in their order.

    Raises:
        InputError: pyarrow is not installed; or a file is damaged, or has not the columns, pictures of 32×32 pixels and
            labels that there should be.
    """
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"{files[0]} is parquet, which needs pyarrow: pip install 'cifar-lightning[parquet]'"
        ) from error
    images, labels = [], []
    classes: tuple[str, ...] = ()
    for path in files:
        try:
            with _open(path) as file:
                pictures, column = (_column(file, path, names, source) for names in (IMAGES, LABELS[source]))
                classes = _names(file, column) or classes or LABELS[source][column]
                for pixels, label in _rows(file, path, (pictures, column), classes):
                    images.append(pixels)
                    labels.append(label)
        except (OSError, ValueError) as error:  # pyarrow's own errors are ValueErrors
            if isinstance(error, InputError):
                raise
            raise InputError(f"{path} is damaged, or cannot be read ({error}): replace it") from error
    if not images:
        raise InputError(f"{files[0]} has no images: replace it")
    return Decoded(np.stack(images), np.array(labels, dtype=np.int64), classes)


def _files(folder: Path, split: str) -> list[Path]:
    """`train-00000-of-00002.parquet` and so on, `train.parquet`, or whatever lies in `train/`."""
    parts: dict[str, Path] = {}
    for path in sorted(folder.glob(f"{split}*.parquet")):
        name = re.fullmatch(rf"{split}(?:-(\d+)-of-(\d+)(?:-[0-9a-f]+)?)?\.parquet", path.name)
        if name and name[1] is None:
            return [path]
        if name:
            parts[name[1]] = path
            count = int(name[2])
    if parts and len(parts) != count:
        raise InputError(f"{folder} has {len(parts)} of {count} files {split}-*.parquet: fetch the others")
    return list(parts.values()) or sorted((folder / split).glob("*.parquet"))


def _open(path: Path) -> "ParquetFile":
    from pyarrow.parquet import ParquetFile

    return ParquetFile(path)


def _names(file: "ParquetFile", column: str) -> tuple[str, ...]:
    """The classes, as Hugging Face's metadata has them; () where there are none, as other writers drop them."""
    try:
        features = json.loads((file.schema_arrow.metadata or {})[b"huggingface"])["info"]["features"]
        names = features[column]["names"]
    except (KeyError, TypeError, ValueError):
        return ()
    if not isinstance(names, list):
        return ()
    return tuple(MISSPELT.get(name, name) for name in names if isinstance(name, str))


def _column(file: "ParquetFile", path: Path, names: Iterable[str], source: str) -> str:
    first, *others = names
    there = file.schema_arrow.names
    for name in (first, *others):
        if name in there:
            return name
    raise InputError(f"{path} has no column {first}, only {', '.join(there)}: it is not {source} from Hugging Face")


def _rows(
    file: "ParquetFile", path: Path, columns: tuple[str, str], classes: tuple[str, ...]
) -> Iterator[tuple[npt.NDArray[np.uint8], int]]:
    numbers = {name: label for label, name in enumerate(classes)}
    row = 0
    for batch in file.iter_batches(BATCH, columns=list(columns)):
        for picture, value in zip(*(batch.column(name).to_pylist() for name in columns), strict=True):
            label: Any = numbers.get(MISSPELT.get(value, value)) if isinstance(value, str) else value
            if type(label) is not int or not 0 <= label < len(classes):
                raise InputError(
                    f"{path}: row {row} has the label {value!r}, not one of 0..{len(classes) - 1}: mend it"
                )
            # {bytes, path}, or the bytes alone
            yield _pixels(picture.get("bytes") if isinstance(picture, dict) else picture, path, row), label
            row += 1


def _pixels(data: Any, path: Path, row: int) -> npt.NDArray[np.uint8]:
    from PIL import Image

    if not isinstance(data, bytes):
        raise InputError(f"{path}: row {row} has no bytes of a picture: write the pictures into the file")
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as image:
            size, pixels = image.size, image.convert("RGB") if image.size == (32, 32) else None
    except Exception as error:  # a damaged picture can make a decoder raise anything
        raise InputError(f"{path}: the picture of row {row} cannot be read ({error}): replace it") from error
    if pixels is None:
        raise InputError(f"{path}: the picture of row {row} has {size[0]}×{size[1]} pixels: CIFAR's have 32×32")
    return np.asarray(pixels)
