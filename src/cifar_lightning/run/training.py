"""fit() and evaluate(): what the scripts do, as typed functions.

A run is a folder. `fit` makes it, with all its settings in config.yaml; whatever then runs, in this process or in one
process per device, now or after an interruption, takes its orders from there.
"""

import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.loggers import Logger, TensorBoardLogger

from cifar_lightning import console
from cifar_lightning.data.datamodule import CIFAR10DataModule
from cifar_lightning.data.loader import check_evaluation
from cifar_lightning.errors import InputError, RunError
from cifar_lightning.model.lit_net import LitNet
from cifar_lightning.model.views import VIEWS
from cifar_lightning.report.results import report
from cifar_lightning.run import loop, signals
from cifar_lightning.run.callbacks import ProgressBar, StopOnSignal
from cifar_lightning.run.checkpoint import (
    Checkpoints,
    load_checkpoint,
    newest_readable,
    step_checkpoints,
    step_of,
)
from cifar_lightning.run.checks import check_ranks, check_settings, check_trainer, trainer_arguments
from cifar_lightning.run.cpu import available_threads, configure_cpu, restored_cpu
from cifar_lightning.run.devices import (
    from_first_rank,
    is_first_rank,
    launched,
    process_group,
    resolve_devices,
    world_size,
)
from cifar_lightning.run.folder import (
    Settings,
    changed_settings,
    held,
    new_folder,
    plain_settings,
    read_settings,
    with_defaults,
    write_settings,
)
from cifar_lightning.run.launch import launch
from cifar_lightning.run.metrics_log import MetricsCSV
from cifar_lightning.run.precision import resolve_precision
from cifar_lightning.run.saved import data_of, model_of, select_checkpoint


