"""How a run, or a group of runs, has ended, as its folder says: it has results, or its training has diverged.

This module imports nothing heavy: `cifar-lightning status` asks it, in a job's script.
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
    """The results of what has finished; None where there are none, or where the file is damaged: it is tested again.

    Raises:
        InputError: The system does not let this user read them.
    """
    path = folder / RESULTS
    with readable(path):
        try:
            found = json.loads(path.read_text("utf-8"))
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None
    return found if isinstance(found, dict) else None


def note_divergence(folder: Path, error: NonFiniteError) -> None:
    """Keeps what has ended a run that would end so again; `--resume` removes it."""
    with suppress(RunError):  # that it has diverged counts more than a full disk
        write_atomically(folder / DIVERGED, lambda file: file.write(f"{error}\n".encode()))


def divergence_in(folder: Path) -> str | None:
    """What `note_divergence` has kept; None where there is none.

    Raises:
        InputError: The system does not let this user read it.
    """
    path = folder / DIVERGED
    with readable(path):
        try:
            return path.read_text("utf-8", errors="replace").strip()
        except (FileNotFoundError, NotADirectoryError):
            return None
