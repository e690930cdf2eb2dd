"""survey(): which images are at a place, how they are read, how many of each class, and which occur twice."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from cifar_lightning.console import notes
from cifar_lightning.data.cifar10 import CLASSES_OF, COUNTS, TITLES
from cifar_lightning.data.image_set import ImageSet
from cifar_lightning.data.layouts import class_folders, official
from cifar_lightning.data.preprocessing import preprocessing_of
from cifar_lightning.data.sources import Found, Source
from cifar_lightning.errors import InputError
from cifar_lightning.files import check_reachable, exists, readable, user_path

NAMED = 3  # number of files, and of pairs of images, that are named as examples


class Pair(NamedTuple):
    """Two images with identical pixels, each given by its split and its index there."""

    split: str
    place: int
    other_split: str
    other_place: int


@dataclass(frozen=True)
class Survey:
    """The images that one source finds at a place.

    Attributes:
        data_dir: The place.
        source: Name of the source, as in the data module.
        sha256: The digest that the user has given for the images.
        sets: The images of `train`, of `validation` if some are held out, and of `test` if there are any with labels.
        found: Where the images are, by the split that is read: `train`, which includes validation, and `test`.
    """

    data_dir: str
    source: str
    sha256: str | None
    sets: Mapping[str, ImageSet]
    found: Mapping[str, Found] = field(repr=False)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.sets["train"].classes

    @property
    def flags(self) -> list[str]:
        """The flags with which `fit` reads these images."""
        digest = ["--data.sha256", self.sha256] if self.sha256 else []
        return ["--data.source", self.source, "--data.data_dir", self.data_dir, *digest]

    def count(self, split: str) -> dict[str, int]:
        """Counts the images of each class in a split."""
        counts = self.sets[split].labels.bincount(minlength=len(self.classes))
        return dict(zip(self.classes, counts.tolist(), strict=True))

    def name(self, split: str, index: int) -> str:
        """Returns the name of an image: its file if there are class folders, otherwise its index in the split."""
        found = self.found["test" if split == "test" else "train"]
        if found.shape != class_folders.SHAPE:
            return f"{split}[{index}]"
        before = len(self.sets["train"].labels) if split == "validation" else 0
        return os.path.relpath(found.files[before + index], found.home)

    @cached_property
    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel of the training images, scaled to 0..1."""
        values = np.arange(256) / 255
        means, stds = [], []
        for channel in self.sets["train"].images.unbind(1):
            shares = np.bincount(channel.numpy().ravel(), minlength=256) / channel.numel()
            means.append(float(shares @ values))
            stds.append(float(np.sqrt(shares @ (values - means[-1]) ** 2)))
        return tuple(means), tuple(stds)

    @cached_property
    def repeated(self) -> dict[tuple[str, str], list[Pair]]:
        """For each pair of splits, the images of the second that are also in the first, with the earliest one there."""
        pairs, splits = {}, list(self.sets)
        for i, first in enumerate(splits):
            there = {digest: index for index, digest in reversed(list(enumerate(self._digests[first])))}
            for second in splits[i + 1 :]:
                digests = enumerate(self._digests[second])
                pairs[first, second] = [
                    Pair(second, index, first, there[digest]) for index, digest in digests if digest in there
                ]
        return pairs

    @cached_property
    def contradictions(self) -> list[Pair]:
        """The training images that occur earlier under another label, with the earliest such one."""
        labels, pairs = self.sets["train"].labels.tolist(), []
        first: dict[bytes, dict[int, int]] = {}  # by image: for each label, the first index
        for index, digest in enumerate(self._digests["train"]):
            seen, label = first.setdefault(digest, {}), labels[index]
            if (before := next((there for other, there in seen.items() if other != label), None)) is not None:
                pairs.append(Pair("train", index, "train", before))
            seen.setdefault(label, index)
        return pairs

    @cached_property
    def _digests(self) -> dict[str, list[bytes]]:
        return {
            split: [hashlib.sha256(image.data).digest() for image in images.pixels]
            for split, images in self.sets.items()
        }

    def plain(self) -> dict[str, Any]:
        """Returns everything as lists, strings and numbers, for JSON; of files and repeated images, count and a few."""
        files = list(dict.fromkeys(str(path) for found in self.found.values() for path in found.files))
        mean, std = self.statistics
        official_name = next((name for name, names in CLASSES_OF.items() if names == self.classes), None)
        published = official_name and preprocessing_of("dataset", official_name)
        return {
            "data_dir": self.data_dir,
            "source": self.source,
            "flags": self.flags,
            "shape": self.found["train"].shape,
            "file_count": len(files),
            "files": files[:NAMED],
            "classes": list(self.classes),
            "counts": {split: len(images.labels) for split, images in self.sets.items()},
            "class_counts": {split: self.count(split) for split in self.sets},
            "mean": list(mean),
            "std": list(std),
            "published": published
            and {
                "name": TITLES[str(official_name)],
                "counts": COUNTS,
                "mean": list(published.mean),
                "std": list(published.std),
            },
            "repeated": [
                {"split": second, "in": first, **self._named(pairs)} for (first, second), pairs in self.repeated.items()
            ],
            "contradictions": self._named(self.contradictions),
        }

    def _named(self, pairs: list[Pair]) -> dict[str, Any]:
        examples = [
            [self.name(pair.split, pair.place), self.name(pair.other_split, pair.other_place)] for pair in pairs[:NAMED]
        ]
        return {"count": len(pairs), "examples": examples}


