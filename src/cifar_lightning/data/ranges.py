"""Checks of CIFAR10DataModule's arguments and of its classes."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cifar_lightning.data.image_set import ImageSet
from cifar_lightning.data.split import Fold
from cifar_lightning.errors import InputError, quoted


def check_ranges(arguments: Mapping[str, Any]) -> None:
    """Raises an InputError if an argument is out of range or does not fit another; their types are right already."""
    h = arguments
    for name, ok, range_ in (
        ("data_dir", "://" not in h["data_dir"], "a folder or a file of this machine, and an address as mirror"),
        ("batch_size", h["batch_size"] >= 1, "1 or more"),
        ("eval_batch_size", h["eval_batch_size"] >= 1, "1 or more"),
        ("crop_padding", 0 <= h["crop_padding"] < 32, "0 to 31"),
        ("cutout", 0 <= h["cutout"] <= 32, "0 to 32"),
        ("synthetic_size", h["synthetic_size"] >= 10, "10 or more"),
        ("cutout", h["augment"] or not h["cutout"], "0, or augment true"),
        ("flip", h["augment"] or h["flip"] != "alternating", "random, or augment true"),
        ("val_split", _is_split(h["val_split"]), "a count, a fraction from 0 to 1, or a fold such as 2of5"),
        ("val_split", not isinstance(h["val_split"], float) or h["val_split"] < 1, "a fraction below 1"),
        ("device", _is_device(h["device"]), "one of torch's, such as cpu or cuda"),
    ):
        if not ok:
            raise InputError(f"{name} {h[name]} is out of range: give {range_}")


def _is_device(name: str) -> bool:
    try:
        torch.device(name)
    except RuntimeError:
        return False
    return True


def _is_split(value: int | float | str) -> bool:
    return Fold.of(value) is not None if isinstance(value, str) else value >= 0


def check_classes(images: ImageSet, train: Tensor, data_dir: str, val_split: int | float | str) -> None:
    """Raises an InputError if there is only one class, or a class has no training images or a name that Lightning uses.

    Args:
        images: The training images, including those held out.
        train: Indices of those that are not held out.
        data_dir: Where the images are.
        val_split: The split by which images are held out, if their owner has not set any aside.
    """
    present = set(images.labels[train].tolist())
    if lacking := [name for label, name in enumerate(images.classes) if label not in present]:
        first = min(lacking)
        if val_split and (images.labels == images.classes.index(first)).any():
            raise InputError(
                f"val_split {val_split} holds out all training images of the class {quoted(first)}: give less"
            )
        raise InputError(
            f"data_dir {data_dir} has no training images of the class {quoted(first)}: give some, or remove it"
        )
    if len(images.classes) == 1:
        raise InputError(f"data_dir {data_dir} has one class only, {quoted(images.classes[0])}: give two or more")
    if taken := [name for name in images.classes if "/dataloader_idx_" in f"/{name}"]:  # in the metric val_acc/<class>
        raise InputError(
            f"data_dir {data_dir} has the class {quoted(taken[0])}, by which Lightning means a loader: rename it"
        )
