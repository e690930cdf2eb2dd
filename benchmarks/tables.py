"""Measures in turns, and makes tables: shared by benchmark.py and the processes that it measures."""

import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.box import MARKDOWN, SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable

Row = dict[str, Any]  # by column; a list of numbers has the repeats of one measurement


@dataclass
class Table:
    """Rows of figures with a note; in the JSON also the `runs`, if the rows are means of them."""

    title: str
    rows: list[Row]
    note: str = ""
    runs: Any = None


def interleaved(repeats: int, sides: Mapping[str, Callable[[], Any]]) -> dict[str, list[Any]]:
    """Lets each side take its turn, `repeats` times: A B A B and so on."""
    found: dict[str, list[Any]] = {name: [] for name in sides}
    for turn in range(repeats):
        for name, side in sides.items():
            print(f"  {name}, {turn + 1} of {repeats}", file=sys.stderr, flush=True)
            found[name].append(side())
    return found


def columns(runs: Sequence[Mapping[str, Any]], keys: Mapping[str, str]) -> Row:
    """Returns the repeats of some figures of the runs of a side; `keys` has the figures by the columns' titles."""
    return {title: [run[key] for run in runs] for title, key in keys.items()}


def quotients(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Returns the ratios of measurements of the same turn."""
    return [a / b for a, b in zip(above, below, strict=True)]


def mean_and_interval(values: Sequence[float]) -> tuple[float, float | None]:
    """Returns the mean and half of its 95 % interval by Student's t, which is None for fewer than five values."""
    if len(values) < 5:
        return statistics.mean(values), None  # the expansion below is 2 % too small for five, 10 % for three
    z, df = statistics.NormalDist().inv_cdf(0.975), len(values) - 1
    # Cornish and Fisher's expansion of Student's quantile: https://dlmf.nist.gov, Abramowitz and Stegun 26.7.5
    t = z + (z**3 + z) / (4 * df) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * df**2)
    return statistics.mean(values), t * statistics.stdev(values) / len(values) ** 0.5


def straight_line(points: dict[int, list[float]], unit: str) -> Row:
    """Returns the straight line through the medians, and its largest distance from one."""
    values = {n: statistics.median(values) for n, values in points.items()}
    slope, intercept = statistics.linear_regression(list(values), list(values.values()))
    off = max(abs(value - (intercept + slope * n)) for n, value in values.items())
    return {f"{unit} per n": slope, f"{unit} at 0": intercept, f"{unit} off": off}


def shown(value: Any) -> str:
    """Returns the text of a cell."""
    if value is None:
        return "–"
    if isinstance(value, (list, tuple)):
        if min(value) == max(value):
            return shown(value[0])
        return f"{shown(statistics.median(value))} ({shown(min(value))}–{shown(max(value))})"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def print_table(table: Table) -> None:
    """Prints a table; as Markdown if the output is not a terminal."""
    terminal = sys.stdout.isatty()
    cells = RichTable(box=SIMPLE_HEAD if terminal else MARKDOWN)
    for column in table.rows[0]:
        numbers = all(isinstance(row[column], (int, float, list, tuple, type(None))) for row in table.rows)
        cells.add_column(column, justify="right" if numbers else "left", no_wrap=not terminal)
    for row in table.rows:
        cells.add_row(*map(shown, row.values()))
    console = Console(width=None if terminal else 1_000, highlight=False)
    if console.measure(cells).maximum > console.width:
        console = Console(width=1_000, highlight=False)  # a narrow terminal may wrap lines, but no figure is cut off
    console.print(f"\n{table.title}", style="bold")
    console.print(cells)
    if table.note:
        console.print(table.note)
