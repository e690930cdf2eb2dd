"""The page of a test: report.html, one file that loads nothing from the network. Its template is page.html.

The template only arranges the contents, which are computed here, in outcome.py, and in results.py.
"""

import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from cifar_lightning.console import decimal, rounded_down
from cifar_lightning.report.calibration import BINS
from cifar_lightning.report.curves import gradient_norm
from cifar_lightning.report.outcome import MATRIX_CLASSES, Cell, Outcome
from cifar_lightning.report.results import VERSIONS, copies_in, interval
from cifar_lightning.report.shown_classes import shown_classes
from cifar_lightning.report.template import percent, png, uri, write_html

HEAT_SIZE, HEAT_LEVELS = 16, 16  # of a map of evidence: few suffice, as it is smooth and the browser enlarges it
SHOWN_FACTS = {
    "parameters": "parameters", "checkpoint": "checkpoint", "step": "step of the tested weights",
    "test_views": "views of a test image", "precision": "precision", "devices": "devices",
    "accelerator": "accelerator", "seed": "seed",
    "global_batch_size": "global batch size", "fit_steps": "steps of the whole training",
    "images_seen": "images seen in training", "fit_seconds": "training time, seconds", "computed": "training ran",
}  # fmt: skip
COUNTS = ("parameters", "step", "global_batch_size", "fit_steps", "images_seen")


class Picture(NamedTuple):
    """A test image as the page shows it: image and map of evidence as data URIs, and its index in the test set."""

    image: str
    heat: str | None
    number: int
    true: str
    said: str
    confidence: str
    loss: str


def write_page(
    outcome: Outcome, results: Mapping[str, Any], figures: Mapping[str, str], matrix: Path, page: Path
) -> None:
    """Writes the page of an outcome and its results.json; `figures` are SVG of `calibration` and, if any, `curves`.

    `matrix` is a picture file of the confusion matrix, shown if there are too many classes for a table.
    """
    mistakes, doubtful, cells = outcome.mistakes().tolist(), outcome.doubtful().tolist(), outcome.cells()
    index = torch.tensor(sorted({*mistakes, *doubtful, *(i for cell in cells for i in cell.images)}), dtype=torch.int64)
    maps = outcome.grad_cam(outcome.test_images.images[index], outcome.predicted[index]) if len(index) else None
    pictures = _pictures(outcome, index, maps)
    few = len(outcome.classes) <= MATRIX_CLASSES
    right, images = int(outcome.confusion.diag().sum()), results["test_count"]
    rows, norm = outcome.rows, gradient_norm(outcome.rows)
    per_class, which = _per_class(results)
    contents = {
        "accuracy": results["test_acc"],
        "interval": interval(results, right, images),
        "copies": copies_in(results),
        "right": right,
        "images": images,
        "loss": results["test_loss"],
        "not_finite": results.get("not_finite", 0),
        "right_not_finite": int((outcome.not_finite & outcome.right).sum()),
        "top2": outcome.top2 if len(outcome.classes) > 2 else None,
        "checkpoint": Path(results["checkpoint"]).name,
        "about": _about(outcome, results),
        "facts": _facts(outcome, results),
        "settings": outcome.settings,
        "classes": outcome.classes,
        "per_class": per_class,
        "which_classes": which,
        "matrix": _matrix(results["confusion"], cells) if few else None,
        "matrix_picture": None if few or not matrix.exists() else uri(matrix.read_bytes()),
        "cells": [(cell, [pictures[i] for i in cell.images]) for cell in cells],
        "mistakes": [pictures[i] for i in mistakes],
        "mistaken": images - right,
        "doubtful": [pictures[i] for i in doubtful],
        "pictures": len(pictures),
        "grid": None if maps is None else tuple(maps.shape[1:]),
        "bins": BINS,
        "calibration": outcome.calibrations,
        "temperature": outcome.temperature,
        "train_labels": Path(labels).name if (labels := results.get("data", {}).get("train_labels")) else None,
        "held_out": len(outcome.held_out[1]) if outcome.held_out else 0,
        "norm": norm,
        "last": {name: _last(rows, name) for name in ("train_loss", "val_loss", "val_acc", *([norm] if norm else []))},
        "figures": figures,
    }
    write_html("page.html", contents, page)


