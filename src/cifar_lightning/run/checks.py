"""Checks for the user's mistakes, all in one place, before a run writes anything."""

import inspect
import math
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NamedTuple, TypeAlias, get_args

import torch
from lightning.pytorch import Trainer

from cifar_lightning.arguments import is_of
from cifar_lightning.data.datamodule import CIFAR10DataModule
from cifar_lightning.data.sharing import evaluation_batches
from cifar_lightning.errors import InputError
from cifar_lightning.model.lit_net import LitNet
from cifar_lightning.run.additions import Additions
from cifar_lightning.run.cluster import this_rank
from cifar_lightning.run.cpu import restored_torch
from cifar_lightning.run.devices import check_ranks, resolve_devices
from cifar_lightning.run.loggers import check_logger
from cifar_lightning.run.networks import check_outputs, lit_net
from cifar_lightning.run.precision import check_precision
from cifar_lightning.run.settings import Arguments, Settings, check_trainer_names, seconds_in
from cifar_lightning.run.trainer import OF_ALL_RANKS, new_trainer
from cifar_lightning.signatures import refusal

Range: TypeAlias = tuple[Callable[[Any], bool], str]  # whether a value is in it, and the range in words


def _at_least(least: int) -> Range:
    return lambda value: value >= least, f"at least {least}"


# YAML reads 10:00:00:00 as a number in base 60, also in a flag, where quotes do not help.
TIME = "a time above 0, such as {hours: 8} (in quotes in a shell) or, below 10 days, 00:08:00:00 (DD:HH:MM:SS)"
# Of the run's own settings, and of the Trainer's, which itself accepts other values and then does nothing or something
# else. NaN is in no range.
RANGES: dict[str, Range] = {
    "max_epochs": _at_least(1),
    "max_steps": (lambda steps: steps >= 1 or steps == -1, "at least 1, or -1 for no limit"),
    "num_nodes": _at_least(1),
    "log_every_n_steps": _at_least(1),
    "checkpoint_every_n_steps": _at_least(1),
    "verify_steps": _at_least(0),
    "threads": _at_least(1),
    "seed": (lambda seed: 0 <= seed < 2**32, f"from 0 to {2**32 - 1}"),
    "trainer.accumulate_grad_batches": _at_least(1),
    "trainer.gradient_clip_val": _at_least(0),
    "trainer.limit_test_batches": (
        lambda limit: limit == 1.0 or (type(limit) is int and limit >= 1),
        "a number of batches, at least 1; or leave it out",
    ),
    "trainer.max_time": (lambda time: seconds_in(time) > 0, TIME),
    "trainer.num_sanity_val_steps": (lambda batches: batches >= -1, "at least 0, or -1 for all batches"),
    "trainer.val_check_interval": (
        lambda interval: not isinstance(interval, str | dict) or seconds_in(interval) > 0,
        f"a number of batches, a share of them, or {TIME}",
    ),
}
OF_VALIDATION = ("limit_val_batches", "val_check_interval", "check_val_every_n_epoch", "num_sanity_val_steps")


class Checked(NamedTuple):
    """What the checks have found out.

    Attributes:
        processes: Number of processes of the run on this machine.
        images: The images, read, if the run has only this process; otherwise None, since each rank reads them.
    """

    processes: int
    images: CIFAR10DataModule | None


