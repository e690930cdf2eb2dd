"""Reads the MATLAB version: .mat files of arrays, unpacked in a folder, or in the archive as it is published.

Source of names, layout and digests: https://www.cs.toronto.edu/~kriz/cifar.html.
"""

import hashlib
import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cifar_lightning.data.cache import Decoded
from cifar_lightning.data.cifar10 import CLASSES_OF, PIXELS
from cifar_lightning.data.layouts import archive
from cifar_lightning.data.layouts.held import Held
from cifar_lightning.errors import InputError
from cifar_lightning.files import is_file

SHAPE = "the MATLAB version"
INSTALL = "install it with: pip install 'cifar-lightning[matlab]'"


class Version(NamedTuple):
    """A published archive.

    Attributes:
        name: File name of the archive.
        md5: MD5 of the archive.
        folder: The folder inside.
        files: The files of each split, in order.
    """

    name: str
    md5: str
    folder: str
    files: dict[str, tuple[str, ...]]


_CIFAR10 = Version(
    "cifar-10-matlab.tar.gz",
    "70270af85842c9e89bb428ec9976c926",
    "cifar-10-batches-mat",
    {"train": tuple(f"data_batch_{number}.mat" for number in range(1, 6)), "test": ("test_batch.mat",)},
)
_CIFAR100 = Version(
    "cifar-100-matlab.tar.gz",
    "6a4bfa1dcd5c9453dda6bb54194911f4",
    "cifar-100-matlab",
    {"train": ("train.mat",), "test": ("test.mat",)},
)
VERSIONS = {"cifar10": _CIFAR10, "cifar100": _CIFAR100, "cifar100-coarse": _CIFAR100}
LABELS = {"cifar10": "labels", "cifar100": "fine_labels", "cifar100-coarse": "coarse_labels"}


def find(place: Path, source: str) -> Held | None:
    """Finds the archive or the files unpacked from it: `place` itself, or in that folder; None if there are none."""
    files = _files(place, source)
    return Held(files[0].parent, files, SHAPE, partial(read, files, source)) if files else None


def _files(place: Path, source: str) -> list[Path]:
    version = VERSIONS[source]
    packed = (version.name, version.name.removesuffix(".gz"))
    if is_file(place):
        return [place] if place.name in packed else []
    for name in packed:
        if is_file(place / name):
            return [place / name]
    names = [name for split in version.files.values() for name in split]
    for folder in (place / version.folder, place / version.name.removesuffix(".tar.gz"), place):
        if found := [folder / name for name in names if is_file(folder / name)]:
            return found
    return []


def read(paths: Sequence[Path], source: str, split: str, own: bool = False) -> Decoded:
    """Decodes one split.

    Args:
        paths: The archive, or the files unpacked from it.
        source: cifar10, cifar100 or cifar100-coarse.
        split: "train" or "test".
        own: Whether they are the user's own files, not the official ones; the caller has then checked their digest.

    Raises:
        InputError: scipy is not installed; or a file is damaged, lacks what it should hold, or is missing.
    """
    version, home = VERSIONS[source], paths[0].parent
    if len(paths) == 1 and paths[0].suffix in (".gz", ".tar"):
        home = paths[0]
        files: dict[str, Path | io.BytesIO] = {**_packed(home, version, split, own)}
    else:
        files = {path.name: path for path in paths}
    parts = []
    for name in version.files[split]:
        if name not in files:
            raise InputError(f"{home} lacks {name}: unpack {version.name} again, or use it packed")
        parts.append(_arrays(files[name], f"{home}: {name}", source))
    return archive.joined(parts, CLASSES_OF[source])


def _packed(path: Path, version: Version, split: str, own: bool) -> dict[str, io.BytesIO]:
    if archive.is_compressed(path) and not own:
        found = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()  # finds damage, not attacks
        if found != version.md5:
            raise InputError(
                f"{path} has MD5 {found}, expected {version.md5}: replace it with the official archive, or "
                f"pass --data.sha256 {archive.digest(path)} if the images are your own"
            )
    wanted = {f"{version.folder}/{name}": name for name in version.files[split]}
    return {wanted[name]: io.BytesIO(data) for name, data in archive.members(path, {*wanted})}


def _arrays(file: Path | io.BytesIO, name: str, source: str) -> archive.Part:
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise InputError(f"{name} is in MATLAB's format, which needs scipy; {INSTALL}") from error
    key, classes = LABELS[source], len(CLASSES_OF[source])
    try:
        content: dict[str, Any] = loadmat(file, variable_names=("data", key))
    except Exception as error:  # scipy raises many kinds of errors for a damaged file
        raise InputError(f"{name} cannot be read ({error}): replace it with an intact copy") from error
    pixels, labels = content.get("data"), content.get(key)
    if not (isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8 and pixels.shape[1:] == (PIXELS,)):
        raise InputError(f"{name} has no array 'data' of uint8 (n, {PIXELS}): replace it")
    if not (isinstance(labels, np.ndarray) and labels.dtype.kind in "iu" and labels.size == len(pixels)):
        raise InputError(f"{name} has no array {key!r} with one integer per image: replace it")
    numbers = labels.ravel().astype(np.int64)
    if len(numbers) and not 0 <= numbers.min() <= numbers.max() < classes:
        raise InputError(f"{name} has labels outside 0..{classes - 1}: replace it")
    return pixels, numbers
