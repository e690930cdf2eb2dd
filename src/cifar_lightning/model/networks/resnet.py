"""ResNet-18 for small images."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cifar_lightning.model.networks.head import Head
from cifar_lightning.model.networks.norm import BatchNorm2d


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (https://arxiv.org/abs/1512.03385, figure 2)."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.bn1 = BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.bn2 = BatchNorm2d(channels_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), BatchNorm2d(channels_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Returns features `(N, channels_out, H / stride, W / stride)`."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.shortcut(x))


class ResNet18(nn.Sequential):
    """ResNet-18 for 32x32 images: a 3x3 stem without pooling in place of ImageNet's 7x7 stem with pooling.

    Source: https://arxiv.org/abs/1512.03385; the stem is that paper's section 4.2.

    Args:
        num_classes: Number of logits.
        width: Channels of the first stage; each of the three later stages has twice those of the one before.

    Example:
        >>> ResNet18(num_classes=100, width=16)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 100])
    """

    def __init__(self, num_classes: int = 10, width: int = 64) -> None:
        stages: list[nn.Module] = []
        channels = width
        for stage in range(4):
            out = width * 2**stage
            stages += [BasicBlock(channels, out, stride=2 if stage else 1), BasicBlock(out, out, stride=1)]
            channels = out
        super().__init__(
            nn.Conv2d(3, width, 3, padding=1, bias=False),
            BatchNorm2d(width),
            nn.ReLU(),
            *stages,
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            Head(channels, num_classes),
        )
        self.to(memory_format=torch.channels_last)  # the images' memory format: saves the convolutions a re-ordering
