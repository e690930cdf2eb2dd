"""Saves a run's checkpoints, and decides when: the files themselves are the matter of checkpoint.py."""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor

from cifar_lightning.errors import NonFiniteError
from cifar_lightning.files import exists
from cifar_lightning.model.running_loss import current_lr
from cifar_lightning.run.checkpoint import BEST, FINAL, load_checkpoint, step_checkpoints
from cifar_lightning.run.frozen import freeze, frozen_in
from cifar_lightning.run.loop import StepEnd, within_step
from cifar_lightning.run.metrics_csv import MetricsCSV
from cifar_lightning.run.process_group import on_first_rank

KEEP = 2  # of the newest step-S.ckpt
WORTH = 50  # an epoch's end is saved if at least this many times the duration of a save has passed since the last one


class Checkpoints(Checkpoint, StepEnd):
    """A callback that saves at the start, before every validation, every n steps, after epochs, and at the end.

    On a GPU an epoch may take a tenth of a second, and a checkpoint a fifth of that. If saving after every epoch would
    take more than a fiftieth of the time, some epochs are not saved.

    Args:
        folder: Where to write.
        metrics: The run's log: a checkpoint records how many of its rows came before it.
        every_n_steps: Also save after each multiple of this many steps.

    Attributes:
        seconds: Time spent in fitting so far, over all sessions of an interrupted run, without work that was lost.
    """

    def __init__(self, folder: Path, metrics: MetricsCSV, every_n_steps: int | None = None) -> None:
        self.folder, self.metrics, self.every_n_steps = folder, metrics, every_n_steps
        self.best_acc = -1.0
        self._seconds_before, self._started = 0.0, time.monotonic()
        self._saved_step, self._resumed = -1, False
        self._figures: dict[str, float] = {}
        self._frozen: dict[str, list[str]] | None = None
        self._saved_at, self._saving_took = -math.inf, math.inf  # no save yet: the next one is worth it

    @property
    def seconds(self) -> float:  # noqa: D102
        return self._seconds_before + time.monotonic() - self._started

    def state_dict(self) -> dict[str, Any]:
        """Returns what a resumed run needs besides the network and the optimiser."""
        rows, last = self.metrics.position
        return {"best_acc": self.best_acc, "seconds": self.seconds, "rows": rows, "last_row": last}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what `state_dict` has returned, and takes the log back to that point."""
        self.best_acc, self._seconds_before = state_dict["best_acc"], state_dict["seconds"]
        self._resumed = True
        self.metrics.go_back(state_dict["rows"], state_dict["last_row"])

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Adds which layers are frozen, and the figures that callbacks monitor.

        The rest of a resumed epoch may log none of these figures again.
        """
        figures = trainer._logger_connector._callback_metrics
        checkpoint["callback_metrics"] = {name: float(value) for name, value in figures.items()}
        checkpoint["frozen"] = frozen_in(trainer)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keeps them for `on_train_start`: before that Lightning discards all figures, and callbacks freeze layers."""
        self._figures = checkpoint.get("callback_metrics", {})  # earlier versions saved neither
        self._frozen = checkpoint.get("frozen")

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Starts the clock, which includes preparing loader and network for the images, and compilation."""
        if stage == "fit":
            self._started = time.monotonic()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the start, so that every run that has begun can be resumed; in a resumed run, restores what it kept.

        BaseFinetuning freezes again whatever a run had thawed before it was interrupted
        (https://github.com/Lightning-AI/pytorch-lightning/issues/21901).
        """
        if self._resumed:
            if self._frozen is not None:
                freeze(trainer, self._frozen)
            self._saved_step = trainer.global_step
            self.metrics.set_lr(current_lr(trainer))  # a fit that is longer now has another rate
            figures = {name: torch.tensor(value) for name, value in self._figures.items()}
            trainer._logger_connector._callback_metrics.update(figures)
            # The first rank decides: another machine may still see a file that has been removed.
            if not trainer.strategy.broadcast(exists(self.folder / BEST)):
                loop: Any = trainer.fit_loop.epoch_loop
                self.best_acc, loop.end_validated = -1.0, -1
        else:
            self.save(trainer)

    def on_step_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves, if a checkpoint is due."""
        due = self.every_n_steps is not None and trainer.global_step % self.every_n_steps == 0
        due = due or trainer.global_step == trainer.max_steps
        if due or (trainer.is_last_batch and self._is_worth_it(trainer)):
            self.save(trainer)

    def on_validation_due(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves before every validation, also within an epoch: it may be interrupted, or find the best weights."""
        self.save(trainer)

    def on_last_step_done(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the end of training, even within an epoch, where the Trainer's max_time may end it."""
        self.save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the weights to be tested as `final.ckpt`, if a callback has changed them since the last step.

        Some callbacks average weights when an epoch or the training ends, such as WeightAveraging. The weights of the
        last step are kept too, because a longer run resumes from them.
        """
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]  # set by a connector
        if {type(callback).__module__.partition(".")[0] for callback in callbacks} == {__name__.partition(".")[0]}:
            return  # only our own callbacks, which change no weights
        weights, last = pl_module.state_dict(), self.folder / f"step-{trainer.global_step}.ckpt"
        if not on_first_rank(lambda: _are_equal(weights, load_checkpoint(last)["state_dict"])):
            trainer.save_checkpoint(self.folder / FINAL)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves `best.ckpt` if the validation accuracy is the highest so far."""
        acc = trainer.callback_metrics.get("val_acc")
        if acc is None or trainer.sanity_checking:
            return
        if float(acc) > self.best_acc:
            self.best_acc = float(acc)
            trainer.save_checkpoint(self.folder / BEST)
        loop: Any = trainer.fit_loop.epoch_loop  # our EpochLoop
        if loop.validates_end:  # save the figures: a longer run that resumes here does not validate this step again
            loop.end_validated, self._saved_step = trainer.global_step, -1
            self.save(trainer)

    def _is_worth_it(self, trainer: Trainer) -> bool:
        """Whether enough time has passed for another checkpoint. The first rank decides, because all save together."""
        worth = time.monotonic() - self._saved_at >= WORTH * self._saving_took
        return bool(trainer.strategy.broadcast(worth))

    def save(self, trainer: Trainer) -> None:
        """Writes `step-S.ckpt` for the current step, on all ranks together, and removes checkpoints no longer kept.

        Does nothing within a step, because a checkpoint holds no gradients.

        Raises:
            NonFiniteError: A weight is NaN or infinite: the checkpoint on the disk is better.
            RunError: The checkpoint cannot be written to the disk.
        """
        if self._saved_step == trainer.global_step or within_step(trainer):
            return
        if name := _not_finite(trainer.lightning_module):
            model: Any = trainer.lightning_module
            raise NonFiniteError(
                f"{model.diverged(f'the weight {name} is not finite')}; the last checkpoint before it is kept"
            )
        start = time.monotonic()  # the check above has waited for the GPU's steps
        if trainer.is_global_zero:
            self.metrics.flush()  # the checkpoint relies on the log's rows, even after a power failure
        path = self.folder / f"step-{trainer.global_step}.ckpt"
        trainer.save_checkpoint(path)
        self._saved_step = trainer.global_step
        if trainer.is_global_zero:
            paths = step_checkpoints(self.folder)
            here = paths.index(path)
            # Checkpoints of later steps could not be read when the run was resumed.
            for old in [*paths[: max(here + 1 - KEEP, 0)], *paths[here + 1 :]]:
                old.unlink(missing_ok=True)
        self._saved_at = time.monotonic()
        self._saving_took = min(self._saving_took, self._saved_at - start)  # a disk that stalls once is not slow


def _are_equal(some: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> bool:
    return some.keys() == others.keys() and all(torch.equal(x.cpu(), others[name]) for name, x in some.items())


def _not_finite(module: LightningModule) -> str | None:
    """Returns the name of a weight or buffer that is NaN or infinite, if there is one. Waits for the device once."""
    values = {name: x for name, x in module.state_dict().items() if isinstance(x, Tensor) and x.is_floating_point()}
    if not values:
        return None
    finite = torch.stack([x.isfinite().all() for x in values.values()]).tolist()
    return next((name for name, ok in zip(values, finite, strict=True) if not ok), None)
