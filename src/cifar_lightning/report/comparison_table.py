"""What the console shows of a comparison."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cifar_lightning.console import percent
from cifar_lightning.report.comparison_words import INTERVAL, NOTHING_DIFFERS, device, shares, statements, value
from cifar_lightning.report.table import PLAIN, natural_width, print_table

NUMBERS = {"test", "val", "seconds", "parameters", "runs", "mean", "sd"}  # headings of columns that end alike


def print_comparison(comparison: Mapping[str, Any], console: Console | None = None) -> None:
    """Prints what `compare` gives, to standard output by default."""
    console = console or Console()
    runs, groups = comparison["runs"], comparison["groups"]
    width = max(len(run["name"]) for run in runs) + 2
    for run in runs:  # as Text and unwrapped, for brackets in a path are no markup and paths get copied
        console.print(Text(f"{run['name']:{width}}{run['run']}"), soft_wrap=True)
    names = list(dict.fromkeys(run["group"] for run in runs))
    tables = _settings_tables(comparison["settings"], names, console)
    tables.append(_table(["", "test", INTERVAL, "val", "seconds", "device", "parameters"], map(_figures, runs)))
    if groups:
        headings = ["group of seeds", "runs", "mean", "sd", INTERVAL]
        tables.append(_table(headings, map(_spread, groups)))
    for table in tables:
        console.print()
        print_table(table, console)
    if len(names) > 1 and not comparison["settings"]:
        _say(NOTHING_DIFFERS, console)
    for line in statements(comparison):
        _say(line, console)


def _settings_tables(settings: Mapping[str, Mapping[str, Any]], names: Sequence[str], console: Console) -> list[Table]:
    """What differs, a column a group: as many side by side as the terminal takes, and the others below."""
    if not settings:
        return []
    for abreast in range(len(names), 0, -1):
        parts = [names[start : start + abreast] for start in range(0, len(names), abreast)]
        rows = [
            [(setting, *(value(row[name]) for name in part)) for setting, row in settings.items()] for part in parts
        ]
        tables = [_table(["differs", *part], part_rows) for part, part_rows in zip(parts, rows, strict=True)]
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
