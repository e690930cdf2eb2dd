"""Prints a comparison to the console."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cifar_lightning.console import percent
from cifar_lightning.report.comparison_words import NOTHING_DIFFERS, device, shares, statements, value
from cifar_lightning.report.statistics import INTERVAL
from cifar_lightning.report.table import PLAIN, print_tables

OF_RUNS = ("", "test", INTERVAL, "val", "seconds", "device", "parameters")
OF_GROUPS = ("group of seeds", "runs", "mean", "sd", INTERVAL)
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
    if settings:
        print_tables(_table, ("differs", *names), settings, console)
    print_tables(_table, OF_RUNS, list(map(_row_of_run, runs)), console)
    if groups:
        print_tables(_table, OF_GROUPS, list(map(_row_of_group, groups)), console)
    if len(names) > 1 and not comparison["settings"]:
        _say(NOTHING_DIFFERS, console)
    for line in statements(comparison):
        _say(line, console)


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(*headings, **PLAIN)
    for column in table.columns:
        column.overflow = "fold"
        column.justify = "right" if column.header in NUMBERS else "left"
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _row_of_run(run: Mapping[str, Any]) -> tuple[str, ...]:
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


def _row_of_group(group: Mapping[str, Any]) -> tuple[str, ...]:
    interval = group["mean_interval"]
    figures = percent(group["mean"], 2), f"{100 * group['sd']:.2f}"
    return group["name"], str(len(group["seeds"])), *figures, "n/a" if interval is None else shares(interval)


def _say(line: str, console: Console) -> None:
    console.print()
    console.print(Text(line), soft_wrap=not console.is_terminal)
