"""Images as numpy arrays: x_train, y_train, x_test and y_test in one .npz file, or in a .npy file each."""

import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cifar_lightning.data.cache import Decoded, array_in
from cifar_lightning.data.cifar10 import PIXELS
from cifar_lightning.data.folder import VALIDATION
from cifar_lightning.errors import InputError
from cifar_lightning.files import readable

# What images and labels of a split are called, in small letters; Keras' names are the first, MedMNIST's the second.
NAMES = (("x_{}", "y_{}"), ("{}_images", "{}_labels"), ("{}_data", "{}_labels"), ("{}_x", "{}_y"))
CLASSES = ("classes", "class_names", "label_names")
LAYOUT = "arrays are x_train, y_train, x_test and y_test, in a .npz file or in .npy files of these names"
SHAPE = "numpy arrays"
PIECE = 256  # images whose channels are moved at once
SHAPES = "uint8 (N, 32, 32, 3), (N, 3, 32, 32) or (N, 3072)"


def find(place: Path, names: str = "*.npz") -> list[Path]:
    """The files with arrays: `place` itself if it is a .npz file, or those in it; none if there is no x_train.

    Args:
        place: A file or a folder.
        names: What a .npz file in a folder may be called, as a pattern.

    Raises:
        InputError: There are several .npz files with images.
    """
    if place.is_file():
        return [place] if place.suffix == ".npz" else []
    arrays = sorted(place.glob("*.npy"))
    if _pair([path.stem for path in arrays], "train"):
        return arrays
    packed = [
        path for path in sorted(place.glob(names)) if zipfile.is_zipfile(path) and _pair(_names_in(path), "train")
    ]
    if len(packed) > 1:
        raise InputError(
            f"data_dir {place} has {packed[0].name} and {packed[1].name}: give --data.data_dir one of them"
        )
    return packed


def read(files: Sequence[Path], split: str, *names: tuple[str, ...]) -> Decoded:
    """Reads one split, "train" (with the validation images, where there are such arrays) or "test".

    Args:
        files: What `find` has found.
        split: Which.
        names: What the classes may be called, the fewest first, where the file does not say; default: their numbers.

    Raises:
        InputError: Arrays are missing, damaged or not such as SHAPES says; or labels are no integers, or out of range.
    """
    place = files[0] if files[0].suffix == ".npz" else files[0].parent
    where = {name: path for path in files for name in ([path.stem] if path.suffix == ".npy" else _names_in(path))}
    pairs = {name: pair for name in ("train", "test", *VALIDATION) if (pair := _pair(where, name))}
    for name in ("train", "test"):
        if name not in pairs:
            raise InputError(f"{place} has no images and labels of {name}: {LAYOUT}")
    labels = {name: _labels(where, pair[1]) for name, pair in pairs.items()}
    highest = max(int(array.max(initial=0)) for array in labels.values())
    if name := next((name for name in where if name.lower() in CLASSES), ""):
        classes = _classes(where[name], name)
    else:
        classes = next((some for some in names if highest < len(some)), names[-1] if names else ())
    if not classes:
        if highest > sum(map(len, labels.values())):
            raise InputError(f"{place} has a label {highest}, more than there are images: number the classes from 0")
        classes = tuple(map(str, range(highest + 1)))
    if highest >= len(classes):
        raise InputError(f"{place} has a label {highest}, outside 0..{len(classes) - 1}, its classes: mend the labels")

    parts = ["test"] if split == "test" else [name for name in ("train", *VALIDATION) if name in labels]
    images = [_images(where, *pairs[name], len(labels[name])) for name in parts]
    held_out = sum(map(len, images[1:]))
    joined = np.concatenate(images) if images[1:] else np.ascontiguousarray(images[0])  # of one, no copy but if need be
    return Decoded(joined, np.concatenate([labels[name] for name in parts]), classes, held_out)


