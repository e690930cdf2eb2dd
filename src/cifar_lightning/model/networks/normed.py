"""The tutorial's network with a batch norm after each convolution."""

from torch import nn

from cifar_lightning.model.networks.conv import Conv2d
from cifar_lightning.model.networks.head import Head
from cifar_lightning.model.networks.norm import BatchNorm2d


class NormedNet(nn.Sequential):
    """TutorialNet's layers, with batch norms (https://arxiv.org/abs/1502.03167), and a width for both convolutions.

    Args:
        num_classes: Number of logits.
        width: Channels of the first convolution; the second has 8/3 times as many: 16 for 6, as in the tutorial.
    """

    def __init__(self, num_classes: int = 10, width: int = 6) -> None:
        wider = width * 8 // 3
        super().__init__(
            *_convolution(3, width),
            *_convolution(width, wider),
            nn.Flatten(),
            nn.Linear(wider * 5 * 5, 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
            Head(84, num_classes),
        )


def _convolution(channels_in: int, channels_out: int) -> tuple[nn.Module, ...]:
    """Returns a convolution and the layers after it, pooling first, because that leaves less to normalise."""
    return Conv2d(channels_in, channels_out, 5), nn.MaxPool2d(2), BatchNorm2d(channels_out), nn.ReLU()
