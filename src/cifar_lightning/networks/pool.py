"""Max pooling whose gradient, once compiled, is quick."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def max_pool(x: Tensor) -> Tensor:
    """The greatest of every two by two pixels of `x`, `(N, C, H, W)`: H and W are even.

    F.max_pool2d, which torch.compile gives a gradient that computes where each window lies in arithmetic that takes
    several times as long as its memory traffic: see docs/performance.md.
    """
    return _MaxPool.apply(x) if torch.compiler.is_compiling() else F.max_pool2d(x, 2)


class _MaxPool(torch.autograd.Function):
    """The same, with the first of equal pixels taking the gradient, as F.max_pool2d has it."""

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
        which, grad = (t.repeat_interleave(2, 2).repeat_interleave(2, 3) for t in (which, grad))
        rows, columns = (torch.arange(size, device=grad.device) % 2 for size in grad.shape[2:])
        chosen = which == 2 * rows[:, None] + columns
        return torch.where(chosen, grad, 0).contiguous(memory_format=torch.channels_last)