def read_pair(images: Path, labels: Path, mapped: bool = False) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Reads a .npy file of images and that of their labels; `mapped`, the images stay on the disk, for a look.

    Raises:
        InputError: They are missing, damaged or not such as SHAPES says.
    """
    where = {path.stem: path for path in (images, labels)}
    found = _labels(where, labels.stem)
    return _images(where, images.stem, labels.stem, len(found), mapped), found


def _names_in(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as file:
            return [name.removesuffix(".npy") for name in file.namelist()]
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is no .npz file, or damaged ({error}): replace it") from error


def _pair(names: Iterable[str], split: str) -> tuple[str, str] | None:
    """The names of the images and the labels of a split, as they are written; None if there are none."""
    written = {name.lower(): name for name in names}
    for images, labels in NAMES:
        if (x := images.format(split)) in written and (y := labels.format(split)) in written:
            return written[x], written[y]
    return None


def _load(path: Path, name: str, mapped: bool = False) -> npt.NDArray[Any]:
    try:
        with readable(path):
            if path.suffix == ".npy":
                return np.asarray(np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False))
            with zipfile.ZipFile(path) as file:
                return array_in(file, name)
    except InputError:
        raise
    except ValueError as error:
        if "allow_pickle" in str(error) or "Python objects" in str(error):
            raise InputError(
                f"{path}: {name} holds Python objects, which are not read, for that may run code: save numbers, "
                "or str for names"
            ) from error
        raise InputError(f"{path}: {name} is damaged ({error}): replace it") from error
    except Exception as error:  # whatever zip and numpy raise for bytes that are not theirs
        raise InputError(f"{path}: {name} is damaged ({error}): replace it") from error


def _classes(path: Path, name: str) -> tuple[str, ...]:
    names = _load(path, name)
    if names.dtype.kind not in "US" or names.ndim != 1 or not len(names):
        raise InputError(f"{path}: {name} is {names.dtype} {names.shape}, not a list of names: save it as str")
    return tuple(text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text) for text in names.tolist())


def _labels(where: dict[str, Path], name: str) -> npt.NDArray[np.int64]:
    labels = integers(_load(where[name], name), f"{where[name]}: {name}")
    if labels.size and labels.min() < 0:
        raise InputError(f"{where[name]}: {name} has a label {labels.min()}: number the classes from 0")
    return labels


def integers(labels: npt.NDArray[Any], where: str) -> npt.NDArray[np.int64]:
    """Labels (N,), of an array that may have them in a column; an InputError says where they are none."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise InputError(f"{where} is {labels.dtype} {labels.shape}: give an integer an image, the number of its class")
    return labels.astype(np.int64)


def _images(where: dict[str, Path], name: str, labels: str, count: int, mapped: bool = False) -> npt.NDArray[np.uint8]:
    images = _load(where[name], name, mapped)
    found = f"{where[name]}: {name} is {images.dtype} {images.shape}"
    if images.dtype.kind not in "iu":
        raise InputError(f"{found}: give {SHAPES}, from 0 to 255: nothing tells how floats were scaled")
    if images.shape[1:] not in ((32, 32, 3), (3, 32, 32), (PIXELS,)):
        raise InputError(f"{found}: give {SHAPES}")
    if len(images) != count:
        raise InputError(f"{found}, and {labels} has {count:,} labels: give one an image")
    if not count:
        raise InputError(f"{found}: give {SHAPES}, with one image or more")
    if images.dtype != np.uint8 and not (images.min() >= 0 and images.max() <= 255):
        raise InputError(f"{found} with values from {images.min()} to {images.max()}: give values from 0 to 255")
    images = images.astype(np.uint8, copy=False)
    if images.shape[1:] == (32, 32, 3):
        return images
    planes = images.reshape(-1, 3, 32, 32)
    return planes.transpose(0, 2, 3, 1) if mapped else _channels_last(np.ascontiguousarray(planes))


def _channels_last(planes: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Images in planes, (N, 3, 32, 32), as (N, 32, 32, 3) in the same memory, for there may be too little for both."""
    images = planes.reshape(-1, 32, 32, 3)
    for start in range(0, len(images), PIECE):
        piece = slice(start, start + PIECE)
        images[piece] = planes[piece].transpose(0, 2, 3, 1).copy()
    return images
