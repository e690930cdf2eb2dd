"""Figures of one run: its images, and what its test found. Its curves are in curves.py."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from rich.cells import cell_len
from torch import Tensor

from cifar_lightning.console import percent, rounded_down
from cifar_lightning.report.calibration import BINS, Reliability
from cifar_lightning.report.drawing import BLUE, GREY, ORANGE, above_legend, legend_above, name_rows, new_figure, short
from cifar_lightning.report.shown_classes import shown_classes

GRID_WIDTH = 10.0  # inches


def image_grid(images: Tensor, labels: Tensor, classes: Sequence[str]) -> Figure:
    """Shows images with their class names.

    Args:
        images: uint8, (N, 3, H, W), N at least 1.
        labels: int64, (N,).
        classes: The name of each label.
    """
    names = short(classes)
    return _grid(images, [names[label] for label in labels.tolist()])


def prediction_grid(
    images: Tensor, labels: Tensor, predictions: Tensor, classes: Sequence[str], confidences: Tensor | None = None
) -> Figure:
    """Shows images with their true and predicted class names; wrong ones are framed and crossed.

    Args:
        images: uint8, (N, 3, H, W), N at least 1.
        labels: int64, (N,).
        predictions: int64, (N,).
        classes: The name of each label.
        confidences: The probabilities of the predictions, (N,), to show beside them, with a line above to explain.
    """
    names = short(classes)
    pairs = list(zip(labels.tolist(), predictions.tolist(), strict=True))
    captions = [f"true: {names[true]}\npred: {names[said]} {'✓' if said == true else '✗'}" for true, said in pairs]
    heading = ""
    if confidences is not None:
        heading = "Beside each prediction, the probability that the network gave it"
        captions = [
            f"{text} {percent(rounded_down(share))}" for text, share in zip(captions, confidences.tolist(), strict=True)
        ]
    return _grid(images, captions, [said != true for true, said in pairs], heading)


def confusion_matrix(confusion: Tensor, classes: Sequence[str]) -> Figure:
    """Shows how often each class is taken for each other one, coloured by the share of the true class.

    Args:
        confusion: int64 counts, (K, K), rows = true class.
        classes: The K names.
    """
    counts = confusion.cpu().numpy()
    size = len(classes)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    few = size <= 20
    side = 9.0 if few else 13.3
    figure = new_figure(side, side * 0.93)
    axes = figure.subplots()
    # A power scale, because on a linear scale a confusion of 5 % would be almost white.
    picture = axes.imshow(share, cmap="Blues", norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
    bar = figure.colorbar(picture, ax=axes, shrink=0.6, aspect=30, pad=0.02, ticks=[0, 0.05, 0.2, 0.5, 1])
    bar.set_label("share of the true class")
    bar.outline.set_visible(False)

    ticks = range(0, size, math.ceil(size / 100))  # more names would overlap
    names = short(classes)
    points = min(10.0, 0.75 * 72 * side * 0.8 / len(ticks))
    turn = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if few else {"rotation": 90}
    axes.set_xticks(ticks, [names[index] for index in ticks], fontsize=points, parse_math=False, **turn)
    axes.set_yticks(ticks, [names[index] for index in ticks], fontsize=points, parse_math=False)
    axes.set(xlabel="predicted", ylabel="true", title="Confusion matrix")
    axes.tick_params(length=0)
    axes.spines[:].set(color="#CCCCCC", visible=True)
    if few:
        digits = len(str(counts.max()))
        points = min(9.0, 0.6 * 72 * side / size / (0.65 * digits))
        for (row, column), count in np.ndenumerate(counts):
            ink = "white" if share[row, column] > 0.35 else "black"
            # Left out of the layout, as it fits its cell anyway: laying out a hundred texts takes a tenth longer.
            axes.text(column, row, f"{count}", ha="center", va="center", color=ink, fontsize=points, in_layout=False)
    return figure


def per_class_bars(confusion: Tensor, classes: Sequence[str]) -> Figure:
    """Shows each class's accuracy (of many, the best and worst), n/a if it has no images; a line marks the overall one.

    Args:
        confusion: int64 counts, (K, K), rows = true class.
        classes: The K names.
    """
    counts = confusion.cpu().numpy()
    correct, images = counts.diagonal(), counts.sum(axis=1)
    overall = 100 * correct.sum() / images.sum() if images.sum() else None
    shown, which = shown_classes([r / n if n else None for r, n in zip(correct.tolist(), images.tolist(), strict=True)])
    names = short(classes)
    columns = min(3, math.ceil(len(shown) / 50))
    length = math.ceil(len(shown) / columns)
    figure = new_figure(GRID_WIDTH if columns == 1 else 13, 1.3 + length * (0.36 if length <= 20 else 0.2))
    for column, axes in enumerate(figure.subplots(1, columns, squeeze=False)[0]):
        members = shown[column * length : (column + 1) * length]
        points = 10 if length <= 20 else 8
        for row, index in enumerate(members):
            percent = 100 * correct[index] / images[index] if images[index] else None
            axes.barh(row, percent or 0, height=0.72, color=BLUE)
            text = "n/a" if percent is None else f"{percent:.1f} %"
            paper = {"facecolor": "white", "edgecolor": "none", "pad": 1}  # keeps the line off the figures
            axes.text((percent or 0) + 1, row, text, va="center", fontsize=points, bbox=paper)
        if overall is not None:
            axes.axvline(overall, color=ORANGE, linestyle="--", linewidth=1.5)
        name_rows(axes, [names[index] for index in members], points, length)
        axes.set_xlim(0, 112)
        axes.set_xticks(range(0, 101, 20))
    note = "" if overall is None else f" (dashed: {overall:.2f} % overall)"
    figure.suptitle(f"Accuracy per class{which and ': '}{which}{note}")
    return figure


def corruption_map(accuracies: Mapping[str, Sequence[float]]) -> Figure:
    """Shows the accuracy on corrupted images by corruption and severity, and the mean over the severities.

    Args:
        accuracies: By the name of the corruption, one accuracy (0..1) per severity.
    """
    names = list(accuracies)
    percent = np.array([[*row, np.mean(row)] for row in accuracies.values()]) * 100
    rows, columns = percent.shape
    figure = new_figure(7.5, 1.6 + 0.33 * rows)
    axes = figure.subplots()
    picture = axes.imshow(percent, cmap="viridis", vmin=0, vmax=100, aspect="auto", interpolation="nearest")
    bar = figure.colorbar(picture, ax=axes, aspect=40, pad=0.02)
    bar.set_label("accuracy, %")
    bar.outline.set_visible(False)
    axes.axvline(columns - 1.5, color="white", linewidth=4)
    axes.set_xticks(range(columns), [*map(str, range(1, columns)), "mean"])
    axes.set_yticks(range(rows), [name.replace("_", " ") for name in names])
    axes.set(xlabel="severity", title="Accuracy on corrupted images")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for (row, column), value in np.ndenumerate(percent):
        ink = "black" if value > 60 else "white"
        axes.text(column, row, f"{value:.1f}", ha="center", va="center", color=ink, fontsize=9)
    return figure


def calibration(panels: Mapping[str, Reliability]) -> Figure:
    """Plots the accuracy of predictions against their confidence, and the share of images with each confidence.

    Args:
        panels: One or two sets of bins, by the headings of their panels.
    """
    figure = new_figure(6 * len(panels), 5.4)
    middles = (np.arange(BINS) + 0.5) / BINS
    rows = figure.subplots(2, len(panels), squeeze=False, sharex=True, height_ratios=[3, 1])
    for (above, below), (heading, bins) in zip(rows.T, panels.items(), strict=True):
        filled = bins.counts.numpy() > 0
        accuracies, confidences = bins.accuracies.numpy()[filled], bins.confidences.numpy()[filled]
        above.bar(middles[filled], accuracies, 0.9 / BINS, color=BLUE, label="accuracy")
        said = {"label": "mean confidence", "markersize": 15, "markeredgewidth": 3}
        above.plot(middles[filled], confidences, linestyle="", marker="_", color=ORANGE, **said)
        above.plot([0, 1], [0, 1], "--", color=GREY, linewidth=1, label="accuracy = confidence")
        above.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
        above.set_title(heading, pad=above_legend(legend_above(above, 5.5)))
        below.bar(middles, bins.counts.numpy() / bins.images, 0.9 / BINS, color=GREY)
        below.set(xlabel="confidence", ylabel="share of images")
        below.set_ylim(bottom=0)
        for axes in (above, below):
            axes.grid()
            axes.set_axisbelow(True)
    return figure


def _grid(images: Tensor, captions: Sequence[str], framed: Sequence[bool] = (), heading: str = "") -> Figure:
    """Lays images out in as square a block as their number allows, with a caption under each; frames some."""
    rows = math.isqrt(len(captions))
    columns = math.ceil(len(captions) / rows)
    cell = GRID_WIDTH / columns
    lines = [line for caption in captions for line in caption.split("\n")]
    widest = 0.65 * max(map(cell_len, lines))  # a letter is about 0.65 of its height wide
    points = min(11.0, 0.92 * cell * 72 / widest)
    text = points * 1.4 * (captions[0].count("\n") + 1) / 72 + 0.14
    side = min(0.9 * cell, 3.5)
    first = 0.1 + (0.3 if heading else 0)
    height = first + rows * (side + text) + 0.05
    figure = new_figure(GRID_WIDTH, height, laid_out=False)
    # One pair of axes, in inches from the top left: axes for each image would take three times as long.
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    if heading:
        axes.text(GRID_WIDTH / 2, 0.1, heading, fontsize=12, ha="center", va="top")
    pixels = images.permute(0, 2, 3, 1).cpu().numpy()
    for index, (image, caption) in enumerate(zip(pixels, captions, strict=True)):
        left, top = (index % columns) * cell + (cell - side) / 2, first + (index // columns) * (side + text)
        axes.imshow(image, extent=(left, left + side, top + side, top), interpolation="nearest", aspect="auto")
        label = axes.text(left + side / 2, top + side + 0.06, caption, fontsize=points, ha="center", va="top")
        label.set_parse_math(False)
        if framed and framed[index]:
            axes.add_patch(Rectangle((left, top), side, side, fill=False, edgecolor=ORANGE, linewidth=4))
            label.set(color=ORANGE, fontweight="bold")
    axes.set(xlim=(0, GRID_WIDTH), ylim=(height, 0))
    return figure
