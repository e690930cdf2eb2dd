"""Tells from its folder how a run, or a group of runs, has ended: with results, or because its training diverged.

This module imports nothing heavy, because `cifar-lightning status` uses it in job scripts.
"""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from cifar_lightning.errors import NonFiniteError, RunError
from cifar_lightning.files import readable, write_atomically

RESULTS = "results.json"
DIVERGED = "diverged.txt"


def results_in(folder: Path) -> dict[str, Any] | None:
    """Returns the results of a finished run; None if there are none, or if the file is damaged: it is tested again.

    Raises:
        InputError: The operating system does not let this user read the results.
    """
    path = folder / RESULTS
    with readable(path):
        try:
            found = json.loads(path.read_text("utf-8"))
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None
    return found if isinstance(found, dict) else None


def note_divergence(folder: Path, error: NonFiniteError) -> None:
    """Writes down the error of a run that would diverge again if it were repeated; `--resume` removes the file."""
    with suppress(RunError):  # the divergence counts more than a full disk
        write_atomically(folder / DIVERGED, f"{error}\n".encode())


def divergence_in(folder: Path) -> str | None:
    """Returns the error that `note_divergence` has written; None if there is none.

    Raises:
        InputError: The operating system does not let this user read it.
    """
    path = folder / DIVERGED
    with readable(path):
        try:
            return path.read_text("utf-8", errors="replace").strip()
        except (FileNotFoundError, NotADirectoryError):
            return None
