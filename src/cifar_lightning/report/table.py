"""The table of a test on the console, and what every table is made with."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from cifar_lightning.console import percent
from cifar_lightning.report.names import Name
from cifar_lightning.report.shown_classes import shown_classes

PLAIN: Any = {"box": box.SIMPLE_HEAD, "show_edge": False, "pad_edge": False}
OF_CLASSES = ("class", "images", "correct", "accuracy")
GAP = 3  # characters between tables side by side
ONE_COLUMN = 20  # up to this many classes, the table stays a single column


def print_report(results: Mapping[str, Any], paths: Sequence[Path], console: Console | None = None) -> None:
    """Prints results.json: accuracy overall and per class (of many, the best and worst), and where the files are."""
    console = console or Console()
    print_overall(results, console)
    names, accuracies = list(results["per_class_acc"]), list(results["per_class_acc"].values())
    shown, which = shown_classes(accuracies)
    rows = [
        (names[label], f"{sum(counts):,}", f"{counts[label]:,}", percent(accuracies[label]))
        for label, counts in ((label, results["confusion"][label]) for label in shown)
    ]
    width = natural_width(console, table_of_numbers(OF_CLASSES, rows)) + GAP
    abreast = 1 if len(rows) <= ONE_COLUMN else max(1, (console.width + GAP) // width)
    length = math.ceil(len(rows) / abreast)
    parts = (rows[start : start + length] for start in range(0, len(rows), length))
    side_by_side = Table.grid(padding=(0, GAP))
    side_by_side.add_row(*(table_of_numbers(OF_CLASSES, part) for part in parts))
    console.print()
    print_table(side_by_side, console)
    if which:
        console.print(f"{which}; results.json has all", soft_wrap=True)
    console.print()
    if people := results.get("soft_labels"):
        line = (
            f"Against people's answers: cross-entropy {people['cross_entropy']:.3f} (at best {people['entropy']:.3f}, "
            f"the entropy of the answers); same class as most people: {100 * people['agreement']:.2f} %"
        )
        console.print(Text(line), soft_wrap=True)
        console.print()
    print_paths(paths, console)


def print_overall(results: Mapping[str, Any], console: Console) -> None:
    """Prints the accuracy and the loss over all test images, and what was tested."""
    # Two digits are exact for CIFAR's 10,000 test images, and one for the 1,000 or 100 of a class.
    overall = f"Accuracy {100 * results['test_acc']:.2f} % on {results['test_count']:,} test images"
    tested = f" ({Path(results['checkpoint']).name}, step {results['step']:,})"
    console.print(Text.assemble((overall, "bold"), f", loss {results['test_loss']:.3f}", tested), soft_wrap=True)


def print_paths(paths: Sequence[Path], console: Console) -> None:
    """Prints the paths of the files that were written."""
    console.print("Written:")
    for path in paths:  # as Text, because brackets in a path are no markup; unwrapped, because paths get copied
        console.print(Text(f"  {path}"), soft_wrap=True)


def table_of_numbers(
    headings: Sequence[str], rows: Sequence[Sequence[str]], padding: int | tuple[int, int] = 0
) -> Table:
    """Makes a table with a column of names, which are shortened if there is no room, and columns of numbers."""
    table = Table(headings[0], **PLAIN, padding=padding)
    for heading in headings[1:]:
        table.add_column(heading, justify="right")
    names = [row[0] for row in rows]
    for name, *numbers in rows:
        table.add_row(Name(name, names), *numbers)
    return table


def print_tables(
    make: Callable[[Sequence[str], Sequence[Sequence[str]]], Table],
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    console: Console,
) -> None:
    """Prints the table that `make` makes; several, each with the first column, if a terminal is too narrow for one."""
    columns = range(1, len(headings))
    for abreast in range(len(columns), 0, -1):
        parts = [(0, *columns[start : start + abreast]) for start in range(0, len(columns), abreast)]
        tables = [make([headings[i] for i in part], [[row[i] for i in part] for row in rows]) for part in parts]
        if not console.is_terminal or max(natural_width(console, table) for table in tables) <= console.width:
            break
    for table in tables:
        console.print()
        print_table(table, console)


def print_table(table: Table, console: Console) -> None:
    """Prints a table whose text may be long: within the width of a terminal, but in full to a pipe."""
    if not console.is_terminal:
        table.width = natural_width(console, table)
    console.print(table, soft_wrap=not console.is_terminal)


def natural_width(console: Console, table: Table) -> int:
    """Returns the number of characters per line that a table takes if nothing in it is folded."""
    return Measurement.get(console, console.options.update(width=10_000), table).maximum