def _about(outcome: Outcome, results: Mapping[str, Any]) -> list[str]:
    """Returns what was tested, in short, so that the pages of two runs can be told apart."""
    parameters, source = results.get("parameters"), results.get("data", {}).get("source")
    return [
        *([outcome.network] if outcome.network else []),
        *([] if parameters is None else [f"{parameters:,} parameters"]),
        *([] if outcome.lr is None else [f"learning rate {outcome.lr:g}"]),
        *([] if source is None else [f"images: {source}"]),
        f"{len(outcome.classes):,} classes",
        Path(results["checkpoint"]).name,
        f"step {results['step']:,}",
    ]


def _facts(outcome: Outcome, results: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = [("network", outcome.network)] if outcome.network else []
    facts += [] if outcome.lr is None else [("learning rate", f"{outcome.lr:g}")]
    told = {name: results[name] for name in SHOWN_FACTS if results.get(name) is not None}
    facts += [(SHOWN_FACTS[name], f"{value:,}" if name in COUNTS else str(value)) for name, value in told.items()]
    for group in ("data", "trainer"):
        facts += [(f"{group}: {name}", str(value)) for name, value in results.get(group, {}).items()]
    facts += [(name, results[name]) for name in VERSIONS if name in results]
    return [*facts, ("Python", platform.python_version())]


def _per_class(results: Mapping[str, Any]) -> tuple[list[dict[str, Any]], str]:
    """Returns the rows of the table of classes, and says which classes these are, if not all."""
    named = list(results["per_class_acc"].items())
    shown, which = shown_classes([accuracy for _, accuracy in named])
    rows = []
    for label in shown:
        name, accuracy = named[label]
        counts = results["confusion"][label]
        right, images = counts[label], sum(counts)
        ends = interval(results, right, images) if images else None
        rows.append({"name": name, "images": images, "right": right, "accuracy": accuracy, "interval": ends})
    return rows, which


def _matrix(confusion: Sequence[Sequence[int]], cells: Sequence[Cell]) -> list[list[dict[str, Any]]]:
    """Returns each cell's count, the depth of its colour, and whether the page shows images of it."""
    filled = {(cell.true, cell.said) for cell in cells}
    return [
        [
            # a square root, because on a linear scale a confusion of 5 % would be almost white
            {"count": count, "depth": math.sqrt(count / max(1, sum(row))), "filled": (true, said) in filled}
            for said, count in enumerate(row)
        ]
        for true, row in enumerate(confusion)
    ]


def _last(rows: Iterable[Mapping[str, Any]], name: str) -> tuple[int, float] | None:
    """Returns the last step at which a figure was logged, and its value."""
    logged = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
    return logged[-1] if logged else None


def _pictures(outcome: Outcome, index: Tensor, maps: Tensor | None) -> dict[int, Picture]:
    """Returns the test images at these indices, with their maps of evidence if there are any."""
    names = outcome.classes
    pixels = outcome.test_images.part(index).pixels
    columns = (
        [None] * len(index) if maps is None else _heats(maps),
        outcome.numbers[index].tolist(),
        [names[label] for label in outcome.labels[index].tolist()],
        [names[label] for label in outcome.predicted[index].tolist()],
        [percent(rounded_down(share), 1) for share in outcome.confidences[index].tolist()],
        [decimal(loss, 2) for loss in outcome.losses[index].tolist()],
    )
    found = zip((png(Image.fromarray(image)) for image in pixels), *columns, strict=True)
    return {i: Picture(*picture) for i, picture in zip(index.tolist(), found, strict=True)}


def _heats(maps: Tensor) -> list[str | None]:
    """Converts maps from 0 to 1 to small overlays for images: red where there is evidence, dark elsewhere."""
    from matplotlib import colormaps

    if max(maps.shape[1:]) > HEAT_SIZE:
        maps = F.adaptive_avg_pool2d(maps[:, None], HEAT_SIZE)[:, 0]
    levels = (maps * (HEAT_LEVELS - 1)).round().to(torch.uint8).numpy()
    colours = (255 * colormaps["inferno"](np.linspace(0, 1, HEAT_LEVELS))[:, :3]).round().astype(np.uint8)
    alphas = bytes(np.linspace(150, 170, HEAT_LEVELS).astype(np.uint8))
    found: list[str | None] = []
    for level in levels:
        image = Image.fromarray(level)
        image.putpalette(colours.tobytes())
        found.append(png(image, transparency=alphas))
    return found
