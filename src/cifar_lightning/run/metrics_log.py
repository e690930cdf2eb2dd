"""metrics.csv as it stands, for whoever reads a run's figures; metrics_csv.py writes it.

This module imports nothing heavy: `cifar-lightning status` asks it, in a job's script.
"""

import csv
import io
from pathlib import Path

from cifar_lightning.errors import InputError
from cifar_lightning.files import readable

Row = dict[str, float | None]


def whole_lines(path: Path) -> str:
    """The text of a file that may not be there, without a last line that was cut short."""
    if not path.exists():
        return ""
    with path.open(encoding="utf-8", newline="") as file:
        text = file.read()
    return text[: text.rfind("\n") + 1]


def read_rows(path: Path) -> list[Row]:
    """The rows of a metrics.csv, empty cells as None. A last line that was cut short is left out.

    Raises:
        InputError: It cannot be read, or is no log of a run.
    """
    with readable(path):
        try:
            rows = list(csv.DictReader(io.StringIO(whole_lines(path), newline="")))
            if any(None in row or not row.get("step") for row in rows):
                raise ValueError("a row has no step, or more cells than there are columns")
            return [{key: _number(cell) for key, cell in row.items()} for row in rows]
        except (ValueError, csv.Error) as error:
            raise InputError(f"{path} is no log of a run ({error}): mend it, or remove it") from error


def _number(cell: str) -> float | None:
    if not cell:
        return None
    return int(cell) if cell.isdigit() else float(cell)  # steps and epochs stay whole
