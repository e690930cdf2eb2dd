"""Checks that LitNet's arguments are in range."""

import math
from collections.abc import Mapping
from typing import Any

from cifar_lightning.data.class_names import named_twice
from cifar_lightning.errors import InputError, quoted


def check_ranges(h: Mapping[str, Any]) -> None:
    """Raises an InputError if one of LitNet's arguments is out of range; LitNet's docstring explains them."""
    rates = {name: h[name] is None or 0 < h[name] < math.inf for name in ("lr", "muon_lr", "bias_lr", "head_lr")}
    for name, ok, rule in (
        *((name, ok, "must be more than 0, and finite") for name, ok in rates.items()),
        ("momentum", 0 <= h["momentum"] < 1, "must be at least 0 and less than 1"),
        ("weight_decay", 0 <= h["weight_decay"] < math.inf, "must be at least 0, and finite"),
        ("label_smoothing", 0 <= h["label_smoothing"] < 1, "must be at least 0 and less than 1"),
        ("nesterov", h["momentum"] > 0 or not h["nesterov"], "must be false if momentum is 0"),
        ("muon_momentum", 0 <= h["muon_momentum"] < 1, "must be at least 0 and less than 1"),
        ("sizes", all(size > 0 for size in h["sizes"] or []), "every side must be at least 1 pixel"),
        ("classes", len(h["classes"]) >= 2, "there must be at least two"),
    ):
        if not ok:
            raise InputError(f"{name} {h[name]}: {rule}")
    if (twice := named_twice(h["classes"])) is not None:
        raise InputError(
            f"classes has {quoted(twice)} more than once, so results could not tell them apart: "
            "use a different name for each class"
        )
