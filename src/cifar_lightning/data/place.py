"""Place: how far an iteration has come, and what is random there: a function of it and the seed, drawn on the CPU."""

import random
from typing import NamedTuple

import torch


class Place(NamedTuple):
    """How far an iteration has come.

    Attributes:
        epoch: The epoch it is of.
        lap: Whole passes over the images that came before it in that epoch.
        position: Batches that it has yielded.
    """

    epoch: int = 0
    lap: int = 0
    position: int = 0


def epoch_generator(seed: int, epoch: int, lap: int = 0) -> torch.Generator:
    """A CPU generator that is a function of (seed, epoch, lap) only; neighbouring ones are unrelated."""
    name = f"{seed}/{epoch}/{lap}" if lap else f"{seed}/{epoch}"
    return torch.Generator().manual_seed(random.Random(name).getrandbits(63))
