"""Shortens names to the room there is for them, keeping their ends, which most often tell them apart."""

import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from rich.cells import cell_len, chop_cells
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.text import Text

SHORTEST = 5  # characters that any name keeps


def shortened(name: str, width: int) -> str:
    """Shortens a name by leaving out its middle. An East Asian character counts as two.

    Args:
        name: The name, such as a class's or a file's.
        width: The maximum number of characters, at least 4.
    """
    if cell_len(name) <= width:
        return name
    head = chop_cells(name, (width - 1) // 3)[0]
    tail = chop_cells(name[::-1], width - 1 - cell_len(head))[0][::-1]
    return f"{head}…{tail}"


def shortened_apart(names: Iterable[str], width: int) -> dict[str, str]:
    """Shortens names like `shortened`, but cuts names that would become equal at the place where they differ.

    Args:
        names: Names that are shown together.
        width: The maximum number of characters of each, at least 5.
    """
    found = {name: shortened(name, width) for name in names}
    for alike in _alike(found):
        found |= _apart(alike, width)
    return found


def _alike(found: Mapping[str, str]) -> list[list[str]]:
    """Groups the names that have been shortened to the same text."""
    groups = defaultdict(list)
    for name, text in found.items():
        groups[text].append(name)
    return [group for group in groups.values() if len(group) > 1]


def _apart(names: Sequence[str], width: int) -> dict[str, str]:
    """Shortens names to their common beginning, and what follows the place at which they begin to differ."""
    beginning, head = _beginning(names), chop_cells(names[0], (width - 2) // 3)[0]
    room = width - 1 - cell_len(head)
    digits = re.search(rf"\d{{0,{room // 4}}}$", beginning)  # for 007 and 012, not only 07 and 12
    start = len(beginning) - len(digits[0] if digits else "")
    rest = {name: name[start:] for name in names}
    found = {
        name: f"{head}…{end if cell_len(end) <= room else chop_cells(end, room - 1)[0] + '…'}"
        for name, end in rest.items()
    }
    for alike in _alike(found):
        if len(_beginning(alike)) > len(beginning):  # otherwise nothing is left to tell them apart
            found |= _apart(alike, width)
    return found


@dataclass(frozen=True)
class Name:
    """A name in a cell of a table: on one line, and shortened if its column is too narrow.

    Attributes:
        name: The name.
        others: The names in its column, from which it must stay distinct.
    """

    name: str
    others: Collection[str] = ()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yields the name, shortened to the available width."""
        yield Text(shortened_apart([self.name, *self.others], max(SHORTEST, options.max_width))[self.name])

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        """Returns the minimum and maximum width."""
        width = cell_len(self.name)
        return Measurement(min(SHORTEST, width), width)


def common_folder(files: Iterable[str]) -> str:
    """Returns the folder that all paths begin with, including its separator; empty if there is none."""
    beginning = _beginning(list(files))
    folder = beginning[: beginning.rfind(os.sep) + 1]
    return folder if folder.strip(os.sep) else ""


def _beginning(names: Sequence[str]) -> str:
    """Returns the common beginning of all names."""
    first, last = min(names), max(names)  # all others begin with what these two have in common
    return first[: next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))]
