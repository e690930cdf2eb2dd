"""Lays images side by side, interleaved pixel by pixel: the same convolutions, but over longer rows.

oneDNN's bfloat16 convolutions multiply several pixels of a row at once, 16 on a CPU with AMX. A 7x7 feature map leaves
more than half of that capacity unused and a 3x3 map four fifths, and the gradients of the filters suffer most. Here
pixel (h, w) of each of n images is in n successive places of one row, so the neighbour of a pixel is n places away: a
convolution with a dilation of n and a border of n zeros gives each image the result that it would have alone. In the
rest of a network, only layers that move along a row need to know.
"""

from functools import cache

import torch
from torch import Tensor

MOST = 32  # images side by side: of 16, 20, 32, 50, 64 and 128 the middle ones are fastest, see docs/experiments.md
NARROW = 12  # pixels in the widest rows for which it pays; see docs/experiments.md


def images_beside(x: Tensor) -> int:
    """Chooses how many images of `x`, `(N, C, H, W)`, to lay side by side: the greatest divisor of N up to MOST.

    Returns 1, each image alone, if this does not pay (wide maps, a GPU, float32, compiled code) or was not tried.
    """
    if (
        x.shape[3] > NARROW
        or x.device.type != "cpu"
        or x.dtype != torch.bfloat16
        or torch.compiler.is_compiling()
        or not multiplies_bfloat16()
    ):
        return 1
    return max(n for n in range(1, MOST + 1) if len(x) % n == 0)


@cache
def multiplies_bfloat16() -> bool:
    """Whether the CPU has bfloat16 instructions with which this was tried: those of AMX or AVX-512."""
    abilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(abilities.get("amx_bf16") or abilities.get("avx512_bf16"))


def put_beside(x: Tensor, n: int) -> Tensor:
    """Lays every n images side by side: `(N, C, H, W)` → `(N // n, C, H, W * n)`, channels_last."""
    if n == 1:
        return x
    # Goes through (N, H, W, C) so that the gradient comes back in channels_last too: with any other memory format, the
    # backward pass of the pooling before this takes three times as long.
    pixels = x.permute(0, 2, 3, 1)
    return pixels.reshape(-1, n, *pixels.shape[1:]).permute(0, 2, 3, 1, 4).flatten(2, 3).permute(0, 3, 1, 2)


def in_order(x: Tensor) -> Tensor:
    """Separates images that lie side by side, of one pixel each: `(N // n, C, 1, n)` → `(N, C)`."""
    return x.flatten(2).transpose(1, 2).flatten(0, 1)
