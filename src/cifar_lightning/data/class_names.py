"""The same classes under other names, or in another order; and two under one."""

from collections import Counter
from collections.abc import Sequence

# As https://docs.pytorch.org/tutorials/beginner/blitz/cifar10_tutorial.html and STL-10 call two of CIFAR-10's.
_ALSO = {"plane": "airplane", "aeroplane": "airplane", "car": "automobile"}


def numbers_in(classes: Sequence[str], names: Sequence[str]) -> list[int] | None:
    """Of each of `names` its number in `classes`; None where they are not the same ones."""
    if list(names) == list(classes):
        return list(range(len(classes)))
    known = {_plain(name): number for number, name in enumerate(classes)}
    found = [known.get(_plain(name), -1) for name in names]
    return found if sorted(found) == list(range(len(classes))) else None


def named_twice(classes: Sequence[str]) -> str | None:
    """The first name that two classes have, so that no figure could say which it is of; None where each has its own."""
    return next((name for name, count in Counter(classes).items() if count > 1), None)


def _plain(name: str) -> str:
    name = name.casefold()
    return _ALSO.get(name, name)
