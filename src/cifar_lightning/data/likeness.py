"""Describes what CIFAR's images look like, by four numbers, and finds pictures that look different."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

EVEN = 1  # neighbouring pixels count as equal up to one step of rounding


class Range(NamedTuple):
    """The range of a number over all images but a thousandth at either end, and words for a picture outside it."""

    low: float
    high: float
    below: str
    above: str


# Measured on CIFAR-10's 50,000 training images, re-encoded as JPEG: see docs/trained.md.
RANGES = {
    "brightness": Range(0.1164, 0.8986, "darker", "brighter"),
    "contrast": Range(0.0429, 0.3809, "less contrast", "more contrast"),
    "grain": Range(0.1072, 0.6636, "smoother", "grainier"),
    "evenness": Range(0.0, 0.63, "", "more even"),
}


def unlike(images: Sequence[npt.NDArray[np.uint8]]) -> list[str]:
    """Says in what each picture exceeds 999 of 1,000 of CIFAR-10's training images; empty if in nothing.

    This says nothing about what a picture shows: a face is as likely as a cat.

    Args:
        images: The pictures, each uint8 `(32, 32, 3)`.
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
    """Computes the four numbers of each image, `(N,)` each.

    They are the mean brightness; the contrast, which is the standard deviation of the brightness; the grain, which is
    how much neighbouring pixels differ, relative to the contrast; and the evenness, which is the share of horizontally
    neighbouring pixels with the same colour.
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
