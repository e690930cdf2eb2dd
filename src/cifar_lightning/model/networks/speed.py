"""The network of the CIFAR-10 speed runs, written from its published descriptions.

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
        stride: Stride of the first layer. With 2 its patches do not overlap: they hold the whole image in a quarter of
            the pixels, and every later layer does a quarter of the work.
        norm_momentum: Share of the newest batch in the batch norms' running statistics.

    Attributes:
        begins_from_images: Whether the network still needs `init_from_images`, or weights to be loaded.
        compile_options: Options of inductor's that suit this network.
    """

    # Inductor writes the intermediate results of a long formula to memory. The gradient of a batch norm and a GELU is
    # such a formula, and a GPU computes them twice in less time. The whole gradient, which has more than seven
    # operands, is still written, or the pooling's gradient would compute it four times. See docs/experiments.md.
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
        self.to(memory_format=torch.channels_last)  # the images' memory format: saves the convolutions a re-ordering

    def forward(self, x: Tensor) -> Tensor:
        """Returns logits `(N, num_classes)` of images of any size from 16 up."""
        x, beside = gelu(self.whiten(x)), 1
        # Lays images side by side in training only, so that a trained network's logits do not depend on the rest of the
        # batch; and not when compiled, where it would bring nothing.
        if self.training and not torch.compiler.is_compiling() and _are_ours(self.blocks):
            for block in self.blocks:
                assert isinstance(block, SpeedBlock)
                x, beside = block.side_by_side(x, beside)
        else:
            for block in self.blocks:
                x = block(x)
        # Not amax: torch.compile divides its gradient by the number of values that equal the maximum. It compares
        # unrounded values with the rounded maximum, so the number can be 0: NaN. See findings/inductor-amax-nan.sh.
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
        # In float64 if the device supports it: in float32 the order of summation, and so the number of threads, turns
        # the eigenvectors of the smallest eigenvalues by a thousandth.
        images = images.to(torch.float64 if images.device.type in ("cpu", "cuda") else torch.float32)
        windows = images.unfold(2, 2, 1).unfold(3, 2, 1)  # as a 2x2 convolution sees them
        patches = windows.permute(1, 4, 5, 0, 2, 3).reshape(12, -1)
        covariance = (patches @ patches.T / patches.shape[1]).cpu()  # a GPU takes longer for the decomposition
        values, vectors = torch.linalg.eigh(covariance)
        # The negative of an eigenvector is one too, and which LAPACK returns depends on the number of threads. The
        # sign is fixed by a projection on the squares: on 1, 2, 3, 4 that of the pattern + - - + would be 0.
        vectors *= (torch.arange(1, 13).square().to(vectors) @ vectors).sign()
        filters = (vectors / (values + 5e-4).sqrt()).T.flip(0).reshape(12, 3, 2, 2)  # the strongest first
        self.whiten.weight.copy_(torch.cat([filters, -filters]))
        assert self.whiten.bias is not None
        self.whiten.bias.zero_()


def _has_begun(net: SpeedNet, incompatible_keys: object) -> None:
    net.begins_from_images = False


class SpeedBlock(nn.Module):
    """A convolution, a pooling by 2, and one or two more convolutions, each with a batch norm and a GELU."""

    def __init__(self, channels_in: int, channels_out: int, convs: int, norm_momentum: float) -> None:
        super().__init__()
        first = PooledConv2d(channels_in, channels_out)
        later = [Conv2d(channels_out, channels_out) for _ in range(convs - 1)]
        self.convs = nn.ModuleList(_from_dirac(conv) for conv in (first, *later))
        self.norms = nn.ModuleList(_norm(channels_out, norm_momentum) for _ in range(convs))

    def forward(self, x: Tensor) -> Tensor:
        """Returns features `(N, channels_out, H // 2, W // 2)`."""
        return self._rest(max_pool(self.convs[0](x)))

    def side_by_side(self, x: Tensor, beside: int) -> tuple[Tensor, int]:
        """Does the same for `beside` images side by side; also returns their new number, which is raised if it pays."""
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
    """A 3x3 convolution, zero-padded, of images that may lie side by side (see beside.py)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor, beside: int = 1) -> Tensor:
        """Returns features `(N, out_channels, H, W)`."""
        return F.conv2d(x, self.weight, padding=(1, beside), dilation=(1, beside))


class PooledConv2d(Conv2d):
    """A Conv2d that does not compute an odd last row or column, which the pooling by 2 after it would drop.

    For images of 32 pixels that saves a tenth of a SpeedNet's multiplications.
    """

    def forward(self, x: Tensor, beside: int = 1) -> Tensor:
        """Returns features `(N, out_channels, H // 2 * 2, W // 2 * 2)`."""
        height, width = x.shape[2], x.shape[3] // beside
        if height % 2 == width % 2 == 0:
            return super().forward(x, beside)
        x = F.pad(x, (beside, (1 - width % 2) * beside, 1, 1 - height % 2))
        return F.conv2d(x, self.weight, dilation=(1, beside))


HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")  # where torch keeps hooks


def _are_ours(blocks: nn.ModuleList) -> bool:
    """Whether the blocks hold no module or hook of a user's: it might expect a row to hold only one image."""
    ours = (nn.ModuleList, SpeedBlock, Conv2d, PooledConv2d, BatchNorm2d)
    if any(getattr(nn.modules.module, f"_global{hooks}") for hooks in HOOKS):  # global hooks
        return False
    return all(
        type(module) in ours and not any(getattr(module, hooks) for hooks in HOOKS) for module in blocks.modules()
    )


def _from_dirac(conv: nn.Conv2d) -> nn.Conv2d:
    """Sets the first filters of `conv` to pass their input through, and returns `conv`."""
    with torch.no_grad():
        nn.init.dirac_(conv.weight[: conv.in_channels])
    return conv


def _norm(channels: int, momentum: float) -> BatchNorm2d:
    """Makes a batch norm with its scale fixed at 1."""
    norm = BatchNorm2d(channels, eps=1e-12, momentum=momentum)
    assert norm.weight is not None
    norm.weight.requires_grad_(False)
    return norm


def speed54(num_classes: int = 10, width: int = 16) -> SpeedNet:
    """Makes the SpeedNet that passes the tutorial's 54 % soonest on a CPU.

    It takes a sixtieth of the operations of the 94 % network.
    """
    net = SpeedNet(num_classes, width, growth=(2, 2), stride=2)
    with torch.no_grad():
        net.head.weight.mul_(4.5)  # logits that begin small are still small after 60 steps: see docs/experiments.md
    return net


def speed96(num_classes: int = 10, width: int = 128) -> SpeedNet:
    """Makes the wider and deeper SpeedNet that reaches 96 %: 128, 384 and 512 channels, three convolutions a block."""
    return SpeedNet(num_classes, width, growth=(3, 4), convs=3, norm_momentum=0.1)
