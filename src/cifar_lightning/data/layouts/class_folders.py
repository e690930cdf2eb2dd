"""Class folders: the pictures in train/<class>/, test/<class>/ and, if there is one, val/<class>/."""

import hashlib
import os
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cifar_lightning.data.cache import Decoded, identity
from cifar_lightning.data.cifar10 import CLASSES_OF
from cifar_lightning.data.pictures import reading
from cifar_lightning.data.pictures.kinds import may_be_picture, passed_over
from cifar_lightning.errors import InputError, quoted
from cifar_lightning.files import exists, is_dir

LAYOUT = (
    "the folder source reads train/<class>/* and test/<class>/*, or arrays x_train, y_train, x_test, y_test, or "
    "train-*.parquet and test-*.parquet"
)
SHAPE = "class folders"
VALIDATION = ("val", "valid", "validation")

Picture = tuple[str, os.stat_result]  # its path, and what os.stat says of it


class Listing(NamedTuple):
    """The files of one split.

    Attributes:
        paths: One class after another; within a class, a folder's own files sorted by name, then its subfolders'.
        labels: int64, one per path.
        classes: Names of the classes.
        held_out: Number of paths, at the end, that come from the validation folder.
        fingerprint: Changes when a file is added, removed, renamed, written to or replaced by another; see cache.py.
        size: Total size of the files in bytes.
        note: Message to the user about files that were passed over; empty if there are none.
    """

    paths: list[str]
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    held_out: int
    fingerprint: str
    size: int
    note: str


class Walk:
    """Finds the pictures in folders, and remembers what else is there.

    Args:
        goes_on: Whether an unreadable subfolder, or a link in a circle, is added to `dead` instead of raising an error.

    Attributes:
        dead: Links to nothing.
        passed_over: Files that are not pictures.
    """

    def __init__(self, goes_on: bool = False) -> None:
        self.goes_on = goes_on
        self.dead: list[str] = []
        self.passed_over: list[str] = []

    def pictures(self, folder: str, above: tuple[tuple[int, int], ...] = (), link: str = "") -> Iterator[Picture]:
        """Yields the pictures in a folder, sorted by name, then those in its subfolders at any depth.

        Args:
            folder: Path of the folder.
            above: Device and inode of each folder that contains this one, to recognise a circle.
            link: The last link on the way to this folder.

        Raises:
            InputError: A link leads in a circle.
        """
        stat = os.stat(folder)
        link, here = folder if os.path.islink(folder) else link, (stat.st_dev, stat.st_ino)
        if here in above:
            if self.goes_on:
                self.dead.append(link)
                return
            raise InputError(f"{quoted(link)} is a link to a folder that contains the link: remove it")
        folders = []
        for entry in _visible(folder):
            if entry.is_dir():
                folders.append(entry.path)
            elif self._is_picture(entry):
                yield entry.path, entry.stat()
        for path in folders:
            try:
                yield from self.pictures(path, (*above, here), link)
            except OSError:
                if not self.goes_on:
                    raise
                self.dead.append(path)

    def _is_picture(self, entry: os.DirEntry[str]) -> bool:
        is_file = entry.is_file()  # not a link to nothing, or a pipe
        if is_file and may_be_picture(entry.path):
            return True
        (self.dead if entry.is_symlink() and not is_file else self.passed_over).append(entry.path)
        return False


class _Split:
    """The class folders of one split.

    Class names are compared in Unicode's NFC form, because macOS may store an accented letter as two characters, which
    look like the one character that other systems store.
    """

    def __init__(self, top: Path) -> None:
        self.top = top
        self.folders: dict[str, list[str]] = {}  # the folders of each class, by class name
        self.walk = Walk()
        for entry in _visible(top):
            if any("\ud800" <= letter <= "\udfff" for letter in entry.name):  # in place of bytes that are not UTF-8
                raise InputError(f"{top} has a folder {entry.name!r} with a name that is not UTF-8: rename it")
            if entry.is_dir():
                self.folders.setdefault(unicodedata.normalize("NFC", entry.name), []).append(entry.path)
            elif not exists(Path(entry.path)):
                self.walk.dead.append(entry.path)
            elif may_be_picture(entry.path):  # other kinds of files are nothing unusual there
                self.walk.passed_over.append(entry.path)
        self._check_links()

    def check_classes(self, other: "_Split") -> None:
        """Raises an InputError if the other split lacks a class that this one has."""
        if lacking := self.folders.keys() - other.folders.keys():
            raise InputError(
                f"{other.top} lacks the class {quoted(min(lacking))}, which {self.top.name}/ has: "
                "both need the same classes"
            )

    def pictures(self, classes: Sequence[str]) -> Iterator[tuple[int, str, list[Picture]]]:
        """Yields the label, the path and the pictures of each class folder, in the order of the classes.

        Raises:
            InputError: A link leads nowhere or in a circle, or there are no pictures.
        """
        count = 0
        for label, name in enumerate(classes):
            for folder in self.folders[name]:
                found = list(self.walk.pictures(folder))
                count += len(found)
                yield label, folder, found
        self._check_links()
        if not count:
            raise InputError(f"{self.top} has no images: {LAYOUT}")

    def _check_links(self) -> None:
        if dead := self.walk.dead:
            first, count = quoted(dead[0]), len(dead)
            one, many = (
                f"a broken link, {first}: fix or remove it",
                f"{count} broken links, first {first}: fix or remove them",
            )
            raise InputError(f"{self.top} has {many if count > 1 else one}")


