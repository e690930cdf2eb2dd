"""Max pooling whose gradient, once compiled, is quick."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def max_pool(x: Tensor, beside: int = 1, window: tuple[int, int] = (2, 2)) -> Tensor:
    """The greatest pixel of every `window` of `x`, `(N, C, H, W)`, as F.max_pool2d has it.

    Of images that lie `beside` each other, those of each: `(N // beside, C, H // 2, W // 2 * beside)`.

    torch.compile gives that a gradient which computes where each window lies in arithmetic that takes several times as
    long as its memory traffic: see docs/experiments.md.
    """
    if beside > 1:
        with torch.autocast(x.device.type, enabled=False):  # which has it in float32, to no end
            return F.max_pool3d(x.reshape(*x.shape[:3], -1, beside), (*window, 1)).flatten(3)
    compiled = torch.compiler.is_compiling() and not torch.compiler.is_exporting()  # which has no use for a gradient
    by_two = window == (2, 2) and x.shape[2] % 2 == x.shape[3] % 2 == 0
    return _MaxPool.apply(x) if compiled and by_two else F.max_pool2d(x, window)


class _MaxPool(torch.autograd.Function):
    """The same for even H and W: the first of equal pixels takes the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        a, b, c, d = (x[:, :, row::2, column::2] for row in (0, 1) for column in (0, 1))
        top, bottom = torch.maximum(a, b), torch.maximum(c, d)
        which = torch.where(bottom > top, 2 + (d > c).to(torch.uint8), (b > a).to(torch.uint8))
        ctx.save_for_backward(which)
        return torch.maximum(top, bottom)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (which,), (grad,) = ctx.saved_tensors, grads
        rows, columns = (torch.arange(2 * size, device=grad.device) for size in grad.shape[2:])
        which, grad = (t[:, :, rows[:, None] // 2, columns // 2] for t in (which, grad))
        chosen = which == 2 * (rows[:, None] % 2) + columns % 2
        return torch.where(chosen, grad, 0).contiguous(memory_format=torch.channels_last)
