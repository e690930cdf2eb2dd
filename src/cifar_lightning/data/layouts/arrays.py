"""Images as numpy arrays: x_train, y_train, x_test and y_test in one .npz file, or in a .npy file each."""

import os
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from cifar_lightning.data.cache import Decoded, Header, header_of
from cifar_lightning.data.cifar10 import CLASSES_OF, PIXELS
from cifar_lightning.data.layouts.class_folders import VALIDATION
from cifar_lightning.data.layouts.held import Held
from cifar_lightning.errors import InputError, number_of
from cifar_lightning.files import is_dir, is_file, listed, readable

# Names of a split's images and labels, in lower case; the first pair is Keras', the second MedMNIST's.
NAMES = (("x_{}", "y_{}"), ("{}_images", "{}_labels"), ("{}_data", "{}_labels"), ("{}_x", "{}_y"))
CLASSES = ("classes", "class_names", "label_names")
KNOWN = {*CLASSES, *(name.format(split) for pair in NAMES for name in pair for split in ("train", "test", *VALIDATION))}
LAYOUT = "arrays are named x_train, y_train, x_test and y_test, in one .npz file or in a .npy file each"
SHAPE = "numpy arrays"
PIECE = 128  # images read at a time
SHAPES = "uint8 (N, 32, 32, 3), (N, 3, 32, 32) or (N, 3072)"


def find(place: Path, source: str) -> Held | None:
    """Finds the files with arrays: `place` itself if it is a .npz file, or those in it; None if there is no x_train.

    An official set is looked for only in .npz files of its name: others may hold anything, such as Keras' mnist.npz.

    Raises:
        InputError: There are several .npz files with images, or one that cannot be read and might have some.
    """
    fine = CLASSES_OF.get(source.removesuffix("-coarse"), ())
    pattern = f"cifar*{len(fine)}.npz" if fine else "[!.]*.npz"  # not hidden ones, such as macOS leaves
    if not (files := _files(place, pattern)):
        return None
    decode = partial(read, files, (CLASSES_OF[source], fine) if fine else ())
    return Held(files[0].parent, files, SHAPE, decode, named=files[0].match(pattern))


def _files(place: Path, pattern: str) -> list[Path]:
    if is_file(place):
        return [place] if place.suffix == ".npz" else []
    arrays = [path for path in sorted(listed(place, "*.npy")) if path.stem.lower() in KNOWN]
    if _pair([path.stem for path in arrays], "train"):
        return arrays
    packed = [path for path in sorted(listed(place, pattern)) if not is_dir(path) and _pair(_names_in(path), "train")]
    if len(packed) > 1:
        raise InputError(
            f"data_dir {place} has {packed[0].name} and {packed[1].name}: pass one of them as --data.data_dir"
        )
    return packed


def read(files: Sequence[Path], names: Sequence[tuple[str, ...]], split: str, own: bool = False) -> Decoded:
    """Reads one split: "train" (with the validation images at its end, if there are such arrays) or "test".

    Args:
        files: The files with arrays.
        names: For files without class names, the sets of names that may fit, the smallest first; if empty, the numbers.
        split: Which split.
        own: Whether they are the user's own files; read alike.

    Raises:
        InputError: Arrays are missing, damaged or not as in SHAPES; or labels are not integers, or out of range.
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
            raise InputError(f"{place} has the label {highest}, but fewer images: number the classes from 0")
        classes = tuple(map(str, range(highest + 1)))
    if highest >= len(classes):
        raise InputError(f"{place} has the label {highest}, but its classes are 0..{len(classes) - 1}: fix the labels")

    parts = ["test"] if split == "test" else [name for name in ("train", *VALIDATION) if name in labels]
    counts = [len(labels[name]) for name in parts]
    images, start = np.empty((sum(counts), 32, 32, 3), np.uint8), 0
    for name, count in zip(parts, counts, strict=True):
        _read_images(where, *pairs[name], images[start : start + count])
        start += count
    return Decoded(images, np.concatenate([labels[name] for name in parts]), classes, sum(counts[1:]))


def read_pair(images: Path, labels: Path, look: bool = False) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Reads a .npy file of images and the one of their labels; with `look`, checks the images without reading them.

    Raises:
        InputError: The files are missing, damaged or not as in SHAPES.
    """
    where = {path.stem: path for path in (images, labels)}
    found = _labels(where, labels.stem)
    pixels = np.empty((0 if look else len(found), 32, 32, 3), np.uint8)
    if look:
        _check_images(where, images.stem, labels.stem, len(found))
    else:
        _read_images(where, images.stem, labels.stem, pixels)
    return pixels, found


def _names_in(path: Path) -> list[str]:
    try:
        with readable(path), zipfile.ZipFile(path) as file:
            return [name.removesuffix(".npy") for name in file.namelist()]
    except InputError:
        raise
    except Exception as error:  # of many kinds: for some bytes zip says that it is too old to read them
        raise InputError(f"{path} is not a .npz file, or is damaged ({error}): replace it") from error


