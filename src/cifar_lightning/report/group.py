"""Summarises many runs of one recipe: mean, spread and interval, as values, on the console and as a figure."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from cifar_lightning.report import statistics
from cifar_lightning.report.names import SHORTEST
from cifar_lightning.report.report import write_figures
from cifar_lightning.report.shown_classes import shown_classes
from cifar_lightning.report.statistics import INTERVAL
from cifar_lightning.report.table import natural_width, print_paths, print_table, table_of_numbers

FIGURES = ("test_acc", "test_loss", "val_acc", "val_loss")
OF_A_RUN = ("seed", "test_acc", "test_loss", "val_acc", "val_loss", "fit_seconds", "step")


def summary(kind: str, runs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Builds the results.json of a group. `kind` is what the runs differ in; `runs` has each one's results.json."""
    figures = {name: [results.get(name) for results in runs.values()] for name in FIGURES}
    classes = next(iter(runs.values()))["per_class_acc"]
    return {
        "kind": kind,
        "runs": [{"name": name, **{key: run.get(key) for key in OF_A_RUN}} for name, run in runs.items()],
        "figures": {
            name: _spread(values, shares=name.endswith("acc")) for name, values in figures.items() if None not in values
        },
        "per_class_acc": {name: _spread([run["per_class_acc"][name] for run in runs.values()]) for name in classes},
    }


def _spread(values: Sequence[float | None], shares: bool = True) -> dict[str, Any] | None:
    """Summarises the values of one figure over the runs; None if some have none, as for a class without images."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    interval = statistics.mean_interval(known, shares)
    return {"n": len(known), "mean": fmean(known), "sd": stdev(known), "interval": interval}


def print_group(found: Mapping[str, Any], paths: Sequence[Path], console: Console | None = None) -> None:
    """Prints the result of `summary`, with the best and worst of many classes, and the paths of the written files.

    Prints to standard output by default.
    """
    console = console or Console()
    rows = [_row("test", found["figures"]["test_acc"], 2)]
    if "val_acc" in found["figures"]:
        rows.append(_row("validation", found["figures"]["val_acc"], 2))
    shown, which = _shown(found)
    rows += [_row(name, spread, 1) for name, spread in shown.items()]
    table = table_of_numbers(("accuracy", "mean", "sd", INTERVAL), rows)
    table.rows[0].style = "bold"
    if console.is_terminal and (over := natural_width(console, table) - console.width) > 0:
        # Shortens the names. By default rich would fold the intervals instead.
        table.columns[0].max_width = max(SHORTEST, max(map(cell_len, ("accuracy", *(row[0] for row in rows)))) - over)
    console.print()
    console.print(Text(f"Accuracy over {len(found['runs'])} {found['kind']}", "bold"), soft_wrap=True)
    console.print()
    print_table(table, console)
    if which:
        console.print(f"{which}; results.json has all", soft_wrap=True)
    console.print()
    print_paths(paths, console)


def _shown(found: Mapping[str, Any]) -> tuple[dict[str, Mapping[str, Any] | None], str]:
    """Returns the classes to show, with their spread, and says in words which these are."""
    named = list(found["per_class_acc"].items())
    shown, which = shown_classes([spread and spread["mean"] for _, spread in named])
    return dict(named[label] for label in shown), which


def _row(name: str, spread: Mapping[str, Any] | None, digits: int) -> tuple[str, str, str, str]:
    if spread is None:
        return name, "n/a", "n/a", "n/a"
    low_high = spread["interval"]
    mean, sd = f"{100 * spread['mean']:.{digits}f} %", f"{100 * spread['sd']:.{digits}f}"
    between = "n/a" if low_high is None else " to ".join(f"{100 * end:.{digits}f}" for end in low_high) + " %"
    return name, mean, sd, between


def write_figure(found: Mapping[str, Any], run: str, folder: Path) -> Path:
    """Draws the accuracies into `folder`; returns the path of the file."""
    from cifar_lightning.report import drawing, plots_of_runs

    values = [result["test_acc"] for result in found["runs"]]
    numbers = [int(result["name"].rpartition("_")[2]) for result in found["runs"]]
    shown, which = _shown(found)
    with drawing.own_style():
        figure = plots_of_runs.spread(run, numbers, values, found["figures"]["test_acc"], shown, which)
        write_figures({"accuracies": figure}, folder)
    return folder / "accuracies.png"
