"""Finds and reads the official images of a data folder, in any of the layouts ("shapes") in which people keep them.

It also gives each shape's name for messages. All files are read in place, and never written to.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

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
from cifar_lightning.errors import InputError, number_of
from cifar_lightning.files import exists, is_file


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
    for shape in (_archive, _folder, _matlab, _parquet, _kaggle, _arrays, find_test_set):
        if held := shape(place, source):
            return _labelled(held, source)
    return None


def find_test_set(place: Path, source: str) -> Held | None:
    """Finds CIFAR-10.1, CIFAR-10-C or CIFAR-100-C in a folder or a file; None if there is none.

    Raises:
        InputError: There are two, or the labels are missing; or a corrupted one is damaged or has other classes.
    """
    source = source.removesuffix("-coarse")  # the labels are the fine ones
    if corrupted := test_sets.find_corrupted(place):
        for part in corrupted:  # checked before hours of evaluation
            test_sets.read(part, source, look=True)
        parts = tuple(part.images for part in corrupted)
        decode = partial(_refuse_corrupted, place, parts[0])
        return Held(place, [*parts], "corrupted test sets", decode, ("test",), decodes=False, parts=parts)
    if found := test_sets.find(place):
        decode = partial(_read_test_set, found, source)
        return Held(found.images.parent, [*found], "a test set", decode, ("test",), decodes=False)
    return None


def _read_test_set(found: test_sets.Files, source: str, split: str, own: bool) -> Decoded:
    _check_tests(split, found.images, "is a test set")
    return test_sets.read(found, source)


def _check_tests(split: str, place: Path, what: str) -> None:
    if split != "test":
        raise InputError(
            f"{place} {what}, without training images: choose another --data.data_dir to train on, or "
            f"test on this one with cifar-lightning evaluate RUN --data.data_dir {place}"
        )


def _refuse_corrupted(place: Path, part: Path, split: str, own: bool) -> Decoded:
    _check_tests(split, place, "has corrupted test sets")
    raise InputError(
        f"data_dir {place} has corrupted test sets, one per file: use one of them, such as {part}, "
        f"or test on all of them with cifar-lightning evaluate RUN --data.data_dir {place}"
    )


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


def _matlab(place: Path, source: str) -> Held | None:
    if not (files := matlab.find(place, source)):
        return None
    return Held(files[0].parent, files, matlab.SHAPE, partial(matlab.read, files, source))


def _parquet(home: Path, source: str) -> Held | None:
    if not (files := parquet.find(home, source)):
        return None
    every = [*files["train"], *files["test"]]

    def decode(split: str, own: bool) -> Decoded:
        return parquet.read(files[split], source, parquet.names_in(every, source))

    return Held(home, every, parquet.SHAPE, decode, named=False)


def _kaggle(home: Path, source: str) -> Held | None:
    if source != "cifar10" or not (files := kaggle.find(home)):
        return None
    return Held(home, files, "Kaggle's pictures", lambda split, own: kaggle.read(home, split), kaggle.splits(home))


def _arrays(place: Path, source: str) -> Held | None:
    # A .npz file with another name may hold anything, such as Keras' mnist.npz.
    fine = CLASSES_OF[_set(source)]
    names = f"cifar*{len(fine)}.npz"
    if not (files := arrays.find(place, names)):
        return None
    named = files[0].match(names)

    def decode(split: str, own: bool) -> Decoded:
        return arrays.read(files, split, CLASSES_OF[source], fine)

    return Held(files[0].parent, files, arrays.SHAPE, decode, named=named)


def _file(path: Path, source: str) -> Held:
    if held := _matlab(path, source):
        return held
    if path.suffix == ".npz":
        held, why_none = _arrays(path, source), f"has no images and labels of train: {arrays.LAYOUT}"
    elif path.suffix == ".parquet":
        held = _parquet(path.parent, source)
        why_none = parquet.ALONE
    elif path.suffix == ".npy":
        held = find_test_set(path, source)
        why_none = "is not the images of a known test set: use its folder"
    elif archive.is_archive(path) or path.name in _archive_names(source):
        held, why_none = _packed(path, source), ""
    else:
        held = None
        why_none = (
            "is not a .tar.gz, .tar, .npz, .npy or .parquet file: use one of these, or a folder of unpacked images"
        )
    if held is None:
        raise InputError(f"data_dir {path} {why_none}")
    return held
