"""fit(), the typed function behind scripts/fit.py. resume() is in resuming.py, evaluate() in testing.py.

A run is a folder. `fit` creates it and writes all settings to its config.yaml. Whatever trains later, in this process
or in one process per device, now or after an interruption, reads its settings from there.
"""

import random
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ProgressBar as LightningProgressBar

from cifar_lightning.console import say
from cifar_lightning.data.datamodule import CIFAR10DataModule
from cifar_lightning.errors import LostRankError, NonFiniteError, RunError, number_of
from cifar_lightning.files import moved, staying
from cifar_lightning.model.evaluation import names
from cifar_lightning.model.schedules import steps_of
from cifar_lightning.report.results import read_results
from cifar_lightning.run import signals
from cifar_lightning.run.additions import Additions, Callbacks, Loggers, additions_of
from cifar_lightning.run.callbacks.checkpoints import Checkpoints
from cifar_lightning.run.callbacks.computing import Computing
from cifar_lightning.run.callbacks.progress_bar import ProgressBar
from cifar_lightning.run.callbacks.stop_on_signal import StopOnSignal
from cifar_lightning.run.callbacks.verification import Verification
from cifar_lightning.run.checks import Checked, check
from cifar_lightning.run.cluster import is_first_rank, world_size
from cifar_lightning.run.cpu import restored_torch
from cifar_lightning.run.devices import resolve_devices
from cifar_lightning.run.ended import note_divergence
from cifar_lightning.run.folder import new_run
from cifar_lightning.run.holder import LOCK
from cifar_lightning.run.launch import launch
from cifar_lightning.run.loggers import loggers_of
from cifar_lightning.run.memory import within_memory
from cifar_lightning.run.metrics_csv import MetricsCSV
from cifar_lightning.run.networks import lit_net, no_unused_parameters
from cifar_lightning.run.process_group import check_same_images, on_first_rank, process_group
from cifar_lightning.run.quiet import quietly
from cifar_lightning.run.recipe import takes_recipe
from cifar_lightning.run.reporting import report_on
from cifar_lightning.run.selection import note_nan_loss, select_weights
from cifar_lightning.run.settings import Settings, read_settings, settings_of
from cifar_lightning.run.trainer import new_trainer


@quietly()
@takes_recipe
def fit(
    data: Mapping[str, Any] | None = None,
    model: Mapping[str, Any] | None = None,
    *,
    accelerator: str = "auto",
    devices: str | int | None = None,
    num_nodes: int | None = None,
    strategy: str = "auto",
    precision: str | int = "32-true",
    max_epochs: int = 2,
    max_steps: int = -1,
    fast_dev_run: bool = False,
    default_root_dir: str | Path = ".",
    seed: int = 0,
    checkpoint_every_n_steps: int | None = None,
    log_every_n_steps: int = 50,
    verify_steps: int = 0,
    threads: int | None = None,
    logger: Loggers = "auto",
    report: bool = True,
    callbacks: Callbacks = None,
    trainer: dict[str, Any] | None = None,
    recipe: str | None = None,
) -> dict[str, Any]:
    """Trains, tests, draws and reports, in a new folder `default_root_dir/lightning_logs/version_N`.

    Afterwards the process has its threads, oneDNN, choice of algorithms, warnings and loggers back. But the random seed
    is the run's, and glibc keeps freed memory (see cpu.py).

    Metrics are written to metrics.csv; by default also to TensorBoard's event files, if it is installed; and to the
    Lightning loggers that you give, one or a list.

    Args:
        data: Arguments of CIFAR10DataModule.
        model: Arguments of LitNet; a `net` of your own by its import path, "package.module:Net".
        accelerator: Where to train: cpu, gpu, mps (Apple) or auto.
        devices: How many devices, or which GPUs ("0,1"); auto: all GPUs or one CPU.
        num_nodes: Number of machines. Default of both: from srun or torchrun, or 1.
        strategy: Lightning's strategy; auto: DDP for several devices.
        precision: Lightning's precision; auto: bfloat16 if the device has it.
        max_epochs: Passes over the training images.
        max_steps: Stop after this many steps; -1 for no limit.
        fast_dev_run: Run one batch of everything, as a quick check.
        default_root_dir: Folder for `lightning_logs/`.
        seed: Seed of the weights, the order and the augmentation.
        checkpoint_every_n_steps: Steps between checkpoints, besides those after epochs.
        log_every_n_steps: Steps between two rows of metrics.csv.
        verify_steps: Number of first steps to compute twice and compare exactly.
        threads: Maximum number of CPU threads; by default as many as help.
        logger: Any of csv, tensorboard, wandb, mlflow; in Python, objects
        report: Print, draw figures, write a page; false: only the results.
        callbacks: Lightning callbacks, one or a list, beside the run's own; in this process, or under torchrun.
        trainer: Other Trainer arguments, e.g. --trainer.gradient_clip_val 1
        recipe: Named settings; arguments that you give override them.

    Returns:
        The contents of results.json.

    Raises:
        InputError: A setting is wrong, or the images are not available. No folder has been made.
        KeyboardInterrupt: Ctrl-C was pressed. A checkpoint has been saved if at least one step was done.
        NonFiniteError: The loss or a weight became NaN or infinite.
        RunError: Something outside the run failed, such as a full disk, too little memory or, with `verify_steps`, a
            machine that did not compute the same thing twice.
        Exception: A callback's exception, unchanged; the run can be resumed.

    Example:
        >>> small = {"source": "synthetic", "synthetic_size": 2_000, "batch_size": 20}
        >>> results = fit(small, {"lr": 0.02}, max_epochs=3, accelerator="cpu")
        lightning_logs/version_... starts: 1 x cpu, batch size 20, 3 epochs
        computes on the CPU (...), ..., precision 32-true, not compiled
        ...
        >>> results["test_count"], results["test_acc"] > 0.5
        (400, True)
    """
    given = dict(locals())
    additions, names = additions_of(callbacks, logger)
    settings = settings_of({**given, "logger": names})
    checked = check(settings, additions)
    if not is_first_rank():
        return join(additions, settings.places())
    with new_run(settings) as (folder, lock):
        return launch_or_train(folder, settings, checked, lock, additions)


