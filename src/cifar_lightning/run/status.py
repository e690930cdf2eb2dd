"""How far a run has come, read from its folder, for job scripts: without torch, whose import takes seconds."""

import csv
import json
import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cifar_lightning.errors import InputError
from cifar_lightning.run.holder import Holder, in_use

FINISHED, TO_BE_RESUMED, RUNNING = "finished", "to be resumed", "running"
# As a mail system's, which job scripts know: EX_TEMPFAIL, "try again", and EBUSY.
CODES = {FINISHED: 0, TO_BE_RESUMED: 75, RUNNING: 16}


@dataclass(frozen=True)
class Status:
    """How far a run has come.

    Attributes:
        run: Its folder.
        state: One of CODES.
        epoch: That of the last row of its log, from 1; None where there is none.
        max_epochs: The run's.
        step: Of its newest checkpoint, from which it would go on, or of the one that was tested; None: there is none.
        accuracy: On the test images, or the last on those of its validation; None where there is none.
        go_on: What resumes it; None where nothing is to be.
    """

    run: str
    state: str
    epoch: int | None
    max_epochs: int
    step: int | None
    accuracy: float | None
    go_on: str | None

    def __str__(self) -> str:
        parts = [] if self.epoch is None else [f"epoch {self.epoch}/{self.max_epochs}"]
        parts += [] if self.step is None else [f"step {self.step}"]
        kind = "test" if self.state == FINISHED else "val"
        parts += [] if self.accuracy is None else [f"{kind} accuracy {self.accuracy:.2%}"]
        holder = str(Holder.of(Path(self.run))) if self.state == RUNNING else ""
        line = f"{self.run}: {self.state}{holder}{''.join(f', {part}' for part in parts)}"
        return f"{line}; go on with {self.go_on}" if self.go_on else line


def status(run: str | Path) -> Status:
    """How far a run has come.

    Args:
        run: Its folder.

    Raises:
        InputError: It is none.
    """
    folder = Path(os.path.expanduser(run))
    try:
        max_epochs = yaml.safe_load((folder / "config.yaml").read_text("utf-8"))["max_epochs"]
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError) as error:
        raise InputError(f"run {run} is none (no readable config.yaml): give lightning_logs/version_N") from error
    results = _results(folder)
    state = RUNNING if in_use(folder) else TO_BE_RESUMED if results is None else FINISHED
    names = [path.stem.removeprefix("step-") for path in (folder / "checkpoints").glob("step-*.ckpt")]
    step = max((int(name) for name in names if name.isdigit()), default=None)
    rows = [row for row in _rows(folder) if step is not None and int(row["step"]) <= step]
    accuracies = [float(row["val_acc"]) for row in rows if row.get("val_acc")]
    accuracy = accuracies[-1] if accuracies else None
    if state == FINISHED and results is not None:
        step, accuracy = results["step"], results["test_acc"]
    epoch = int(rows[-1]["epoch"]) + 1 if rows else None
    go_on = f"cifar-lightning fit --resume {shlex.quote(str(run))}" if state == TO_BE_RESUMED else None
    return Status(str(run), state, epoch, max_epochs, step, accuracy, go_on)


def _results(folder: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads((folder / "results.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return found


def _rows(folder: Path) -> list[dict[str, str]]:
    """The rows of its log, but for a last line that is being written."""
    try:
        text = (folder / "metrics.csv").read_text("utf-8")
    except (OSError, ValueError):
        return []
    return list(csv.DictReader(text[: text.rfind("\n") + 1].splitlines()))
