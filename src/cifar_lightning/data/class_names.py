"""Recognises the same classes under other names or in another order, and finds two classes with one name."""

from collections import Counter
from collections.abc import Sequence

# Names for two of CIFAR-10's classes, in https://docs.pytorch.org/tutorials/beginner/blitz/cifar10_tutorial.html and
# in STL-10.
_ALSO = {"plane": "airplane", "aeroplane": "airplane", "car": "automobile"}


def numbers_in(classes: Sequence[str], names: Sequence[str]) -> list[int] | None:
    """Returns for each of `names` its index in `classes`; None if these are not the same classes."""
    if list(names) == list(classes):
        return list(range(len(classes)))
    known = {_plain(name): number for number, name in enumerate(classes)}
    found = [known.get(_plain(name), -1) for name in names]
    return found if sorted(found) == list(range(len(classes))) else None


def named_twice(classes: Sequence[str]) -> str | None:
    """Returns the first name that two classes share, as no figure could tell them apart; None if all names differ."""
    return next((name for name, count in Counter(classes).items() if count > 1), None)


def _plain(name: str) -> str:
    name = name.casefold()
    return _ALSO.get(name, name)