def check(settings: Settings, additions: Additions | None = None, others: CIFAR10DataModule | None = None) -> Checked:
    """Checks for the user's mistakes; downloads and reads the images.

    Args:
        settings: The settings of the run.
        additions: The run's callbacks and loggers that are objects.
        others: The images of another run in this process, to share.

    Raises:
        InputError: There is a mistake.
    """
    _check_types(settings.trainer)
    _check_ranges(settings)
    check_logger(settings.logger)
    accelerator, devices = resolve_devices(settings.accelerator, settings.devices)
    check_precision(settings.precision, accelerator)
    ranks = devices * settings.num_nodes
    if settings.num_nodes > 1 and this_rank() is None:
        raise InputError(
            f"num_nodes {settings.num_nodes}: start the script with srun, or with torchrun on each machine, "
            "e.g. torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST scripts/fit.py"
        )
    check_ranks(settings.devices, devices, settings.num_nodes)
    trainer = _check_trainer(settings, accelerator, ranks)
    additions = additions or Additions()
    additions.check(1 if this_rank() is not None else ranks)
    _check_sizes(lit_net(settings.model), settings.model["net"])  # before the images are downloaded
    images = settings.images()
    if others is not None:
        images.share(others)
    images.prepare_data()
    images.setup("fit")
    images.check(ranks)
    check_outputs(settings.model, images.classes)
    batches = _limited("train", len(images.train_indices) // images.hparams["batch_size"], trainer.limit_train_batches)
    if not settings.fast_dev_run:
        _check_steps(trainer, batches, additions)
    validates = bool(len(images.val_indices) and trainer.limit_val_batches)
    if validates:
        _check_validation(trainer, batches, images, ranks)
    elif not len(images.val_indices):
        _check_no_validation(settings.trainer)
    additions.check_monitors(validates, images.classes)
    return Checked(devices, images if ranks == 1 else None)


def _check_types(given: Arguments) -> None:
    """Checks names and types of the Trainer's arguments: some wrong types would fail only during training."""
    check_trainer_names(given)
    known = inspect.signature(Trainer).parameters
    for name, value in given.items():
        annotation = known[name].annotation
        if not is_of(value, annotation):
            if timedelta in get_args(annotation):
                raise _out_of_range(f"trainer.{name}", value, RANGES[f"trainer.{name}"][1])
            raise InputError(refusal(f"trainer.{name}", value, annotation))


def _check_ranges(settings: Settings) -> None:
    epochs, values = settings.max_epochs, settings.by_flags()
    min_epochs = (lambda least: 0 <= least <= epochs, f"from 0 to {epochs}, the run's epochs")
    for name, (holds, range_) in {**RANGES, "trainer.min_epochs": min_epochs}.items():
        if (value := values.get(name)) is not None and not holds(value):
            raise _out_of_range(name, value, range_)


def _out_of_range(name: str, value: Any, range_: str) -> InputError:
    return InputError(f"{name} {value}: must be {range_}")


def _check_trainer(settings: Settings, accelerator: str, ranks: int) -> Trainer:
    """Checks the settings that are Lightning's; returns a Trainer with them for one device."""
    given = settings.trainer
    for name in OF_ALL_RANKS:
        if type(limit := given.get(name)) is int and limit % ranks:
            raise InputError(
                f"trainer.{name} {limit} cannot be divided among {ranks} devices, because each takes whole batches: "
                f"use a multiple of {ranks}, or a number of --devices that divides {limit}"
            )
    if given.get("gradient_clip_algorithm") is not None and given.get("gradient_clip_val") is None:
        raise InputError("trainer.gradient_clip_algorithm clips nothing without a limit: pass gradient_clip_val too")
    if given.get("sync_batchnorm") and ranks > 1 and accelerator == "cpu":
        raise InputError(
            "trainer.sync_batchnorm true: torch's version needs GPUs, and the networks of this package share their "
            "statistics without it; leave it out"
        )
    if any(word in settings.strategy for word in ("spawn", "fork", "notebook")):
        raise InputError(f"strategy {settings.strategy} starts processes of its own: use ddp")
    return try_trainer({**settings.for_trainer(), "num_nodes": 1})


def try_trainer(arguments: Arguments) -> Trainer:
    """Returns a Trainer with these arguments for one device.

    Raises:
        InputError: Lightning does not accept the arguments.
    """
    try:
        with restored_torch():
            return new_trainer(**{**arguments, "devices": 1}, logger=False, enable_checkpointing=False)
    except Exception as error:  # the type that Lightning raises for a wrong value differs between arguments
        reason = " ".join(str(error).split())
        raise InputError(f"Lightning's Trainer does not accept these settings: {reason}; use another value") from error


def _limited(of: str, count: int, limit: int | float) -> int:
    """Returns how many of an epoch's batches a limit of the Trainer leaves, on each device; one at least."""
    left = int(count * limit) if isinstance(limit, float) else min(count, limit)
    if not left:
        raise InputError(
            f"trainer.limit_{of}_batches {limit} leaves none of {count} batches: use a larger share, or a number of "
            "batches of at least 1"
        )
    return left


def _check_steps(trainer: Any, batches: int, additions: Additions) -> None:
    """Checks settings that count steps, or the batches in a step, with the number of `batches` of an epoch.

    No step goes beyond its epoch. Accumulating over more batches than an epoch has would take the epoch's batches and
    still divide the gradients by the larger number.
    """
    most = max([trainer.accumulate_grad_batches, *additions.accumulated()])
    if most > batches:
        range_ = f"at most {batches}, the batches of an epoch"
        raise _out_of_range("trainer.accumulate_grad_batches", most, range_)
    steps = trainer.max_epochs * math.ceil(batches / trainer.accumulate_grad_batches)
    steps = steps if trainer.max_steps == -1 else min(steps, trainer.max_steps)
    if not 0 <= (trainer.min_steps or 0) <= steps:
        raise _out_of_range("trainer.min_steps", trainer.min_steps, f"from 0 to {steps}, the run's steps")


def _check_validation(trainer: Any, batches: int, data: CIFAR10DataModule, ranks: int) -> None:
    """Checks how much is validated, and how often, with the number of `batches` of an epoch's training."""
    count = evaluation_batches(len(data.val_indices), data.hparams["eval_batch_size"], ranks) // ranks
    limit = trainer.limit_val_batches
    left = _limited("val", count, limit)
    if isinstance(limit, float) and int(ranks * count * limit) != ranks * left:
        raise InputError(
            f"trainer.limit_val_batches {limit} of {count} batches on each of {ranks} devices is not the same "
            f"batches as on one device: use a number of batches, a multiple of {ranks}"
        )
    every = trainer.check_val_every_n_epoch
    if every is not None and not 1 <= every <= trainer.max_epochs:
        range_ = f"from 1 to {trainer.max_epochs}, the run's epochs, or null"
        raise _out_of_range("trainer.check_val_every_n_epoch", every, range_)
    if getattr(trainer, "_val_check_time_interval", None) is not None and ranks > 1:
        range_ = "a number of steps, or use one device: the clocks of several devices differ"
        raise _out_of_range("trainer.val_check_interval", "by the clock", range_)
    interval = getattr(trainer, "val_check_interval", None)  # missing if validation goes by the clock
    if not isinstance(interval, int):
        return
    if interval < 1:
        range_ = "a number of batches of at least 1, a share of them, or a time"
        raise _out_of_range("trainer.val_check_interval", interval, range_)
    if interval > batches and every is not None:
        raise InputError(
            f"trainer.val_check_interval {interval} is more than the {batches} batches of an epoch: use at most "
            f"{batches}, or add --trainer.check_val_every_n_epoch null"
        )


def _check_no_validation(given: Arguments) -> None:
    """Checks that no argument of the Trainer is about a validation that does not take place."""
    for name in OF_VALIDATION:
        if (value := given.get(name)) not in (None, 0, 1):  # 1: of every epoch, or all batches
            raise InputError(f"trainer.{name} {value}: there are no validation images; pass data.val_split, e.g. 0.1")


def _check_sizes(model: LitNet, net: str) -> None:
    """Checks that the network can take images of each of the model's `sizes`."""
    model.eval()
    for size in model.hparams["sizes"] or []:
        try:
            with torch.no_grad():
                model(torch.zeros(1, 3, size, size))
        except RuntimeError as error:
            raise InputError(
                f"sizes {model.hparams['sizes']}: the network {net} does not take images of {size} x {size} "
                "pixels; leave sizes out, use larger ones, or use another --model.net"
            ) from error
