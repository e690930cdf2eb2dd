"""What the console shows of a comparison."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cifar_lightning.report.statistics import LEVEL, POWER
from cifar_lightning.report.table import PLAIN, natural_width, percent

INTERVAL = f"{100 * LEVEL:.0f} % interval"


def print_comparison(comparison: Mapping[str, Any], console: Console | None = None) -> None:
    """Prints what `compare` gives.

    Args:
        comparison: It.
        console: Standard output if None.
    """
    console = console or Console()
    runs, groups = comparison["runs"], comparison["groups"]
    for run in runs:  # as Text and unwrapped, for brackets in a path are no markup and paths get copied
        console.print(Text(f"{run['name']:4}{run['run']}"), soft_wrap=True)
    names = list(dict.fromkeys(run["group"] for run in runs))
    tables = _settings_tables(comparison["settings"], names, console)
    tables.append(_table(["", "test", INTERVAL, "val", "seconds", "device", "parameters"], map(_figures, runs)))
    if groups:
        headings = ["seeds alone differ", "runs", "mean", "sd", INTERVAL]
        tables.append(_table(headings, map(_spread, groups)))
    for table in tables:
        console.print()
        if not console.is_terminal:  # a pipe has no right edge
            table.width = natural_width(console, table)
        console.print(table, soft_wrap=not console.is_terminal)
    if len(names) > 1 and not comparison["settings"]:
        _say("No setting differs, not even the seed.", console)
    several = len([c for c in comparison["comparisons"] if c["p"] is not None])
    for line in [*(_sentence(c, several) for c in comparison["comparisons"]), *_notes(comparison)]:
        _say(line, console)


def _settings_tables(settings: Mapping[str, Mapping[str, Any]], names: Sequence[str], console: Console) -> list[Table]:
    """What differs, a column a group: as many side by side as the terminal takes, and the others below."""
    if not settings:
        return []
    for abreast in range(len(names), 0, -1):
        parts = [names[start : start + abreast] for start in range(0, len(names), abreast)]
        rows = [
            [(setting, *(_value(row[name]) for name in part)) for setting, row in settings.items()] for part in parts
        ]
        tables = [_table(["differs", *part], part_rows) for part, part_rows in zip(parts, rows, strict=True)]
        if not console.is_terminal or max(natural_width(console, table) for table in tables) <= console.width:
            break
    return tables


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(*headings, **PLAIN)
    for column in table.columns:
        column.overflow = "fold"
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _figures(run: Mapping[str, Any]) -> tuple[str, ...]:
    seconds, parameters = run["fit_seconds"], run["parameters"]
    return (
        run["name"],
        percent(run["test_acc"], 2),
        _range(run["test_acc_interval"]),
        percent(run["val_acc"], 2),
        "n/a" if seconds is None else f"{seconds:,.1f}",
        f"{run['devices']} x {run['accelerator']}",
        "n/a" if parameters is None else f"{parameters:,}",
    )


def _spread(group: Mapping[str, Any]) -> tuple[str, ...]:
    interval = group["mean_interval"]
    figures = percent(group["mean"], 2), f"{100 * group['sd']:.2f}"
    return group["name"], str(len(group["seeds"])), *figures, "n/a" if interval is None else _range(interval)


def _sentence(comparison: Mapping[str, Any], several: int) -> str:
    a, b = comparison["groups"]
    text = f"{b} - {a}: {_points(comparison['difference'])} points"
    if comparison["p"] is None:
        return f"{text}. No p-value: {comparison['why']}."
    low, high = map(_points, comparison["interval"])
    text += f" ({100 * LEVEL:.0f} %: {low} to {high}"
    if comparison["test"] == "welch":
        low, high = map(_points, comparison["bootstrap_interval"])
        text += f"; by a bootstrap {low} to {high}), p {_p(comparison['p'])} by Welch's test"
    else:
        only_a, only_b = comparison["only_right"]
        text += (
            f"), {a} alone right on {only_a:,} images, {b} alone on {only_b:,}, p {_p(comparison['p'])} by McNemar's "
        )
        text += "exact test"
    if several > 1:
        text += f", {_p(comparison['p_holm'])} as one of {several}"
    return f"{text}: {'more than noise' if comparison['more_than_noise'] else 'it may be noise'}."


def _notes(comparison: Mapping[str, Any]) -> Iterable[str]:
    tests = [c["test"] for c in comparison["comparisons"]]
    if "mcnemar" in tests and comparison["settings"]:
        yield "That is of these networks; whether their settings differ as much, several seeds of each would tell."
    if any(c["test"] == "welch" and c["same_images"] is None for c in comparison["comparisons"]):
        yield "Whether all were tested on the same images is not known: some runs have no predictions.npz."
    if needed := comparison["seeds_needed"]:
        yield (
            f"To find a difference of {100 * needed['difference']:g} points with a power of {100 * POWER:.0f} % takes "
            f"{needed['seeds']:,} seeds of each (sd {100 * needed['sd']:.2f} points)."
        )


def _say(line: str, console: Console) -> None:
    console.print()
    console.print(Text(line), soft_wrap=not console.is_terminal)


def _value(value: Any) -> str:
    if isinstance(value, bool | None):
        return {None: "none", True: "true", False: "false"}[value]
    return ", ".join(map(_value, value)) if isinstance(value, list) else str(value)


def _range(interval: Sequence[float]) -> str:
    low, high = interval
    return f"{100 * low:.2f} to {100 * high:.2f} %"


def _points(difference: float) -> str:
    return f"{100 * difference:+.2f}"


def _p(p: float) -> str:
    return f"{p:.2g}" if p >= 0.0001 else "< 0.0001"
