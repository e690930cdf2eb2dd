"""evaluate(), and what a Trainer's test leaves: its figures as plain values, for the report."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Trainer

from cifar_lightning.console import say
from cifar_lightning.data.datamodule import CIFAR10DataModule
from cifar_lightning.data.loader import check_evaluation
from cifar_lightning.errors import InputError, quoted
from cifar_lightning.model.evaluation import VIEWS
from cifar_lightning.model.lit_net import LitNet
from cifar_lightning.report.results import Outcome, read_results, report, shown
from cifar_lightning.run import signals
from cifar_lightning.run.callbacks import StopOnSignal
from cifar_lightning.run.checkpoint import load_checkpoint
from cifar_lightning.run.checks import check_ranks, try_trainer
from cifar_lightning.run.cpu import FittedCPU, restored_cpu
from cifar_lightning.run.devices import is_first_rank, launched, process_group, resolve_devices
from cifar_lightning.run.launch import launch
from cifar_lightning.run.metrics_log import read_rows
from cifar_lightning.run.precision import check_precision, crawls, resolve_precision
from cifar_lightning.run.quiet import quietly
from cifar_lightning.run.saved import data_of, home_of, model_of, select_checkpoint
from cifar_lightning.run.settings import Arguments, plain
from cifar_lightning.run.trainer import new_trainer


@quietly()
def evaluate(
    checkpoint: str | Path,
    data: Mapping[str, Any] | None = None,
    *,
    accelerator: str = "auto",
    devices: str | int = 1,
    precision: str | int | None = None,
    test_views: Literal["one", "mirror", "six"] | None = None,
    output_dir: str | Path | None = None,
) -> dict[str, Any]:
    """Tests a trained network: prints the table and writes the figures that `fit` does.

    Args:
        checkpoint: A run's folder, for the checkpoint that its training selected, or a .ckpt file.
        data: Arguments of CIFAR10DataModule in place of those the network was trained with.
        accelerator: As for `fit`.
        devices: As for `fit`.
        precision: As for `fit`; by default that of the training, or 32-true on a CPU where that was 16-true.
        test_views: What to average over, as for LitNet; by default as in the training.
        output_dir: Where to write results.json and figures/; by default `evaluation/` in the run's folder, or beside
            the .ckpt file.

    Returns:
        The contents of results.json.

    Raises:
        InputError: The checkpoint or the images cannot be had, or do not belong together.

    Example:
        >>> results = evaluate("lightning_logs/version_0", test_views="mirror")
        Accuracy ... % on 600 test images, loss ... (best.ckpt, step 375)
        ...
        >>> results["test_views"], results["test_acc"] > 0.5
        ('mirror', True)
    """
    signals.next_step = ""
    if test_views not in (None, *VIEWS):
        raise InputError(f"test_views {test_views} is out of range: give {' or '.join(VIEWS)}")
    path = select_checkpoint(Path(checkpoint))
    accelerator, processes = resolve_devices(accelerator, devices)
    check_ranks(processes, devices, "--devices as many")
    data = plain(data or {})
    saved = load_checkpoint(path)
    trained = saved.get("precision", "32-true")
    if precision is None and crawls(trained, accelerator):  # and float32 holds every one of its weights as it is
        precision = "32-true"
        if is_first_rank():
            say(f"note: evaluating in {precision}: {trained}, in which it was trained, is slow on a CPU")
    precision = resolve_precision(precision or trained, accelerator)
    check_precision(precision, accelerator)
    where = {"accelerator": accelerator, "devices": devices, "precision": precision}
    try_trainer(where)
    model, images = model_of(saved, path), data_of(saved, data)
    images.prepare_data()
    if list(images.classes) != model.classes:
        raise InputError(
            f"checkpoint {path} was trained on the classes {_some(model.classes)}, "
            f"and these images have {_some(images.classes)}: give the data that belongs to it"
        )
    if processes > 1:
        check_evaluation(len(images.image_set("test").labels), processes)
    home = home_of(path)
    output = Path(os.path.expanduser(output_dir)) if output_dir is not None else home / "evaluation"
    facts = {"checkpoint": str(path), "step": saved["global_step"], "seed": images.hparams["seed"]}
    views = test_views or model.hparams["test_views"]
    if processes > 1 and not launched():
        job = {"facts": facts, "data": data, "where": where, "views": views}
        job |= {"output": str(output), "metrics": str(home / "metrics.csv")}
        launch("cifar_lightning.run.testing:evaluate_rank", job, processes)
    else:
        _test(model, images, facts, where, views, output, home / "metrics.csv")
    return read_results(output)


@quietly()
def evaluate_rank(
    facts: dict[str, Any], data: Arguments, where: Arguments, views: str, output: str, metrics: str
) -> None:
    """One rank of an evaluation; see `evaluate`."""
    saved = load_checkpoint(facts["checkpoint"])
    model, images = model_of(saved, Path(facts["checkpoint"])), data_of(saved, data)
    _test(model, images, facts, where, views, Path(output), Path(metrics))


def _test(
    model: LitNet,
    images: CIFAR10DataModule,
    facts: dict[str, Any],
    where: Arguments,
    views: str,
    output: Path,
    metrics: Path,
) -> None:
    with process_group(), restored_cpu():
        model.hparams["test_views"] = views
        trainer = new_trainer(
            **where,
            logger=False,
            callbacks=[StopOnSignal(), FittedCPU()],
            enable_checkpointing=False,
            enable_progress_bar=False,
        )
        with signals.deferred():
            trainer.test(model, images, verbose=False)
            report_on(trainer, model, images, facts, output, metrics)
            signals.finish()


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(quoted, names[:3])) + (f", … ({len(names)})" if len(names) > 3 else "")


def report_on(
    trainer: Trainer, model: LitNet, data: CIFAR10DataModule, facts: dict[str, Any], output: Path, metrics: Path
) -> None:
    """Has the first rank report on the test that `trainer` has just run; see report/results.py.

    Args:
        trainer: It.
        model: What it has tested.
        data: What it has tested it on.
        facts: Further entries of results.json, with `checkpoint`, what was tested, and its `step`.
        output: The folder to write into.
        metrics: The metrics.csv of the training, for its curves; they are left out where there is none.
    """
    if not trainer.is_global_zero:
        return
    device = trainer.strategy.root_device.type
    facts = {
        "test_views": model.hparams["test_views"],
        "data": {name: data.hparams[name] for name in ("source", "data_dir", "normalization")},
        **facts,
        "precision": trainer.precision,
        "devices": trainer.world_size,
        "accelerator": {"cuda": "gpu"}.get(device, device),
    }
    train, test, predicted = data.image_set("train"), data.image_set("test"), model.last_evaluation["predicted"]
    counted = shown(len(predicted))
    report(
        Outcome(
            confusion=model.last_evaluation["confusion"],
            loss=model.last_evaluation["loss"].item(),
            classes=model.classes,
            facts=facts,
            training_images=train.part(shown(len(train.labels))),
            test_images=test.part(data.test_indices[counted]),
            predicted=predicted[counted],
            rows=read_rows(metrics),
            label_smoothing=model.hparams["label_smoothing"],
        ),
        output,
    )
