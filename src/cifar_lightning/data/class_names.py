"""The same classes under other names, or in another order."""

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


def _plain(name: str) -> str:
    name = name.casefold()
    return _ALSO.get(name, name)
