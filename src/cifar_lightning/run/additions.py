"""The callbacks and loggers that a run is given in Python: objects that config.yaml cannot hold."""

import io
import pickle
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    GradientAccumulationScheduler,
    LambdaCallback,
    LearningRateFinder,
    ModelCheckpoint,
    ModelPruning,
    ProgressBar,
    SpikeDetection,
    StochasticWeightAveraging,
    Timer,
)
from lightning.pytorch.loggers import Logger

from cifar_lightning.errors import InputError
from cifar_lightning.model.evaluation import names
from cifar_lightning.run.callbacks.checkpoints import Checkpoints
from cifar_lightning.run.checkpoint import BEST, FINAL
from cifar_lightning.run.loop import overrides

Callbacks: TypeAlias = Callback | Iterable[Callback] | None
Loggers: TypeAlias = str | Logger | Iterable[str | Logger] | None


class Additions(NamedTuple):
    """The user's callbacks and loggers.

    Attributes:
        callbacks: They run after the run's own, but before those that save, which Lightning puts last.
        loggers: They get the same figures as metrics.csv.
        chosen: Whether the user has said which callbacks take part, even if none.
    """

    callbacks: tuple[Callback, ...] = ()
    loggers: tuple[Logger, ...] = ()
    chosen: bool = False

    def check(self, processes: int) -> None:
        """Checks that all of them can take part in a run.

        Args:
            processes: Number of processes that would train; if more than 1, none of them is this process.

        Raises:
            InputError: One of them cannot.
        """
        if processes > 1 and (self.callbacks or self.loggers):
            first = type((*self.callbacks, *self.loggers)[0]).__name__
            raise InputError(
                f"devices: {first} is an object in this process, but {processes} others would train: use devices=1, "
                f"or start this program with torchrun --nproc-per-node {processes}"
            )
        for callback in self.callbacks:
            _check(callback)
        # Lightning would report these only in a traceback, once the run's folder has been made.
        named = Counter(
            [Checkpoints.__qualname__, *(c.state_key for c in self.callbacks if overrides(c, "state_dict"))]
        )
        for key in (key for key, count in named.items() if count > 1):
            raise InputError(
                f"callbacks: {key} is given twice, but a checkpoint keeps the state of only one: leave one out, or use "
                "other arguments"
            )
        if sum(isinstance(callback, ProgressBar) for callback in self.callbacks) > 1:
            raise InputError("callbacks: a run can have only one progress bar; leave out the others")

    def accumulated(self) -> list[int]:
        """Returns the numbers of batches per step that callbacks set for some epochs."""
        schedulers = (c for c in self.callbacks if isinstance(c, GradientAccumulationScheduler))
        return [batches for scheduler in schedulers for batches in scheduler.scheduling.values()]

    def check_monitors(self, validates: bool, classes: Sequence[str]) -> None:
        """Raises an InputError if a callback monitors a figure that is not logged: Lightning says so after an epoch.

        Args:
            validates: Whether there are images to validate on.
            classes: The classes of the images.
        """
        logged = {"train_loss", "lr", "epoch", "step", *names("val", classes)}
        kinds = [type(callback) for callback in self.callbacks]
        # Callbacks from elsewhere, and a LambdaCallback, may log any figure.
        known = all(k.__module__.startswith("lightning.pytorch.") and k is not LambdaCallback for k in kinds)
        for kind, callback in zip(kinds, self.callbacks, strict=True):
            monitor = getattr(callback, "monitor", None)
            if not isinstance(monitor, str):
                continue
            if monitor.startswith("val_") and not validates:
                raise InputError(
                    f"callbacks: {kind.__name__} monitors {monitor}, but there are no validation images: "
                    "pass data.val_split, e.g. 0.1"
                )
            optional = monitor.startswith("lr-") or not getattr(callback, "strict", True)  # LearningRateMonitor's lr-*
            if known and monitor not in logged and not optional:
                raise InputError(
                    f"callbacks: {kind.__name__} monitors {monitor}, which is not logged in training: choose "
                    "from train_loss, lr, val_loss, val_acc and val_acc/<class>"
                )

    def missing_in(self, checkpoint: Mapping[str, Any]) -> list[str]:
        """Returns the names of callbacks whose state a checkpoint holds, but which are missing here unintentionally.

        The run's own are left out, and so is the Timer that a Trainer's max_time makes.
        """
        if self.chosen:
            return []
        here = {Checkpoints.__qualname__, Timer.__qualname__, *(callback.state_key for callback in self.callbacks)}
        return [key.partition("{")[0] for key in checkpoint.get("callbacks", {}) if key not in here]


