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
        raise InputError(f"unknown net {name!r}: choose from {', '.join(NETWORKS)}, or use module:Name for your own")
    if width is None:
        return NETWORKS[name](num_classes)
    if width < 1:
        raise InputError(f"width {width}: the number of channels must be at least 1")
    try:
        return NETWORKS[name](num_classes, width)
    except Exception as error:  # torch raises several types, depending on the width
        raise InputError(f"width {width}: cannot build {name} ({in_short(error)}); use another width") from error
