"""How far the iterations of a loader have come, and random numbers that depend only on that and on a seed."""

import random
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import torch

T = TypeVar("T")


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


class Progress:
    """Where the next iteration of a loader begins, and how far the others have come; see BatchLoader."""

    def __init__(self) -> None:
        self._next, self._follows = Place(), True  # where the next iteration begins; whether each one is a new epoch
        self._loaded: Place | None = None  # the place in a checkpoint, until an epoch has been completed from there
        self._under_way: dict[object, Place] = {}  # places of the unfinished iterations
        self._last = Place()  # where the iteration that ended last has stopped

    def copy(self) -> "Progress":
        """Returns the same progress without the unfinished iterations."""
        other = Progress()
        other.__dict__.update(self.__dict__, _under_way={})
        return other

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch of all iterations from now on."""
        if self._loaded is not None and self._loaded.epoch != epoch:
            self._loaded = None
        self._next = self._last = self._loaded or Place(epoch)
        self._follows = False
        self._under_way.clear()

    def follow(self, other: "Progress") -> None:
        """Makes each iteration a new epoch, after the last epoch that `other` (possibly this one) has begun."""
        self._next = other._next if other._follows else Place(other._next.epoch + 1)
        self._follows = True

    def state_dict(self) -> dict[str, Any]:
        """Returns the place of the unfinished iteration that is farthest on, or if there is none, of the last one."""
        return max(self._under_way.values(), default=self._last)._asdict()

    def load_state_dict(self, state_dict: dict[str, Any], batches: int) -> None:
        """Makes the next iteration continue from the place in `state_dict`, in an epoch of so many batches."""
        self._under_way.clear()
        self._loaded = self._last = place = Place(**state_dict)
        self._next = place if place.position < batches else Place(place.epoch + 1)

    def iterate(self, batches: Callable[[Place], Iterator[T]]) -> Iterator[T]:
        """Yields what `batches` does from the place on at which the next iteration begins, and follows it.

        This is a generator, which does nothing before its first `next`: Lightning calls `iter` once more than it
        iterates, and that call must not count as an epoch.
        """
        begin, iteration = self._next, object()
        if self._follows:
            self._next = Place(begin.epoch + 1)
        try:
            for position, batch in enumerate(batches(begin), begin.position + 1):
                self._under_way[iteration] = begin._replace(position=position)
                yield batch
            if not self._follows and self._next.epoch == begin.epoch:
                self._next, self._loaded = Place(begin.epoch, begin.lap + 1), None
        finally:
            self._last = self._under_way.pop(iteration, self._last)


def epoch_generator(seed: int, epoch: int, lap: int = 0) -> torch.Generator:
    """Returns a CPU generator that depends only on (seed, epoch, lap); those of neighbouring values are unrelated."""
    name = f"{seed}/{epoch}/{lap}" if lap else f"{seed}/{epoch}"
    return torch.Generator().manual_seed(random.Random(name).getrandbits(63))