def has_classes(data_dir: Path) -> bool:
    """Returns whether `data_dir` has class folders for training, even if they are empty."""
    train = data_dir / "train"
    return is_dir(train) and any(entry.is_dir() for entry in _visible(train))


def scan(data_dir: Path, split: str) -> Listing:
    """Lists one split, "train" (with the validation images) or "test". Skips hidden files and folders.

    Raises:
        InputError: A folder is missing; the splits have different classes; a link leads nowhere or in a circle; a class
            name is not UTF-8; or there are no pictures.
    """
    import PIL

    splits = {name: _Split(data_dir / name) for name in _splits_in(data_dir)}
    for other in splits.values():
        splits["train"].check_classes(other)
        other.check_classes(splits["train"])
    classes = in_order(splits["train"].folders)

    paths: list[str] = []
    labels: list[int] = []
    size, ends = 0, []
    parts = [part for name, part in splits.items() if (name == "test") == (split == "test")]
    digest = hashlib.sha256(f"{PIL.__version__} {classes!r}".encode())
    for part in parts:
        for label, folder, found in part.pictures(classes):
            where = os.path.relpath(folder, data_dir)  # per folder: it takes longer than all else for a picture
            for path, stat in found:
                digest.update(identity(where + path.removeprefix(folder), stat))
                paths.append(path)
                labels.append(label)
                size += stat.st_size
            digest.update(f"{classes[label]} {os.stat(folder).st_ino}\n".encode())
        ends.append(len(paths))
    note = passed_over([path for part in parts for path in part.walk.passed_over], ", or not in a class folder")
    held_out = ends[-1] - ends[0]
    return Listing(paths, np.array(labels, dtype=np.int64), classes, held_out, digest.hexdigest(), size, note)


def read(listing: Listing) -> Decoded:
    """Decodes the listed pictures.

    Raises:
        InputError: A file cannot be read as an image; the message names it.
    """
    images, notes = reading.read(listing.paths, listing.size)
    return Decoded(images, listing.labels, listing.classes, listing.held_out, notes)


def _splits_in(data_dir: Path) -> list[str]:
    """Returns the names of the folders with splits: train, the validation folder if there is one, and test."""
    if not is_dir(data_dir):
        cause = "is not a folder, or a file of a known kind" if os.path.lexists(data_dir) else "does not exist"
        raise InputError(f"data_dir {data_dir} {cause}: pass your images as --data.data_dir; {LAYOUT}")
    for name in ("train", "test", *VALIDATION):
        if (data_dir / name).is_symlink() and not exists(data_dir / name):
            raise InputError(f"data_dir {data_dir}: {name}/ is a broken link; fix or remove it")
    found = [name for name in ("train", *VALIDATION, "test") if is_dir(data_dir / name)]
    for name in ("train", "test"):
        if name not in found:
            raise InputError(f"data_dir {data_dir} has no folder {name}/: {LAYOUT}")
    if len(found) > 3:  # train, test, and more than one for validation
        raise InputError(f"data_dir {data_dir} has {found[1]}/ and {found[2]}/, both for validation: keep only one")
    return found


def _visible(folder: str | Path) -> list[os.DirEntry[str]]:
    """Returns what a folder has that is not hidden, sorted by name."""
    entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    return sorted(entries, key=lambda entry: entry.name)


def in_order(classes: Iterable[str]) -> tuple[str, ...]:
    """Returns the names in CIFAR's order if they are CIFAR's, in numerical order if all are numbers, or sorted."""
    names = set(classes)
    for official in CLASSES_OF.values():
        if set(official) == names:
            return official
    if all(name.isascii() and name.isdigit() for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))