def survey(
    data_dir: str | Path = "data",
    source: Literal["cifar10", "cifar100", "cifar100-coarse", "folder"] | None = None,
    sha256: str | None = None,
) -> list[Survey]:
    """Describes the images in a folder or file, without moving or downloading anything.

    Args:
        data_dir: Folder of images, or their one file.
        source: Read them as this, instead of as what they look like.
        sha256: SHA-256 of your own file of images, or of several, concatenated.

    Returns:
        A survey for each source that has images there.

    Raises:
        InputError: There are no images, or they cannot be read.
    """
    place = user_path(data_dir)
    check_reachable(place)
    with readable(place):
        there = place.is_symlink() or exists(place)
    if not there:
        raise InputError(f"{data_dir} does not exist: use a folder or a file of images")
    names = [source] if source else _sources_at(place, sha256)
    return [_survey(Source(name, place, sha256=sha256), str(data_dir), sha256) for name in names]


def _survey(source: Source, data_dir: str, sha256: str | None) -> Survey:
    source.find("train")
    found = {split: source.find(split) for split in source.splits}
    train = source.load("train")
    first = len(train.labels) - train.held_out
    sets = {"train": train}
    if train.held_out:
        sets = {
            "train": ImageSet(train.images[:first], train.labels[:first], train.classes),
            "validation": ImageSet(train.images[first:], train.labels[first:], train.classes),
        }
    if "test" in found:
        sets["test"] = source.load("test")
    return Survey(data_dir, source.name, sha256, sets, found)


def _sources_at(place: Path, sha256: str | None) -> list[str]:
    """Returns the sources that have images at `place`: an official source if a name or the images identify it."""
    own, names, files = Source("folder", place, sha256=sha256), [], set[str | Path]()
    refused: list[InputError] = []
    for name in ("cifar10", "cifar100"):
        source = Source(name, place, sha256=sha256)
        with _kept(refused):
            held = source.held()
            if held and (held.named or _is_whole(source) or not _is_read(own)):
                names.append(name)
                files.update(held.files)
    with _kept(refused):
        if own.held() or exists(place / "train"):
            first = own.find("train").files[0]
            if first not in files and not (sha256 and names):  # a digest belongs to only one of them
                names.append("folder")
    if not names and refused:
        raise refused[0]
    if not names:
        there = ", ".join([*official.looked_for("cifar10"), "cifar-100-python/", "train/<class>/*"])
        raise InputError(f"{place} has no images in a known layout: use a folder with one of {there}")
    return names


@contextmanager
def _kept(errors: list[InputError]) -> Iterator[None]:
    """A context that an InputError ends, which is added to `errors`."""
    try:
        yield
    except InputError as error:
        errors.append(error)


def _is_whole(source: Source) -> bool:
    """Returns whether images that no name identifies are a complete official set."""
    with notes(silent=True):
        images = source.load("train")
    whole = not official.departure(images.labels.numpy(), "train", source.name)
    return whole and images.classes == CLASSES_OF[source.name]


def _is_read(source: Source) -> bool:
    with notes(silent=True), suppress(InputError):
        source.load("train")
        return True
    return False
