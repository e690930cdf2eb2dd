"""Prints a comparison to the console."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cifar_lightning.console import percent
from cifar_lightning.report.comparison_words import INTERVAL, NOTHING_DIFFERS, device, shares, statements, value
from cifar_lightning.report.table import PLAIN, natural_width, print_table

NUMBERS = {"test", "val", "seconds", "parameters", "runs", "mean", "sd"}  # headings of columns that are aligned right


def print_comparison(comparison: Mapping[str, Any], console: Console | None = None) -> None:
    """Prints the result of `compare`, by default to standard output."""
    console = console or Console()
    runs, groups = comparison["runs"], comparison["groups"]
    width = max(len(run["name"]) for run in runs) + 2
    for run in runs:  # as Text, because brackets in a path are no markup; unwrapped, because paths get copied
        console.print(Text(f"{run['name']:{width}}{run['run']}"), soft_wrap=True)
    names = list(dict.fromkeys(run["group"] for run in runs))
    settings = [(setting, *(value(row[name]) for name in names)) for setting, row in comparison["settings"].items()]
    tables = _tables(["differs", *names], settings, console)
    tables += _tables(
        ["", "test", INTERVAL, "val", "seconds", "device", "parameters"], list(map(_figures, runs)), console
    )
    tables += _tables(["group of seeds", "runs", "mean", "sd", INTERVAL], list(map(_spread, groups)), console)
    for table in tables:
        console.print()
        print_table(table, console)
    if len(names) > 1 and not comparison["settings"]:
        _say(NOTHING_DIFFERS, console)
    for line in statements(comparison):
        _say(line, console)


def _tables(headings: Sequence[str], rows: Sequence[Sequence[str]], console: Console) -> list[Table]:
    """Makes a table of the rows, if any; several, each with the first column, if a terminal is too narrow for one."""
    if not rows:
        return []
    columns = range(1, len(headings))
    for abreast in range(len(columns), 0, -1):
        parts = [(0, *columns[start : start + abreast]) for start in range(0, len(columns), abreast)]
        tables = [_table([headings[i] for i in part], ([row[i] for i in part] for row in rows)) for part in parts]
        if not console.is_terminal or max(natural_width(console, table) for table in tables) <= console.width:
            break
    return tables


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(*headings, **PLAIN)
    for column in table.columns:
        column.overflow = "fold"
        column.justify = "right" if column.header in NUMBERS else "left"
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _figures(run: Mapping[str, Any]) -> tuple[str, ...]:
    seconds, parameters = run["fit_seconds"], run["parameters"]
    return (
        run["name"],
        percent(run["test_acc"], 2),
        shares(run["test_acc_interval"]),
        percent(run["val_acc"], 2),
        "n/a" if seconds is None else f"{seconds:,.1f}",
        device(run),
        "n/a" if parameters is None else f"{parameters:,}",
    )


def _spread(group: Mapping[str, Any]) -> tuple[str, ...]:
    interval = group["mean_interval"]
    figures = percent(group["mean"], 2), f"{100 * group['sd']:.2f}"
    return group["name"], str(len(group["seeds"])), *figures, "n/a" if interval is None else shares(interval)


def _say(line: str, console: Console) -> None:
    console.print()
    console.print(Text(line), soft_wrap=not console.is_terminal)
