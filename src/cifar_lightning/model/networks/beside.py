"""Images side by side, pixel by pixel: the same convolutions, over rows that are as long as one likes.

oneDNN's bfloat16 convolutions multiply some pixels of a row at once, 16 on a CPU with AMX. A map of 7 by 7 leaves more
than half of that empty, one of 3 by 3 four fifths, and most so in the filters' gradients. With pixel (h, w) of n images
in n places of one row, a pixel's neighbour is n places away: a dilation of n, and a border of n zeros, gives each image
the convolution that it would have alone. Nothing else in a network has to know, but what moves along a row.
"""

from functools import cache

import torch
from torch import Tensor

MOST = 32  # images beside each other: of 16, 20, 32, 50, 64 and 128 the middle ones are quickest, see experiments.md
NARROW = 12  # pixels of a row; see there


def images_beside(x: Tensor) -> int:
    """How many images of `x`, `(N, C, H, W)`, are best laid side by side: at most MOST, and N is a multiple of it.

    1, or each alone, where it does not pay: wide maps, on a GPU, in float32, compiled, or where it was not tried.
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
    """Whether the CPU has instructions for it that were tried: AMX's, or AVX-512's."""
    abilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(abilities.get("amx_bf16") or abilities.get("avx512_bf16"))


def put_beside(x: Tensor, n: int) -> Tensor:
    """`(N, C, H, W)` → `(N // n, C, H, W * n)`, channels_last."""
    if n == 1:
        return x
    # By way of (N, H, W, C), so that the gradient too is put in order as channels_last: in any other order the pooling
    # before it takes three times as long for its own.
    pixels = x.permute(0, 2, 3, 1)
    return pixels.reshape(-1, n, *pixels.shape[1:]).permute(0, 2, 3, 1, 4).flatten(2, 3).permute(0, 3, 1, 2)


def in_order(x: Tensor) -> Tensor:
    """Features of images of one pixel, `(N // n, C, 1, n)` → `(N, C)`."""
    return x.flatten(2).transpose(1, 2).flatten(0, 1)
