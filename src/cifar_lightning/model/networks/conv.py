"""A convolution that is fast for small batches on a CPU."""

import torch
from torch import Tensor, nn
from torch.backends import nnpack


class Conv2d(nn.Conv2d):
    """torch's Conv2d, without stride or padding. On a CPU without oneDNN it uses NNPACK at every batch size.

    torch itself does so only from 16 images on (https://github.com/pytorch/pytorch/issues/26396). For the
    tutorial's network and batches of 4 images, this saves a tenth of a step: see docs/experiments.md.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size)

    def forward(self, x: Tensor) -> Tensor:
        """Maps `x`, `(N, in_channels, H, W)`, to `(N, out_channels, H - kernel_size + 1, W - kernel_size + 1)`."""
        if torch.backends.mkldnn.enabled or x.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(x)
        x = x.contiguous()  # neither NNPACK nor torch's own convolution is fast in channels_last
        if _nnpack_takes(x):
            return torch._nnpack_spatial_convolution(x, self.weight, self.bias, padding=0)
        return super().forward(x)


def _nnpack_takes(x: Tensor) -> bool:
    available: bool = nnpack.is_available()  # type: ignore[no-untyped-call]  # also initialises NNPACK
    whole = x.dtype == torch.float32 and x.dim() == 4 and x.numel() > 0
    return available and whole and not torch.is_autocast_enabled("cpu")
