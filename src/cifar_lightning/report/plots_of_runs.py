"""Figures of several runs: runs that differ in a seed or a fold, and runs that are compared."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cifar_lightning.report.drawing import (
    BLUE,
    COLOURS,
    GREEN,
    GREY,
    above_legend,
    as_percentages,
    legend_above,
    name_rows,
    new_figure,
    short,
)
from cifar_lightning.report.statistics import INTERVAL

MARKERS = "osD^v"  # told apart by marker, if there are more series than colours
LEGIBLE_ROWS = 20  # up to this many, a row is as high as its letters

Measured = tuple[float, Sequence[float] | None]  # an accuracy, 0..1, and the ends of its interval


def spread(
    run: str,
    numbers: Sequence[int],
    accuracies: Sequence[float],
    overall: Mapping[str, Any],
    per_class: Mapping[str, Mapping[str, Any] | None],
    which: str = "",
) -> Figure:
    """Shows the accuracy of every run as a dot, with the mean and its interval; and the latter two for each class.

    Args:
        run: What a run is called, such as "seed".
        numbers: The numbers of the runs, in order.
        accuracies: The accuracies of the runs, 0..1.
        overall: `mean` and `interval` of the accuracies; the interval is None if they are all equal.
        per_class: `mean` and `interval` for each class, by its name; None for a class without images.
        which: Which classes these are, if not all.
    """
    length = len(per_class)
    figure = new_figure(12, max(4.5, 1.3 + length * (0.36 if length <= 20 else 0.2)))
    runs, classes = figure.subplots(1, 2)
    mean, interval = 100 * overall["mean"], overall["interval"]
    label = f"mean {mean:.2f} %"
    if interval is not None:
        ends = [100 * end for end in interval]
        said = f"{INTERVAL} {ends[0]:.2f} to {ends[1]:.2f} %"
        runs.axhspan(*ends, color=GREEN, alpha=0.15, linewidth=0, label=said)
    runs.axhline(mean, color=GREEN, linestyle="--", linewidth=1.5, label=label)
    runs.plot(numbers, [100 * value for value in accuracies], "o", color=BLUE, markersize=7)
    runs.set(xlabel=run, ylabel="test accuracy, %")
    digits = max(len(str(number)) for number in numbers)
    runs.xaxis.set_major_locator(MaxNLocator(max(1, min(10, 40 // digits)), integer=True))
    runs.ticklabel_format(axis="x", style="plain", useOffset=False)
    runs.margins(y=0.25)
    as_percentages(runs, "y")
    runs.set_title(f"{len(numbers)} {run}s", pad=above_legend(legend_above(runs, 5)))
    for row, figures in enumerate(per_class.values()):
        if figures is None:
            place = classes.get_yaxis_transform()
            classes.text(0.02, row, "n/a", transform=place, va="center", color=GREY)
        else:
            _dot(classes, row, (figures["mean"], figures["interval"]), BLUE, "o", 6 if length <= 20 else 3)
    name_rows(classes, short(list(per_class)), 10 if length <= 20 else 8, length)
    classes.set_title("\n".join(filter(None, (f"Mean and {INTERVAL} per class", which))))
    as_percentages(classes, "x")
    for axes in (runs, classes):
        axes.grid()
    return figure


def intervals(names: Sequence[str], series: Mapping[str, Sequence[Measured | None]]) -> Figure:
    """Shows accuracies as dots with their intervals: one row per name, one colour per series.

    Args:
        names: The names of the rows.
        series: The values of each series in every row, by the name of the series: an accuracy, 0..1, and the ends of
            its interval or None; None for a row in which the series has no value.
    """
    length = len(names)
    there = [[name for name, row in series.items() if row[i] is not None] for i in range(length)]
    abreast = max(map(len, there))
    few = length * abreast <= 2 * LEGIBLE_ROWS
    legend = math.ceil(len(series) / 6) if abreast > 1 else 0  # lines; without a legend, the names of the rows suffice
    height = 0.2 + 0.11 * abreast if few else max(0.2, 0.07 * abreast)
    figure = new_figure(6.4, 0.8 + 0.25 * legend + length * height)
    axes = figure.subplots()
    for number, (name, row) in enumerate(series.items()):
        color, marker = COLOURS[number % len(COLOURS)], MARKERS[number // len(COLOURS) % len(MARKERS)]
        axes.plot([], [], color=color, marker=marker, linewidth=2, label=name)  # for the legend, even without values
        for i, found in enumerate(row):
            if found is not None:
                y = i + 0.7 * ((there[i].index(name) + 0.5) / len(there[i]) - 0.5)
                _dot(axes, y, found, color, marker, 6 if few else 3)
    name_rows(axes, short(names), 10 if few else 8, length)
    as_percentages(axes, "x")
    axes.grid(axis="x")
    if legend:
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0, ncols=min(len(series), 6))
    return figure


def _dot(axes: Axes, y: float, measured: Measured, color: str, marker: str, size: float) -> None:
    """Draws an accuracy, and its interval if it has one."""
    accuracy, ends = measured
    if ends is not None:
        axes.plot([100 * end for end in ends], [y, y], color=color, linewidth=2, solid_capstyle="butt")
    axes.plot(100 * accuracy, y, color=color, marker=marker, markersize=size)
