"""What a path is that was given for a run, and is none: for the message of whoever takes one.

This module imports nothing heavy: `cifar-lightning status` asks it, in a job's script.
"""

import os
from contextlib import suppress
from pathlib import Path

from cifar_lightning.errors import InputError
from cifar_lightning.run.plan import is_group, read_plan

PROGRAMS = {".onnx": "ONNX Runtime", ".pt2": "torch.export.load"}  # that export writes, and what takes them


def instead_of_run(path: Path) -> str | None:
    """What a path that is no run's is, in words that follow it, and what to give; None where nothing tells."""
    if path.suffix in PROGRAMS and os.path.isfile(path):
        home = path.parent
        give = str(home) if is_run(home) else "the run that it was exported from"
        return f"is a program for {PROGRAMS[path.suffix]}, and no checkpoint: give {give}"
    if is_group(path):
        with suppress(InputError):
            return f"holds several runs: give one of them, such as {path / read_plan(path)[1][0]}"
    for logs in (path, path / "lightning_logs"):
        with suppress(OSError):  # another user's
            for _, run in sorted(numbered(logs), reverse=True):
                if is_run(run) or is_group(run):
                    return f"is no run's folder, but one of runs: give {run}, the newest"
    return None


def is_run(folder: Path) -> bool:
    """Whether a folder is a run's."""
    return os.path.exists(folder / "config.yaml")  # False, where Path's raises


def run_around(path: Path) -> Path | None:
    """The folder of the run that a path lies in, such as its checkpoints/."""
    return next(filter(is_run, path.parents[:2]), None)


def numbered(logs: Path) -> list[tuple[int, Path]]:
    """What lies in a log folder as `version_N`, with the number."""
    paths = [(path.name.removeprefix("version_"), path) for path in logs.glob("version_*")]
    return [(int(number), path) for number, path in paths if number.isdigit()]
