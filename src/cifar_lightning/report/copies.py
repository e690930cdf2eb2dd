"""How often a test has each of its images: one that is corrupted in many ways is one photograph still."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cifar_lightning.data.test_sets import SEVERITIES, is_corruption


def copies_in(results: Mapping[str, Any]) -> int:
    """That, by the results of the test.

    Right is the mean over an image's copies, which lies within 0 to 1: of n images with a mean of p, p (1 - p) / n
    bounds the variance of the accuracy. So its interval is that of n images, however many copies there are.
    """
    if "corruption_acc" in results:
        return sum(map(len, results["corruption_acc"].values()))
    return SEVERITIES if is_corruption(Path(results.get("data", {}).get("data_dir", ""))) else 1
