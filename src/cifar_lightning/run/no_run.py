"""Recognises what a path is that was given as a run but is not one, for error messages.

This module imports nothing heavy, because `cifar-lightning status` uses it in job scripts.
"""

import os
from contextlib import suppress
from pathlib import Path

from cifar_lightning.errors import InputError
from cifar_lightning.files import listed
from cifar_lightning.run.plan import is_group, read_plan
from cifar_lightning.run.trained import packaged

PROGRAMS = {".onnx": "ONNX Runtime", ".pt2": "torch.export.load"}  # files that export writes, and what loads them


def instead_of_run(path: Path) -> str | None:
    """Returns the part of a message after a path that is not a run: what it is, and what to give; None if unknown."""
    if not os.path.lexists(path) and str(path) in packaged():
        return f"is the name of weights that come with the package, not of a run: train one with fit --recipe {path}"
    if path.suffix in PROGRAMS and os.path.isfile(path):
        home = path.parent
        use = str(home) if is_run(home) else "the run that it was exported from"
        return f"is a program for {PROGRAMS[path.suffix]}, not a checkpoint: use {use}"
    if is_group(path):
        with suppress(InputError):
            return f"holds several runs: use one of them, such as {path / read_plan(path)[1][0]}"
    if runs := runs_below(path):
        return f"is not a run's folder but a folder of runs: use one of them, such as {runs[0]}, the newest"
    return None


def why_no_run(folder: Path) -> str:
    """Returns the part of a message after a folder without a readable config.yaml: what it is, and what to use."""
    if what := instead_of_run(folder):
        return what
    if not os.path.lexists(folder):
        return "does not exist: use a run's folder"
    if home := run_around(folder):
        return f"is inside a run's folder: use {home}"
    return "is not a run's folder (no readable config.yaml): use lightning_logs/version_N"


def runs_below(path: Path) -> list[Path]:
    """Returns the runs and groups in a folder of runs, or in its lightning_logs/, the newest first."""
    for logs in (path, path / "lightning_logs"):
        with suppress(InputError):  # another user's folder
            if runs := [run for _, run in sorted(numbered(logs), reverse=True) if is_run(run) or is_group(run)]:
                return runs
    return []


def is_run(folder: Path) -> bool:
    """Returns whether a folder is a run's."""
    return os.path.exists(folder / "config.yaml")  # False where Path.exists raises


def run_around(path: Path) -> Path | None:
    """Returns the folder of the run that contains a path, such as its checkpoints/; None if no run does."""
    return next(filter(is_run, path.parents[:2]), None)


def numbered(logs: Path) -> list[tuple[int, Path]]:
    """Returns the paths in a log folder that are named `version_N`, each with its N.

    Raises:
        InputError: The folder cannot be read.
    """
    paths = [(path.name.removeprefix("version_"), path) for path in listed(logs, "version_*")]
    return [(int(number), path) for number, path in paths if number.isdigit()]
