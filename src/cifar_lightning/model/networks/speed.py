"""The network of the CIFAR-10 speed runs, from its descriptions.

Sources: https://arxiv.org/abs/2404.00498 (sections 3 and A), and before it
https://myrtle.ai/learn/how-to-train-your-resnet/ (whitening, part 8; frozen batch-norm scales, part 6).
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cifar_lightning.model.networks.beside import images_beside, in_order, put_beside
from cifar_lightning.model.networks.gelu import gelu
from cifar_lightning.model.networks.head import Head
from cifar_lightning.model.networks.norm import BatchNorm2d
from cifar_lightning.model.networks.pool import max_pool

SCALE = 1 / 9  # of the logits: it sets how fast the last layer learns


class SpeedNet(nn.Module):
    """A shallow CNN that begins with the whitened colours and edges of 2x2 patches.

    `init_from_images` sets the first layer from the data; LitNet calls it at the start of a fit.

    Args:
        num_classes: Number of logits.
        width: Channels of the first block; the later two have `growth` times as many.
        growth: See `width`.
        convs: Convolutions in a block, 2 or 3; with 3, a shortcut bridges the last two.
        stride: Of the first layer. With 2 its patches do not overlap: they hold all of the image in a quarter of the
            pixels, and every later layer does a quarter of the work.
        norm_momentum: Share of the newest batch in the batch norms' running statistics.

    Attributes:
        begins_from_images: Whether `init_from_images` is still to come: until it has, or weights are loaded.
        compile_options: Those of inductor's that suit it.
    """

    # Inductor writes parts of a long formula to memory. The gradient of a batch norm and a GELU is one, and a GPU takes
    # less time to compute its parts twice. The whole of it, which has more than seven operands, is still written: the
    # pooling's gradient would compute it four times. See docs/experiments.md.
    compile_options: ClassVar = {
        "realize_opcount_threshold": 200,
        "realize_reads_threshold": 20,
        "realize_acc_reads_threshold": 7,
    }

    def __init__(
        self,
        num_classes: int = 10,
        width: int = 64,
        growth: Sequence[float] = (4, 4),
        convs: int = 2,
        stride: int = 1,
        norm_momentum: float = 0.4,
    ) -> None:
        super().__init__()
        widths = [width, *(int(width * factor) for factor in growth)]
        first = 24  # 2 x 2 x 3 eigenvectors, each with both signs
        self.whiten = nn.Conv2d(3, first, 2, stride)
        self.whiten.weight.requires_grad_(False)
        self.begins_from_images = True
        self.register_load_state_dict_post_hook(_has_begun)  # type: ignore[no-untyped-call]
        channels = [first, *widths]
        self.blocks = nn.ModuleList(SpeedBlock(i, o, convs, norm_momentum) for i, o in pairwise(channels))
        self.head = Head(widths[-1], num_classes, bias=False)
        self.to(memory_format=torch.channels_last)  # as the images lie; saves the convolutions a re-ordering

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(N, num_classes)` of images of any size from 16 up."""
        x, beside = gelu(self.whiten(x)), 1
        # In training: what a trained network says depends on no batch. And eager: compiled, it would bring nothing.
        if self.training and not torch.compiler.is_compiling() and _are_ours(self.blocks):
            for block in self.blocks:
                assert isinstance(block, SpeedBlock)
                x, beside = block.side_by_side(x, beside)
        else:
            for block in self.blocks:
                x = block(x)
        # Not amax: torch.compile computes its gradient from values that it has not rounded, of which none may equal the
        # rounded maximum, and divides by their number: NaN. See findings/inductor-amax-nan.sh.
        x = max_pool(x, beside, (x.shape[2], x.shape[3] // beside))
        logits: Tensor = self.head(in_order(x)) * SCALE
        return logits

    @torch.no_grad()
    def init_from_images(self, images: Tensor) -> None:
        """Sets the first layer so that its outputs are uncorrelated and of unit variance.

        Args:
            images: Normalised, `(N, 3, H, W)`, on any device; a thousand are enough.
        """
        self.begins_from_images = False
        # In float64, which not every device has: in float32 the order of sums, and so the number of threads, turns the
        # eigenvectors of the least values by a thousandth.
        images = images.to(torch.float64 if images.device.type in ("cpu", "cuda") else torch.float32)
        windows = images.unfold(2, 2, 1).unfold(3, 2, 1)  # as a 2x2 convolution sees them
        patches = windows.permute(1, 4, 5, 0, 2, 3).reshape(12, -1)
        covariance = (patches @ patches.T / patches.shape[1]).cpu()  # which a GPU takes longer to decompose
        values, vectors = torch.linalg.eigh(covariance)
        # An eigenvector's negative is one, too, and which LAPACK gives depends on the number of threads. Squares: along
        # 1, 2, 3, 4 the pattern + - - + would be nothing.
        vectors *= (torch.arange(1, 13).square().to(vectors) @ vectors).sign()
        filters = (vectors / (values + 5e-4).sqrt()).T.flip(0).reshape(12, 3, 2, 2)  # the strongest first
        self.whiten.weight.copy_(torch.cat([filters, -filters]))
        assert self.whiten.bias is not None
        self.whiten.bias.zero_()


def _has_begun(net: SpeedNet, incompatible_keys: object) -> None:
    net.begins_from_images = False


class SpeedBlock(nn.Module):
    """Convolve, halve the size, then one or two more convolutions, each with a batch norm and GELU."""

    def __init__(self, channels_in: int, channels_out: int, convs: int, norm_momentum: float) -> None:
        super().__init__()
        first = PooledConv2d(channels_in, channels_out)
        later = [Conv2d(channels_out, channels_out) for _ in range(convs - 1)]
        self.convs = nn.ModuleList(_from_dirac(conv) for conv in (first, *later))
        self.norms = nn.ModuleList(_norm(channels_out, norm_momentum) for _ in range(convs))

    def forward(self, x: Tensor) -> Tensor:
        """Features `(N, channels_out, H // 2, W // 2)`."""
        return self._rest(max_pool(self.convs[0](x)))

    def side_by_side(self, x: Tensor, beside: int) -> tuple[Tensor, int]:
        """The same, of images of which so many lie beside each other, and how many do then: more, where that pays."""
        x = max_pool(self.convs[0](x, beside), beside)
        if beside == 1:
            beside = images_beside(x)
            x = put_beside(x, beside)
        return self._rest(x, beside), beside

    def _rest(self, x: Tensor, beside: int = 1) -> Tensor:
        x = gelu(self.norms[0](x))
        shortcut = x if len(self.convs) > 2 else None
        for conv, norm in list(zip(self.convs, self.norms, strict=True))[1:]:
            last = conv is self.convs[-1]
            x = norm(conv(x, beside) if beside > 1 else conv(x))
            if last and shortcut is not None:
                x = x + shortcut
            x = gelu(x)
        return x


class Conv2d(nn.Conv2d):
    """A 3x3 convolution with a border of zeros, of images that may lie beside each other."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor, beside: int = 1) -> Tensor:
        """Features `(N, out_channels, H, W)`."""
        return F.conv2d(x, self.weight, padding=(1, beside), dilation=(1, beside))


class PooledConv2d(Conv2d):
    """One that leaves out what the pooling by 2 after it would: an odd last row or column.

    For images of 32 pixels that saves a tenth of a SpeedNet's multiplications.
    """

    def forward(self, x: Tensor, beside: int = 1) -> Tensor:
        """Features `(N, out_channels, H // 2 * 2, W // 2 * 2)`."""
        height, width = x.shape[2], x.shape[3] // beside
        if height % 2 == width % 2 == 0:
            return super().forward(x, beside)
        x = F.pad(x, (beside, (1 - width % 2) * beside, 1, 1 - height % 2))
        return F.conv2d(x, self.weight, dilation=(1, beside))


HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")  # where torch keeps them


def _are_ours(blocks: nn.ModuleList) -> bool:
    """Whether nothing in them is a user's, not even a hook: it may look along a row, where other images would lie."""
    ours = (nn.ModuleList, SpeedBlock, Conv2d, PooledConv2d, BatchNorm2d)
    if any(getattr(nn.modules.module, f"_global{hooks}") for hooks in HOOKS):  # those of every module
        return False
    return all(
        type(module) in ours and not any(getattr(module, hooks) for hooks in HOOKS) for module in blocks.modules()
    )


def _from_dirac(conv: nn.Conv2d) -> nn.Conv2d:
    """`conv` with its first filters handing their input on."""
    with torch.no_grad():
        nn.init.dirac_(conv.weight[: conv.in_channels])
    return conv


def _norm(channels: int, momentum: float) -> BatchNorm2d:
    """A batch norm with its scale fixed at 1."""
    norm = BatchNorm2d(channels, eps=1e-12, momentum=momentum)
    assert norm.weight is not None
    norm.weight.requires_grad_(False)
    return norm


def speed54(num_classes: int = 10, width: int = 16) -> SpeedNet:
    """The SpeedNet that passes the tutorial's 54 % soonest on a CPU: a sixtieth of the 94 % one's operations."""
    net = SpeedNet(num_classes, width, growth=(2, 2), stride=2)
    with torch.no_grad():
        net.head.weight.mul_(4.5)  # logits that begin small are still small after 60 steps: see docs/experiments.md
    return net


def speed96(num_classes: int = 10, width: int = 128) -> SpeedNet:
    """The wider and deeper SpeedNet that reaches 96 %: 128, 384 and 512 channels, three convolutions a block."""
    return SpeedNet(num_classes, width, growth=(3, 4), convs=3, norm_momentum=0.1)
