"""The user's mistakes, looked for before a run writes anything; and what its settings are to Lightning's Trainer."""

import difflib
import inspect
import os
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy

from cifar_lightning.data.datamodule import CIFAR10DataModule
from cifar_lightning.data.loader import check_batch_size, check_evaluation, evaluation_batches
from cifar_lightning.errors import InputError
from cifar_lightning.model.lit_net import LitNet
from cifar_lightning.run.checkpoint import AtomicCheckpointIO
from cifar_lightning.run.devices import RANK_TIMEOUT, launched, resolve_devices, world_size
from cifar_lightning.run.folder import Settings
from cifar_lightning.run.precision import StaticHalf


def check_settings(settings: Settings) -> tuple[int, CIFAR10DataModule | None]:
    """Looks for the user's mistakes before anything is written; downloads and reads the images.

    Returns:
        How many processes the run takes on this machine; and the images, if it takes this one alone.
    """
    for name in ("max_epochs", "max_steps", "num_nodes", "log_every_n_steps", "checkpoint_every_n_steps", "seed"):
        if type(settings[name]) is not int and (name, settings[name]) != ("checkpoint_every_n_steps", None):
            raise InputError(f"{name} {settings[name]!r} is no whole number: give one")
    for name, ok, range_ in (
        ("max_epochs", settings["max_epochs"] >= 1, "1 or more"),
        ("max_steps", settings["max_steps"] == -1 or settings["max_steps"] >= 1, "1 or more, or -1 for no limit"),
        ("num_nodes", settings["num_nodes"] >= 1, "1 or more"),
        ("log_every_n_steps", settings["log_every_n_steps"] >= 1, "1 or more"),
        ("checkpoint_every_n_steps", (settings["checkpoint_every_n_steps"] or 1) >= 1, "1 or more"),
        ("seed", 0 <= settings["seed"] < 2**32, f"0 to {2**32 - 1}"),
    ):
        if not ok:
            raise InputError(f"{name} {settings[name]} is out of range: give {range_}")
    _, devices = resolve_devices(settings["accelerator"], settings["devices"])
    ranks = devices * settings["num_nodes"]
    if settings["num_nodes"] > 1 and not launched():
        raise InputError(
            f"num_nodes {settings['num_nodes']}: start the script with torchrun on each machine, "
            "e.g. torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST scripts/fit.py"
        )
    check_ranks(ranks, settings["devices"], "--devices and --num_nodes that make as many")
    trainer = check_trainer(settings)
    LitNet(**settings["model"])  # before a download, whose classes it needs
    data = CIFAR10DataModule(**settings["data"], seed=settings["seed"])
    data.prepare_data()
    data.setup("fit")
    if data.hparams["source"] == "folder":
        present = set(data.image_set("train").labels.tolist())
        lacking = set(data.classes) - {data.classes[label] for label in present}
        where = f"data_dir {data.hparams['data_dir']}"
        if lacking:
            raise InputError(f"{where} has no training images of the class {min(lacking)}: give some, or remove it")
        if data.num_classes == 1:
            raise InputError(f"{where} has one class only, {data.classes[0]}: give two or more")
    check_batch_size(data.hparams["batch_size"], len(data.train_indices), ranks)
    if len(data.val_indices):
        check_evaluation(len(data.val_indices), ranks)
    if ranks > 1:
        check_evaluation(len(data.image_set("test").labels), ranks)
    _check_batches(trainer, data, ranks)
    model = LitNet(**settings["model"], classes=data.classes).eval()
    for size in model.hparams["sizes"] or []:
        try:
            with torch.no_grad():
                model(torch.zeros(1, 3, size, size))
        except RuntimeError as error:
            raise InputError(
                f"sizes {model.hparams['sizes']}: the network {model.hparams['net']} takes no images of {size} pixels "
                "a side; leave them out, or give larger ones or another --model.net"
            ) from error
    return devices, data if ranks == 1 else None


def check_ranks(ranks: int, devices: str | int, next_step: str) -> None:
    """Raises an InputError where a launcher has started another number of processes than there are devices."""
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
    if os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive"):
        tasks = "1"  # a shell, as Lightning's SLURMEnvironment has it
    if ranks > 1 and not launched() and tasks != "1":
        raise InputError(
            f"devices {devices}: srun has started {tasks} tasks, each of which would start {ranks} processes: "
            "give srun --ntasks 1 on one machine, or one torchrun on each"
        )
    if launched() and world_size() != ranks:
        raise InputError(f"devices {devices}: the launcher has started {world_size()} processes; give {next_step}")


