"""Published test sets for networks trained on CIFAR: CIFAR-10.1, CIFAR-10-C and CIFAR-100-C.

They are .npy files of images with a .npy file of labels beside them, which are in the order of CIFAR's classes. There
are no training images. CIFAR-10.1 (https://github.com/modestyachts/CIFAR-10.1) has one pair of files per version.
CIFAR-10-C (https://arxiv.org/abs/1903.12261) has one file of images per corruption: the test set five times, each time
more corrupted.
"""

from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cifar_lightning.data.cache import Decoded
from cifar_lightning.data.cifar10 import CLASSES_OF
from cifar_lightning.data.layouts import arrays
from cifar_lightning.data.layouts.held import Held
from cifar_lightning.errors import InputError
from cifar_lightning.files import exists, is_file, listed

SEVERITIES = 5
# The corruptions over which the paper averages, in its order, and those that it keeps for validation.
CORRUPTIONS = (
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "snow",
    "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression",
)  # fmt: skip
EXTRA_CORRUPTIONS = ("speckle_noise", "gaussian_blur", "spatter", "saturate")

_LABELS = "labels.npy"
_NEW_TEST_SET = "cifar10.1_*_data.npy"


class Files(NamedTuple):
    """The files of a test set.

    Attributes:
        images: uint8 (N, 32, 32, 3).
        labels: Integers (N,).
    """

    images: Path
    labels: Path


def find(place: Path, source: str) -> Held | None:
    """Finds CIFAR-10.1, CIFAR-10-C or CIFAR-100-C in a folder or a file; None if there is none.

    Raises:
        InputError: There are two, or the labels are missing; or a corrupted one is damaged or has other classes.
    """
    source = source.removesuffix("-coarse")  # the labels are the fine ones
    if corrupted := _corrupted(place):
        for part in corrupted:  # checked before hours of evaluation
            read(part, source, look=True)
        parts = tuple(part.images for part in corrupted)
        decode = partial(_refuse_corrupted, place, parts[0])
        return Held(place, [*parts], "corrupted test sets", decode, ("test",), decodes=False, parts=parts)
    if found := _one(place):
        decode = partial(_decode, found, source)
        return Held(found.images.parent, [*found], "a test set", decode, ("test",), decodes=False)
    return None


def _decode(found: Files, source: str, split: str, own: bool) -> Decoded:
    _check_split(split, found.images, "is a test set")
    return read(found, source)


def _refuse_corrupted(place: Path, part: Path, split: str, own: bool) -> Decoded:
    _check_split(split, place, "has corrupted test sets")
    raise InputError(
        f"data_dir {place} has corrupted test sets, one per file: use one of them, such as {part}, "
        f"or test on all of them with cifar-lightning evaluate RUN --data.data_dir {place}"
    )


def _check_split(split: str, place: Path, what: str) -> None:
    if split != "test":
        raise InputError(
            f"{place} {what}, without training images: choose another --data.data_dir to train on, or "
            f"test on this one with cifar-lightning evaluate RUN --data.data_dir {place}"
        )


def _one(place: Path) -> Files | None:
    """Finds the test set in a folder, or the one of a given file of images; None if there is none."""
    if is_file(place):
        images = [place] if place.match(_NEW_TEST_SET) or is_corruption(place) else []
    else:
        images = sorted(listed(place, _NEW_TEST_SET))
    if len(images) > 1:
        raise InputError(
            f"data_dir {place} has {images[0].name} and {images[1].name}: use one of them as --data.data_dir"
        )
    if not images:
        return None
    name = _LABELS if is_corruption(images[0]) else images[0].name.replace("_data.npy", "_labels.npy")
    labels = images[0].with_name(name)
    if not is_file(labels):
        raise InputError(f"{images[0]} has no {name} beside it: put it there")
    return Files(images[0], labels)


def _corrupted(place: Path) -> list[Files]:
    """Finds the test sets in a folder of CIFAR-10-C or CIFAR-100-C, one per corruption; none in any other folder."""
    labels = place / _LABELS
    if not is_file(labels):
        return []
    paths = (place / f"{name}.npy" for name in (*CORRUPTIONS, *EXTRA_CORRUPTIONS))
    return [Files(path, labels) for path in paths if exists(path)]  # raises if the disk fails: the mean is of all


def read(found: Files, source: str, look: bool = False) -> Decoded:
    """Reads a test set.

    Args:
        found: The files of the test set.
        source: Source of the images that the test set belongs to: cifar10 or cifar100; or folder, for either.
        look: Check that everything is as it should be, but leave the images on disk.

    Raises:
        InputError: A file is damaged, does not match the other, or has other classes.
    """
    images, labels = arrays.read_pair(*found, look)
    if is_corruption(found.images):
        _check_severities(labels, found.labels)
    highest = int(labels.max())
    # The highest label tells the sets apart, since every class of either set has images.
    own = "cifar10" if highest < len(CLASSES_OF["cifar10"]) else "cifar100"
    if highest >= len(CLASSES_OF[own]):
        raise InputError(f"{found.labels} has a label {highest}, which is not a class of CIFAR: replace it")
    if source in CLASSES_OF and source != own:
        raise InputError(
            f"{found.labels} has labels from 0 to {highest}, so it belongs to {own}, not {source}: "
            f"use --data.source {own}, and a network trained on {own}"
        )
    return Decoded(images, labels, CLASSES_OF[own])


def is_corruption(images: Path) -> bool:
    """Returns whether a file of images is named after a corruption: it has the test set once for each severity."""
    return images.suffix == ".npy" and images.stem in (*CORRUPTIONS, *EXTRA_CORRUPTIONS)


def _check_severities(labels: npt.NDArray[np.int64], path: Path) -> None:
    if len(labels) % SEVERITIES or (labels.reshape(SEVERITIES, -1) != labels[: len(labels) // SEVERITIES]).any():
        raise InputError(
            f"{path} has {len(labels):,} labels that are not the same {SEVERITIES} times, once for each severity: "
            "replace it"
        )
