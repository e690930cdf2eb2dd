"""Compares several tested runs: the settings that differ, intervals, and significance tests of the differences."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count, product
from statistics import fmean, stdev
from string import ascii_uppercase
from typing import Any

from cifar_lightning.report import statistics
from cifar_lightning.report.predictions import Predictions
from cifar_lightning.report.results import copies_in, interval

DIFFERENCE = 0.002  # of accuracies: we compute how many seeds it takes to detect it
VERSIONS = ("torch", "torchvision", "lightning")
# Arguments of the Trainer for which 1 means one batch, and 1.0 means all batches.
LIMITS = {
    "limit_train_batches", "limit_val_batches", "limit_test_batches", "overfit_batches", "val_check_interval",
}  # fmt: skip
FIGURES = ("test_acc", "test_count", "val_acc", "fit_seconds", "accelerator", "devices", "precision", "parameters")


@dataclass(frozen=True)
class Tested:
    """A run that has been tested, as plain values.

    Attributes:
        folder: The name of the run's folder.
        results: The contents of its results.json.
        settings: Its settings, by their flags' names, such as `data.batch_size`.
        predictions: The prediction for each test image; None for a run of an earlier version.
        learnt: Digest of the training images and their labels; None if it is not known.
    """

    folder: str
    results: Mapping[str, Any]
    settings: Mapping[str, Any]
    predictions: Predictions | None
    learnt: str | None = None

    @property
    def accuracy(self) -> float:
        """The accuracy on the test images."""
        return float(self.results["test_acc"])

    @property
    def images(self) -> str | None:
        """Digest of the images that the run was tested on; None if it is not known."""
        found: str | None = self.results.get("test_images")  # from a test on corrupted images, without predictions
        return self.predictions.images if self.predictions else found


@dataclass(frozen=True)
class _Group:
    name: str
    runs: Sequence[Tested]

    @property
    def accuracies(self) -> list[float]:
        return [run.accuracy for run in self.runs]

    def names(self) -> list[str]:
        return [f"{self.name}{i}" for i in range(1, len(self.runs) + 1)] if len(self.runs) > 1 else [self.name]


def compared(runs: Sequence[Tested], free: Collection[str]) -> dict[str, Any]:
    """Compares runs; for the result see `compare` in run/comparison.py.

    Args:
        runs: Two or more.
        free: Settings that do not affect results.
    """
    groups = _grouped(runs, {*free, "seed"})
    pairs = [(groups[0], group) for group in groups[1:]]
    if not pairs and len(runs) == 2:
        pairs = [(_Group("A1", runs[:1]), _Group("A2", runs[1:]))]
    comparisons = [_comparison(*pair) for pair in pairs]
    tested = [comparison for comparison in comparisons if comparison["p"] is not None]
    for comparison, p in zip(tested, statistics.holm([c["p"] for c in tested]), strict=True):
        comparison |= {"p_holm": p, "more_than_noise": p < statistics.ALPHA}
    sd = statistics.pooled_sd([group.accuracies for group in groups])
    return {
        "settings": _differing(groups),
        "runs": [
            _values(run, name, group.name)
            for group in groups
            for name, run in zip(group.names(), group.runs, strict=True)
        ],
        "groups": [_spread(group) for group in groups if len(group.runs) > 1],
        "comparisons": comparisons,
        "seeds_needed": sd and {"difference": DIFFERENCE, "sd": sd, "seeds": statistics.needed(DIFFERENCE, sd)},
    }


def _grouped(runs: Sequence[Tested], apart_from: Collection[str]) -> list[_Group]:
    """Groups runs that have the same images, and the same settings except the seed.

    A run whose seed its group already has starts another group. It was trained elsewhere, or by another version: it is
    to be compared with the first, and is not a further seed.
    """
    found: list[tuple[dict[str, str], list[Tested]]] = []
    for run in runs:
        settings = run.settings.items()  # a resume may have added a setting that is None
        key = {name: _meant(name, value) for name, value in settings if name not in apart_from and value is not None}
        seed = run.settings["seed"]
        for other, group in found:
            if other == key and all(seed != member.settings["seed"] and _alike(run, member) for member in group):
                group.append(run)
                break
        else:
            found.append((key, [run]))
    names = chain.from_iterable(map("".join, product(ascii_uppercase, repeat=length)) for length in count(1))
    return [_Group(name, group) for name, (_, group) in zip(names, found, strict=False)]


def _meant(name: str, value: Any) -> str:
    """Returns a setting's value as text, the same for 0 and 0.0: Python code may give one, and a flag the other."""
    text = json.dumps(value, sort_keys=True)
    if value == 1 and name.removeprefix("trainer.") in LIMITS:
        return text
    return json.dumps(json.loads(text, parse_int=float), sort_keys=True)


