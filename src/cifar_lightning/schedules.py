"""The learning rate's schedules, by name: factors of the highest rate at a progress of 0 to 1 of the fit."""

import math
from collections.abc import Callable


def _one_cycle(progress: float) -> float:
    """Factor of the highest lr at `progress`, 0 to 1 of the fit (https://arxiv.org/abs/1708.07120)."""
    if progress < 0.3:
        return 1 / 25 + (1 - 1 / 25) * progress / 0.3
    return _cosine((progress - 0.3) / 0.7)


def _cosine(progress: float) -> float:
    """Factor of the highest lr at `progress`, 0 to 1 of the fit (https://arxiv.org/abs/1608.03983)."""
    return (1 + math.cos(math.pi * min(progress, 1.0))) / 2


SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "one-cycle": _one_cycle,
    "cosine": _cosine,
    "linear": lambda progress: max(0.0, 1.0 - progress),
}
