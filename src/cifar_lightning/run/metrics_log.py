"""Reads a run's metrics.csv, which metrics_csv.py writes.

This module imports nothing heavy, because `cifar-lightning status` uses it in job scripts.
"""

import csv
import io
from pathlib import Path

from cifar_lightning.errors import InputError
from cifar_lightning.files import exists, readable

Row = dict[str, float | None]


def whole_lines(path: Path) -> str:
    """Returns a file's text without a last line that was cut short; empty if there is no such file."""
    if not exists(path):
        return ""
    with path.open(encoding="utf-8", newline="") as file:
        text = file.read()
    return text[: text.rfind("\n") + 1]


def read_rows(path: Path) -> list[Row]:
    """Reads the rows of a metrics.csv, with None for empty cells, and without a last line that was cut short.

    Raises:
        InputError: The file cannot be read, or is not the log of a run.
    """
    with readable(path):
        try:
            rows = list(csv.DictReader(io.StringIO(whole_lines(path), newline="")))
            if any(None in row or not row.get("step") for row in rows):
                raise ValueError("a row has no step, or more cells than there are columns")
            return [{key: _number(cell) for key, cell in row.items()} for row in rows]
        except (ValueError, csv.Error) as error:
            raise InputError(f"{path} is not the log of a run ({error}): fix it, or remove it") from error


def _number(cell: str) -> float | None:
    if not cell:
        return None
    return int(cell) if cell.isdigit() else float(cell)  # steps and epochs stay integers
