"""report_on(): hands the test that a Trainer has just run, after a fit or by itself, to report/ as plain values."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from lightning.pytorch import Trainer

from cifar_lightning.console import say
from cifar_lightning.data.datamodule import CIFAR10DataModule
from cifar_lightning.errors import InputError, number_of, quoted
from cifar_lightning.files import exists, readable
from cifar_lightning.model.lit_net import LitNet
from cifar_lightning.report.outcome import Outcome
from cifar_lightning.report.predictions import write_predictions
from cifar_lightning.report.report import PAGE, report, shown
from cifar_lightning.run.again import Again
from cifar_lightning.run.metrics_log import read_rows

T = TypeVar("T")


def report_on(
    trainer: Trainer,
    model: LitNet,
    data: CIFAR10DataModule,
    facts: dict[str, Any],
    output: Path,
    aloud: bool = True,
    home: Path | None = None,
    page: Path | None = None,
    saved: Mapping[str, Any] | None = None,
) -> None:
    """Reports, on rank 0, on the test that `trainer` has just run; see report/report.py.

    Args:
        trainer: The Trainer that ran the test.
        model: The network that was tested.
        data: The data module it was tested on.
        facts: Further entries of results.json, among them `checkpoint`, which was tested, and its `step`.
        output: The folder to write into.
        aloud: Whether to draw and print, or only to write the results.
        home: The folder with the log and the settings of the training, if not `output`; it may have neither.
        page: The page's file, if not the one in `output`.
        saved: The checkpoint that was tested, if it was trained in another process: then whether it was trained on the
            images of `data` is checked.
    """
    if not trainer.is_global_zero:
        return
    home = home or output
    evaluation, again = model.last_evaluation, Again(trainer, model, data)
    # Checked before `train_indices` is used: other images may be too few for the split of the training.
    learnt = "train" in data.splits and (saved is None or _has_learnt_from(data, saved))
    shown_index = data.train_indices[shown(len(data.train_indices))] if learnt else None
    tested = data.test_indices[: len(evaluation["predicted"])]
    test = data.image_set("test").part(tested)
    write_predictions(output, evaluation["predicted"], test)
    outcome = Outcome(
        confusion=evaluation["confusion"],
        loss=evaluation["loss"].item(),
        classes=model.classes,
        facts=facts_of(trainer, model, data, facts),
        training_images=None if shown_index is None else data.image_set("train").part(shown_index),
        test_images=test,
        numbers=tested,
        predicted=evaluation["predicted"],
        logits=evaluation["logits"],
        rows=_if_readable("the curves", lambda: read_rows(home / "metrics.csv"), []),
        label_smoothing=model.hparams["label_smoothing"],
        network=model.hparams.get("net", type(model.net).__name__),
        lr=model.hparams["lr"],
        settings=_if_readable("the settings", lambda: _text(home / "config.yaml"), ""),
        held_out=again.held_out() if aloud and learnt else None,
        grad_cam=again.grad_cam,
    )
    note_not_finite(int(outcome.not_finite.sum()), model, output)
    report(outcome, output, page or output / PAGE, aloud)


def _has_learnt_from(data: CIFAR10DataModule, saved: Mapping[str, Any]) -> bool:
    """Returns whether a checkpoint was trained on the training images of `data`, with the same ones held out."""
    before, state = saved.get("datamodule_hyper_parameters", {}), saved.get("CIFAR10DataModule", {})
    if any(before.get(name) != data.hparams[name] for name in ("val_split", "split_seed")):
        return False
    fingerprint = _if_readable("the training images", lambda: data.fingerprint, None)
    return fingerprint is not None and bool(state.get("fingerprint") == fingerprint)


def _text(path: Path) -> str:
    """Returns the text of a file; "" if there is no such file."""
    try:
        with readable(path):
            return path.read_text("utf-8") if exists(path) else ""
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not text ({error.reason}): fix the file") from error


def _if_readable(what: str, read: Callable[[], T], otherwise: T) -> T:
    """Returns what `read` returns; on an InputError, notes it and returns `otherwise`: the test does not need it."""
    try:
        return read()
    except InputError as error:
        say(f"note: the report leaves out {what}: {error}")
        return otherwise


def facts_of(trainer: Trainer, model: LitNet, data: CIFAR10DataModule, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `facts`, and beside them how a network was tested, for results.json."""
    device = trainer.strategy.root_device.type
    told = ("source", "data_dir", "normalization", "train_labels")
    return {
        "test_views": model.hparams["test_views"],
        "parameters": sum(weights.numel() for weights in model.net.parameters()),
        "data": {name: value for name in told if (value := data.hparams[name]) is not None},
        **facts,
        "precision": trainer.precision,
        "devices": trainer.world_size,
        "accelerator": {"cuda": "gpu"}.get(device, device),
    }


def note_not_finite(images: int, model: LitNet, output: Path) -> None:
    """Says how many tested images have logits that are not finite, if any do."""
    if images:  # if all logits of an image are NaN, argmax gives the first class
        which, first = number_of(images, "test image"), quoted(model.classes[0])
        say(f"note: {output}: NaN or infinite logits for {which}; images with only NaN logits count as {first}")
