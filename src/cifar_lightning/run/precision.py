"""Resolves and checks the precision of a run, and provides mixed float16 with a constant loss scale."""

from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor

from cifar_lightning.errors import InputError

# The smallest positive float16 is 6e-8, and the gradients of a mean over a thousand images come near it. A sum over
# 2,000 images, which scales the loss by a similar factor, trains in float16:
# https://github.com/KellerJordan/cifar10-airbench
LOSS_SCALE = 1_024.0


def resolve_precision(precision: str | int, accelerator: str) -> str:
    """Resolves `auto`: mixed bfloat16 if the device computes in it, otherwise mixed float16 on CUDA, float32 elsewhere.

    On a CPU `16-mixed` becomes mixed bfloat16, as in the Trainer: torch has no mixed float16 there.
    """
    if precision != "auto":
        short = {"16": "16-mixed", "bf16": "bf16-mixed", "32": "32-true", "64": "64-true"}  # as in the Trainer
        precision = short.get(str(precision), str(precision))
        return "bf16-mixed" if (precision, accelerator) == ("16-mixed", "cpu") else precision
    if has_bfloat16(accelerator):
        return "bf16-mixed"
    return "16-mixed" if accelerator in ("gpu", "cuda") else "32-true"


def has_bfloat16(accelerator: str) -> bool:
    """Whether this machine's device of the kind `accelerator` has instructions for bfloat16."""
    if accelerator == "mps":  # torch does not say
        return False
    if accelerator in ("gpu", "cuda"):
        there: bool = torch.cuda.is_bf16_supported(including_emulation=False)
        return there
    abilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(abilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def crawls(precision: str, accelerator: str) -> bool:
    """Whether torch computes at a hundredth of the speed: it has no float16 gradients of filters for a CPU."""
    return (precision, accelerator) == ("16-true", "cpu")


def check_precision(precision: str, accelerator: str) -> None:
    """Raises an InputError if a job would crawl, or if the device does not support the precision."""
    if crawls(precision, accelerator):
        raise InputError(
            f"precision {precision}: float16 is slow on a CPU, bfloat16 is not; use bf16-true or bf16-mixed"
        )
    if (precision, accelerator) == ("64-true", "mps"):
        raise InputError(f"precision {precision}: an Apple GPU has no float64; use 32-true, or --accelerator cpu")


class StaticHalf(MixedPrecision):
    """`16-mixed` without Lightning's GradScaler, which in every step reads from the device whether to take the step.

    Convolutions and products compute in float16; weights, norms and losses are float32. The loss is scaled up before
    the backward pass and the gradients are scaled down after it. If the scaled numbers are too large for float16, the
    loss becomes NaN, and the run ends with a message that says so.

    Args:
        device: Type of the device, e.g. "cuda".
    """

    def __init__(self, device: str) -> None:
        super().__init__("bf16-mixed", device)  # "16-mixed" would make a GradScaler
        self.precision = "16-mixed"

    def pre_backward(self, tensor: Tensor, module: LightningModule) -> Tensor:  # type: ignore[override]
        """Scales the loss up."""
        return super().pre_backward(tensor * LOSS_SCALE, module)

    def post_backward(self, tensor: Tensor, module: LightningModule) -> Tensor:  # type: ignore[override]
        """Scales the gradients back, once the step has accumulated all of them."""
        trainer: Any = module.trainer
        if not trainer.fit_loop._should_accumulate():
            torch._foreach_div_([p.grad for p in module.parameters() if p.grad is not None], LOSS_SCALE)
        return super().post_backward(tensor, module)
