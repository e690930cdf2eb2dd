"""How many copies of each image a test has: a photograph that is corrupted in many ways is still one image."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cifar_lightning.data.test_sets import SEVERITIES, is_corruption


def copies_in(results: Mapping[str, Any]) -> int:
    """Reads the number of copies of each image from the results of a test.

    Each image contributes the mean over its copies, a number from 0 to 1. If n images have a mean of p, the variance of
    the accuracy is at most p (1 - p) / n. So the interval is computed for n images, whatever the number of copies.
    """
    if "corruption_acc" in results:
        return sum(map(len, results["corruption_acc"].values()))
    return SEVERITIES if is_corruption(Path(results.get("data", {}).get("data_dir", ""))) else 1
