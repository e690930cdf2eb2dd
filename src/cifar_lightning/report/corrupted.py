"""The report of a test on corrupted images: results.json, figures, and a table on the console."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.text import Text
from torch import Tensor

from cifar_lightning import stop
from cifar_lightning.console import percent, printing
from cifar_lightning.data.layouts.test_sets import CORRUPTIONS, EXTRA_CORRUPTIONS
from cifar_lightning.report.predictions import NAME as PREDICTIONS
from cifar_lightning.report.report import PAGE, write_figures
from cifar_lightning.report.results import results_of, write_results
from cifar_lightning.report.table import print_overall, print_paths, print_tables, table_of_numbers

# By the key of results.json.
MEAN_ERRORS = {
    "mean_corruption_error": "the 15 corruptions of the benchmark",
    "mean_corruption_error_19": "all 19",
}


@dataclass(frozen=True)
class CorruptedOutcome:
    """The outcome of a test on corrupted images, as plain values.

    Attributes:
        accuracies: By the name of the corruption, one accuracy (0..1) per severity.
        confusion: int64 counts `(K, K)` over all images, rows = true class.
        loss: Mean cross-entropy of all images.
        classes: The K class names.
        images: Digest of all images and their labels; see `predictions.Predictions`.
        facts: Further entries of results.json; see `outcome.Outcome`.
        not_finite: Images with logits of NaN or infinity.
    """

    accuracies: Mapping[str, Sequence[float]]
    confusion: Tensor
    loss: float
    classes: Sequence[str]
    images: str
    facts: Mapping[str, Any]
    not_finite: int = 0


def report_corrupted(outcome: CorruptedOutcome, output: Path) -> None:
    """Writes results.json and figures/ into the folder `output`, and prints the table."""
    results = {
        **results_of(outcome.confusion, outcome.loss, outcome.classes, outcome.facts, outcome.not_finite),
        "test_images": outcome.images,
        "corruption_acc": {name: list(row) for name, row in outcome.accuracies.items()},
        "mean_corruption_error": _mean_error(outcome.accuracies, CORRUPTIONS),
        "mean_corruption_error_19": _mean_error(outcome.accuracies, (*CORRUPTIONS, *EXTRA_CORRUPTIONS)),
    }
    for name in (PAGE, PREDICTIONS):  # left there by another test
        (output / name).unlink(missing_ok=True)
    draw_corrupted(outcome, output / "figures")
    stop.raise_if_requested()
    write_results(results, output)
    with printing(1):
        print_corrupted(results, [output / "results.json", *sorted((output / "figures").glob("*.png"))])


def draw_corrupted(outcome: CorruptedOutcome, folder: Path) -> None:
    """Writes the figures into `folder`."""
    from cifar_lightning.report import drawing, plots  # imported late: matplotlib takes a second

    with drawing.own_style():
        write_figures(
            {
                "corruptions": plots.corruption_map(outcome.accuracies),
                "confusion_matrix": plots.confusion_matrix(outcome.confusion, outcome.classes),
                "per_class_accuracy": plots.per_class_bars(outcome.confusion, outcome.classes),
            },
            folder,
        )


def _mean_error(accuracies: Mapping[str, Sequence[float]], names: Iterable[str]) -> float | None:
    """The mean error as defined for CIFAR-10-C, not divided by a baseline's; None unless all corruptions are there."""
    if not set(names) <= accuracies.keys():
        return None
    return fmean(1 - fmean(accuracies[name]) for name in names)


def print_corrupted(results: Mapping[str, Any], paths: Sequence[Path], console: Console | None = None) -> None:
    """Prints results.json: accuracy per corruption and severity, mean errors, and where the files are."""
    console = console or Console()
    print_overall(results, console)
    accuracies = results["corruption_acc"]
    severities = range(1, len(next(iter(accuracies.values()))) + 1)
    rows = [(name, *map(percent, (*row, fmean(row)))) for name, row in accuracies.items()]
    print_tables(table_of_numbers, ("corruption", *map(str, severities), "mean"), rows, console)
    console.print()
    for key, over in MEAN_ERRORS.items():
        error = "n/a, because some are missing" if results[key] is None else f"{100 * results[key]:.2f} %"
        console.print(Text(f"Mean corruption error over {over}: {error}"), soft_wrap=True)
    console.print()
    print_paths(paths, console)
