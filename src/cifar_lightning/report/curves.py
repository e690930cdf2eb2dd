"""The curves of a training: losses, accuracies, and norms of the gradients if they were logged."""

import math
from collections.abc import Mapping, Sequence
from itertools import chain
from statistics import median
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cifar_lightning.console import decimal, percent
from cifar_lightning.report.drawing import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    above_legend,
    as_percentages,
    legend_above,
    new_figure,
)

WIDTH = 12.0  # inches
HUGE = 100  # times the median loss: a larger one needs a logarithmic axis

Rows = Sequence[Mapping[str, Any]]


def curves(rows: Rows, label_smoothing: float = 0.0, test: Mapping[str, Any] | None = None) -> Figure:
    """Plots losses (left) and accuracies (right) against optimiser steps, and gradient norms if they were logged.

    Args:
        rows: The rows of a metrics.csv in order: `step` and any of `train_loss`, `val_loss`, `val_acc` (0..1) and
            the column that `gradient_norm` finds.
        label_smoothing: The label smoothing of `train_loss`, which raises it; the other losses have none.
        test: `test_loss` and `test_acc` (0..1) of the network at `step`, to be marked with a star.
    """
    norm = gradient_norm(rows)
    titles = ("Loss", "Accuracy", "Norm of the gradients") if norm else ("Loss", "Accuracy")
    figure = new_figure(WIDTH, 4.8)
    panels = figure.subplots(1, len(titles), sharex=True)
    _draw_losses(panels[0], rows, label_smoothing, test)
    _draw_accuracies(panels[1], rows, test)
    if norm:
        _line(panels[2], *_series(rows, norm), BLUE, "train")
        panels[2].set(yscale="log")
    for axes in panels:
        axes.set_xlabel("optimiser step")
        axes.set_xlim(left=0)
        # with a million steps there is no room for more
        axes.xaxis.set_major_locator(MaxNLocator(4 if norm else 6, integer=True))
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.grid()
        if not axes.get_legend_handles_labels()[0]:
            axes.set_yticks([])
            axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", color=GREY)
    lines = max(legend_above(axes, WIDTH / len(panels) - 0.9) for axes in panels)
    for axes, title in zip(panels, titles, strict=True):
        axes.set_title(title, pad=above_legend(lines))
    return figure


def _draw_losses(axes: Axes, rows: Rows, label_smoothing: float, test: Mapping[str, Any] | None) -> None:
    smoothed = f",\nlabels smoothed by {label_smoothing:g}" if label_smoothing else ""
    _line(axes, *_series(rows, "train_loss"), BLUE, f"train (mean between points{smoothed})")
    _line(axes, *_series(rows, "val_loss"), ORANGE, "validation")
    if test is not None:
        _star(axes, test["step"], test["test_loss"], f"test {decimal(test['test_loss'])}")
    axes.set(ylabel="cross-entropy")
    values: list[Any] = [line.get_ydata() for line in axes.lines]
    if _few_are_huge(list(chain(*values))):
        axes.set(yscale="log")
    else:
        _at_least_as_high(axes, 0.01)


def _draw_accuracies(axes: Axes, rows: Rows, test: Mapping[str, Any] | None) -> None:
    steps, accuracies = _series(rows, "val_acc")
    _line(axes, steps, [100 * value for value in accuracies], ORANGE, "validation")
    if test is not None:
        _star(axes, test["step"], 100 * test["test_acc"], f"test {percent(test['test_acc'], 2)}")
        if not steps:  # with one number only, draws it as a level to compare with
            axes.axhline(100 * test["test_acc"], color=GREEN, linestyle="--", linewidth=1)
    axes.set(ylabel="%")
    if len(steps) < 2:  # no curve to look at closely: the difference of two points would fill the height
        axes.set_ylim(0, 102)
    _at_least_as_high(axes, 1)
    as_percentages(axes, "y")


def gradient_norm(rows: Rows) -> str | None:
    """Finds the metrics.csv column with the norm of all gradients, by our name or Lightning's; None without one."""
    logged = (name for row in rows for name, value in row.items() if value is not None)
    return next((name for name in logged if name == "grad_norm" or name.endswith("_norm_total")), None)


def _series(rows: Rows, key: str) -> tuple[list[float], list[float]]:
    """Picks one metric: returns the steps at which it was measured, and its values."""
    measured = [row for row in rows if row.get(key) is not None]
    return [row["step"] for row in measured], [row[key] for row in measured]


def _line(axes: Axes, steps: list[float], values: list[float], color: str, label: str) -> None:
    if values:  # marks keep a single point visible; many would only thicken the line
        marker = "o" if len(values) <= 50 else ""
        size = 4 if len(values) > 1 else 6
        axes.plot(steps, values, color=color, label=label, marker=marker, markersize=size)


def _few_are_huge(values: Sequence[float]) -> bool:
    """Returns whether some positive values, such as those of a diverging start, would flatten the others to a line."""
    finite = [value for value in values if math.isfinite(value)]
    return bool(finite) and min(finite) > 0 and max(finite) > HUGE * median(finite)


def _at_least_as_high(axes: Axes, height: float) -> None:
    """Widens the axis to `height`: otherwise the rounding errors of almost equal values would fill it, unlabelled."""
    low, high = axes.get_ylim()
    if high - low < height:
        middle = (low + high) / 2
        axes.set_ylim(middle - height / 2, middle + height / 2)
    axes.ticklabel_format(axis="y", useOffset=False)


def _star(axes: Axes, step: float, value: float, label: str) -> None:
    """Marks a value below all lines, with a label that states it; a non-finite value appears in the legend only."""
    under = 1.9  # lines have zorder 2
    axes.plot([step], [value], "*", color=GREEN, markersize=13, label=label, clip_on=False, zorder=under)