def join(additions: Additions, places: Mapping[str, Any]) -> dict[str, Any]:
    """Takes part in a run as a rank other than the first, in a process that a launcher has started.

    Args:
        additions: The callbacks and loggers of this rank.
        places: Arguments of CIFAR10DataModule that say where this rank's images are, if not where the first rank's are.

    Returns:
        The contents of results.json.
    """
    try:
        return run_rank(additions=additions, places=places)
    except LostRankError as error:
        raise LostRankError(f"{error}{signals.next_step or signals.ANEW}") from error


def launch_or_train(
    folder: Path,
    settings: Settings,
    checked: Checked,
    lock: int,
    additions: Additions,
    start: str | None = None,
    next_step: str | None = None,
) -> dict[str, Any]:
    """Trains, in this process or in one new process per device, from the checkpoint `start` if it is given.

    Returns:
        The contents of results.json.
    """
    signals.next_step = next_step or signals.go_on_with(str(folder), "resume")
    try:
        if world_size() > 1:
            return run_rank(str(folder), start, additions)
        if checked.processes > 1:
            job = {"folder": str(folder), "start": start, "lock": lock}
            launch("cifar_lightning.run.training:run_rank", job, checked.processes, [lock])
        else:
            train(folder, settings, start, additions, checked.images)
    except RunError as error:
        how = "" if moved(folder / LOCK) else signals.next_step  # if moved, another run may have its name
        raise type(error)(f"{error}{how}") from error
    except NonFiniteError as error:
        note_divergence(folder, error)
        raise
    return read_results(folder)


@quietly()
def run_rank(
    folder: str | None = None,
    start: str | None = None,
    additions: Additions | None = None,
    places: Mapping[str, Any] | None = None,
    lock: int | None = None,
) -> dict[str, Any]:
    """Trains as one of several ranks, by the settings that the first rank sends.

    Only the first rank reads and writes the run's folder; the folder need not exist on other machines.

    Args:
        folder: The run's folder; None if only the first rank knows it.
        start: The checkpoint to resume from; None if there is none, or if only the first rank knows it.
        additions: The callbacks and loggers of this rank.
        places: As for `join`.
        lock: The file descriptor that `held` yields, if this process has inherited it from another.

    Returns:
        The contents of results.json.
    """
    stays = nullcontext() if folder is None or lock is None else staying(Path(folder) / LOCK, lock)
    with stays, process_group():
        folder, start = on_first_rank(lambda: (folder, start))
        assert folder is not None
        home = Path(folder)
        settings = Settings(**on_first_rank(lambda: asdict(read_settings(home))))
        resolve_devices(settings.accelerator, settings.devices)  # a check: every machine has its own devices
        signals.next_step = signals.go_on_with(folder, "resume")
        train(home, replace(settings, data={**settings.data, **(places or {})}), start, additions or Additions())
        return on_first_rank(lambda: read_results(home))


