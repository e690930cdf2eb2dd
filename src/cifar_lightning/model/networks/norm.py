"""Batch normalisation over the global batch, whatever the number of ranks."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cifar_lightning.data.sharing import connected


class BatchNorm2d(nn.BatchNorm2d):
    """torch's BatchNorm2d, but in training with the statistics of the images of all ranks.

    Otherwise two ranks would train a different network from one. torch.nn.SyncBatchNorm does this on GPUs only; the
    weights here have the same names. Every rank must have the same number of images, as it has with BatchLoader.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Returns normalised features in the shape of `x`, `(N, C, H, W)`."""
        if not (self.training and connected() and dist.get_world_size() > 1):
            return super().forward(x)
        x32 = x.to(torch.promote_types(x.dtype, torch.float32))
        # Not as the mean of the squares minus the square of the mean: if the mean is large, little precision is left.
        variances, means = _all_ranks(torch.stack(torch.var_mean(x32, (0, 2, 3), correction=0)))
        mean = means.mean(0)
        variance = (variances + (means - mean).square()).mean(0)
        if self.track_running_stats:  # Lightning's BaseFinetuning turns it off for frozen layers
            self._track(mean.detach(), variance.detach(), x.numel() // x.shape[1] * dist.get_world_size())
        scale = self.weight * (variance + self.eps).rsqrt()
        shift = self.bias - mean * scale
        normal: Tensor = (x32 * scale[:, None, None] + shift[:, None, None]).to(x.dtype)
        return normal

    def _track(self, mean: Tensor, variance: Tensor, count: int) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum  # None: the mean
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        unbiased = variance * (count / (count - 1))
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)


def same_on_all_ranks(module: nn.Module) -> list[str]:
    """Names the buffers of a module's BatchNorm2d layers, which need not be sent from rank to rank.

    Every rank computes them from the same sums.
    """
    norms = {name: norm for name, norm in module.named_modules() if isinstance(norm, BatchNorm2d)}
    return [f"{name}.{buffer}".removeprefix(".") for name, norm in norms.items() for buffer, _ in norm.named_buffers()]


def _all_ranks(x: Tensor) -> tuple[Tensor, Tensor]:
    """Gathers `x`, `(2, C)`, from all ranks; returns all first rows, `(ranks, C)`, and all second rows, `(ranks, C)`.

    Uses one all-reduce of a tensor with a slot per rank, so that the gradient takes one all-reduce too.
    """
    places = x.new_zeros(dist.get_world_size(), *x.shape)
    places[dist.get_rank()] = x
    first, second = _SumOverRanks.apply(places).unbind(1)
    return first, second


class _SumOverRanks(torch.autograd.Function):
    """The sum of a tensor over all ranks; its gradient is the sum of the gradients of all ranks.

    torch.distributed.nn.functional.all_reduce does the same, but is deprecated and cannot be compiled.
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
