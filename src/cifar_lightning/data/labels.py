"""Labels given by people, without images: to train on (CIFAR-10N) or to test against (CIFAR-10H).

CIFAR-10N and CIFAR-100N (http://www.noisylabels.com) are a .pt or a .npy file with a dict of several lists of labels
for the training images. CIFAR-10H (https://github.com/jcpeterson/cifar-10h) has, for each test image, how many people
chose each class.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cifar_lightning.console import percent
from cifar_lightning.data.cache import header_of
from cifar_lightning.data.class_names import numbers_in
from cifar_lightning.data.image_set import ImageSet
from cifar_lightning.data.layouts import pickles
from cifar_lightning.data.layouts.arrays import integers
from cifar_lightning.errors import InputError, number_of
from cifar_lightning.files import check_reachable, user_path


def relabelled(images: ImageSet, place: str) -> ImageSet:
    """Returns the training images with labels from a file instead of their own.

    Args:
        images: All training images, in their own order.
        place: The file; if it has several lists of labels, `FILE:NAME`.

    Raises:
        InputError: The file is missing, is damaged, holds more than arrays and lists, or has no such list; or the
            labels are not one per image, are out of range, or belong to images in another order.
    """
    path, name = _file_and_name(place)
    content = _read(path)
    if isinstance(content, Mapping):
        names = [key for key in content if isinstance(key, str)]
        if not names:
            raise InputError(f"train_labels {place}: {path.name} contains no labels: use another file")
        if name not in names:
            raise InputError(
                f"train_labels {place}: {path.name} contains {', '.join(names)}; "
                f"use FILE:NAME, for example {path}:{names[-1]}"
            )
        _check_order(images, content, "clean_coarse_label" if "coarse" in name else "clean_label", path)
        content = content[name]
    elif name:
        raise InputError(f"train_labels {place}: {path.name} contains one list of labels, not several; use {path}")
    labels = _integers(content, f"{path}{name and f': {name}'}")
    if len(labels) != len(images.labels):
        raise InputError(
            f"train_labels {place} has {number_of(len(labels), 'label')}, but there are "
            f"{len(images.labels):,} training images: use one label per image"
        )
    if labels.min() < 0 or labels.max() >= len(images.classes):
        wrong = labels.min() if labels.min() < 0 else labels.max()
        raise InputError(
            f"train_labels {place} has the label {wrong}, outside 0..{len(images.classes) - 1}: fix the file"
        )
    return replace(images, labels=torch.from_numpy(labels))


def distributions(path: str | Path, images: ImageSet, classes: tuple[str, ...]) -> Tensor:
    """Reads people's distribution over the classes for each image, from their shares or their numbers.

    Args:
        path: A .npy file with one row per image and one column per class.
        images: The test images, in their own order.
        classes: Class names of the columns, in order.

    Returns:
        float64 `(N, classes)`, with columns in the order of `images.classes`; each row sums to 1.

    Raises:
        InputError: The file is missing, is damaged, or is for other images or classes.
    """
    path = user_path(path)
    rows = _read(path)
    size = (len(images.labels), len(classes))
    if not isinstance(rows, np.ndarray) or rows.dtype.kind not in "iuf" or rows.shape != size:
        found = f"{rows.dtype} {rows.shape}" if isinstance(rows, np.ndarray) else f"a {type(rows).__name__}"
        raise InputError(
            f"soft_labels {path} is {found}, not numbers {size}: use one row per test image, one column per class"
        )
    shares = torch.from_numpy(rows.astype(np.float64))
    sums = shares.sum(1, keepdim=True)
    if not (shares >= 0).all() or not (sums > 0).all() or not sums.isfinite().all():
        raise InputError(
            f"soft_labels {path} has rows that are not shares or numbers of people: use values of at least 0, "
            "not all 0 in a row"
        )
    numbers = numbers_in(images.classes, classes)
    assert numbers is not None
    shares = (shares / sums)[:, np.argsort(numbers)]
    agreeing = (shares.argmax(1) == images.labels).double().mean().item()
    if agreeing < 0.5:  # for CIFAR-10H it is 99 %
        raise InputError(
            f"soft_labels {path} is for other images, or for these in another order: most people agree with the labels "
            f"of only {percent(agreeing, 0)} of the test images; use a file in the order of these images"
        )
    return shares


def _file_and_name(place: str) -> tuple[Path, str]:
    path = Path(place)
    check_reachable(path)
    if not path.exists() and ":" in path.name:
        file, _, name = place.rpartition(":")
        return Path(file), name
    return path, ""


def _read(path: Path) -> Any:
    """Reads a .pt or a .npy file: an array, a list or tensor, or a dict of those."""
    try:
        with open(path, "rb") as file:
            try:
                return _read_npy(file) if path.suffix == ".npy" else _read_pt(file)
            except Exception as error:  # a broken file can raise anything
                if " GLOBAL " in str(error):  # before the name of a function that loading would call
                    raise InputError(f"{path} is refused: it would run code when loaded; use another file") from error
                reason = str(error).rpartition("WeightsUnpickler error: ")[2].partition("Check the documentation")[0]
                reason = " ".join(reason.split()) or type(error).__name__
                raise InputError(
                    f"{path} is not a file of labels, or is damaged ({reason[:200]}): use another, or an intact copy"
                ) from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}): use a file that can be read") from error


def _read_npy(file: IO[bytes]) -> Any:
    if not header_of(file).dtype.hasobject:
        file.seek(0)
        return np.load(file, allow_pickle=False)
    content = pickles.load(file)
    is_one = isinstance(content, np.ndarray) and content.shape == ()  # np.save wraps anything that is not an array
    return content.item() if is_one else content


def _read_pt(file: IO[bytes]) -> Any:
    # torch's own unpickler builds tensors and plain values. For numpy's names it is given our stand-ins for arrays.
    with torch.serialization.safe_globals([(given, name) for name, given in pickles.GIVEN.items()]):
        return pickles.arrays_in(torch.load(file, map_location="cpu", weights_only=True))


def _integers(content: Any, where: str) -> npt.NDArray[np.int64]:
    try:
        labels = np.asarray(content)
    except (ValueError, TypeError) as error:  # lists of unequal lengths
        raise InputError(f"{where} is not a list of labels ({error}): use one integer per image") from error
    return integers(labels, where)


def _check_order(images: ImageSet, content: Mapping[str, Any], name: str, path: Path) -> None:
    if name not in content:
        return
    labels = _integers(content[name], f"{path}: {name}")
    own = images.labels.numpy()
    if len(labels) != len(own) or (labels != own).any():
        how = f"has {number_of(len(labels), 'label')} for"
        if len(labels) == len(own):
            how = f"differs from the labels of {int((labels != own).sum()):,} of"
        raise InputError(
            f"{path} is for other training images, or for these in another order: its {name} {how} {len(own):,} "
            "images; use both in the official order, which Hugging Face and TensorFlow do not have"
        )
