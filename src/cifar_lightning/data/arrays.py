"""Images as numpy arrays: x_train, y_train, x_test and y_test in one .npz file, or in a .npy file each."""

import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from cifar_lightning.data.cache import Decoded, header_of
from cifar_lightning.data.cifar10 import PIXELS
from cifar_lightning.data.folder import VALIDATION
from cifar_lightning.errors import InputError
from cifar_lightning.files import readable

# What images and labels of a split are called, in small letters; Keras' names are the first, MedMNIST's the second.
NAMES = (("x_{}", "y_{}"), ("{}_images", "{}_labels"), ("{}_data", "{}_labels"), ("{}_x", "{}_y"))
CLASSES = ("classes", "class_names", "label_names")
KNOWN = {*CLASSES, *(name.format(split) for pair in NAMES for name in pair for split in ("train", "test", *VALIDATION))}
LAYOUT = "arrays are x_train, y_train, x_test and y_test, in a .npz file or in .npy files of these names"
SHAPE = "numpy arrays"
PIECE = 128  # images that are read at once
SHAPES = "uint8 (N, 32, 32, 3), (N, 3, 32, 32) or (N, 3072)"


def find(place: Path, names: str = "[!.]*.npz") -> list[Path]:
    """The files with arrays: `place` itself if it is a .npz file, or those in it; none if there is no x_train.

    Args:
        place: A file or a folder.
        names: What a .npz file in a folder may be called, as a pattern; not what is hidden, as macOS leaves there.

    Raises:
        InputError: There are several .npz files with images, or one of which nobody knows, for it cannot be read.
    """
    if place.is_file():
        return [place] if place.suffix == ".npz" else []
    arrays = [path for path in sorted(place.glob("*.npy")) if path.stem.lower() in KNOWN]
    if _pair([path.stem for path in arrays], "train"):
        return arrays
    packed = [path for path in sorted(place.glob(names)) if not path.is_dir() and _pair(_names_in(path), "train")]
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
    counts = [len(labels[name]) for name in parts]
    images, start = np.empty((sum(counts), 32, 32, 3), np.uint8), 0
    for name, count in zip(parts, counts, strict=True):
        _read_images(where, *pairs[name], count, images[start : start + count])
        start += count
    return Decoded(images, np.concatenate([labels[name] for name in parts]), classes, sum(counts[1:]))


def read_pair(images: Path, labels: Path, look: bool = False) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Reads a .npy file of images and that of their labels; for a `look`, none of the images.

    Raises:
        InputError: They are missing, damaged or not such as SHAPES says.
    """
    where = {path.stem: path for path in (images, labels)}
    found = _labels(where, labels.stem)
    pixels = np.empty((0 if look else len(found), 32, 32, 3), np.uint8)
    _read_images(where, images.stem, labels.stem, len(found), pixels)
    return pixels, found


def _names_in(path: Path) -> list[str]:
    try:
        with readable(path), zipfile.ZipFile(path) as file:
            return [name.removesuffix(".npy") for name in file.namelist()]
    except InputError:
        raise
    except Exception as error:  # of some bytes zip says that it is too old to read them
        raise InputError(f"{path} is no .npz file, or damaged ({error}): replace it") from error


def _pair(names: Iterable[str], split: str) -> tuple[str, str] | None:
    """The names of the images and the labels of a split, as they are written; None if there are none."""
    written = {name.lower(): name for name in names}
    for images, labels in NAMES:
        if (x := images.format(split)) in written and (y := labels.format(split)) in written:
            return written[x], written[y]
    return None


@contextmanager
def _bytes_of(path: Path, name: str) -> Iterator[IO[bytes]]:
    """The bytes of an array; what goes wrong with them within it is an InputError."""
    try:
        with readable(path):
            if path.suffix == ".npy":
                with open(path, "rb") as file:
                    yield file
            else:
                with zipfile.ZipFile(path) as packed, packed.open(f"{name}.npy") as member:
                    yield member
                    member.read()  # to its end, where zip compares the CRC
    except InputError:
        raise
    except Exception as error:  # whatever zip and numpy raise for bytes that are not theirs
        if isinstance(error, ValueError) and "allow_pickle" in str(error):
            raise InputError(
                f"{path}: {name} holds Python objects, which are not read, for that may run code: save numbers, "
                "or str for names"
            ) from error
        raise InputError(f"{path}: {name} is damaged ({error}): replace it") from error


def _load(path: Path, name: str) -> npt.NDArray[Any]:
    with _bytes_of(path, name) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


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


def _read_images(where: dict[str, Path], name: str, labels: str, count: int, images: npt.NDArray[np.uint8]) -> None:
    """Reads so many `images`, (N, 32, 32, 3); those that there is no room for are only looked for."""
    with _bytes_of(where[name], name) as file:
        shape, by_columns, dtype = header_of(file)
        found = f"{where[name]}: {name} is {dtype} {shape}"
        if dtype.hasobject:
            raise ValueError("it needs allow_pickle")
        if dtype.kind not in "iu":
            raise InputError(f"{found}: give {SHAPES}, from 0 to 255: nothing tells how floats were scaled")
        if shape[1:] not in ((32, 32, 3), (3, 32, 32), (PIXELS,)):
            raise InputError(f"{found}: give {SHAPES}")
        if shape[0] != count:
            raise InputError(f"{found}, and {labels} has {count:,} labels: give one an image")
        if not count:
            raise InputError(f"{found}: give {SHAPES}, with one image or more")
        lowest, highest, begin = 0, 0, file.tell()
        for piece in _pieces(images, shape, by_columns):
            size = piece.size * dtype.itemsize
            if len(data := file.read(size)) < size:
                raise EOFError("it is cut short")
            values = np.frombuffer(data, dtype).reshape(piece.shape)
            lowest, highest = min(lowest, int(values.min())), max(highest, int(values.max()))
            piece[...] = values
        if not len(images):
            file.seek(begin + count * PIXELS * dtype.itemsize - 1)
            if not file.read():
                raise EOFError("it is cut short")
    if lowest < 0 or highest > 255:
        raise InputError(f"{found} with values from {lowest} to {highest}: give values from 0 to 255")


def _pieces(images: npt.NDArray[np.uint8], shape: tuple[int, ...], by_columns: bool) -> Iterator[npt.NDArray[np.uint8]]:
    """Parts of `images` as they follow on in a file, for there may be too little memory for all of it twice."""
    images = images if shape[1:] == (32, 32, 3) else images.transpose(0, 3, 1, 2)
    if not by_columns:
        yield from (images[start : start + PIECE] for start in range(0, len(images), PIECE))
    elif len(images):  # the axes from the last to the first, that of the images; pixels in a row are one axis
        images = images if len(shape) == 2 else images.transpose(0, 3, 2, 1)
        yield from (images[:, i, j].T for i, j in np.ndindex(images.shape[1:3]))
