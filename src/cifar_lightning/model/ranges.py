"""What LitNet's arguments may be, and whether a checkpoint is of the same."""

from collections.abc import Mapping
from typing import Any

from cifar_lightning.errors import InputError
from cifar_lightning.model.compilation import MODES
from cifar_lightning.model.evaluation import VIEWS
from cifar_lightning.model.schedules import SCHEDULES


def check_ranges(h: Mapping[str, Any], classes: int) -> None:
    """Raises an InputError where one of LitNet's arguments is out of its range; see there what they are."""
    rates = {name: h[name] is None or h[name] > 0 for name in ("muon_lr", "bias_lr", "head_lr")}
    for name, ok, range_ in (
        ("lr", h["lr"] > 0, "more than 0"),
        ("momentum", 0 <= h["momentum"] < 1, "0 to 1, without 1"),
        ("weight_decay", h["weight_decay"] >= 0, "0 or more"),
        ("label_smoothing", 0 <= h["label_smoothing"] < 1, "0 to 1, without 1"),
        ("nesterov", h["momentum"] > 0 or not h["nesterov"], "false where momentum is 0"),
        ("schedule", h["schedule"] in SCHEDULES, " or ".join(SCHEDULES)),
        ("muon_momentum", 0 <= h["muon_momentum"] < 1, "0 to 1, without 1"),
        *((name, ok, "more than 0") for name, ok in rates.items()),
        ("sizes", all(size > 0 for size in h["sizes"] or []), "sides of 1 pixel or more"),
        ("compile", h["compile"] in MODES, " or ".join(MODES)),
        ("test_views", h["test_views"] in VIEWS, " or ".join(VIEWS)),
        ("classes", classes >= 2, "two or more"),
    ):
        if not ok:
            raise InputError(f"{name} {h[name]} is out of range: give {range_}")


def check_network(h: Mapping[str, Any], checkpoint: Mapping[str, Any]) -> None:
    """Raises an InputError for a checkpoint of a network of one's own, where the one at hand was built by name."""
    if "net" in h and "net" not in checkpoint.get("hyper_parameters", {"net": None}):
        raise InputError(
            "the checkpoint is of a network of your own, which it does not hold: "
            "give LitNet.load_from_checkpoint(path, net=...)"
        )
