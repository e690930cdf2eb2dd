"""Builds the optimiser of a LitNet: SGD, or SGDWithMuon if some weights have a learning rate of their own."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from cifar_lightning.errors import InputError
from cifar_lightning.model.muon import SGDWithMuon, can_fuse


def build_optimizer(
    weights: Iterable[nn.Parameter], h: Mapping[str, Any], precision: str | None = None
) -> torch.optim.Optimizer:
    """Builds one optimiser for all `weights`.

    Args:
        weights: The weights to train.
        h: These arguments of LitNet's: lr, momentum, nesterov, weight_decay, muon_lr, muon_momentum, bias_lr, head_lr.
        precision: The Trainer's precision. If it is bfloat16, or on a GPU, Muon's matrix products are in bfloat16.
            Otherwise they are in the dtype of the weights, and one rank and two agree to its rounding.

    Raises:
        InputError: There are no weights to train.
    """
    options = {"momentum": h["momentum"], "nesterov": h["nesterov"]}
    weights = list(weights)
    if not weights:
        raise InputError("the network has no weights to train: call requires_grad_() on those that you want to train")
    if h["muon_lr"] is None and h["bias_lr"] is None and h["head_lr"] is None:
        fused = can_fuse(weights)
        sgd = torch.optim.SGD(weights, h["lr"], weight_decay=h["weight_decay"], fused=fused, **options)

        def as_here(loaded: torch.optim.Optimizer) -> None:  # not as on the checkpoint's device, perhaps a GPU
            for group in loaded.param_groups:
                group["fused"] = fused

        sgd.register_load_state_dict_post_hook(as_here)
        sgd.register_step_pre_hook(_begin_momenta)
        # Leaves the unscaling of float16 gradients to the gradient scaler: otherwise Lightning refuses to clip them
        # (https://github.com/Lightning-AI/pytorch-lightning/issues/21435).
        sgd._step_supports_amp_scaling = False
        return sgd
    of_dimension = {n: [p for p in weights if p.dim() == n] for n in {p.dim() for p in weights}}
    rates = {1: h["bias_lr"], 2: h["head_lr"], 4: h["muon_lr"]}
    groups = []
    for dimension, params in sorted(of_dimension.items()):
        lr = rates.get(dimension) or h["lr"]
        group = {"params": params, "lr": lr, "weight_decay": h["weight_decay"] * h["lr"] / lr}
        if dimension == 4 and h["muon_lr"] is not None:
            group |= {"muon": True, "momentum": h["muon_momentum"], "weight_decay": 0.0}
        groups.append(group)
    half = str(precision).startswith("bf16")
    return SGDWithMuon(groups, h["lr"], dtype=torch.bfloat16 if half else None, **options)


def _begin_momenta(sgd: torch.optim.Optimizer, *_: Any) -> None:
    """Gives weights that a callback has thawed a momentum of zero, which is where it begins.

    torch's fused kernel fails if only some weights of a group have one. (As of torch 2.11 to 2.15.)
    """
    if 0 < len(sgd.state) < sum(len(group["params"]) for group in sgd.param_groups):
        for group in sgd.param_groups:
            for weight in group["params"] if group["momentum"] else ():
                if weight.grad is not None and weight not in sgd.state:
                    sgd.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
