"""What a LitNet takes from a Trainer's data module besides batches. The data module may be ours or a user's."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from cifar_lightning.data.cifar10 import CLASSES
from cifar_lightning.data.loader import BatchLoader
from cifar_lightning.data.preprocessing import Preprocessing, name_of
from cifar_lightning.data.torch_loader import TorchLoader
from cifar_lightning.errors import InputError, quoted


def can_sample(data: Any) -> bool:
    """Whether a data module has `sample` and a `batch_size`, as CIFAR10DataModule does."""
    return hasattr(data, "sample") and "batch_size" in getattr(data, "hparams", {})


def check_classes(data: Any, classes: Sequence[str]) -> None:
    """Raises an InputError if the images have other classes than the network, which would mislabel its predictions.

    `data` is a data module or a loader. A LitNet may give its own names to the same number of classes.
    """
    theirs = getattr(data, "classes", None)
    if not isinstance(theirs, list | tuple) or not theirs:
        return
    ours = can_sample(data) or isinstance(data, BatchLoader | TorchLoader)
    unnamed = ours and list(classes) == list(CLASSES) != list(theirs)
    if len(theirs) != len(classes) or unnamed:
        raise InputError(
            f"the images have {len(theirs)} classes ({quoted(str(theirs[0]))}, …), but the network has {len(classes)} "
            f"({quoted(classes[0])}, …): use LitNet(classes=data.classes)"
        )


def agreed(mine: Preprocessing | None, source: Any) -> Preprocessing | None:
    """Returns the model's preprocessing, or the preprocessing of a data module or loader if the model has none.

    Raises:
        InputError: They differ, so the network would get images prepared differently from those it was trained on.
    """
    theirs = getattr(source, "preprocessing", None)
    if not isinstance(theirs, Preprocessing) or theirs == mine:
        return mine
    if mine is not None:
        name = name_of(mine)
        hint = f"CIFAR10DataModule(normalization={name!r})" if name else "images normalised like those"
        raise InputError(f"the network was trained on images with {mine}, but these have {theirs}: use {hint}")
    return theirs


def begin_from_images(net: nn.Module, data: Any, device: torch.device, name: str | None) -> None:
    """Initialises a network that `begins_from_images` with images that depend on neither the seed nor the rank.

    Raises:
        InputError: The network needs images, and the data module cannot sample any.
    """
    if not getattr(net, "begins_from_images", False):
        return
    if not can_sample(data):
        raise InputError(
            f"net {name or type(net).__name__} is initialised from images: fit it with a CIFAR10DataModule, or first "
            "call model.net.init_from_images(images)"
        )
    net.init_from_images(data.sample(2_000, device))  # type: ignore[operator]
