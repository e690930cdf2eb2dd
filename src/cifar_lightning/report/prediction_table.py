"""The table of predictions: a line per file. It is printed line by line, as plain text."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from cifar_lightning.console import percent
from cifar_lightning.report.names import SHORTEST, common_folder, shortened_apart

# A file's name keeps at least this many characters beside further guesses, and beside the predicted class alone.
LEGIBLE, SHORTEST_FILE = 24, 12


def predictions_table(
    rows: Iterable[Mapping[str, Any]],
    files: Iterable[str],
    classes: Sequence[str],
    console: Console | None = None,
) -> None:
    """Prints a table of predictions, one line per file, each as soon as it is known; nothing if there are none.

    If the files' names are too long for a terminal, their common folder is printed once, above. Names that are still
    too long are shortened in the middle, and if little would be left of them, fewer guesses are shown. In a pipe, which
    has no width, nothing is shortened.

    Args:
        rows: `{"file": str, "class": str, "top": [{"class": str, "probability": 0..1}, …]}` each, the most
            probable first.
        files: The names of all files that may follow.
        classes: The names of all classes.
        console: Standard output if None.
    """
    console = console or Console()
    files = list(files)
    folder, class_width = "", max(map(cell_len, classes))
    headings = ("file", "class", "probability", "second", "third")
    widths = _widths(files, class_width)
    if console.is_terminal and _width(widths) > console.width:
        folder = common_folder(files)
        widths = _widths([file.removeprefix(folder) for file in files], class_width)
        legible = min(widths[0], LEGIBLE)
        while len(widths) > 3 and _width(widths) - widths[0] + legible > console.width:
            widths.pop()
        over = _width(widths) - widths[0] + min(widths[0], SHORTEST_FILE) - console.width
        if over > 0:  # only because of long class names
            class_width = max(SHORTEST, class_width - over)
            widths[1] = max(class_width, len("class"))
        widths[0] = max(SHORTEST, min(widths[0], widths[0] + console.width - _width(widths)))
    begun = False
    names = shortened_apart(classes, class_width)
    shown = shortened_apart((file.removeprefix(folder) for file in files), widths[0])
    for row in rows:
        if not begun:
            if folder:
                console.print(Text(f"Files in {folder}"), soft_wrap=True)
            console.print(Text(_line(headings, widths), "bold"), soft_wrap=True)
            console.print("─" * _width(widths), soft_wrap=True)
            begun = True
        first, *others = row["top"]
        guesses = (f"{names[guess['class']]} {percent(guess['probability'])}" for guess in others)
        name, probability = row["file"].removeprefix(folder), f"{percent(first['probability']):>{len('probability')}}"
        cells = (shown[name], names[row["class"]], probability, *guesses)
        print(_line(cells, widths), file=console.file, flush=True)


def _widths(names: Iterable[str], class_width: int) -> list[int]:
    """Returns the widths of the columns for predictions of files with these names."""
    guess = class_width + len(" 100.0 %")
    return [max(map(cell_len, ("file", *names))), max(class_width, len("class")), len("probability"), guess, guess]


def _width(widths: Sequence[int]) -> int:
    """Returns the width of a line with columns of these widths."""
    return sum(widths) + 2 * (len(widths) - 1)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (cell + " " * (width - cell_len(cell)) for cell, width in zip(cells, widths, strict=False))
    return "  ".join(padded).rstrip()
