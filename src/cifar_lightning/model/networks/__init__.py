"""The networks: plain modules that map images `(N, 3, 32, 32)` to logits `(N, num_classes)`, one file each."""

from collections.abc import Callable

from torch import nn

from cifar_lightning.errors import InputError, in_short
from cifar_lightning.model.networks.normed import NormedNet
from cifar_lightning.model.networks.resnet import ResNet18
from cifar_lightning.model.networks.speed import SpeedNet, speed54, speed96
from cifar_lightning.model.networks.tutorial import TutorialNet

__all__ = ["NETWORKS", "NormedNet", "ResNet18", "SpeedNet", "TutorialNet", "build", "speed54", "speed96"]

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "tutorial": TutorialNet,
    "normed": NormedNet,
    "resnet18": ResNet18,
    "speed": SpeedNet,
    "speed54": speed54,
    "speed96": speed96,
}


def build(name: str, num_classes: int, width: int | None = None) -> nn.Module:
    """Builds the network called `name`, with random weights.

    Raises:
        InputError: There is no such network, or `width` is less than 1, or more than there is memory for.
    """
    if name not in NETWORKS:
        raise InputError(f"net {name!r} is not known: give one of {', '.join(NETWORKS)}, or module:Name of your own")
    if width is None:
        return NETWORKS[name](num_classes)
    if width < 1:
        raise InputError(f"width {width} is less than 1: give a positive number of channels")
    try:
        return NETWORKS[name](num_classes, width)
    except Exception as error:  # torch raises several types, depending on the width
        raise InputError(f"width {width}: {name} cannot be made so ({in_short(error)}): give another") from error
