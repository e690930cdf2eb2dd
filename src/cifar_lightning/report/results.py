"""What a test leaves: results.json, the figures, and the table on the console."""

import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cifar_lightning import stop
from cifar_lightning.console import printing
from cifar_lightning.data.sources import ImageSet
from cifar_lightning.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURES = {"training_images", "test_predictions", "confusion_matrix", "per_class_accuracy", "curves", "corruptions"}
SHOWN_IMAGES = 36  # in the figures of images, spread evenly over the set


@dataclass(frozen=True)
class Outcome:
    """A test's outcome, and what its figures show, as plain values.

    Attributes:
        confusion: int64 counts `(K, K)`, rows = true class.
        loss: Mean cross-entropy of the test images.
        classes: The K names.
        facts: Further entries of results.json, with `checkpoint`, what was tested, and its `step`.
        training_images: Some of those it has learnt from; None where there are none beside the test images.
        test_images: Some of those it was tested on.
        predicted: int64, the classes that these were counted as.
        rows: Those of the training's metrics.csv; none where it is not at hand.
        label_smoothing: That of the training loss.
    """

    confusion: Tensor
    loss: float
    classes: Sequence[str]
    facts: Mapping[str, Any]
    training_images: ImageSet | None
    test_images: ImageSet
    predicted: Tensor
    rows: Sequence[Mapping[str, Any]]
    label_smoothing: float


def report(outcome: Outcome, output: Path, aloud: bool = True) -> None:
    """Writes results.json into the folder `output`; aloud, also figures/, and prints the table."""
    from cifar_lightning.report.table import print_report

    results = results_of(outcome.confusion, outcome.loss, outcome.classes, outcome.facts)
    if aloud:
        draw(outcome, results, output / "figures")
    stop.raise_if_requested()
    write_results(results, output)
    if not aloud:
        return
    with printing(1):
        print_report(results, [output / "results.json", *sorted((output / "figures").glob("*.png"))])


def results_of(confusion: Tensor, loss: float, classes: Sequence[str], facts: Mapping[str, Any]) -> dict[str, Any]:
    """The contents of results.json; see `Outcome`."""
    counts, right = confusion.sum(1).tolist(), confusion.diag().tolist()
    accuracies = [r / n if n else None for r, n in zip(right, counts, strict=True)]
    return {
        "test_acc": sum(right) / sum(counts),
        "test_loss": loss,
        "test_count": sum(counts),
        # a class without test images has no accuracy, which is not an accuracy of 0
        "per_class_acc": dict(zip(classes, accuracies, strict=True)),
        "confusion": confusion.tolist(),
        **facts,
        **{name: importlib.metadata.version(name) for name in ("torch", "torchvision", "lightning")},
    }


def write_results(results: Mapping[str, Any], output: Path) -> None:
    """Writes results.json into the folder `output`."""
    text = json.dumps(results, indent=2) + "\n"
    write_atomically(output / "results.json", lambda file: file.write(text.encode()))


def read_results(output: Path) -> dict[str, Any]:
    """The contents of the results.json that `report` has written into `output`."""
    results: dict[str, Any] = json.loads((output / "results.json").read_text())
    return results


def draw(outcome: Outcome, results: Mapping[str, Any], folder: Path) -> None:
    """Writes the figures into `folder`; see `report`."""
    from cifar_lightning.report import plots

    classes, training, test = outcome.classes, outcome.training_images, outcome.test_images
    with plots.own_style():
        figures = {
            "test_predictions": plots.prediction_grid(test.images, test.labels, outcome.predicted, classes),
            "confusion_matrix": plots.confusion_matrix(outcome.confusion, classes),
            "per_class_accuracy": plots.per_class_bars(outcome.confusion, classes),
        }
        if training is not None:
            figures["training_images"] = plots.image_grid(training.images, training.labels, classes)
        if outcome.rows:
            figures["curves"] = plots.curves(outcome.rows, outcome.label_smoothing, results)
        write_figures(figures, folder)


def write_figures(figures: Mapping[str, "Figure"], folder: Path) -> None:
    """Writes figures into `folder` as NAME.png, in place of all of ours that another test may have left there."""
    for name, figure in figures.items():
        stop.raise_if_requested()
        write_atomically(folder / f"{name}.png", partial(figure.savefig, format="png"))
    for name in FIGURES - figures.keys():
        with suppress(OSError):
            (folder / f"{name}.png").unlink()


def shown(images: int) -> Tensor:
    """Which of so many images a figure shows: int64, spread evenly over them."""
    return torch.linspace(0, images - 1, min(SHOWN_IMAGES, images)).long()
