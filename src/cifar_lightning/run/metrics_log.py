"""MetricsCSV: a run's figures in `metrics.csv`, each step once, whatever interrupts the run."""

import csv
import io
import os
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from cifar_lightning.errors import RunError
from cifar_lightning.files import write_atomically

Row = dict[str, float | None]


class MetricsCSV(Logger):
    """Writes one row a log point, with `step` as the number of steps done, and flushes it.

    Lightning's CSVLogger deletes the file when a run is resumed
    (https://github.com/Lightning-AI/pytorch-lightning/pull/19446). This one goes on after the rows that the resumed
    checkpoint knows of (`truncate`).

    Args:
        path: Of the file.
    """

    trainer: Trainer  # to be set before it runs: a row says how many steps it has done

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.rows: list[Row] = []
        self.columns = ["epoch", "step"]

    @property
    def name(self) -> str:
        """The folder of all runs."""
        return self.path.parent.parent.name

    @property
    def version(self) -> str:
        """The run's folder."""
        return self.path.parent.name

    @property
    def save_dir(self) -> str:
        """The run's folder, with its path: where Lightning's profilers write."""
        return str(self.path.parent)

    log_dir = save_dir

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Does nothing: the settings are in config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Adds a row; figures of the same step share one. Lightning's `step` is not the number of steps done."""
        step = self.trainer.global_step
        # The figures come as float32, which has seven digits; the rest would be noise.
        figures = {name: float(f"{value:.7g}") for name, value in metrics.items()}
        row: Row = {**figures, "epoch": self.trainer.current_epoch, "step": step}
        new = [key for key in row if key not in self.columns]
        self.columns += new
        if self.rows and self.rows[-1]["step"] == step:
            self.rows[-1] |= row | {"epoch": self.rows[-1]["epoch"]}  # that of the step: a test comes after the last
            self._write_all()
        elif new or not self.path.exists():
            self.rows.append(row)
            self._write_all()
        else:
            self.rows.append(row)
            try:
                with self.path.open("a", encoding="utf-8", newline="") as file:
                    csv.DictWriter(file, self.columns).writerow(row)
            except OSError as error:
                raise RunError(
                    f"could not write {self.path}: {error.strerror}; make room, or mend the folder"
                ) from error

    def flush(self) -> None:
        """Waits until the rows are on the disk."""
        if self.path.exists():
            with self.path.open("rb") as file:
                os.fsync(file.fileno())

    @rank_zero_only
    def truncate(self, count: int, last: Row | None) -> None:
        """Takes up an interrupted run's file as it was after `count` rows, the last of which may have grown since."""
        rows = read_rows(self.path)
        if rows:
            self.columns = list(rows[0])
        self.rows = [{key: value for key, value in row.items() if value is not None} for row in rows[:count]]
        if last is not None:
            self.rows[count - 1 :] = [last]
            self.columns += [key for key in last if key not in self.columns]  # where the file is gone
        self._write_all()

    def _write_all(self) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self.columns)
        writer.writeheader()
        writer.writerows(self.rows)
        write_atomically(self.path, lambda file: file.write(text.getvalue().encode()))


def read_rows(path: Path) -> list[Row]:
    """The rows of a metrics.csv, empty cells as None. A last line that was cut short is left out."""
    if not path.exists():
        return []
    text = path.read_text("utf-8")
    text = text[: text.rfind("\n") + 1]
    return [{key: _number(cell) for key, cell in row.items()} for row in csv.DictReader(io.StringIO(text))]


def _number(cell: str) -> float | None:
    if not cell:
        return None
    return int(cell) if cell.isdigit() else float(cell)  # steps and epochs stay whole
