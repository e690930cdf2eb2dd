"""What changes with the progress of a fit, from 0 to 1: the learning rate, and the size of the training images."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from cifar_lightning.errors import InputError


def _one_cycle(progress: float) -> float:
    """Returns the factor of the peak learning rate at `progress`, from 0 to 1 (https://arxiv.org/abs/1708.07120)."""
    if progress < 0.3:
        return 1 / 25 + (1 - 1 / 25) * progress / 0.3
    return _cosine((progress - 0.3) / 0.7)


def _cosine(progress: float) -> float:
    """Returns the factor of the peak learning rate at `progress`, from 0 to 1 (https://arxiv.org/abs/1608.03983)."""
    return (1 + math.cos(math.pi * min(progress, 1.0))) / 2


# Learning rate schedules by name, each from progress to a factor of the peak rate. We do not use torch's schedulers
# because they keep the length that they were created with, and a resumed fit may be longer.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "one-cycle": _one_cycle,
    "cosine": _cosine,
    "linear": lambda progress: max(0.0, 1.0 - progress),
}


class Schedule(LambdaLR):
    """A scheduler that sets an optimiser's learning rates by one of SCHEDULES, over a fit of `steps` steps.

    A group that a callback adds during the fit, as BaseFinetuning does, goes on from the rate that the callback gives
    it: its rate stays in the same ratio to the other groups' rates, until the callback gives it another one.

    Raises:
        InputError: The number of steps is not known.
    """

    def __init__(self, optimizer: Optimizer, schedule: str, steps: float) -> None:
        check_length(steps, f"schedule {schedule}")
        factor = SCHEDULES[schedule]
        super().__init__(optimizer, lambda step: factor(step / steps))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resumes at the checkpoint's step, with rates for this fit, which may be longer than the checkpoint's."""
        super().load_state_dict(state_dict)
        factor = self.lr_lambdas[0](self.last_epoch)
        self._last_lr = [base * factor for base in self.base_lrs]
        for group, lr in zip(
            self.optimizer.param_groups, self._last_lr, strict=False
        ):  # a group may just have been added
            group["lr"] = lr

    def get_lr(self) -> list[float | Tensor]:
        """Returns the groups' rates at the current step; those of groups that a callback has added follow its own."""
        factor = self.lr_lambdas[0]
        for index, group in enumerate(self.optimizer.param_groups):
            added = "initial_lr" not in group  # which torch gives to the groups that are there from the start
            if added and group["lr"] not in self._last_lr[index : index + 1]:  # the callback has set it since
                self.base_lrs[index : index + 1] = [group["lr"] / (factor(self.last_epoch - 1) or 1.0)]
        self.lr_lambdas = [factor] * len(self.base_lrs)
        return super().get_lr()


def accumulation_of(trainer: Trainer) -> GradientAccumulationScheduler | None:
    """Finds the callback that sets how many batches to accumulate in each epoch, if there is one."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]  # set by a connector
    return next((c for c in reversed(callbacks) if isinstance(c, GradientAccumulationScheduler)), None)


def steps_of(trainer: Trainer) -> float:
    """Returns the length of a fit in steps; infinity or -1 if it is not known.

    Lightning's estimate assumes that all epochs accumulate like the current one, and before the first epoch the
    callback has not yet set any accumulation.
    """
    steps = float(trainer.estimated_stepping_batches)  # comes first: it makes Lightning count the batches
    batches, epochs, accumulation = trainer.num_training_batches, trainer.max_epochs, accumulation_of(trainer)
    if accumulation is None or batches == math.inf or epochs is None or epochs < 0:
        return steps
    in_all = sum(math.ceil(batches / accumulation.get_accumulate_grad_batches(epoch)) for epoch in range(epochs))
    return float(in_all if trainer.max_steps == -1 else min(in_all, trainer.max_steps))


def check_length(steps: float, what: str) -> None:
    """Raises an InputError if the length of a fit is not known, which Lightning states as infinity or -1."""
    if not 0 < steps < math.inf:
        raise InputError(
            f"{what} needs the length of the fit: pass max_epochs, or max_steps if the loader has no length either"
        )


WHOLE_SHARE = 0.4  # of the fit, at its end, in which images have their full size


def size_at(progress: float, sizes: Sequence[int]) -> int | None:
    """Returns the side that training images are shrunk to at `progress`; None: not shrunk. See LitNet's `sizes`."""
    index = int(progress / (1 - WHOLE_SHARE) * len(sizes))
    return sizes[index] if index < len(sizes) else None
