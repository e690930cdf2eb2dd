"""Stops a run when it is told to, between two batches."""

import time
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer

from cifar_lightning import stop
from cifar_lightning.errors import Stopped
from cifar_lightning.run.callbacks.checkpoints import Checkpoints
from cifar_lightning.run.loop import StepEnd, within_step
from cifar_lightning.run.process_group import gloo_group

POLL_SECONDS = 1.0


class StopOnSignal(StepEnd):
    """A callback that stops the run when told to, at a step that all ranks agree on, and saves a checkpoint there.

    A rank must not leave while the others wait for it. During training the ranks compare their stop flags about once
    a second, over gloo so that no device is waited for. All ranks compute the same number of steps until the next
    comparison, from figures that they share. An evaluation needs no agreement: its weights are in a checkpoint when it
    begins, and the launcher tells every rank.

    Args:
        checkpoints: The callback that saves; not needed for an evaluation.
    """

    def __init__(self, checkpoints: Checkpoints | None = None) -> None:
        self.checkpoints = checkpoints
        self._group: dist.ProcessGroup | None = None
        self._until_poll, self._interval, self._last_poll = 1, 1, time.monotonic()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Makes the process group in which the ranks compare their flags."""
        if trainer.world_size > 1:
            self._group = gloo_group()
        self._last_poll = time.monotonic()

    def on_step_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves and stops between two steps, if a rank was told to stop."""
        signum = stop.requested if self._group is None else self._poll()
        if signum:
            if self.checkpoints is not None:
                self.checkpoints.save(trainer)
            raise Stopped(signum)

    def on_validation_batch_end(self, trainer: Trainer, *args: Any) -> None:
        """Stops between two batches, but not within an unfinished step: only a finished one has a checkpoint by now."""
        if not within_step(trainer):
            stop.raise_if_requested()

    def on_test_batch_end(self, *args: Any) -> None:
        """Stops between two batches, if told to."""
        stop.raise_if_requested()

    def _poll(self) -> int:
        """Returns the signal that any rank has received; 0 if there is none, or if no comparison is due."""
        self._until_poll -= 1
        if self._until_poll:
            return 0
        seconds = time.monotonic() - self._last_poll
        shared = torch.tensor([float(stop.requested), seconds])
        dist.all_reduce(shared, dist.ReduceOp.MAX, group=self._group)
        signum, slowest = shared.tolist()
        steps = int(self._interval * POLL_SECONDS / max(slowest, 1e-6))
        self._interval = self._until_poll = max(1, min(steps, 2 * self._interval))
        self._last_poll = time.monotonic()
        return int(signum)
