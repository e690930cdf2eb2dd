"""Selects the weights of a trained run that are tested."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from cifar_lightning.console import say
from cifar_lightning.data.datamodule import CIFAR10DataModule
from cifar_lightning.errors import InputError, RunError, quoted
from cifar_lightning.files import exists
from cifar_lightning.model.lit_net import LitNet
from cifar_lightning.run.callbacks.checkpoints import Checkpoints
from cifar_lightning.run.checkpoint import BEST, FINAL, cause_of, load_checkpoint
from cifar_lightning.run.metrics_csv import MetricsCSV, rounded
from cifar_lightning.run.metrics_log import read_rows
from cifar_lightning.run.process_group import on_first_rank


def select_weights(
    trainer: Trainer, model: LitNet, data: CIFAR10DataModule, checkpoints: Checkpoints
) -> dict[str, Any]:
    """Gives `model` the weights to test: those of `best.ckpt`, else of `final.ckpt`, else it keeps the last step's.

    Returns:
        The path and step of their checkpoint, and their validation figures, for results.json.

    Raises:
        RunError: The checkpoint is damaged.
    """
    validates = len(data.val_indices) > 0
    names = [BEST, FINAL] if validates else [FINAL]
    chosen = on_first_rank(lambda: _first_of(names, checkpoints.folder))
    if chosen is not None:
        model.load_state_dict(chosen["state_dict"])
    else:
        chosen = {"name": f"step-{trainer.global_step}.ckpt", "global_step": trainer.global_step, "kept": {}}
    if validates and chosen["name"] != BEST and trainer.limit_val_batches and trainer.is_global_zero:
        say("note: the training ended before its first validation")
    return {
        "checkpoint": str(checkpoints.folder / chosen["name"]),
        "step": chosen["global_step"],
        **_validated(checkpoints.metrics, chosen["global_step"], chosen["kept"]),
    }


def _first_of(names: Sequence[str], folder: Path) -> dict[str, Any] | None:
    """Loads what a test needs from the first of these checkpoints that exists; returns None if none exists."""
    path = next((path for name in names if exists(path := folder / name)), None)
    if path is None:
        return None
    try:
        saved = load_checkpoint(path)
    except InputError as error:  # no wrong input: the file was intact, and a resumed run does without it
        raise RunError(cause_of(error)) from error
    kept = saved.get("callback_metrics", {}) if path.name == BEST else {}  # earlier versions did not save them
    return {"name": path.name, "kept": kept, **{name: saved[name] for name in ("state_dict", "global_step")}}


def _validated(metrics: MetricsCSV, step: int, kept: Mapping[str, float]) -> dict[str, float | None]:
    """Returns the validation figures of the tested weights, for comparing settings; None if they were not validated.

    They are the figures that the checkpoint has `kept`; without these, the last ones logged for its step, which may
    have several validations while gradients accumulate.
    """
    metrics.close()
    row = next((row for row in read_rows(metrics.path) if row["step"] == step), {})
    return {name: rounded(kept[name]) if name in kept else row.get(name) for name in ("val_acc", "val_loss")}


def note_nan_loss(trainer: Trainer, selected: Mapping[str, Any], classes: Sequence[str]) -> None:
    """Says that the selected checkpoint's validation accuracy may count images whose logits are NaN.

    An infinite loss is not reported: finite logits that are far enough apart give one too.
    """
    if (loss := selected["val_loss"]) is not None and math.isnan(loss) and trainer.is_global_zero:
        say(
            f"note: {Path(selected['checkpoint']).name} has a validation loss of {loss}: images with only NaN logits "
            f"count as {quoted(classes[0])}, also in val_acc"
        )