def _check_batches(trainer: Trainer, data: CIFAR10DataModule, ranks: int) -> None:
    """Looks for settings of the Trainer that would only fail, or do nothing, once it has the loaders."""
    options: Any = trainer  # connectors set them
    counts = {
        "train": len(data.train_indices) // data.hparams["batch_size"],
        "val": evaluation_batches(len(data.val_indices), data.hparams["eval_batch_size"], ranks) // ranks,
    }
    for name, count in counts.items():
        limit = getattr(trainer, f"limit_{name}_batches")
        counts[name] = int(count * limit) if isinstance(limit, float) else min(count, limit)
        if count and not counts[name] and (limit or name == "train"):
            raise InputError(f"trainer.limit_{name}_batches {limit} leaves none of {count} batches: give 1 or more")
    accumulate, every = options.accumulate_grad_batches, options.check_val_every_n_epoch
    interval = getattr(trainer, "val_check_interval", None)  # none where it is by the clock
    by_clock = getattr(trainer, "_val_check_time_interval", None) is not None
    whole = type(accumulate) is int and accumulate >= 1
    checks = [("accumulate_grad_batches", accumulate, whole, "a whole number, 1 or more")]
    if validates := bool(trainer.limit_val_batches):
        one_clock = "a number of steps, or one device: the clocks of several differ"
        checks += [
            ("check_val_every_n_epoch", every, every is None or every >= 1, "1 or more, or null"),
            ("val_check_interval", interval, not isinstance(interval, int) or interval > 0, "1 or more"),
            ("val_check_interval", "by the clock", ranks == 1 or not by_clock, one_clock),
        ]
    for option, value, ok, range_ in checks:
        if not ok:
            raise InputError(f"trainer.{option} {value} is out of range: give {range_}")
    if validates and isinstance(interval, int) and interval > counts["train"] and every is not None:
        raise InputError(
            f"trainer.val_check_interval {interval} is more than the {counts['train']} batches of an epoch: give at "
            "most that, or also --trainer.check_val_every_n_epoch null"
        )


def check_trainer(settings: Settings) -> Trainer:
    """A Trainer of these settings for one device, if it takes them."""
    known = inspect.signature(Trainer).parameters
    for name in settings.get("trainer", {}):
        if name in settings:
            raise InputError(f"--trainer.{name} is a flag of its own: give --{name}")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean --trainer.{near[0]}?" if near else "Lightning's Trainer has no such argument"
            raise InputError(f"unknown flag --trainer.{name}: {hint}")
    limit = settings.get("trainer", {}).get("limit_test_batches", 1)
    if limit not in (None, 1.0) and not (type(limit) is int and limit >= 1):
        raise InputError(f"trainer.limit_test_batches {limit}: give a number of batches, 1 or more, or leave it out")
    if any(word in settings.get("strategy", "") for word in ("spawn", "fork", "notebook")):
        raise InputError(f"strategy {settings['strategy']} starts processes of its own: give ddp")
    try:
        arguments = {**trainer_arguments(settings), "devices": 1, "num_nodes": 1}
        return Trainer(**arguments, logger=False, enable_checkpointing=False)
    except Exception as error:  # what it raises for a wrong value differs from argument to argument
        reason = " ".join(str(error).split())
        raise InputError(f"the Trainer does not take these settings: {reason}; give another value") from error


def trainer_arguments(settings: Settings) -> dict[str, Any]:
    """What a Trainer of these settings is made with, but for what a run adds: its log and its callbacks."""
    names = (
        "accelerator", "devices", "num_nodes", "strategy", "precision", "max_epochs", "max_steps", "fast_dev_run",
        "default_root_dir", "log_every_n_steps",
    )  # fmt: skip
    arguments: dict[str, Any] = {name: settings[name] for name in names if name in settings}
    arguments["plugins"] = [AtomicCheckpointIO()]
    if arguments.get("precision") == "16-mixed":
        del arguments["precision"]
        accelerator, _ = resolve_devices(settings["accelerator"], settings.get("devices", 1))
        arguments["plugins"].append(StaticHalf({"gpu": "cuda"}.get(accelerator, accelerator)))
    if world_size() > 1 and arguments.get("strategy", "auto") in ("auto", "ddp"):
        arguments["strategy"] = DDPStrategy(timeout=RANK_TIMEOUT)
    return {
        **arguments,
        "num_sanity_val_steps": 0,  # a second look at the first validation batches has no user here
        "enable_model_summary": False,
        "limit_val_batches": 1.0 if settings.get("data", {}).get("val_split") else 0,
        "use_distributed_sampler": False,  # the loaders share the images themselves
        **settings.get("trainer", {}),
    }