def _pair(names: Iterable[str], split: str) -> tuple[str, str] | None:
    """Returns the names of a split's images and labels, in the case in which they are written; None if missing."""
    written = {name.lower(): name for name in names}
    for images, labels in NAMES:
        if (x := images.format(split)) in written and (y := labels.format(split)) in written:
            return written[x], written[y]
    return None


@contextmanager
def _bytes_of(path: Path, name: str) -> Iterator[IO[bytes]]:
    """A context with the bytes of an array as a file, in which any error in reading them becomes an InputError."""
    try:
        with readable(path):
            if path.suffix == ".npy":
                with open(path, "rb") as file:
                    yield file
            else:
                with zipfile.ZipFile(path) as packed, packed.open(f"{name}.npy") as member:
                    yield member
                    member.read()  # to the end, where zip compares the CRC
    except InputError:
        raise
    except Exception as error:  # zip and numpy raise many kinds of errors for invalid bytes
        if isinstance(error, ValueError) and "allow_pickle" in str(error):
            raise InputError(
                f"{path}: {name} contains Python objects, which are not read because that may run code: save numbers, "
                "or str for names"
            ) from error
        raise InputError(f"{path}: {name} is damaged ({error}): replace it") from error


def _load(path: Path, name: str) -> npt.NDArray[Any]:
    with _bytes_of(path, name) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _classes(path: Path, name: str) -> tuple[str, ...]:
    names = _load(path, name)
    if names.dtype.kind not in "US" or names.ndim != 1 or not len(names):
        raise InputError(f"{path}: {name} is {names.dtype} {names.shape}, not a list of names: save the names as str")
    return tuple(text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text) for text in names.tolist())


def _labels(where: dict[str, Path], name: str) -> npt.NDArray[np.int64]:
    labels = integers(_load(where[name], name), f"{where[name]}: {name}")
    if labels.size and labels.min() < 0:
        raise InputError(f"{where[name]}: {name} has the label {labels.min()}: number the classes from 0")
    return labels


def integers(labels: npt.NDArray[Any], where: str) -> npt.NDArray[np.int64]:
    """Returns labels (N,), from an array (N,) or (N, 1). Raises an InputError, beginning with `where`, for others."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise InputError(
            f"{where} is {labels.dtype} {labels.shape}: use one integer per image, the number of its class"
        )
    return labels.astype(np.int64)


def _read_images(where: dict[str, Path], name: str, labels: str, images: npt.NDArray[np.uint8]) -> None:
    """Reads as many images as there are labels into `images`, (N, 32, 32, 3)."""
    with _bytes_of(where[name], name) as file:
        shape, by_columns, dtype = _header(file, f"{where[name]}: {name}", labels, len(images))
        extremes: list[int] = []
        for piece in _pieces(images, shape, by_columns):
            size = piece.size * dtype.itemsize
            if len(data := file.read(size)) < size:
                raise EOFError("it is cut short")
            values = np.frombuffer(data, dtype).reshape(piece.shape)
            extremes += int(values.min()), int(values.max())
            piece[...] = values
    lowest, highest = min(extremes), max(extremes)
    if lowest < 0 or highest > 255:
        raise InputError(
            f"{where[name]}: {name} is {dtype} {shape} with values from {lowest} to {highest}: use values from 0 to 255"
        )


def _check_images(where: dict[str, Path], name: str, labels: str, count: int) -> None:
    """Checks all but the images' values, without reading them."""
    with _bytes_of(where[name], name) as file:
        dtype = _header(file, f"{where[name]}: {name}", labels, count).dtype
        file.seek(count * PIXELS * dtype.itemsize - 1, os.SEEK_CUR)
        if not file.read():
            raise EOFError("it is cut short")


def _header(file: IO[bytes], name: str, labels: str, count: int) -> Header:
    """Reads the header of images, and checks that they have one of SHAPES and are as many as the labels."""
    header = header_of(file)
    found = f"{name} is {header.dtype} {header.shape}"
    if header.dtype.hasobject:
        raise ValueError("it needs allow_pickle")
    if header.dtype.kind not in "iu":
        raise InputError(f"{found}: use {SHAPES}, from 0 to 255, because the scale of floats is not known")
    if header.shape[1:] not in ((32, 32, 3), (3, 32, 32), (PIXELS,)):
        raise InputError(f"{found}: use {SHAPES}")
    if header.shape[0] != count:
        raise InputError(f"{found}, but {labels} has {number_of(count, 'label')}: use one label per image")
    if not count:
        raise InputError(f"{found}: use {SHAPES}, with at least one image")
    return header


def _pieces(images: npt.NDArray[np.uint8], shape: tuple[int, ...], by_columns: bool) -> Iterator[npt.NDArray[np.uint8]]:
    """Yields parts of `images` in the order of the file: there may be too little memory to hold the file twice."""
    images = images if shape[1:] == (32, 32, 3) else images.transpose(0, 3, 1, 2)
    if not by_columns:
        yield from (images[start : start + PIECE] for start in range(0, len(images), PIECE))
    else:
        # In column-major order the last axis varies slowest, and that of the images fastest. (N, 3072) has a single
        # axis of pixels.
        images = images if len(shape) == 2 else images.transpose(0, 3, 2, 1)
        yield from (images[:, i, j].T for i, j in np.ndindex(images.shape[1:3]))
