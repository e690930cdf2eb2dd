"""The page of a comparison: one file that loads nothing from the network. Its template is comparison.html.

comparison.py computes whether a difference is more than noise; this module breaks it down by class and by image.
"""

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from cifar_lightning.data.image_set import ImageSet
from cifar_lightning.report import comparison_words as words
from cifar_lightning.report import statistics
from cifar_lightning.report.comparison import Tested
from cifar_lightning.report.results import interval
from cifar_lightning.report.shown_classes import shown_classes
from cifar_lightning.report.template import png, write_html

PICTURES = 24  # at most, for each kind of disagreement
Sides = Mapping[str, Sequence[Tested]]


class Kind(NamedTuple):
    """Images on which two networks agree, or disagree, in one way: how many, and some of them."""

    name: str
    total: int
    pictures: list[dict[str, Any]]


def write_comparison(
    comparison: Mapping[str, Any], runs: Sequence[Tested], images: ImageSet | None, page: Path
) -> None:
    """Writes the page for the result of `compared`; `images` are the images of all tests, if they are at hand."""
    by_folder = {run.folder: run for run in runs}
    sides = _sides(comparison, by_folder)
    classes, which = _per_class(comparison, sides)
    pairs = comparison["comparisons"]
    image_by_image = [pair["test"] for pair in pairs] == ["mcnemar"]
    contents = {
        "comparison": comparison,
        "heading": _heading(comparison),
        "groups": list(dict.fromkeys(run["group"] for run in comparison["runs"])),
        "tiles": [(name, *_accuracy(comparison, name)) for name in sides],
        "times": [_time(run, by_folder[run["run"]].results.get("images_seen")) for run in comparison["runs"]],
        "paces": [_pace(pair, sides) for pair in pairs],
        "sides": list(sides),
        "classes": classes,
        "which_classes": which,
        "figures": _plots(comparison, list(sides), classes),
        "kinds": _kinds(sides, images) if image_by_image else [],
        "at_hand": images is not None,
        "words": words,
    }
    write_html("comparison.html", contents, page)


def _sides(comparison: Mapping[str, Any], runs: Mapping[str, Tested]) -> dict[str, list[Tested]]:
    """Returns the sides that are compared, by name: groups, or two runs of one group."""
    members: dict[str, list[Tested]] = {}
    for run in comparison["runs"]:
        for name in {run["name"], run["group"]}:
            members.setdefault(name, []).append(runs[run["run"]])
    names = chain(*(pair["groups"] for pair in comparison["comparisons"]))
    return {name: members[name] for name in dict.fromkeys(names)} or {"A": members["A"]}


def _heading(comparison: Mapping[str, Any]) -> str:
    runs, pairs = comparison["runs"], comparison["comparisons"]
    if len(pairs) != 1:
        groups = len({run["group"] for run in runs})
        return f"{len(runs)} runs compared, in {groups} groups" if groups > 1 else f"{len(runs)} seeds of one recipe"
    (pair,) = pairs
    (a, b), difference = pair["groups"], pair["difference"]
    if pair["same_images"] is False:
        return f"{a} and {b} were tested on different images"
    if not difference:
        return f"{a} and {b} have the same accuracy"
    text = f"{b} is {100 * abs(difference):.2f} points {'better' if difference > 0 else 'worse'} than {a}"
    return f"{text}: {words.verdict(pair)}"


def _accuracy(comparison: Mapping[str, Any], side: str) -> tuple[float, Sequence[float] | None, str]:
    """Returns the accuracy of a side, its interval, and what they are based on."""
    for group in comparison["groups"]:
        if group["name"] == side:
            return group["mean"], group["mean_interval"], f"mean of {len(group['seeds'])} seeds"
    run = next(run for run in comparison["runs"] if side in (run["name"], run["group"]))
    return run["test_acc"], run["test_acc_interval"], f"{run['test_count']:,} test images"


def _time(run: Mapping[str, Any], images_seen: int | None) -> dict[str, Any]:
    """Tells how long the training of a run took, on which devices, and how many images it saw in that time."""
    seconds = run["fit_seconds"]
    return {
        **run,
        "images_seen": images_seen,
        "pace": images_seen / seconds if images_seen is not None and seconds else None,
        # the device and precision of an evaluation are not those of the training
        "device": words.device(run),
        "precision": "n/a" if seconds is None else run["precision"],
    }


def _pace(pair: Mapping[str, Any], sides: Sides) -> str:
    """Says how long the training of one side took, relative to the other."""
    a, b = pair["groups"]
    seconds: list[list[Any]] = [[run.results.get("fit_seconds") for run in sides[name]] for name in (a, b)]
    if not all(chain(*seconds)):
        return f"{b} - {a}: the training time is not known for all runs."
    places = [{(run.results.get("devices"), run.results.get("accelerator")) for run in sides[name]} for name in (a, b)]
    if places[0] != places[1] or len(places[0]) > 1:
        return f"{b} - {a}: the runs were trained on different devices, so their times are not compared."
    means = [fmean(values) for values in seconds]
    return f"{b} took {means[1] / means[0]:.2f} times as long as {a}: {means[1]:,.1f} s against {means[0]:,.1f} s."


