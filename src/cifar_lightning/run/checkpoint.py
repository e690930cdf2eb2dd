"""Checkpoints that survive a crash: written to a temporary file, flushed and renamed; older ones are kept until then.

A run's `checkpoints/` holds the newest two `step-S.ckpt`; if there is a validation split, `best.ckpt`, the checkpoint
of the highest validation accuracy; and if a callback has replaced the weights of the last step, `final.ckpt`. All of
them are plain Lightning checkpoints.
"""

import errno
import math
import os
import re
import shlex
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.utilities.types import _PATH
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor

from cifar_lightning.data.cifar10 import CLASSES
from cifar_lightning.data.kinds import USUAL
from cifar_lightning.errors import InputError, NonFiniteError, in_short
from cifar_lightning.files import exists, listed, os_error, write_atomically
from cifar_lightning.model.running_loss import current_lr
from cifar_lightning.run.devices import on_first_rank
from cifar_lightning.run.loop import StepEnd, within_step
from cifar_lightning.run.memory import of_memory
from cifar_lightning.run.metrics_csv import MetricsCSV
from cifar_lightning.run.no_run import instead_of_run
from cifar_lightning.run.weights import read_weights

KEEP = 2
BEST = "best.ckpt"
FINAL = "final.ckpt"
WORTH = 50  # an epoch's end is saved if at least this many times the duration of a save has passed since the last one
_STEP = re.compile(r"step-\d+\.ckpt")


