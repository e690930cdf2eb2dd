"""What CIFAR's images look like, as far as four numbers say it, and pictures that do not."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

EVEN = 1  # two neighbours are alike up to a step of rounding


class Range(NamedTuple):
    """Where a number lies for all but a thousandth of the images at either end, and what a picture is beyond."""

    low: float
    high: float
    below: str
    above: str


# Of CIFAR-10's 50,000 training images, re-encoded as JPEG: see docs/trained.md.
RANGES = {
    "brightness": Range(0.1164, 0.8986, "darker", "brighter"),
    "contrast": Range(0.0429, 0.3809, "of less contrast", "of more contrast"),
    "grain": Range(0.1072, 0.6636, "smoother", "of finer grain"),
    "evenness": Range(0.0, 0.63, "", "more even"),
}


def unlike(images: Sequence[npt.NDArray[np.uint8]]) -> list[str]:
    """In what each picture is beyond 999 of 1,000 of CIFAR-10's training images; empty where it is not.

    It says nothing of what is in a picture: a face is as likely as a cat.

    Args:
        images: uint8 `(32, 32, 3)` each.
    """
    if not images:
        return []
    numbers = look(np.stack(images))
    return [", ".join(_beyond({name: values[i] for name, values in numbers.items()})) for i in range(len(images))]


def _beyond(numbers: Mapping[str, float]) -> Iterator[str]:
    for name, number in numbers.items():
        low, high, below, above = RANGES[name]
        if not low <= number <= high:
            yield below if number < low else above


def look(images: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.float32]]:
    """The numbers of each image, `(N,)` each.

    Its mean brightness; the contrast, the standard deviation of that; the grain, how much neighbours differ, as a
    share of the contrast; and the evenness, how many have a neighbour of the same colour.
    """
    grey = images.mean(3, dtype=np.float32) / 255
    contrast = grey.std((1, 2))
    steps = [np.abs(np.diff(grey, axis=axis)).mean((1, 2)) for axis in (1, 2)]
    apart = np.abs(np.diff(images.astype(np.int16), axis=2)).max(3)
    return {
        "brightness": grey.mean((1, 2)),
        "contrast": contrast,
        "grain": np.divide(sum(steps) / 2, contrast, out=np.zeros_like(contrast), where=contrast > 0),
        "evenness": (apart <= EVEN).mean((1, 2), dtype=np.float32),
    }