def additions_of(callbacks: Callbacks, logger: Loggers) -> tuple[Additions, str | None]:
    """Splits `fit`'s arguments into objects and the names of loggers; None if no logger is named.

    Raises:
        InputError: One of the arguments is not a callback, or not a logger.
    """
    given = [callbacks] if isinstance(callbacks, Callback) else callbacks
    for callback in (given := _listed("callbacks", given)):
        if not isinstance(callback, Callback):
            kind = type(callback)
            theirs = kind.__module__.partition(".")[0] == "pytorch_lightning"
            hint = (
                f"import {kind.__name__} from lightning.pytorch.callbacks"
                if theirs
                else "pass an object of such a class"
            )
            raise InputError(f"callbacks: {_named(callback)} is not a lightning.pytorch.Callback: {hint}")
    loggers = _listed("logger", [logger] if isinstance(logger, str | Logger) else logger)
    for each in loggers:
        if not isinstance(each, str | Logger):
            raise InputError(
                f"logger: {_named(each)} is not a logger: use csv, tensorboard, wandb or mlflow, or an object "
                "of lightning.pytorch.loggers"
            )
    names = [each for each in loggers if isinstance(each, str)]
    objects = tuple(each for each in loggers if isinstance(each, Logger))
    return Additions(tuple(given), objects, chosen=callbacks is not None), ",".join(names) if names else None


def _listed(name: str, given: Any) -> list[Any]:
    if given is not None and not isinstance(given, Iterable):
        given = [given]  # the caller checks its type
    return list(given or [])


def _named(value: object) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return str(value) if isinstance(value, bool | int | float | str) else f"an object of {type(value).__name__}"


def _check(callback: Callback) -> None:
    name = type(callback).__name__
    if isinstance(callback, BatchSizeFinder | LearningRateFinder):
        raise InputError(
            f"callbacks: {name} would train with a setting that config.yaml does not have: find the setting "
            "with lightning.pytorch.tuner.Tuner, and pass it to fit"
        )
    if isinstance(callback, StochasticWeightAveraging):
        raise InputError(
            f"callbacks: {name} would train with another schedule and more epochs than config.yaml has, and the run "
            "could not be resumed: use WeightAveraging of lightning.pytorch.callbacks"
        )
    if isinstance(callback, ModelPruning):
        raise InputError(
            f"callbacks: {name} keeps its masks out of checkpoints, so the run could not be resumed: use it in a "
            "lightning.pytorch.Trainer of your own, or prune the trained network with torch.nn.utils.prune"
        )
    if isinstance(callback, SpikeDetection):  # its state_dict asks for an attribute that Lightning 2.6 never sets
        raise InputError(
            f"callbacks: {name} cannot restore its state, so the run could not be resumed: use it in a "
            "lightning.pytorch.Trainer of your own"
        )
    if isinstance(callback, ModelCheckpoint) and callback.dirpath is None and callback.filename is not None:
        stem = callback.filename.partition("{")[0]
        if f"{stem}.ckpt" in (BEST, FINAL) or stem.startswith("step-"):
            raise InputError(
                f"callbacks: {name} would write {callback.filename}.ckpt among the run's own checkpoints: use "
                "another filename, or a dirpath"
            )
    contents = io.BytesIO()
    torch.save(callback.state_dict(), contents)
    contents.seek(0)
    try:
        torch.load(contents, weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"callbacks: the state_dict of {name} holds objects, which could not be read from a checkpoint: "
            "make it return only tensors, numbers, text, lists and dictionaries"
        ) from error
