"""Max pooling with a gradient that is fast when compiled."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def max_pool(x: Tensor, beside: int = 1, window: tuple[int, int] = (2, 2)) -> Tensor:
    """Takes the maximum of every `window` of `x`, `(N, C, H, W)`, like F.max_pool2d.

    With `beside` images side by side (see beside.py) each is pooled alone: `(N // beside, C, H // 2, W // 2 * beside)`.

    For F.max_pool2d, torch.compile generates a gradient that computes the position of each window, with arithmetic
    that takes several times as long as its memory traffic: see docs/experiments.md.
    """
    if beside > 1:
        with torch.autocast(x.device.type, enabled=False):  # it would pool in float32, for nothing
            return F.max_pool3d(x.reshape(*x.shape[:3], -1, beside), (*window, 1)).flatten(3)
    compiled = torch.compiler.is_compiling() and not torch.compiler.is_exporting()  # an export has no gradient
    by_two = window == (2, 2) and x.shape[2] % 2 == x.shape[3] % 2 == 0
    return _MaxPool.apply(x) if compiled and by_two else F.max_pool2d(x, window)


class _MaxPool(torch.autograd.Function):
    """Max pooling by 2 of even H and W. The first of several equal pixels gets the gradient, as in torch."""

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
