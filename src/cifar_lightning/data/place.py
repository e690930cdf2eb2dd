"""Place: how far an iteration has come. Its random numbers depend only on place and seed, and are drawn on the CPU."""

import random
from typing import NamedTuple

import torch


class Place(NamedTuple):
    """How far an iteration has come.

    Attributes:
        epoch: The epoch of the iteration.
        lap: Number of complete passes over the images that came before it in this epoch.
        position: Number of batches that it has yielded.
    """

    epoch: int = 0
    lap: int = 0
    position: int = 0


def epoch_generator(seed: int, epoch: int, lap: int = 0) -> torch.Generator:
    """Returns a CPU generator that depends only on (seed, epoch, lap); those of neighbouring values are unrelated."""
    name = f"{seed}/{epoch}/{lap}" if lap else f"{seed}/{epoch}"
    return torch.Generator().manual_seed(random.Random(name).getrandbits(63))
