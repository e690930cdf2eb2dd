"""results.json: what it holds, and its file."""

import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifar_lightning.data.layouts.test_sets import SEVERITIES, is_corruption
from cifar_lightning.files import strict_json, write_atomically
from cifar_lightning.report.statistics import Interval, wilson

if TYPE_CHECKING:
    from torch import Tensor

VERSIONS = ("torch", "torchvision", "lightning", "cifar_lightning")  # of these packages are in results.json


def results_of(
    confusion: "Tensor", loss: float, classes: Sequence[str], facts: Mapping[str, Any], not_finite: int
) -> dict[str, Any]:
    """Returns the contents of results.json; see `Outcome`. `not_finite` images had logits of NaN or infinity."""
    counts, right = confusion.sum(1).tolist(), confusion.diag().tolist()
    accuracies = [r / n if n else None for r, n in zip(right, counts, strict=True)]
    return {
        "test_acc": sum(right) / sum(counts),
        "test_loss": loss,
        "test_count": sum(counts),
        # a class without test images has no accuracy, which is not an accuracy of 0
        "per_class_acc": dict(zip(classes, accuracies, strict=True)),
        "confusion": confusion.tolist(),
        **({"not_finite": not_finite} if not_finite else {}),
        **facts,
        **{name: importlib.metadata.version(name) for name in VERSIONS},
    }


def write_results(results: Mapping[str, Any], output: Path) -> None:
    """Writes results.json into the folder `output`, with null for NaN and infinity."""
    text = _as_json(results)
    write_atomically(output / "results.json", text.encode())


def _as_json(results: Mapping[str, Any]) -> str:
    """Formats one entry per line, and one row of confusion counts: 1,000 classes have a million counts."""
    if "confusion" not in results:  # the results of many runs
        return strict_json(results, indent=2) + "\n"
    rows = ",\n".join(f"    {json.dumps(row)}" for row in results["confusion"])
    text = strict_json({**results, "confusion": []}, indent=2)
    return text.replace('"confusion": []', f'"confusion": [\n{rows}\n  ]', 1) + "\n"


def read_results(output: Path) -> dict[str, Any]:
    """Reads the results.json that `report` wrote into `output`. NaN, which earlier versions wrote, becomes None."""
    text = (output / "results.json").read_text()
    results: dict[str, Any] = json.loads(text, parse_constant=lambda name: None)
    return results


def interval(results: Mapping[str, Any], right: int, count: int) -> Interval:
    """Computes the interval of an accuracy in a test with these results: `right` of its `count` images are right.

    Each image contributes the mean over its copies, a number from 0 to 1. If n images have a mean of p, the variance of
    the accuracy is at most p (1 - p) / n. So the interval is computed for n images, whatever the number of copies.
    """
    copies = copies_in(results)
    return wilson(right / copies, count / copies)


def copies_in(results: Mapping[str, Any]) -> int:
    """Returns how many copies of each image a test had: a photograph corrupted in many ways is still one image."""
    if "corruption_acc" in results:
        return sum(map(len, results["corruption_acc"].values()))
    return SEVERITIES if is_corruption(Path(results.get("data", {}).get("data_dir", ""))) else 1
