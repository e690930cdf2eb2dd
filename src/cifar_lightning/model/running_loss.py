"""RunningLoss: the mean training loss between two log points, at no cost to the steps in between."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.tuner.lr_finder import _LRCallback
from torch import Tensor

from cifar_lightning.errors import NonFiniteError


class RunningLoss:
    """A sum of training losses, whose mean it logs, with the learning rate, every `log_every_n_steps` steps.

    The sum stays on the device: reading or copying a loss in every step would make the host wait for the GPU.

    Attributes:
        count: Number of losses since the last log point.
    """

    def __init__(self) -> None:
        self._sum, self.count = torch.zeros(()), 0
        self._last: float | None = None

    def add(self, loss: Tensor) -> None:
        """Adds the loss of a batch."""
        loss = loss.detach()
        if (self._sum.device, self._sum.dtype) == (loss.device, _dtype(loss.dtype)):
            self._sum.add_(loss)
        else:
            self._sum = self._sum + loss  # the first step: the sum is still a scalar on the CPU
        self.count += 1

    def log_if_due(self, module: LightningModule) -> None:
        """Logs, after a batch, if this is a log point."""
        if self._is_due(module.trainer):
            # Our loop (run/loop.py) reaches the loggers with less overhead than Lightning's `log_dict`.
            loop = module.trainer.fit_loop.epoch_loop
            self._log(module, getattr(loop, "log_step", partial(module.log_dict, prog_bar=True)))

    def _is_due(self, trainer: Trainer) -> bool:
        """Whether this is a log point that has not been logged yet."""
        # Accumulated batches share a global step, and only the last of them ends with an optimiser step.
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by a connector
        due = every and trainer.global_step % every == 0 and self.count
        return bool(due) and not trainer.fit_loop._should_accumulate()

    def log_rest(self, module: LightningModule) -> None:
        """Logs the mean of the batches since the last log point, at the end of an epoch."""
        if self.count:
            # All ranks already have the same figures, so the maximum is right; Lightning warns without sync_dist.
            self._log(module, partial(module.log_dict, prog_bar=True, sync_dist=True, reduce_fx="max"))

    def _mean(self, trainer: Trainer) -> float:
        # Every rank has the same number of images, so the mean over ranks is the mean over images.
        return float(trainer.strategy.reduce(self._sum / self.count, reduce_op="mean"))

    def _log(self, module: LightningModule, log: Callable[[Mapping[str, float]], None]) -> None:
        mean = self._mean(module.trainer)
        callbacks: list[Any] = module.trainer.callbacks  # type: ignore[attr-defined]  # set by a connector
        searches = any(isinstance(callback, _LRCallback) for callback in callbacks)
        if not math.isfinite(mean) and not searches:  # a learning rate search tries rates until one is too high
            raise NonFiniteError(self.diverged(module.trainer, f"the training loss is {mean}"))
        log({"train_loss": mean, "lr": current_lr(module.trainer)})
        self._last = mean
        self._sum.zero_()
        self.count = 0

    def diverged(self, trainer: Trainer, what: str) -> str:
        """Returns a message: `what` happened, the learning rate, the last loss, and the flags of the rates to lower."""
        last = "no finite loss was logged" if self._last is None else f"the last finite loss was {self._last:.4f}"
        own = (n for n in ("muon_lr", "bias_lr", "head_lr") if trainer.lightning_module.hparams.get(n) is not None)
        return (
            f"{what} at step {trainer.global_step:,}, with lr {current_lr(trainer):g}; {last}: "
            f"lower {', '.join(f'--model.{name}' for name in ('lr', *own))}"
        )

    def state(self, trainer: Trainer) -> dict[str, Any]:
        """Returns the sums of all ranks, so that a resumed run logs the same figures.

        Lightning's ModelCheckpoint may save after a step but before its log point is logged. The losses that are
        about to be logged are then left out of the state.
        """
        mine, count, last = self._sum.item(), self.count, self._last
        if self._is_due(trainer):
            mine, count, mean = 0.0, 0, self._mean(trainer)
            last = mean if math.isfinite(mean) else last
        return {"sums": of_every_rank(mine, trainer.world_size), "count": count, "last": last}

    def restore(self, state: Mapping[str, Any], rank: int, ranks: int, dtype: torch.dtype) -> None:
        """Restores a state, for losses of `dtype`. If the number of ranks has changed, each takes the mean sum."""
        sums = state["sums"]
        mine = sums[rank] if len(sums) == ranks else sum(sums) / len(sums)
        self._sum, self.count = torch.tensor(mine, dtype=_dtype(dtype)), state["count"]
        self._last = state.get("last")


def of_every_rank(mine: Any, ranks: int) -> list[Any]:
    """Gathers the value `mine` of each rank, in rank order."""
    everyones = [mine] * ranks
    if ranks > 1:
        torch.distributed.all_gather_object(everyones, mine)
    return everyones


def _dtype(loss: torch.dtype) -> torch.dtype:
    """The dtype of the sum: at least float32, for a sum in half precision loses digits; float64 stays float64."""
    return torch.promote_types(loss, torch.float32)


def current_lr(trainer: Trainer) -> float:
    """The learning rate, at this point of the schedule, of weights without a rate of their own; 0 without any."""
    groups, lr = trainer.optimizers[0].param_groups, trainer.lightning_module.hparams.get("lr")
    own = (group for group in groups if group.get("initial_lr", group["lr"]) == lr)
    return float(next(own, groups[0])["lr"]) if groups else 0.0
