"""Muon for filters and SGD for the rest, in one optimiser: Lightning's automatic optimisation allows only one."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim.sgd import sgd


def can_fuse(weights: Iterable[Tensor]) -> bool:
    """Whether SGD may update all `weights` with torch's fused kernel.

    Before torch 2.14, the fused kernel for CPUs leaves nearly all 16-bit weights unchanged and their momenta wrong:
    https://github.com/pytorch/pytorch/issues/191763
    """
    return all(p.dtype.itemsize > 2 or p.device.type != "cpu" for p in weights)


class SGDWithMuon(torch.optim.Optimizer):
    """SGD with Nesterov momentum that, in groups with `muon=True`, orthogonalises each update first.

    Muon (https://kellerjordan.github.io/posts/muon/): the momentum of a filter bank, as a matrix of
    `(out, in * height * width)`, is replaced by the nearest matrix with equal singular values, which
    a few Newton-Schulz steps approximate. Before each update the filter bank is scaled to a Frobenius norm of
    sqrt(out), as in the 94 % speed run, so that the learning rate is relative to the weights. torch.optim.Muon takes
    matrices only and does not scale them.

    Args:
        params: Groups of parameters, with `lr`, `momentum`, `weight_decay` and `muon`.
        lr: Default learning rate of a group.
        momentum: Default momentum of a group.
        weight_decay: Default weight decay of a group; Muon groups ignore it.
        nesterov: Whether a group uses Nesterov momentum by default; Muon groups always do.
        muon: Whether a group uses Muon by default.
        dtype: Dtype of the matrix products that orthogonalise updates. By default the weights' dtype, but bfloat16 on
            a GPU, whose tensor cores support it.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        nesterov: bool = True,
        muon: bool = False,
        dtype: torch.dtype | None = None,
    ) -> None:
        defaults = {
            "lr": lr, "momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov, "muon": muon,
        }  # fmt: skip
        super().__init__(params, defaults)
        self._dtype = dtype

    def __getstate__(self) -> dict[str, Any]:
        """The state of copies and pickles: torch's version leaves out our own attributes."""
        return {**super().__getstate__(), "_dtype": self._dtype}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Updates all groups once."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                (self._muon if group["muon"] else self._sgd)(group, params)
        return loss

    def _sgd(self, group: dict[str, Any], params: list[Tensor]) -> None:
        options = {name: group[name] for name in ("lr", "momentum", "weight_decay", "nesterov")}
        momenta: list[Tensor | None] = list(self._momenta(params))
        sgd(params, _grads(params), momenta, dampening=0.0, maximize=False, fused=can_fuse(params), **options)

    def _muon(self, group: dict[str, Any], params: list[Tensor]) -> None:
        grads = _grads(params)
        momenta = self._momenta(params)
        torch._foreach_mul_(momenta, group["momentum"])
        torch._foreach_add_(momenta, grads)
        updates = list(torch._foreach_add(grads, momenta, alpha=group["momentum"]))
        norms = list(torch._foreach_norm(params))
        torch._foreach_div_(norms, [len(p) ** 0.5 for p in params])
        torch._foreach_clamp_min_(norms, torch.finfo(norms[0].dtype).tiny)  # a filter bank of zeros has norm 0
        torch._foreach_div_(params, norms)
        shapes = list(dict.fromkeys(p.shape for p in params))
        for chosen in [shapes] if _together(params[0]) else [[shape] for shape in shapes]:
            some = [(p, update) for p, update in zip(params, updates, strict=True) if p.shape in chosen]
            rows, columns = max(shape[0] for shape in chosen), max(shape[1:].numel() for shape in chosen)
            dtype = self._dtype or (torch.bfloat16 if params[0].is_cuda else params[0].dtype)
            banks = params[0].new_zeros(len(some), rows, columns, dtype=dtype)
            for bank, (p, update) in zip(banks, some, strict=True):
                _corner(bank, p.shape).copy_(update)
            for bank, (p, _) in zip(orthogonal(banks), some, strict=True):
                p.add_(_corner(bank, p.shape), alpha=-group["lr"])

    def _momenta(self, params: list[Tensor]) -> list[Tensor]:
        """Returns the momentum buffers, the running sums of gradients, which start as zeros."""
        for p in params:
            if "momentum_buffer" not in self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        return [self.state[p]["momentum_buffer"] for p in params]


def _grads(params: list[Tensor]) -> list[Tensor]:
    return [p.grad for p in params if p.grad is not None]


def _together(param: Tensor) -> bool:
    """Whether filter banks of all shapes are orthogonalised as one batch, padded with zeros, which stay zeros.

    A GPU takes about as long for a small product as for a large one, and longer for two. A CPU would waste time on the
    zeros, so only banks of the same shape are batched there.
    """
    return param.is_cuda


def _corner(bank: Tensor, shape: torch.Size) -> Tensor:
    """Views the top left corner of a matrix as filters of `shape`."""
    return bank[: shape[0], : shape[1:].numel()].view(shape)


def orthogonal(matrices: Tensor, steps: int = 3) -> Tensor:
    """Brings the singular values of each of `matrices`, `(N, rows, columns)`, near 1; the dtype stays the same.

    The quintic's coefficients are from https://kellerjordan.github.io/posts/muon/, chosen for speed over exactness:
    after five steps the singular values lie between about 0.7 and 1.2; after three steps, those that began below some
    0.02 of the matrix's norm are still below that range.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = torch.bmm(x, x.mT)
        # a * x + (b * gram + c * gram @ gram) @ x, in two kernels
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