def _alike(a: Tested, b: Tested) -> bool:
    """Whether two runs were trained on the same images, and tested on the same images, as far as is known."""
    return _same_images([a, b]) is not False and (None in (a.learnt, b.learnt) or a.learnt == b.learnt)


def _same_images(runs: Sequence[Tested]) -> bool | None:
    """Whether all runs were tested on the same images; None if it is not known."""
    known = {run.images for run in runs if run.images}
    # A test on corrupted images by an earlier version recorded only the names of the corruptions.
    named = {tuple(run.results["corruption_acc"]) for run in runs if "corruption_acc" in run.results}
    counts = {run.results["test_count"] for run in runs}
    if max(len(known), len(named), len(counts)) > 1:
        return False
    return True if all(run.images for run in runs) else None


def _differing(groups: Sequence[_Group]) -> dict[str, dict[str, Any]]:
    """Finds the settings and versions in which groups differ, by name; a list if they differ within a group."""
    all_known = all(run.learnt for group in groups for run in group.runs)
    values = {
        group.name: [
            {
                **run.settings,
                **({"training images": run.learnt} if all_known else {}),
                **{name: run.results.get(name) for name in VERSIONS},
            }
            for run in group.runs
        ]
        for group in groups
    }
    rows: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(chain(*chain(*values.values()))):
        row = {}
        for group, members in values.items():
            distinct = {_meant(name, member.get(name)): member.get(name) for member in members}
            in_order = sorted(distinct, key=lambda text: (len(text), text))  # 2 before 10
            row[group] = [distinct[key] for key in in_order] if len(distinct) > 1 else members[0].get(name)
        if len({_meant(name, value) for value in row.values()}) > 1:
            rows[name] = row
    return rows


def _values(run: Tested, name: str, group: str) -> dict[str, Any]:
    count = run.results["test_count"]
    return {
        "name": name,
        "group": group,
        "run": run.folder,
        "seed": run.settings["seed"],
        **{figure: run.results.get(figure) for figure in FIGURES},
        "test_acc_interval": interval(run.results, round(run.accuracy * count), count),
        "test_images": run.images,
    }


def _spread(group: _Group) -> dict[str, Any]:
    values = group.accuracies
    return {
        "name": group.name,
        "seeds": [run.settings["seed"] for run in group.runs],
        "mean": fmean(values),
        "sd": stdev(values),
        "mean_interval": statistics.mean_interval(values),
    }


def _comparison(a: _Group, b: _Group) -> dict[str, Any]:
    """Compares B with A: the difference of their accuracies, and a p-value, or why there is none."""
    found: dict[str, Any] = {
        "groups": [a.name, b.name],
        "difference": fmean(b.accuracies) - fmean(a.accuracies),
        "test": None,
        "p": None,
        "why": None,
    }
    runs = [*a.runs, *b.runs]
    found["same_images"] = _same_images(runs)
    if found["same_images"] is False:
        return found | {"why": "they were not tested on the same images"}
    if len(runs) > 2:
        return found | _by_seeds(a, b)
    return found | _by_images(a.runs[0], b.runs[0])


def _by_seeds(a: _Group, b: _Group) -> dict[str, Any]:
    result = statistics.welch(a.accuracies, b.accuracies)
    if result is None:
        single = next((group.name for group in (a, b) if len(group.runs) == 1), None)
        equal = next((group.name for group in (a, b) if len(set(group.accuracies)) == 1), None)
        why = f"{single} is a single run" if single else f"all runs of {equal} have the same accuracy, so no spread"
        return {"why": why}
    p, between = result
    return {
        "test": "welch",
        "p": p,
        "interval": statistics.of_shares(between),
        "bootstrap_interval": statistics.bootstrap(a.accuracies, b.accuracies),
    }


def _by_images(a: Tested, b: Tested) -> dict[str, Any]:
    if copies_in(a.results) > 1 or copies_in(b.results) > 1:
        why = "McNemar's test would count the differently corrupted copies of an image as separate images"
        return {"why": f"{why}: compare several seeds of each"}
    if not a.predictions or not b.predictions:
        without = [run.folder for run in (a, b) if run.predictions is None]
        it, its = ("it", "its") if len(without) == 1 else ("them", "their")
        why = f"there is no predictions.npz in {' and '.join(without)}"
        return {"why": f"{why}: evaluate {it}, and compare {its} evaluation/ instead"}
    right_a, right_b = a.predictions.right, b.predictions.right
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    return {
        "test": "mcnemar",
        "p": statistics.mcnemar(only_a, only_b),
        "interval": statistics.paired_interval(only_a, only_b, len(right_a)),
        "only_right": [only_a, only_b],
    }
