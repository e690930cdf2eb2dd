"""What a test leaves: results.json, the figures, and the table on the console."""

import importlib.metadata
import json
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from cifar_lightning import console
from cifar_lightning.data.datamodule import CIFAR10DataModule
from cifar_lightning.data.sources import ImageSet
from cifar_lightning.files import write_atomically
from cifar_lightning.model.lit_net import LitNet
from cifar_lightning.run import signals
from cifar_lightning.run.metrics_log import read_rows

SHOWN_IMAGES = 36  # in the figures of images, spread evenly over the set


def report(
    trainer: Trainer,
    model: LitNet,
    data: CIFAR10DataModule,
    facts: dict[str, Any],
    output: Path,
    metrics: Path,
) -> None:
    """Writes results.json and figures/ of the test that `trainer` has just run, and prints the table.

    Args:
        trainer: It.
        model: What it has tested.
        data: What it has tested it on.
        facts: Further entries of results.json, with `checkpoint`, what was tested, and its `step`.
        output: The folder to write into.
        metrics: The metrics.csv of the training, for its curves; they are left out where there is none.
    """
    from cifar_lightning.report.table import print_report

    confusion = model.last_evaluation["confusion"]
    counts, right = confusion.sum(1).tolist(), confusion.diag().tolist()
    results = {
        "test_acc": sum(right) / sum(counts),
        "test_loss": model.last_evaluation["loss"].item(),
        "test_count": sum(counts),
        # a class without test images has no accuracy, which is not an accuracy of 0
        "per_class_acc": {name: r / n if n else None for name, r, n in zip(model.classes, right, counts, strict=True)},
        "confusion": confusion.tolist(),
        "test_views": model.hparams["test_views"],
        "data": {name: data.hparams[name] for name in ("source", "data_dir", "normalization")},
        **facts,
        "precision": trainer.precision,
        "devices": trainer.world_size,
        "accelerator": {"cuda": "gpu"}.get(trainer.strategy.root_device.type, trainer.strategy.root_device.type),
        **{name: importlib.metadata.version(name) for name in ("torch", "torchvision", "lightning")},
    }
    draw(model, data, confusion, output / "figures", metrics, results)
    signals.raise_if_requested()
    text = json.dumps(results, indent=2) + "\n"
    write_atomically(output / "results.json", lambda file: file.write(text.encode()))
    with console.console(1):
        print_report(results, [output / "results.json", *sorted((output / "figures").glob("*.png"))])


def draw(
    model: LitNet, data: CIFAR10DataModule, confusion: Tensor, folder: Path, metrics: Path, results: dict[str, Any]
) -> None:
    """Writes the figures into `folder`; see `report`."""
    import matplotlib  # not before: it takes a second

    from cifar_lightning.report import plots

    images, labels = _spread(data.image_set("train"))
    test_images, test_labels = _spread(data.image_set("test"))
    predicted, _ = model.predict(data.normalize(test_images))
    with matplotlib.rc_context({"font.family": plots.fonts()}):
        figures = {
            "training_images": plots.image_grid(images, labels, model.classes),
            "test_predictions": plots.prediction_grid(test_images, test_labels, predicted, model.classes),
            "confusion_matrix": plots.confusion_matrix(confusion, model.classes),
            "per_class_accuracy": plots.per_class_bars(confusion, model.classes),
        }
        if rows := read_rows(metrics):
            figures["curves"] = plots.curves(rows, model.hparams["label_smoothing"], results)
        for name, figure in figures.items():
            signals.raise_if_requested()
            write_atomically(folder / f"{name}.png", partial(figure.savefig, format="png"))
    if not rows:  # there may be the curves of another network that was tested into this folder
        with suppress(OSError):
            (folder / "curves.png").unlink()


def _spread(images: ImageSet) -> tuple[Tensor, Tensor]:
    index = torch.linspace(0, len(images.labels) - 1, min(SHOWN_IMAGES, len(images.labels))).long()
    return images.images[index], images.labels[index]
