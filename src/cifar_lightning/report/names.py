"""Names in the room that there is for them: it is their ends that tell them apart most often."""

import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from rich.cells import cell_len, chop_cells
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.text import Text

SHORTEST = 5  # characters that stay of any name


def shortened(name: str, width: int) -> str:
    """A name in so many characters, at least 4, of which an East Asian one counts as two; its middle is left out.

    Args:
        name: Such as a class's, or a file's.
        width: The most that it takes.
    """
    if cell_len(name) <= width:
        return name
    head = chop_cells(name, (width - 1) // 3)[0]
    tail = chop_cells(name[::-1], width - 1 - cell_len(head))[0][::-1]
    return f"{head}…{tail}"


def shortened_apart(names: Iterable[str], width: int) -> dict[str, str]:
    """Each name as `shortened` has it, but those that would become one text are cut where they differ.

    Args:
        names: Those that stand beside each other.
        width: The most that each takes, at least 5.
    """
    found = {name: shortened(name, width) for name in names}
    for alike in _alike(found):
        found |= _apart(alike, width)
    return found


def _alike(found: Mapping[str, str]) -> list[list[str]]:
    """The names that have become one text."""
    groups = defaultdict(list)
    for name, text in found.items():
        groups[text].append(name)
    return [group for group in groups.values() if len(group) > 1]


def _apart(names: Sequence[str], width: int) -> dict[str, str]:
    """The beginning of all, and what follows the place at which they begin to differ."""
    beginning, head = _beginning(names), chop_cells(names[0], (width - 2) // 3)[0]
    room = width - 1 - cell_len(head)
    digits = re.search(rf"\d{{0,{room // 4}}}$", beginning)  # of 007 and 012 not only 07 and 12
    start = len(beginning) - len(digits[0] if digits else "")
    rest = {name: name[start:] for name in names}
    found = {
        name: f"{head}…{end if cell_len(end) <= room else chop_cells(end, room - 1)[0] + '…'}"
        for name, end in rest.items()
    }
    for alike in _alike(found):
        if len(_beginning(alike)) > len(beginning):  # else nothing is left to tell them by
            found |= _apart(alike, width)
    return found


@dataclass(frozen=True)
class Name:
    """A name as a table's cell: on one line, shortened where its column has less room.

    Attributes:
        name: It.
        others: The names of its column, which it is told from.
    """

    name: str
    others: Collection[str] = ()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """It in the room that there is."""
        yield Text(shortened_apart([self.name, *self.others], max(SHORTEST, options.max_width))[self.name])

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        """The least and the most that it takes."""
        width = cell_len(self.name)
        return Measurement(min(SHORTEST, width), width)


def common_folder(files: Iterable[str]) -> str:
    """What all of these begin with, up to the last separator of folders; empty where that is none."""
    beginning = _beginning(list(files))
    folder = beginning[: beginning.rfind(os.sep) + 1]
    return folder if folder.strip(os.sep) else ""


def _beginning(names: Sequence[str]) -> str:
    """What all begin with."""
    return os.path.commonprefix(names)  # noqa: RUF071  # commonpath's is none of what is printed here: "./"
