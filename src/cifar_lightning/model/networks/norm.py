"""Batch normalisation over the global batch, whatever the number of ranks."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cifar_lightning.data.sharing import connected


class BatchNorm2d(nn.BatchNorm2d):
    """torch's, with the statistics of all ranks' images in training.

    Without that, two ranks train another network than one. torch.nn.SyncBatchNorm does it on GPUs only; this one's
    weights have the same names. The ranks must have equally many images, as BatchLoader gives them.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalised features, of the shape of `x`, `(N, C, H, W)`."""
        if not (self.training and connected() and dist.get_world_size() > 1):
            return super().forward(x)
        x32 = x.to(torch.promote_types(x.dtype, torch.float32))
        # Not by the mean of the squares: where the mean is large, little is left of that after subtracting its square.
        variances, means = _all_ranks(torch.stack(torch.var_mean(x32, (0, 2, 3), correction=0)))
        mean = means.mean(0)
        variance = (variances + (means - mean).square()).mean(0)
        with torch.no_grad():
            count = x.numel() / x.shape[1] * dist.get_world_size()
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            self.num_batches_tracked += 1
            momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum  # None: the mean
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
            unbiased = variance * (count / (count - 1))
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        shift = self.bias - mean * scale
        normal: Tensor = (x32 * scale[:, None, None] + shift[:, None, None]).to(x.dtype)
        return normal


def same_on_all_ranks(module: nn.Module) -> list[str]:
    """The names of a module's buffers that need not be sent from rank to rank: those of the norms of this kind.

    Every rank computes them from the same sums.
    """
    norms = {name: norm for name, norm in module.named_modules() if isinstance(norm, BatchNorm2d)}
    return [f"{name}.{buffer}".removeprefix(".") for name, norm in norms.items() for buffer, _ in norm.named_buffers()]


def _all_ranks(x: Tensor) -> tuple[Tensor, Tensor]:
    """Of all ranks' `x`, `(2, C)`: both rows of each, `(ranks, C)` and `(ranks, C)`.

    By one sum, with a place for each rank: its gradient is one sum too.
    """
    places = x.new_zeros(dist.get_world_size(), *x.shape)
    places[dist.get_rank()] = x
    first, second = _SumOverRanks.apply(places).unbind(1)
    return first, second


class _SumOverRanks(torch.autograd.Function):
    """The sum of a tensor over all ranks; its gradient is the sum of theirs.

    torch.distributed.nn.functional.all_reduce would be this, but is deprecated and cannot be compiled.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        grad = grads[0].clone()
        dist.all_reduce(grad)
        return grad