@console.quietly()
def fit(
    data: Mapping[str, Any] | None = None,
    model: Mapping[str, Any] | None = None,
    *,
    accelerator: str = "auto",
    devices: str | int = 1,
    num_nodes: int = 1,
    strategy: str = "auto",
    precision: str | int = "32-true",
    max_epochs: int = 2,
    max_steps: int = -1,
    fast_dev_run: bool = False,
    default_root_dir: str | Path = ".",
    seed: int = 0,
    checkpoint_every_n_steps: int | None = None,
    log_every_n_steps: int = 50,
    trainer: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Trains, tests, draws and reports, in a new folder `default_root_dir/lightning_logs/version_N`.

    The process's threads, oneDNN, warnings and loggers are afterwards as they were; the random seed is that of the run,
    and glibc goes on keeping freed memory (see cpu.py).

    Args:
        data: Arguments of CIFAR10DataModule.
        model: Arguments of LitNet.
        accelerator: cpu, gpu, mps or auto, as the Trainer has it.
        devices: How many, or which ("0,1"); auto: every GPU, or the one CPU.
        num_nodes: Machines; more than one need torchrun on each.
        strategy: The Trainer's; auto is DDP where there are several devices.
        precision: The Trainer's, e.g. bf16-mixed; auto takes bfloat16 where the device computes in it.
        max_epochs: Passes over the training images.
        max_steps: Stop after this many steps; -1 for no limit.
        fast_dev_run: Run one batch of everything, to see that it runs.
        default_root_dir: Where `lightning_logs/` goes.
        seed: Of the weights, the order and the augmentation.
        checkpoint_every_n_steps: Save this often, besides the ends of epochs.
        log_every_n_steps: Steps between two rows of metrics.csv.
        trainer: Any other argument of the Trainer, by name: --trainer.gradient_clip_val 1

    Returns:
        The contents of results.json.

    Raises:
        InputError: A setting is wrong, or the images cannot be had. No folder has been made.
        NonFiniteError: The loss became NaN or infinite.
        RunError: The run failed for a reason outside it, such as a full disk.
    """
    settings = plain_settings({**locals(), "data": data or {}, "model": model or {}, "trainer": trainer or {}})
    for group, kind in (("data", CIFAR10DataModule), ("model", LitNet)):
        settings[group] = with_defaults(settings[group], group, kind)
    settings["precision"] = resolve_precision(precision, resolve_devices(accelerator, devices)[0])
    settings["default_root_dir"] = os.path.expanduser(default_root_dir)
    processes, images = check_settings(settings)
    if not is_first_rank():
        return join()
    folder = new_folder(settings["default_root_dir"])
    with held(folder) as lock:
        write_settings(folder, settings)
        return _launch_or_run(folder, processes, resume=False, data=images, inherit=[lock])


@console.quietly()
def resume(run: str | Path, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Goes on with an interrupted run, in its own folder, from its newest readable checkpoint.

    Args:
        run: The run's folder.
        changes: Settings to change, by the names of `fit`'s arguments ("data.data_dir" for one of the data's): only
            those that do not change the result, and a higher max_epochs, max_steps or trainer.max_time.

    Returns:
        The contents of results.json.

    Raises:
        InputError: There is nothing to resume, or a change would change the result.
    """
    folder = Path(os.path.expanduser(run))
    before = read_settings(folder)
    changes = plain_settings(changes or {})
    if changes.get("precision") == "auto":
        del changes["precision"]  # as the run has it
    after = {**before, **changes}
    accelerator, _ = resolve_devices(after["accelerator"], after["devices"])
    precision = resolve_precision(after["precision"], accelerator)
    if "precision" in changes:
        changes["precision"] = precision
    elif precision != before["precision"]:
        raise InputError(
            f"accelerator {accelerator} does not compute in {before['precision']}, in which {folder} began: "
            "resume it where it ran, or start a new run"
        )
    settings = changed_settings(before, changes)
    if not is_first_rank():
        check_settings(settings)
        return join()
    with held(folder) as lock:
        before = read_settings(folder)  # the job that was in it may have changed them
        settings = changed_settings(before, changes)
        _check_unfinished(folder, before, settings)
        processes, images = check_settings(settings)
        if step_checkpoints(folder / "checkpoints"):  # else: stopped before its first step
            newest, _ = newest_readable(folder / "checkpoints")
            if settings["data"] != before["data"]:
                data = images or CIFAR10DataModule(**settings["data"])
                data.check_images(load_checkpoint(newest)["CIFAR10DataModule"])
        try:
            for part in folder.rglob(".*.part"):  # of a process that was killed while it wrote
                part.unlink()
            (folder / "results.json").unlink(missing_ok=True)
        except OSError as error:
            raise RunError(f"could not write to {folder}: {error.strerror}; mend the folder") from error
        write_settings(folder, settings)
        return _launch_or_run(folder, processes, resume=True, data=images, inherit=[lock])


def _check_unfinished(folder: Path, before: Settings, settings: Settings) -> None:
    """Raises an InputError where a run has nothing to go on with, or nothing to go on from."""
    saved = step_checkpoints(folder / "checkpoints")
    traces = ("results.json", "metrics.csv", "checkpoints/best.ckpt")
    if not saved and any((folder / name).exists() for name in traces):
        raise InputError(
            f"nothing to resume: {folder} has been trained, but holds no checkpoints/step-*.ckpt any more: "
            "start a new run"
        )
    by_steps = bool(saved) and 0 < before["max_steps"] <= step_of(saved[-1])
    limit = "max_steps" if by_steps else "max_epochs"
    max_time = before["trainer"].get("max_time")
    longer = settings[limit] != before[limit] or (max_time and settings["trainer"].get("max_time") != max_time)
    if (folder / "results.json").exists() and not longer:
        needs = [f"a longer --trainer.max_time than {max_time}"] if max_time else []
        needs += [f"a higher --{limit} than {before[limit]}", *(["a higher --max_epochs"] if by_steps else [])]
        give = ", and if need be ".join(needs)
        raise InputError(f"nothing to resume: {folder} has finished; to train it further, give {give}")


def join() -> dict[str, Any]:
    """Takes part in what the first rank does, in a rank that torchrun has started.

    Returns:
        The contents of results.json.
    """
    return _launch_or_run(None, world_size(), resume=False)


def _launch_or_run(
    folder: Path | None,
    processes: int,
    resume: bool,
    data: CIFAR10DataModule | None = None,
    inherit: Sequence[int] = (),
) -> dict[str, Any]:
    signals.next_step = f"; go on with --resume {shlex.quote(str(folder))}"
    try:
        if processes > 1 and not launched():
            launch("cifar_lightning.run.training:run", {"folder": str(folder), "resume": resume}, processes, inherit)
        else:
            folder = Path(run(str(folder) if folder else None, resume, data))
    except RunError as error:
        raise RunError(f"{error}{signals.next_step}") from error
    assert folder is not None
    results: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return results


@console.quietly()
def run(folder: str | None, resume: bool, data: CIFAR10DataModule | None = None) -> str:
    """One rank of a run: trains, then tests what training has selected.

    Args:
        folder: The run's; None where only the first rank knows it.
        resume: Go on from the newest readable checkpoint.
        data: The run's images, where this process has read them.

    Returns:
        The run's folder.
    """
    with process_group(), restored_cpu():
        threads = available_threads()
        start = _newest_checkpoint(Path(folder)) if folder and resume else None
        folder, start = from_first_rank([folder, start])
        assert folder is not None
        settings = read_settings(Path(folder))
        if data is None:
            data = CIFAR10DataModule(**settings["data"], seed=settings["seed"])
        data.prepare_data()
        data.setup("fit")
        data.fingerprint  # noqa: B018  # for the checkpoints: now, not while a GPU waits for the first
        seed_everything(settings["seed"], verbose=False)
        model = LitNet(**settings["model"], classes=data.classes)
        configure_cpu(model, data.hparams["batch_size"] // world_size(), threads)
        metrics = MetricsCSV(Path(folder) / "metrics.csv")
        checkpoints = Checkpoints(Path(folder) / "checkpoints", metrics, settings["checkpoint_every_n_steps"])
        trainer = Trainer(
            **trainer_arguments(settings),
            logger=[metrics, *_tensorboard(Path(folder))],
            callbacks=[checkpoints, StopOnSignal(checkpoints), ProgressBar()],
        )
        metrics.trainer = trainer
        loop.install(trainer)
        if trainer.is_global_zero:
            with console.console(1):
                print(_banner(settings, trainer, data.hparams["batch_size"], folder, start), flush=True)
        with signals.deferred():
            trainer.fit(model, data, ckpt_path=start)
            seconds = checkpoints.seconds
            best = checkpoints.folder / "best.ckpt"
            selected, step = checkpoints.folder / f"step-{trainer.global_step}.ckpt", trainer.global_step
            if len(data.val_indices) and best.exists():
                chosen = load_checkpoint(best)
                model.load_state_dict(chosen["state_dict"])
                selected, step = best, chosen["global_step"]
            elif len(data.val_indices) and trainer.limit_val_batches and trainer.is_global_zero:
                print("note: the training ended before its first validation", file=sys.stderr, flush=True)
            configure_cpu(model, data.hparams["eval_batch_size"], threads)
            trainer.test(model, data, verbose=False)
            if trainer.is_global_zero:
                facts = {
                    "checkpoint": str(selected),
                    "step": step,
                    "fit_seconds": round(seconds, 3),
                    "images_seen": trainer.fit_loop.epoch_loop.batch_progress.total.ready * data.hparams["batch_size"],
                    "seed": settings["seed"],
                    "global_batch_size": data.hparams["batch_size"],
                }
                report(trainer, model, data, facts, Path(folder), metrics.path)
            signals.ignore()
    return folder


def _newest_checkpoint(folder: Path) -> str | None:
    """Where a run goes on; None where it was stopped before its first step."""
    if not step_checkpoints(folder / "checkpoints"):
        return None
    path, problems = newest_readable(folder / "checkpoints")
    for problem in problems:
        print(f"warning: {problem}; going on from {path.name}", file=sys.stderr, flush=True)
    return str(path)


@console.quietly()
def evaluate(
    checkpoint: str | Path,
    data: Mapping[str, Any] | None = None,
    *,
    accelerator: str = "auto",
    devices: str | int = 1,
    precision: str | int | None = None,
    test_views: Literal["one", "mirror", "six"] | None = None,
    output_dir: str | None = None,
) -> dict[str, Any]:
    """Tests a trained network: prints the table and writes the figures that `fit` does.

    Args:
        checkpoint: A run's folder, for the checkpoint that its training selected, or a .ckpt file.
        data: Arguments of CIFAR10DataModule in place of those the network was trained with.
        accelerator: As for `fit`.
        devices: As for `fit`.
        precision: As for `fit`; by default that of the training.
        test_views: What to average over, as for LitNet; by default as in the training.
        output_dir: Where to write results.json and figures/; by default `evaluation/` in the run's folder, or beside
            the .ckpt file.

    Returns:
        The contents of results.json.

    Raises:
        InputError: The checkpoint or the images cannot be had, or do not belong together.
    """
    signals.next_step = ""
    if test_views not in (None, *VIEWS):
        raise InputError(f"test_views {test_views} is out of range: give {' or '.join(VIEWS)}")
    path = select_checkpoint(Path(checkpoint))
    accelerator, processes = resolve_devices(accelerator, devices)
    check_ranks(processes, devices, "--devices as many")
    data = plain_settings(data or {})
    saved = load_checkpoint(path)
    precision = resolve_precision(precision or saved.get("precision", "32-true"), accelerator)
    check_trainer({"accelerator": accelerator, "precision": precision})
    model, module = model_of(saved, path), data_of(saved, data)
    module.prepare_data()
    if list(module.classes) != model.classes:
        raise InputError(
            f"checkpoint {path} was trained on the classes {_some(model.classes)}, "
            f"and these images have {_some(module.classes)}: give the data that belongs to it"
        )
    if processes > 1:
        check_evaluation(len(module.image_set("test").labels), processes)
    home = path.absolute().parent
    home = home.parent if home.name == "checkpoints" else home
    output = Path(os.path.expanduser(output_dir)) if output_dir is not None else home / "evaluation"
    job: dict[str, Any] = {
        "checkpoint": str(path),
        "data": data,
        "trainer": {"accelerator": accelerator, "devices": devices, "precision": precision},
        "test_views": test_views or model.hparams["test_views"],
        "output": str(output),
        "metrics": str(home / "metrics.csv"),
    }
    if processes > 1 and not launched():
        launch("cifar_lightning.run.training:run_evaluation", job, processes)
    else:
        run_evaluation(**job)
    results: dict[str, Any] = json.loads((output / "results.json").read_text())
    return results


@console.quietly()
def run_evaluation(
    checkpoint: str, data: Settings, trainer: Settings, test_views: str, output: str, metrics: str
) -> None:
    """One rank of an evaluation; see `evaluate`."""
    with process_group(), restored_cpu():
        saved = load_checkpoint(checkpoint)
        model, module = model_of(saved, Path(checkpoint)), data_of(saved, data)
        model.hparams["test_views"] = test_views
        configure_cpu(model, module.hparams["eval_batch_size"], available_threads())
        tester = Trainer(
            **trainer_arguments(trainer),
            logger=False,
            callbacks=[StopOnSignal()],
            enable_checkpointing=False,
            enable_progress_bar=False,
        )
        loop.install(tester)
        with signals.deferred():
            tester.test(model, module, verbose=False)
            if tester.is_global_zero:
                facts = {"checkpoint": checkpoint, "step": saved["global_step"], "seed": module.hparams["seed"]}
                report(tester, model, module, facts, Path(output), Path(metrics))
            signals.ignore()


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f", … ({len(names)})" if len(names) > 3 else "")


def _tensorboard(folder: Path) -> list[Logger]:
    """TensorBoard's event files, where it is installed."""
    try:
        return [TensorBoardLogger(folder, name="", version="", default_hp_metric=False)]
    except ModuleNotFoundError:
        return []


def _banner(settings: Settings, trainer: Trainer, batch_size: int, folder: str, start: str | None) -> str:
    ranks = trainer.world_size
    share = f" = {ranks} x {batch_size // ranks}" if ranks > 1 else ""
    begin = f"goes on from {Path(start).name}" if start else "starts"
    device = trainer.strategy.root_device.type
    limit = f", at most {settings['max_steps']} steps" if settings["max_steps"] != -1 else ""
    return f"{folder} {begin}: {ranks} x {device}, batch {batch_size}{share}, {settings['max_epochs']} epochs{limit}"