def train(
    folder: Path,
    settings: Settings,
    start: str | None,
    additions: Additions,
    images: CIFAR10DataModule | None = None,
) -> None:
    """Trains, from the checkpoint `start` if it is given, tests the selected weights, and reports.

    `images` is the run's data module, if this process has already read the images.
    """
    with restored_torch(), loggers_of(settings, folder, additions) as loggers:
        data = images or settings.images()
        data.prepare_data()
        data.setup("fit")
        data.fingerprint  # noqa: B018  # for checkpoints: computed now, not while a GPU waits for the first one
        check_same_images(data, "train", "test")
        # Lightning's seed_everything would also put the seed in the environment, for a later call by the user to find.
        for seed in (random.seed, np.random.seed, torch.manual_seed):
            seed(settings.seed)
        model = lit_net(settings.model, data.classes)
        evaluations = (["val"] if len(data.val_indices) else []) + ["test"]
        figures = [name for prefix in evaluations for name in names(prefix, model.classes)]
        metrics = MetricsCSV(folder / "metrics.csv", ["train_loss", "lr", *figures])
        checkpoints = Checkpoints(folder / "checkpoints", metrics, settings.checkpoint_every_n_steps)
        verification = [Verification(settings.verify_steps)] if settings.verify_steps else []
        computing = Computing(settings.threads, aloud=settings.report)
        bar = [callback for callback in additions.callbacks if isinstance(callback, LightningProgressBar)]
        others = [callback for callback in additions.callbacks if callback not in bar]
        if not bar and settings.report:
            bar = [ProgressBar()]
        trainer = new_trainer(
            **settings.for_trainer(validates=len(data.val_indices) > 0),
            logger=[metrics, *loggers],
            callbacks=[checkpoints, StopOnSignal(checkpoints), *bar, computing, *verification, *others],
            enable_progress_bar=bool(bar),
        )
        metrics.trainer = trainer
        _say_what_begins(settings, trainer, data, folder, start)
        with signals.deferred():
            with metrics:
                with within_memory(data, fits=True), no_unused_parameters(settings.model["net"], settings.strategy):
                    trainer.fit(model, data, ckpt_path=start)
                selected = select_weights(trainer, model, data, checkpoints)
                _say_what_stopped(settings, trainer, additions, selected)
                note_nan_loss(trainer, selected, model.classes)
                facts = {
                    **selected,
                    "fit_seconds": round(checkpoints.seconds, 3),
                    "fit_steps": trainer.global_step,
                    "train_count": len(data.train_indices),
                    "val_count": len(data.val_indices),
                    "train_images": f"{data.fingerprint:08x}",
                    "images_seen": trainer.fit_loop.epoch_loop.batch_progress.total.ready * data.hparams["batch_size"],
                    "seed": settings.seed,
                    "computed": computing.words(trainer, model),
                    **({"callbacks": [type(callback).__name__ for callback in others]} if others else {}),
                    "global_batch_size": data.hparams["batch_size"] * trainer.accumulate_grad_batches,
                    **({"trainer": settings.trainer} if settings.trainer else {}),
                }
                # Loggers take this number as the step of the test: they count from 0.
                trainer.fit_loop.epoch_loop._batches_that_stepped = facts["step"] - 1
                with within_memory(data, fits=False):
                    trainer.test(model, data, verbose=False)
            report_on(trainer, model, data, facts, folder, aloud=settings.report)
            signals.finish()


def _say_what_begins(
    settings: Settings, trainer: Trainer, data: CIFAR10DataModule, folder: Path, start: str | None
) -> None:
    if not (trainer.is_global_zero and settings.report):
        return
    ranks, batch_size, batches = trainer.world_size, data.hparams["batch_size"], trainer.accumulate_grad_batches
    share = f" = {ranks} x {batch_size // ranks}" if ranks > 1 else ""
    share += f", {batches} batches per step" if batches > 1 else ""
    begin = f"resumes from {Path(start).name}" if start else "starts"
    device = trainer.strategy.root_device.type
    epochs, steps = trainer.max_epochs, trainer.max_steps  # a fast_dev_run has fewer than the settings
    limit = f", at most {number_of(steps, 'step')}" if steps != -1 else ""
    length = f"{epochs} epoch{'s' * (epochs != 1)}{limit}"
    say(f"{folder} {begin}: {ranks} x {device}, batch size {batch_size}{share}, {length}", 1)


def _say_what_stopped(settings: Settings, trainer: Trainer, additions: Additions, selected: dict[str, Any]) -> None:
    """Says that training ended before its last step, if it did: the user might not notice."""
    early = trainer.should_stop and trainer.global_step < steps_of(trainer)
    if not (early and trainer.is_global_zero and settings.report):
        return
    who = [*(["a callback"] if additions.callbacks else []), *(["max_time"] if "max_time" in settings.trainer else [])]
    who = who or ["Lightning"]
    length = f"step {trainer.global_step:,} of {int(steps_of(trainer)):,}"
    tested = f"{Path(selected['checkpoint']).name}, from step {selected['step']:,}"
    say(f"note: {' or '.join(who)} ended the training at {length}; the test uses {tested}")
