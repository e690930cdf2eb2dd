"""MetricsCSV: writes a run's figures to `metrics.csv`, each step once, even if the run is interrupted."""

import csv
import io
import math
import os
from argparse import Namespace
from collections.abc import Iterable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from cifar_lightning.errors import RunError
from cifar_lightning.files import append, exists, unwritten, write_atomically
from cifar_lightning.run.metrics_log import Row, whole_lines


def rounded(figure: float) -> float:
    """Rounds a figure to seven digits: figures are float32, which has no more, so further digits would be noise."""
    return float(f"{figure:.7g}")


class MetricsCSV(Logger):
    """A logger that appends one row per log point, with `step` as the number of steps done.

    Figures of the same step share a row, which is written once a later step logs, or by `close`. The figures of a test
    join the row of the step that is tested. A checkpoint holds the row that is not written yet and the number of rows,
    so that a resumed run can `go_back` to where the checkpoint was. (Lightning's CSVLogger deletes the file when a run
    is resumed: https://github.com/Lightning-AI/pytorch-lightning/pull/19446.)

    Args:
        path: The file.
        columns: Names of the figures that are expected. For any other figure the whole file is rewritten.
    """

    trainer: Trainer  # must be set before it runs: the `step` that Lightning passes is not the number of steps done

    def __init__(self, path: Path, columns: Iterable[str] = ()) -> None:
        super().__init__()
        self.path = path
        self.columns = ["epoch", "step", *columns]
        self._written = 0  # number of rows in the file
        self._row: Row = {}  # of the newest step, not in the file yet

    @property
    def name(self) -> str:
        """Empty: a user's ModelCheckpoint adds it and `version` to `save_dir`, and so writes beside our checkpoints."""
        return ""

    @property
    def version(self) -> str:
        """Empty: see `name`."""
        return ""

    @property
    def save_dir(self) -> str:
        """The path of the run's folder, where Lightning's profilers write."""
        return str(self.path.parent)

    log_dir = save_dir

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Does nothing: the settings are in config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Adds figures to the row of the current step, or during a test to the row of the step that is tested."""
        # Lightning adds the epoch, which after the last step is the next epoch's number.
        figures = {name: rounded(value) for name, value in metrics.items() if name != "epoch"}
        if self.trainer.testing and step is not None:
            # The value of `step` does not count: if a user's callback logs, it may be the Trainer's step.
            self._complete(self.trainer.fit_loop.epoch_loop._batches_that_stepped + 1, figures)
            return
        step = self.trainer.global_step
        if self._row.get("step") != step:
            self.close()
            self._row = {"epoch": self.trainer.current_epoch, "step": step}
        if new := [name for name in figures if name not in self.columns]:
            columns = [*self.columns, *new]
            if exists(self.path):
                self._write_anew(columns, self._cells()[1:])
            self.columns = columns
        self._row |= figures

    def _complete(self, step: int, figures: dict[str, float]) -> None:
        """Adds figures to a step's row, which may have been written long ago, by rewriting the file."""
        self.close()
        header, *rows = self._cells() or [self.columns]
        columns = [*header, *(name for name in figures if name not in header)]
        row = next((row for row in rows if row[1] == str(step)), None)
        if row is None:
            row = [str(self.trainer.current_epoch), str(step)]
            rows.append(row)
            self._written += 1
        row += [""] * (len(columns) - len(row))
        for name, value in figures.items():
            row[columns.index(name)] = str(value)
        self._write_anew(columns, rows)

    def close(self) -> None:
        """Writes the newest step's row, which then takes no more figures."""
        row, self._row = self._row, {}
        if not row:
            return
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self.columns)
        if not exists(self.path):
            writer.writeheader()
        writer.writerow(row)
        append(self.path, text.getvalue())
        self._written += 1

    def __enter__(self) -> None:
        """Begins a context for logging, which writes the last row at its end."""

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """Calls `close`. An error that has ended the run counts more than a failure to write the row."""
        with suppress(RunError) if error is not None else nullcontext():
            self.close()

    @rank_zero_only
    def set_lr(self, lr: float) -> None:
        """Puts the next step's learning rate into the row of the step before it, if that row has another one."""
        before = self._row.get("lr")
        if self._row.get("step") != self.trainer.global_step or before is None:
            return
        if not math.isclose(before, lr, rel_tol=1e-6):  # the same rate may be rounded differently
            self.log_metrics({"lr": lr})

    def flush(self) -> None:
        """Waits until the rows are on the disk."""
        try:
            with self.path.open("rb+") as file:
                os.fsync(file.fileno())
        except FileNotFoundError:  # there are no rows yet
            pass
        except OSError as error:
            raise unwritten(self.path, error) from error

    @property
    def position(self) -> tuple[int, Row | None]:
        """The number of rows, and the last row if it is not written yet; saved in checkpoints."""
        return self._written + bool(self._row), dict(self._row) or None

    @rank_zero_only
    def go_back(self, count: int, last: Row | None) -> None:
        """Takes an interrupted run's file back to a `position`."""
        header, *rows = self._cells() or [[]]
        # The file may have other columns: another version wrote it, or a user's callbacks logged other figures.
        self.columns = [*header, *(name for name in self.columns if name not in header)]
        self._row = dict(last or {})
        self.columns += [name for name in self._row if name not in self.columns]
        # Test figures go: a test follows the end of training, and training now continues.
        tested = {index for index, name in enumerate(header) if name.startswith("test_")}
        rows = [["" if index in tested else cell for index, cell in enumerate(row)] for row in rows]
        rows = rows[: count - bool(last)]
        self._written = len(rows)
        self._write_anew(self.columns, rows)

    def _cells(self) -> list[list[str]]:
        """Returns the file's header and rows as text."""
        return list(csv.reader(io.StringIO(whole_lines(self.path), newline="")))

    def _write_anew(self, columns: list[str], rows: list[list[str]]) -> None:
        """Rewrites the file with `columns` and `rows`; rows may lack the last columns."""
        text = io.StringIO(newline="")
        padded = (row + [""] * (len(columns) - len(row)) for row in rows)
        csv.writer(text).writerows([columns, *padded])
        write_atomically(self.path, text.getvalue().encode())
