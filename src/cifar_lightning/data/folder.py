"""Class folders: lists the pictures in train/<class>/, test/<class>/ and, if there is one, val/<class>/."""

import hashlib
import os
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cifar_lightning.data.cache import identity
from cifar_lightning.data.cifar10 import CLASSES_OF
from cifar_lightning.data.kinds import may_be_picture, passed_over
from cifar_lightning.errors import InputError, quoted

LAYOUT = (
    "the folder source reads train/<class>/* and test/<class>/*, or arrays x_train, y_train, x_test, y_test, or "
    "train-*.parquet and test-*.parquet"
)
SHAPE = "class folders"
VALIDATION = ("val", "valid", "validation")


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


@dataclass
class _Tree:
    """The class folders of one split, with the dead links and passed-over files found while listing them."""

    top: Path
    folders: dict[str, list[str]] = field(default_factory=dict)  # the folders of each class, by class name
    dead: list[str] = field(default_factory=list)
    passed_over: list[str] = field(default_factory=list)


def has_classes(data_dir: Path) -> bool:
    """Returns whether `data_dir` has class folders for training, even if they are empty."""
    train = data_dir / "train"
    return train.is_dir() and any(path.is_dir() and not path.name.startswith(".") for path in train.iterdir())


def scan(data_dir: Path, split: str) -> Listing:
    """Lists one split, "train" (with the validation images) or "test". Skips hidden files and folders.

    Raises:
        InputError: A folder is missing; the splits have different classes; a link leads nowhere or in a circle; a class
            name is not UTF-8; or there are no pictures.
    """
    import PIL

    if not data_dir.is_dir():
        cause = "is not a folder, or a file of a known kind" if os.path.lexists(data_dir) else "does not exist"
        raise InputError(f"data_dir {data_dir} {cause}: pass your images as --data.data_dir; {LAYOUT}")
    for name in ("train", "test", *VALIDATION):
        if (data_dir / name).is_symlink() and not (data_dir / name).exists():
            raise InputError(f"data_dir {data_dir}: {name}/ is a broken link; fix or remove it")
    for name in ("train", "test"):
        if not (data_dir / name).is_dir():
            raise InputError(f"data_dir {data_dir} has no folder {name}/: {LAYOUT}")
    validation = [name for name in VALIDATION if (data_dir / name).is_dir()]
    if len(validation) > 1:
        raise InputError(
            f"data_dir {data_dir} has {validation[0]}/ and {validation[1]}/, both for validation: keep only one"
        )
    trees = {name: _classes_in(data_dir / name) for name in ("train", *validation, "test")}
    for tree in trees.values():
        _check_links(tree)
    for name in (*validation, "test"):
        _check_classes(trees["train"], trees[name])
        _check_classes(trees[name], trees["train"])
    classes = in_order(trees["train"].folders)

    paths: list[str] = []
    labels: list[int] = []
    size, counts, chosen = 0, [], [trees[name] for name in (["test"] if split == "test" else ["train", *validation])]
    digest = hashlib.sha256(f"{PIL.__version__} {classes!r}".encode())
    for tree in chosen:
        before = len(paths)
        for label, name in enumerate(classes):
            for folder in tree.folders[name]:
                where = os.path.relpath(folder, data_dir)  # per folder: it takes longer than all else for a picture
                for path, stat in pictures_in(folder, tree.dead, tree.passed_over):
                    digest.update(identity(where + path.removeprefix(folder), stat))
                    paths.append(path)
                    labels.append(label)
                    size += stat.st_size
                digest.update(f"{name} {os.stat(folder).st_ino}\n".encode())
        _check_links(tree)
        counts.append(len(paths) - before)
        if not counts[-1]:
            raise InputError(f"{tree.top} has no images: {LAYOUT}")
    note = passed_over([path for tree in chosen for path in tree.passed_over], ", or not in a class folder")
    held_out = 0 if split == "test" else sum(counts[1:])
    return Listing(paths, np.array(labels, dtype=np.int64), classes, held_out, digest.hexdigest(), size, note)


def _classes_in(top: Path) -> _Tree:
    """Finds the class folders of a split, by class name.

    Names are compared in Unicode's NFC form, because macOS may store an accented letter as two characters, which look
    like the one character that other systems store.
    """
    tree = _Tree(top)
    for entry in sorted(os.scandir(top), key=lambda entry: entry.name):
        if entry.name.startswith("."):
            continue
        if any("\ud800" <= letter <= "\udfff" for letter in entry.name):  # in place of bytes that are not UTF-8
            raise InputError(f"{top} has a folder {entry.name!r} with a name that is not UTF-8: rename it")
        if entry.is_dir():
            tree.folders.setdefault(unicodedata.normalize("NFC", entry.name), []).append(entry.path)
        elif not os.path.exists(entry.path):
            tree.dead.append(entry.path)
        elif may_be_picture(entry.path):  # other kinds of files are nothing unusual there
            tree.passed_over.append(entry.path)
    return tree


def _check_classes(tree: _Tree, other: _Tree) -> None:
    if lacking := tree.folders.keys() - other.folders.keys():
        raise InputError(
            f"{other.top} lacks the class {quoted(min(lacking))}, which {tree.top.name}/ has: "
            "both need the same classes"
        )


def _check_links(tree: _Tree) -> None:
    if tree.dead:
        first, count = quoted(tree.dead[0]), len(tree.dead)
        one, many = (
            f"a broken link, {first}: fix or remove it",
            f"{count} broken links, first {first}: fix or remove them",
        )
        raise InputError(f"{tree.top} has {many if count > 1 else one}")


def in_order(classes: Iterable[str]) -> tuple[str, ...]:
    """Returns the names in CIFAR's order if they are CIFAR's, in numerical order if all are numbers, or sorted."""
    names = set(classes)
    for official in CLASSES_OF.values():
        if set(official) == names:
            return official
    if all(name.isascii() and name.isdigit() for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def pictures_in(
    folder: str,
    dead: list[str],
    passed_over: list[str],
    goes_on: bool = False,
    above: tuple[tuple[int, int], ...] = (),
    link: str = "",
) -> Iterator[tuple[str, os.stat_result]]:
    """Yields the pictures in a folder, sorted by name, then those in its subfolders at any depth; each with its stat.

    Args:
        folder: Path of the folder.
        dead: List to which links to nothing are added.
        passed_over: List to which files that are not pictures are added.
        goes_on: Whether an unreadable subfolder, or a link in a circle, is added to `dead` instead of raising an error.
        above: Device and inode of each folder that contains this one, to recognise a circle.
        link: The last link on the way to this folder.

    Raises:
        InputError: A link leads in a circle.
    """
    stat = os.stat(folder)
    link, here = folder if os.path.islink(folder) else link, (stat.st_dev, stat.st_ino)
    if here in above:
        if goes_on:
            dead.append(link)
            return
        raise InputError(f"{quoted(link)} is a link to a folder that contains the link: remove it")
    folders = []
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            folders.append(entry.path)
        elif not entry.is_file():  # a link to nothing, or a pipe
            (dead if entry.is_symlink() else passed_over).append(entry.path)
        elif may_be_picture(entry.path):
            yield entry.path, entry.stat()
        else:
            passed_over.append(entry.path)
    for path in folders:
        try:
            yield from pictures_in(path, dead, passed_over, goes_on, (*above, here), link)
        except OSError:
            if not goes_on:
                raise
            dead.append(path)