class UnreadableError(InputError):
    """The operating system cannot read a checkpoint. It may be intact, so it must not be skipped or replaced."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """A checkpoint plugin that writes a checkpoint whole or not at all, and loads nothing that could run code.

    Lightning 2.6 stages a checkpoint in the temporary folder and copies it over the old one, so that a full disk
    destroys the old one (https://github.com/Lightning-AI/pytorch-lightning/issues/21253). It also unpickles anything
    from an http address.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any | None = None) -> None:
        """Writes `checkpoint` to `path`; an old file there stays until the new one is on the disk."""
        write_atomically(Path(path), lambda file: torch.save(checkpoint, file))

    def load_checkpoint(
        self, path: _PATH, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Loads a local checkpoint of tensors and plain values; the first rank reads the file for all ranks.

        Raises:
            InputError: The checkpoint is missing or damaged, or holds objects that only running code could restore.
        """
        return on_first_rank(lambda: load_checkpoint(path))


def load_checkpoint(path: str | os.PathLike[str], bare: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Loads a checkpoint onto the CPU with `weights_only=True`, or a .safetensors file of `export` as if it were one.

    Args:
        path: The file.
        bare: Arguments of LitNet for a bare state_dict; without them a bare state_dict is refused.

    Raises:
        UnreadableError: The operating system does not let this process read the file.
        InputError: There is no such local file, or it is not an intact checkpoint of tensors and plain values.
    """
    if re.match(r"\w{2,}:/", str(path)):  # one slash, because a Path reduces two to one
        raise InputError(f"checkpoint {path} is a URL: download it, and pass the file's path")
    if not os.path.isfile(path):  # Path.is_file raises for a file that this user may not see
        raise InputError(f"checkpoint {path} does not exist: use a run's folder or a .ckpt file")
    if what := instead_of_run(Path(path)):
        raise InputError(f"checkpoint {path} {what}")
    checkpoint = read_weights(Path(path)) if Path(path).suffix == ".safetensors" else _load(path)
    if isinstance(checkpoint, dict) and checkpoint and all(isinstance(value, Tensor) for value in checkpoint.values()):
        if not bare:
            raise InputError(
                f"checkpoint {path} is a bare state_dict, which does not name its network, classes or preprocessing: "
                "load it in Python with load_model(path, net=...)"
            )
        return {
            "state_dict": checkpoint,
            "bare": True,  # the weights' names are still to be mapped: see of_lit_net
            "hyper_parameters": {"classes": CLASSES, **bare},
            "global_step": 0,
        }
    parts = ("state_dict", "hyper_parameters")
    if (
        not isinstance(checkpoint, dict)
        or "global_step" not in checkpoint
        or not all(isinstance(checkpoint.get(part), dict) for part in parts)
    ):
        raise InputError(f"checkpoint {path} was not written by Lightning: use a run's folder or a .ckpt file")
    for arguments in (checkpoint["hyper_parameters"], checkpoint.get("datamodule_hyper_parameters", {})):
        # Lightning imports and calls what these keys name:
        # https://github.com/Lightning-AI/pytorch-lightning/issues/21822
        if named := sorted({"_instantiator", "_class_path"} & set(arguments)):
            raise InputError(f"checkpoint {path} names code to run, in {' and '.join(named)}: use another one")
    return checkpoint


def _load(path: str | os.PathLike[str]) -> Any:
    try:
        _check_sums(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises nearly anything on a damaged file
        cause = os_error(error)
        # In a damaged archive zipfile may seek to an impossible offset, which the system calls "Invalid argument".
        if cause is not None and cause.errno not in (None, errno.EINVAL):
            raise UnreadableError(
                f"checkpoint {path} cannot be read ({cause.strerror}): make it readable, or move it away to go on "
                "without it"
            ) from error
        if of_memory(error):
            raise UnreadableError(f"checkpoint {path} cannot be read ({in_short(error)}): free some memory") from error
        if str(path).lower().endswith(USUAL):
            command = f"predict RUN {shlex.quote(str(path))}"
            raise InputError(
                f"checkpoint {path} is a picture, not a checkpoint: to classify it, use {command}"
            ) from error
        # torch's message has " GLOBAL " before the name of a function that loading would call.
        reason = "it would run code when loaded" if " GLOBAL " in str(error) else "it is damaged or not a checkpoint"
        raise InputError(f"checkpoint {path} cannot be read: {reason}; use another one") from error


def _check_sums(path: str | os.PathLike[str]) -> None:
    """Raises a BadZipFile if a part of a checkpoint does not match its checksum, which torch.load does not verify.

    Without this check a flipped bit in a weight would go unnoticed. Parts without a checksum are skipped, and so are
    files in the old format, which is not a zip archive
    (https://docs.pytorch.org/docs/stable/notes/serialization.html#serialized-file-format).
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        for part in archive.infolist():
            if part.CRC:
                with archive.open(part) as file:
                    while file.read(2**20):  # zipfile verifies the checksum at the end
                        pass


def newest_readable(folder: Path) -> tuple[Path, list[str]]:
    """Returns the newest readable checkpoint in `folder`, and what is wrong with each newer one.

    Raises:
        UnreadableError: The operating system cannot read a newer one, which may be intact: skipped, it would be lost.
        InputError: No checkpoint can be read.
    """
    problems: list[str] = []
    for path in reversed(step_checkpoints(folder)):
        try:
            load_checkpoint(path)
        except UnreadableError:
            raise
        except InputError as error:
            problems.append(cause_of(error))
        else:
            return path, problems
    raise InputError("; ".join([f"nothing to resume: {folder} has no readable checkpoint", *problems]))


def why_not_best(folder: Path, start: Path) -> str | None:
    """Returns why a run resumed from `start` cannot keep `best.ckpt`; None if it can, or if there is no `best.ckpt`.

    If `best.ckpt` is of a later step than `start`, that step is computed again. On other devices its result may differ,
    and then nothing might ever replace `best.ckpt`.
    """
    best = folder / BEST
    if not exists(best):
        return None
    try:
        step: int = load_checkpoint(best)["global_step"]
    except UnreadableError:
        raise
    except InputError as error:
        return cause_of(error)
    return f"checkpoint {best} is from step {step:,}, which will be trained again" if step > step_of(start) else None


def cause_of(error: InputError) -> str:
    """Returns what is wrong with a checkpoint, without the message's advice to the user."""
    return str(error).rpartition(";")[0] or str(error)


def step_checkpoints(folder: Path) -> list[Path]:
    """Returns the `step-S.ckpt` files in `folder`, sorted by step; raises an InputError if it cannot be read."""
    return sorted((path for path in listed(folder, "step-*.ckpt") if _STEP.fullmatch(path.name)), key=step_of)


def step_of(path: Path) -> int:
    """Returns the S of a `step-S.ckpt`."""
    return int(path.stem.removeprefix("step-"))


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
        """Adds the figures that callbacks monitor: the rest of a resumed epoch may log none of them again."""
        figures = trainer._logger_connector._callback_metrics
        checkpoint["callback_metrics"] = {name: float(value) for name, value in figures.items()}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keeps these figures for `on_train_start`: Lightning discards all figures before that."""
        self._figures = checkpoint.get("callback_metrics", {})  # earlier versions did not save them

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Starts the clock, which includes preparing loader and network for the images, and compilation."""
        if stage == "fit":
            self._started = time.monotonic()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the start, so that every run that has begun can be resumed; restores figures in a resumed run."""
        if self._resumed:
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

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves before every validation, also within an epoch: it may be interrupted, or find the best weights."""
        if not trainer.sanity_checking:
            self.save(trainer)

    def on_last_step_done(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the end of training, even within an epoch, where the Trainer's max_time may end it."""
        self.save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the weights to be tested as `final.ckpt`, if a callback has changed them since the last step.

        Some callbacks average weights when an epoch or the training ends (WeightAveraging), or set some of them to zero
        (ModelPruning). The weights of the last step are kept too, because a longer run resumes from them.
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
