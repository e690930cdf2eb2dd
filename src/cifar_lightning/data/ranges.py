"""What the arguments of CIFAR10DataModule may be."""

from collections.abc import Mapping
from typing import Any

from cifar_lightning.data.absent import TRANSFORMS
from cifar_lightning.data.preprocessing import NORMALIZATIONS
from cifar_lightning.data.sources import SOURCES
from cifar_lightning.errors import InputError

FLIPS = ("none", "random", "alternating")


def check_ranges(arguments: Mapping[str, Any]) -> None:
    """Raises an InputError where one of all arguments is out of its range, or does not go with another."""
    h = arguments
    for name, ok, range_ in (
        ("source", h["source"] in SOURCES, " or ".join(SOURCES)),
        ("batch_size", h["batch_size"] >= 1, "1 or more"),
        ("eval_batch_size", h["eval_batch_size"] >= 1, "1 or more"),
        ("crop_padding", 0 <= h["crop_padding"] < 32, "0 to 31"),
        ("cutout", 0 <= h["cutout"] <= 32, "0 to 32"),
        ("synthetic_size", h["synthetic_size"] >= 10, "10 or more"),
        ("flip", h["flip"] in FLIPS, " or ".join(FLIPS)),
        ("normalization", h["normalization"] in NORMALIZATIONS, " or ".join(NORMALIZATIONS)),
        ("cutout", h["augment"] or not h["cutout"], "0, or augment true"),
        ("flip", h["augment"] or h["flip"] != "alternating", "random, or augment true"),
        ("val_split", h["val_split"] >= 0, "a count, or a fraction from 0 to 1"),
        ("val_split", not isinstance(h["val_split"], float) or h["val_split"] < 1, "a fraction below 1"),
        *((name, h[name] is None or callable(h[name]), "a callable of images, or none") for name in TRANSFORMS),
    ):
        if not ok:
            raise InputError(f"{name} {h[name]} is out of range: give {range_}")