def _per_class(comparison: Mapping[str, Any], sides: Sides) -> tuple[list[dict[str, Any]], str]:
    """Returns for each class the accuracy of each side, and each difference; nothing if the runs' classes differ.

    Also says which classes these are, if not all.
    """
    runs = list(chain(*sides.values()))
    names = list(runs[0].results["per_class_acc"])
    if any(set(run.results["per_class_acc"]) != set(names) for run in runs):
        return [], ""
    first = next(iter(sides.values()))
    shown, which = shown_classes([_mean([run.results["per_class_acc"][name] for run in first]) for name in names])
    rows = [
        {
            "name": names[label],
            "images": sum(runs[0].results["confusion"][label]),
            "accuracies": [_of_class(members, names[label]) for members in sides.values()],
            "differences": [_difference(pair, sides, names[label]) for pair in comparison["comparisons"]],
        }
        for label in shown
    ]
    return rows, which


def _of_class(members: Sequence[Tested], name: str) -> tuple[float, Sequence[float] | None] | None:
    """Returns the accuracy of a side on a class, and its interval; None if the class has no images."""
    accuracies = [run.results["per_class_acc"][name] for run in members]
    if (mean := _mean(accuracies)) is None:
        return None
    if len(members) > 1:
        return mean, statistics.mean_interval(accuracies)
    results = members[0].results
    label = list(results["per_class_acc"]).index(name)
    counts = results["confusion"][label]
    return mean, interval(results, counts[label], sum(counts))


def _difference(pair: Mapping[str, Any], sides: Sides, name: str) -> tuple[float, Sequence[float] | None] | None:
    """Returns the difference of two sides on a class, with an interval if their difference overall was tested."""
    a, b = (sides[side] for side in pair["groups"])
    values = [[run.results["per_class_acc"][name] for run in members] for members in (a, b)]
    means = [_mean(accuracies) for accuracies in values]
    if means[0] is None or means[1] is None:
        return None
    between = None
    if pair["test"] == "welch" and (found := statistics.welch(*values)):
        between = statistics.of_shares(found[1])
    elif pair["test"] == "mcnemar" and a[0].predictions and b[0].predictions:
        of_it = a[0].predictions.labels == list(a[0].results["per_class_acc"]).index(name)
        right = [run.predictions.right[of_it] for run in (a[0], b[0]) if run.predictions]
        only = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
        between = statistics.paired_interval(*only, int(of_it.sum()))
    return means[1] - means[0], between


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known and len(known) == len(values) else None


def _plots(comparison: Mapping[str, Any], sides: Sequence[str], classes: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Draws, as SVG, the accuracies of all runs and groups, and the accuracies on each class."""
    from cifar_lightning.report import drawing, plots_of_runs

    rows: list[tuple[str, str, Any]] = []  # the name of a row, its series, and the series' value there
    spreads = {group["name"]: group for group in comparison["groups"]}
    for group in dict.fromkeys(run["group"] for run in comparison["runs"]):
        members = [run for run in comparison["runs"] if run["group"] == group]
        rows += [(run["name"], group, (run["test_acc"], run["test_acc_interval"])) for run in members]
        if group in spreads:
            rows.append((f"{group}, mean", group, (spreads[group]["mean"], spreads[group]["mean_interval"])))
    names = [name for name, _, _ in rows]
    series = {
        group: [found if group == other else None for _, other, found in rows]
        for group in dict.fromkeys(group for _, group, _ in rows)
    }
    with drawing.own_style():
        figures = {"accuracies": plots_of_runs.intervals(names, series)}
        if classes:
            by_side = {name: [row["accuracies"][i] for row in classes] for i, name in enumerate(sides)}
            names = [row["name"] for row in classes]
            figures["classes"] = plots_of_runs.intervals(names, by_side)
        for figure in figures.values():
            figure.draw_without_rendering()  # lays the figure out
        return {name: drawing.as_svg(figure, name) for name, figure in figures.items()}


def _kinds(sides: Sides, images: ImageSet | None) -> list[Kind]:
    """Counts the images on which two networks agree, and those on which they disagree, with some pictures of these."""
    (a, *_), (b, *_) = sides.values()
    assert a.predictions is not None
    assert b.predictions is not None
    right_a, right_b = a.predictions.right, b.predictions.right
    same = a.predictions.predicted == b.predictions.predicted
    name_a, name_b = sides
    kinds = {
        "Both are right": (right_a & right_b, False),
        f"Only {name_a} is right": (right_a & ~right_b, True),
        f"Only {name_b} is right": (right_b & ~right_a, True),
        "Both are wrong, with the same prediction": (~right_a & same, False),
        "Both are wrong, with different predictions": (~right_a & ~right_b & ~same, True),
    }
    found = []
    for name, (members, disagree) in kinds.items():
        index = torch.from_numpy(members).nonzero().squeeze(1)
        shown = index[torch.linspace(0, len(index) - 1, min(PICTURES, len(index))).long()]  # spread evenly
        pictures = _pictures(sides, images, shown) if images and disagree else []
        found.append(Kind(name, len(index), pictures))
    return found


def _pictures(sides: Sides, images: ImageSet, index: Tensor) -> list[dict[str, Any]]:
    said = {name: run.predictions.predicted for name, (run, *_) in sides.items() if run.predictions}
    return [
        {
            "image": png(Image.fromarray(image)),
            "number": i,
            "true": images.classes[images.labels[i]],
            "said": {name: images.classes[predicted[i]] for name, predicted in said.items()},
        }
        for i, image in zip(index.tolist(), images.part(index).pixels, strict=True)
    ]
