"""What changes with the progress of a fit, 0 to 1: the learning rate, and the size of the training images."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from cifar_lightning.errors import InputError


def _one_cycle(progress: float) -> float:
    """Factor of the highest lr at `progress`, 0 to 1 of the fit (https://arxiv.org/abs/1708.07120)."""
    if progress < 0.3:
        return 1 / 25 + (1 - 1 / 25) * progress / 0.3
    return _cosine((progress - 0.3) / 0.7)


def _cosine(progress: float) -> float:
    """Factor of the highest lr at `progress`, 0 to 1 of the fit (https://arxiv.org/abs/1608.03983)."""
    return (1 + math.cos(math.pi * min(progress, 1.0))) / 2


# Of the learning rate, by name: factors of the highest. Not torch's schedulers, which keep the length that they were
# made with, where a resumed fit may be longer.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "one-cycle": _one_cycle,
    "cosine": _cosine,
    "linear": lambda progress: max(0.0, 1.0 - progress),
}


class Schedule(LambdaLR):
    """The learning rates of an optimiser by one of SCHEDULES, over so many steps.

    Raises:
        InputError: The number of steps is not known.
    """

    def __init__(self, optimizer: Optimizer, schedule: str, steps: float) -> None:
        check_length(steps, f"schedule {schedule}")
        factor = SCHEDULES[schedule]
        super().__init__(optimizer, lambda step: factor(step / steps))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on where a fit was. Its checkpoint has brought the rates of its length; this one may be longer."""
        super().load_state_dict(state_dict)
        for group, base, factor in zip(self.optimizer.param_groups, self.base_lrs, self.lr_lambdas, strict=True):
            group["lr"] = base * factor(self.last_epoch)


def accumulation_of(trainer: Trainer) -> GradientAccumulationScheduler | None:
    """What has steps of several batches in some epochs only, if anything has."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]  # set by a connector
    return next((c for c in reversed(callbacks) if isinstance(c, GradientAccumulationScheduler)), None)


def steps_of(trainer: Trainer) -> float:
    """The length of a fit in steps; infinity, or -1, where it is not known.

    Lightning's estimate takes all epochs for one like this, and before the first no callback accumulates.
    """
    steps = float(trainer.estimated_stepping_batches)  # first: the batches are counted then
    batches, epochs, accumulation = trainer.num_training_batches, trainer.max_epochs, accumulation_of(trainer)
    if accumulation is None or batches == math.inf or epochs is None or epochs < 0:
        return steps
    in_all = sum(math.ceil(batches / accumulation.get_accumulate_grad_batches(epoch)) for epoch in range(epochs))
    return float(in_all if trainer.max_steps == -1 else min(in_all, trainer.max_steps))


def check_length(steps: float, what: str) -> None:
    """Raises an InputError where the length of a fit is not known: Lightning's word for that is infinity, or -1."""
    if not 0 < steps < math.inf:
        raise InputError(f"{what} needs a length: give max_epochs, or max_steps where the loader has no length either")


WHOLE_SHARE = 0.4  # of the fit, its end, that sees the images in their own size


def size_at(progress: float, sizes: Sequence[int]) -> int | None:
    """The side of the training images at `progress`; None for their own. See LitNet's `sizes`."""
    index = int(progress / (1 - WHOLE_SHARE) * len(sizes))
    return sizes[index] if index < len(sizes) else None
