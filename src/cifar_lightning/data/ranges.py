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
    for name, ok, rule in (
        ("data_dir", "://" not in h["data_dir"], "must be a folder or file on this machine; pass an address as mirror"),
        ("batch_size", h["batch_size"] >= 1, "must be at least 1"),
        ("eval_batch_size", h["eval_batch_size"] >= 1, "must be at least 1"),
        ("crop_padding", 0 <= h["crop_padding"] < 32, "must be from 0 to 31"),
        ("cutout", 0 <= h["cutout"] <= 32, "must be from 0 to 32"),
        ("synthetic_size", h["synthetic_size"] >= 10, "must be at least 10"),
        ("cutout", h["augment"] or not h["cutout"], "requires augment true; otherwise use 0"),
        ("flip", h["augment"] or h["flip"] != "alternating", "requires augment true; otherwise use random"),
        (
            "val_split",
            _is_split(h["val_split"]),
            "must be a count, a fraction of at least 0 and below 1, or a fold such as 2of5",
        ),
        ("device", _is_device(h["device"]), "must be a torch device, such as cpu or cuda"),
    ):
        if not ok:
            raise InputError(f"{name} {h[name]}: {rule}")


def _is_device(name: str) -> bool:
    try:
        torch.device(name)
    except RuntimeError:
        return False
    return True


def _is_split(value: int | float | str) -> bool:
    if isinstance(value, str):
        return Fold.of(value) is not None
    return 0 <= value < 1 or (value >= 0 and isinstance(value, int))


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
                f"val_split {val_split} holds out all training images of the class {quoted(first)}: "
                "use a smaller val_split"
            )
        raise InputError(
            f"data_dir {data_dir} has no training images of the class {quoted(first)}: add some, or remove the class"
        )
    if len(images.classes) == 1:
        raise InputError(f"data_dir {data_dir} has only one class, {quoted(images.classes[0])}: use two or more")
    if taken := [name for name in images.classes if "/dataloader_idx_" in f"/{name}"]:  # in the metric val_acc/<class>
        raise InputError(
            f"data_dir {data_dir} has the class {quoted(taken[0])}, a name that Lightning reserves for loaders: "
            "rename the class"
        )
