"""Names in the room that there is for them: it is their ends that tell them apart most often."""

import os
from collections.abc import Iterable
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


@dataclass(frozen=True)
class Name:
    """A name as a table's cell: on one line, shortened where its column has less room.

    Attributes:
        name: It.
    """

    name: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """It in the room that there is."""
        yield Text(shortened(self.name, max(SHORTEST, options.max_width)))

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        """The least and the most that it takes."""
        width = cell_len(self.name)
        return Measurement(min(SHORTEST, width), width)


def common_folder(files: Iterable[str]) -> str:
    """What all of these begin with, up to the last separator of folders; empty where that is none."""
    beginning = os.path.commonprefix(list(files))  # noqa: RUF071  # commonpath's is none of what is printed here: "./"
    folder = beginning[: beginning.rfind(os.sep) + 1]
    return folder if folder.strip(os.sep) else ""
