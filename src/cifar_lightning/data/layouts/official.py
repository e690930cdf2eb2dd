"""Finds the official images in a data folder or a file, in any of the layouts ("shapes") in which people keep them.

The shape's name is for messages. All files are read in place, and never written to.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cifar_lightning.data.cache import Decoded
from cifar_lightning.data.cifar10 import (
    ARCHIVES,
    BINARIES,
    CIFAR100_CLASSES,
    CIFAR100_COARSE_CLASSES,
    CLASSES_OF,
    COARSE,
    COUNTS,
    TITLES,
    Archive,
    Binary,
)
from cifar_lightning.data.layouts import archive, arrays, kaggle, matlab, parquet, test_sets
from cifar_lightning.data.layouts.held import Held
from cifar_lightning.errors import InputError, number_of
from cifar_lightning.files import exists, is_file


def find(place: Path, source: str) -> Held | None:
    """Finds CIFAR-10, or CIFAR-100 for either of its sources, in a folder or a file; None if a folder has none.

    Raises:
        InputError: The file is missing or of no known kind, files that belong to it are missing, there are several
            sets, or what there is cannot be read.
    """
    if is_file(place):
        return _labelled(_file(place, source), source)
    if place.suffix in (".npy", ".npz", ".parquet", ".tar") and not exists(place):
        raise InputError(f"data_dir {place} does not exist: use an existing file or folder")
    for layout in (_archive, _folder, matlab.find, parquet.find, kaggle.find, arrays.find, test_sets.find):
        if held := layout(place, source):
            return _labelled(held, source)
    return None


def _labelled(held: Held, source: str) -> Held:
    return held._replace(decode=partial(_coarse, held.decode)) if source == "cifar100-coarse" else held


def _coarse(decode: Callable[[str, bool], Decoded], split: str, own: bool) -> Decoded:
    """Decodes with coarse labels: the stored ones, or if there are only fine ones, those converted to coarse ones."""
    decoded = decode(split, own)
    if decoded.classes != CIFAR100_CLASSES:
        return decoded
    return decoded._replace(labels=np.array(COARSE)[decoded.labels], classes=CIFAR100_COARSE_CLASSES)


def departure(labels: npt.NDArray[np.int64], split: str, source: str) -> str:
    """Says how many images there are, if that differs from what is published, in all or per class; otherwise empty."""
    counts, published = np.bincount(labels, minlength=len(CLASSES_OF[source])), COUNTS[split]
    if len(labels) == published and counts.min() == counts.max():
        return ""
    each = f"{counts.min():,}" if counts.min() == counts.max() else f"{counts.min():,} to {counts.max():,}"
    images = number_of(len(labels), "training image" if split == "train" else f"{split} image")
    return (
        f"{images} ({each} per class), but {TITLES[source]} has {published:,} "
        f"({published // len(CLASSES_OF[source]):,} per class)"
    )


def looked_for(source: str) -> list[str]:
    """Lists what `find` looks for, for a message; the first is the archive that is downloaded."""
    tables = (kaggle.TRAIN_LABELS,) if source == "cifar10" else ()
    folders = (f"{version.folder}/" for version in _versions(source))
    parquets = f"{parquet.FOLDERS[source][0]}/train-*.parquet"
    arrays = f"{_set(source)}.npz", "x_train.npy"
    return [*_archive_names(source)[:2], *folders, parquets, *tables, *arrays]


def _set(source: str) -> str:
    return source.removesuffix("-coarse")


def _versions(source: str) -> tuple[Archive, Binary]:
    return ARCHIVES[source], BINARIES[source]


def _archive_names(source: str) -> list[str]:
    """Returns the official names, as browsers and Keras change them: Keras names the archive after its folder."""
    stems = [name for version in _versions(source) for name in (version.name.removesuffix(".tar.gz"), version.folder)]
    names = [
        f"{stem}{suffix}" for suffix in (".tar.gz", ".tgz", ".tar", "_archive", "-target_archive") for stem in stems
    ]
    return list(dict.fromkeys((ARCHIVES[source].name, BINARIES[source].name, *names)))


def _archive(home: Path, source: str) -> Held | None:
    paths = (home / name for name in _archive_names(source))
    return next((_packed(path, source) for path in paths if is_file(path)), None)


def _packed(path: Path, source: str) -> Held:
    decode = partial(archive.read, path, _versions(source))
    return Held(path.parent, [path], "a packed archive", decode, named=path.name in _archive_names(source))


def _folder(home: Path, source: str) -> Held | None:
    """Finds an unpacked archive: torchvision's folder, `home` itself, or Keras' folder in one named by its version."""
    for version in _versions(source):
        # glob passes over folders that this user may not read, which are not Keras'.
        for folder in (home / version.folder, home, *sorted(home.glob(f"*/{version.folder}"))):
            files = archive.unpacked(folder, version)
            if any(path.name != version.meta for path in files):
                return Held(home, files, "an unpacked archive", partial(archive.read_folder, folder, version))
    return None


def _file(path: Path, source: str) -> Held:
    for layout in (matlab.find, parquet.find, arrays.find, test_sets.find):
        if held := layout(path, source):
            return held
    if archive.is_archive(path) or path.name in _archive_names(source):
        return _packed(path, source)
    if path.suffix == ".npy":
        raise InputError(f"data_dir {path} is not the images of a known test set: use its folder")
    raise InputError(
        f"data_dir {path} is not a .tar.gz, .tar, .npz, .npy or .parquet file: use one of these, or a folder of "
        "unpacked images"
    )
