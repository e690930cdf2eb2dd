"""The report of a test: results.json, the figures, the page, and the table on the console."""

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cifar_lightning import stop
from cifar_lightning.console import percent, printing, say
from cifar_lightning.files import write_atomically
from cifar_lightning.report.calibration import Reliability
from cifar_lightning.report.outcome import Outcome
from cifar_lightning.report.results import results_of, write_results
from cifar_lightning.report.table import print_report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE = "report.html"
FIGURES = {
    "training_images", "test_predictions", "confusion_matrix", "per_class_accuracy", "curves", "corruptions",
    "calibration", "mistakes",
}  # fmt: skip
SHOWN_IMAGES = 36  # in each figure of images, spread evenly over the set
INLINE = ("calibration", "curves")  # figures within the page


def report(outcome: Outcome, output: Path, page: Path, aloud: bool = True) -> None:
    """Writes results.json into the folder `output`; if `aloud`, also figures/ and the page, and prints the table.

    Removes figures and a page that another test left there, because they would not match these results.
    """
    odd = int(outcome.not_finite.sum())
    results = results_of(outcome.confusion, outcome.loss, outcome.classes, outcome.facts, odd)
    if aloud:
        draw(outcome, results, output / "figures", page)
    else:
        _remove(FIGURES, output / "figures")
    if not aloud or page.resolve() != (output / PAGE).resolve():
        (output / PAGE).unlink(missing_ok=True)
    stop.raise_if_requested()
    write_results(results, output)
    if not aloud:
        return
    figures = sorted((output / "figures").glob("*.png"))
    with printing(1):
        print_report(results, [output / "results.json", *([page] if page.exists() else []), *figures])


def draw(outcome: Outcome, results: Mapping[str, Any], folder: Path, page: Path) -> None:
    """Writes the figures into `folder`, and the page; see `report`."""
    from cifar_lightning.report import drawing, plots
    from cifar_lightning.report.curves import curves
    from cifar_lightning.report.page import write_page

    classes, training = outcome.classes, outcome.training_images
    with drawing.own_style():
        figures = {
            "test_predictions": _predictions(outcome, shown(len(outcome.labels))),
            "confusion_matrix": plots.confusion_matrix(outcome.confusion, classes),
            "per_class_accuracy": plots.per_class_bars(outcome.confusion, classes),
            "calibration": plots.calibration(_panels(outcome)),
        }
        if training is not None:
            figures["training_images"] = plots.image_grid(training.images, training.labels, classes)
        if len(mistakes := outcome.mistakes()):
            figures["mistakes"] = _predictions(outcome, mistakes, outcome.confidences[mistakes])
        if outcome.rows:
            figures["curves"] = curves(outcome.rows, outcome.label_smoothing, results)
        write_figures(figures, folder)
        stop.raise_if_requested()
        inline = {name: drawing.as_svg(figure, name) for name, figure in figures.items() if name in INLINE}
    write_page(outcome, results, inline, folder / "confusion_matrix.png", page)


def write_figures(figures: Mapping[str, "Figure"], folder: Path) -> None:
    """Writes figures into `folder` as NAME.png, and removes other figures of ours that another test left there."""
    import matplotlib

    from cifar_lightning.report import drawing

    with ThreadPoolExecutor(1) as writer:  # while the next one is drawn
        written = []
        for name, figure in figures.items():
            stop.raise_if_requested()
            write = partial(drawing.write_png, drawing.drawn(figure))
            written.append(writer.submit(write_atomically, folder / f"{name}.png", write))
    for future in written:
        future.result()
    _remove(FIGURES - figures.keys(), folder)
    if letters := "".join(sorted(set().union(*map(drawing.without_a_font, figures.values())))):
        some = letters if len(letters) <= 10 else f"{letters[:10]} and {len(letters) - 10:,} more"
        say(
            f"note: no installed font has {some}, so the figures show boxes: install one that has, such as Noto Sans "
            f"CJK, and remove matplotlib's list of fonts, fontlist-*.json in {matplotlib.get_cachedir()}"
        )


def _remove(names: Iterable[str], folder: Path) -> None:
    for name in names:
        with suppress(OSError):
            (folder / f"{name}.png").unlink()


def _predictions(outcome: Outcome, index: Tensor, confidences: Tensor | None = None) -> "Figure":
    from cifar_lightning.report import plots

    test = outcome.test_images.part(index)
    return plots.prediction_grid(test.images, test.labels, outcome.predicted[index], outcome.classes, confidences)


def _panels(outcome: Outcome) -> dict[str, Reliability]:
    """Returns the bins for the calibration figure, as they are and at the best temperature, by their headings."""
    found = outcome.calibrations
    headings = ["Calibration error"]  # if there are two panels, each heading says which it is
    if len(found) == 2:
        headings = ["Unscaled: calibration error", f"At temperature {found[1].temperature:.2f}: calibration error"]
    return {f"{heading} {percent(one.bins.ece, 2)}": one.bins for heading, one in zip(headings, found, strict=True)}


def shown(images: int) -> Tensor:
    """Chooses which of `images` images a figure shows: int64 indices, spread evenly."""
    return torch.linspace(0, images - 1, min(SHOWN_IMAGES, images)).long()
