"""Checks for the user's mistakes, all in one place, before a run writes anything."""

import inspect
import math
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NamedTuple, get_args

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

# YAML reads 10:00:00:00 as a number in base 60, also in a flag, where quotes do not help.
TIME = "a time above 0, such as {hours: 8} (in quotes in a shell) or, below 10 days, 00:08:00:00 (DD:HH:MM:SS)"
# For arguments of the Trainer, a test of their range and the range in words: the Trainer itself accepts other values,
# and then does nothing or something else.
RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "accumulate_grad_batches": (lambda batches: batches >= 1, "at least 1"),
    "gradient_clip_val": (lambda norm: norm >= 0, "at least 0"),  # also refuses NaN
    "limit_test_batches": (
        lambda limit: limit == 1.0 or (type(limit) is int and limit >= 1),
        "a number of batches, at least 1; or leave it out",
    ),
    "max_time": (lambda time: seconds_in(time) > 0, TIME),
    "num_sanity_val_steps": (lambda batches: batches >= -1, "at least 0, or -1 for all batches"),
    "val_check_interval": (
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
    _check_numbers(settings)
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
    _check_batches(trainer, settings.trainer, additions, images, ranks)
    additions.check_monitors(bool(len(images.val_indices) and trainer.limit_val_batches), images.classes)
    return Checked(devices, images if ranks == 1 else None)


def _check_numbers(settings: Settings) -> None:
    """Checks the ranges of the run's own settings."""
    for name, lowest, range_ in (
        ("max_epochs", 1, "at least 1"),
        ("max_steps", 1, "at least 1, or -1 for no limit"),
        ("num_nodes", 1, "at least 1"),
        ("log_every_n_steps", 1, "at least 1"),
        ("checkpoint_every_n_steps", 1, "at least 1"),
        ("verify_steps", 0, "at least 0"),
        ("threads", 1, "at least 1"),
        ("seed", 0, f"from 0 to {2**32 - 1}"),
    ):
        value = getattr(settings, name)
        if value is None or (name, value) == ("max_steps", -1):
            continue
        if value < lowest or (name == "seed" and value >= 2**32):
            raise InputError(f"{name} {value}: must be {range_}")


def _check_trainer(settings: Settings, accelerator: str, ranks: int) -> Trainer:
    """Checks the settings that are Lightning's; returns a Trainer with them for one device."""
    given = settings.trainer
    check_trainer_names(given)
    _check_types(given)
    epochs = (lambda epochs: 0 <= epochs <= settings.max_epochs, f"from 0 to {settings.max_epochs}, the run's epochs")
    for name, (holds, range_) in {**RANGES, "min_epochs": epochs}.items():
        if (value := given.get(name)) is not None and not holds(value):
            raise InputError(f"trainer.{name} {value}: must be {range_}")
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


def _check_types(given: Arguments) -> None:
    """Checks values against the Trainer's annotations: some wrong types would fail only during training."""
    known = inspect.signature(Trainer).parameters
    for name, value in given.items():
        annotation = known[name].annotation
        if not is_of(value, annotation):
            if timedelta in get_args(annotation):
                raise InputError(f"trainer.{name} {value}: must be {RANGES[name][1]}")
            raise InputError(refusal(f"trainer.{name}", value, annotation))


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


def _check_batches(
    trainer: Trainer, given: Arguments, additions: Additions, data: CIFAR10DataModule, ranks: int
) -> None:
    """Checks the settings of the Trainer that would fail, or do nothing, with the loaders of this run's images.

    `given` are those that the user gave.
    """
    options: Any = trainer  # untyped: Lightning's connectors set these attributes
    defaults = inspect.signature(Trainer).parameters
    for name in OF_VALIDATION if not len(data.val_indices) else ():
        if (value := given.get(name)) and value not in (defaults[name].default, 1.0):  # Lightning takes None as 1.0
            raise InputError(f"trainer.{name} {value}: there are no validation images; pass data.val_split, e.g. 0.1")
    counts = {
        "train": len(data.train_indices) // data.hparams["batch_size"],
        "val": evaluation_batches(len(data.val_indices), data.hparams["eval_batch_size"], ranks) // ranks,
    }
    for name, count in counts.items():
        limit = getattr(trainer, f"limit_{name}_batches")
        counts[name] = int(count * limit) if isinstance(limit, float) else min(count, limit)
        if count and not counts[name] and (limit or name == "train"):
            raise InputError(
                f"trainer.limit_{name}_batches {limit} leaves none of {count} batches: use a larger share, or a number "
                "of batches of at least 1"
            )
        if name == "val" and isinstance(limit, float) and int(ranks * count * limit) != ranks * counts[name]:
            raise InputError(
                f"trainer.limit_val_batches {limit} of {count} batches on each of {ranks} devices is not the same "
                f"batches as on one device: use a number of batches, a multiple of {ranks}"
            )
    accumulate, every = options.accumulate_grad_batches, options.check_val_every_n_epoch
    interval = getattr(trainer, "val_check_interval", None)  # missing if validation goes by the clock
    by_clock = getattr(trainer, "_val_check_time_interval", None) is not None
    checks: list[tuple[str, Any, bool, str]] = []
    if not options.fast_dev_run:
        # No step goes beyond its epoch. Accumulating over more batches than an epoch has would take the epoch's batches
        # and still divide the gradients by the larger number.
        steps = options.max_epochs * math.ceil(counts["train"] / accumulate)
        steps = steps if trainer.max_steps == -1 else min(steps, trainer.max_steps)
        batches = f"at most {counts['train']}, the batches of an epoch"
        most = max(accumulate, *additions.accumulated(), 1)
        checks = [
            ("accumulate_grad_batches", most, most <= counts["train"], batches),
            (
                "min_steps",
                options.min_steps,
                0 <= (options.min_steps or 0) <= steps,
                f"from 0 to {steps}, the run's steps",
            ),
        ]
    if validates := bool(len(data.val_indices) and trainer.limit_val_batches):
        epochs = f"from 1 to {trainer.max_epochs}, the run's epochs, or null"
        some = "a number of batches of at least 1, a share of them, or a time"
        one_clock = "a number of steps, or use one device: the clocks of several devices differ"
        checks += [
            ("check_val_every_n_epoch", every, every is None or 1 <= every <= options.max_epochs, epochs),
            ("val_check_interval", interval, not isinstance(interval, int) or interval > 0, some),
            ("val_check_interval", "by the clock", ranks == 1 or not by_clock, one_clock),
        ]
    for option, value, ok, range_ in checks:
        if not ok:
            raise InputError(f"trainer.{option} {value}: must be {range_}")
    if validates and isinstance(interval, int) and interval > counts["train"] and every is not None:
        raise InputError(
            f"trainer.val_check_interval {interval} is more than the {counts['train']} batches of an epoch: use at "
            f"most {counts['train']}, or add --trainer.check_val_every_n_epoch null"
        )


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
