"""Reads from its folder how far a run, or a group of runs, has come: without torch, whose import takes seconds."""

import os
import shlex
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import yaml

from cifar_lightning.console import percent
from cifar_lightning.errors import InputError
from cifar_lightning.files import check_reachable, listed, user_path
from cifar_lightning.run.ended import divergence_in, results_in
from cifar_lightning.run.holder import Holder, holder_in
from cifar_lightning.run.metrics_log import Row, read_rows
from cifar_lightning.run.no_run import why_no_run
from cifar_lightning.run.plan import is_group, read_plan

FINISHED, DIVERGED, TO_BE_RESUMED, RUNNING = "finished", "diverged", "to be resumed", "running"
# Exit codes: those of `fit`, then EX_TEMPFAIL ("try again"), which job scripts know from mail systems, and EBUSY.
CODES = {FINISHED: 0, DIVERGED: 3, TO_BE_RESUMED: 75, RUNNING: 16}
ANEW = "start a new run with a lower learning rate"


@dataclass(frozen=True)
class Status:
    """How far a run has come.

    Attributes:
        run: The run's folder.
        state: One of CODES.
        epoch: The epoch of the last row of its log, from 1; None without such a row.
        max_epochs: The run's setting.
        step: The step of the newest checkpoint, from which the run would go on, or of the tested one; None without one.
        accuracy: The test accuracy of a finished run, otherwise the last validation accuracy; None without one.
        go_on: The command that resumes the run; None unless the state is "to be resumed".
        holder: The job that uses the folder; None if no job does.
        why: What `fit` said when the run diverged; None if it has not.
        newest_step: The step of the newest checkpoint, to which `epoch` belongs; the tested one may be older.
    """

    run: str
    state: str
    epoch: int | None
    max_epochs: int
    step: int | None
    accuracy: float | None
    go_on: str | None
    holder: Holder | None = None
    why: str | None = None
    newest_step: int | None = None

    def __str__(self) -> str:
        parts = [] if self.epoch is None else [f"epoch {self.epoch}/{self.max_epochs}"]
        parts += [] if self.newest_step is None else [f"step {self.newest_step:,}"]
        kind = "test" if self.state == FINISHED else "val"
        where = "" if self.step in (None, self.newest_step) else f" at step {self.step:,}"
        parts += [] if self.accuracy is None else [f"{kind} accuracy {percent(self.accuracy, 2)}{where}"]
        return _line(self, parts + ([self.why] if self.why else []))


@dataclass(frozen=True)
class GroupStatus:
    """How far a group of runs has come.

    Attributes:
        run: The group's folder.
        state: One of CODES: running if a job uses the folder or one of its runs; finished once all runs have finished
            and are summed up; diverged if some have and all others have finished; otherwise to be resumed.
        runs: The status of each run.
        go_on: The command that resumes the group; None unless the state is "to be resumed".
        holder: The job that uses the group's folder, not only the folder of one run; None if no job does.
    """

    run: str
    state: str
    runs: tuple[Status, ...]
    go_on: str | None
    holder: Holder | None = None

    def __str__(self) -> str:
        counts = Counter(run.state for run in self.runs)
        parts = [f"{counts[FINISHED]} of {len(self.runs)} runs finished"]
        parts += [f"{counts[state]} {state}" for state in (DIVERGED, TO_BE_RESUMED, RUNNING) if counts[state]]
        return _line(self, parts)


def _line(of: Status | GroupStatus, parts: Sequence[str]) -> str:
    next_step = f"; continue with {of.go_on}" if of.go_on else f"; {ANEW}" if of.state == DIVERGED else ""
    return f"{of.run}: {of.state}{of.holder or ''}{''.join(f', {part}' for part in parts)}{next_step}"


def status(run: str | Path) -> Status | GroupStatus:
    """Returns how far the run, or the group of runs, in a folder has come; raises an InputError if there is none."""
    folder = user_path(run)
    return _of_group(run, folder) if is_group(folder) else _of_run(run, folder)


def _of_group(run: str | Path, folder: Path) -> GroupStatus:
    _, names = read_plan(folder)
    runs = tuple(_of_run(os.path.join(run, name), folder / name) for name in names)
    states, holder = {one.state for one in runs}, holder_in(folder)
    state = TO_BE_RESUMED
    if holder or RUNNING in states:
        state = RUNNING
    elif states == {FINISHED} and results_in(folder) is not None:
        state = FINISHED
    elif DIVERGED in states and TO_BE_RESUMED not in states:
        state = DIVERGED
    return GroupStatus(str(run), state, runs, _go_on(run, state), holder)


def _of_run(run: str | Path, folder: Path) -> Status:
    try:
        max_epochs = yaml.safe_load((folder / "config.yaml").read_text("utf-8"))["max_epochs"]
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError) as error:
        check_reachable(folder)
        raise InputError(f"run {run} {why_no_run(folder)}") from error
    holder, results, why = holder_in(folder), results_in(folder), divergence_in(folder)
    state = RUNNING if holder else FINISHED if results is not None else DIVERGED if why is not None else TO_BE_RESUMED
    names = [path.stem.removeprefix("step-") for path in listed(folder / "checkpoints", "step-*.ckpt")]
    step = newest = max((int(name) for name in names if name.isdigit()), default=None)
    rows: list[Row] = []
    with suppress(InputError):  # without a readable log, the state is still known
        rows = [row for row in read_rows(folder / "metrics.csv") if step is not None and (row["step"] or 0) <= step]
    logged = {name: value for row in rows for name, value in row.items() if value is not None}  # the last value of each
    epoch = int(logged["epoch"]) + 1 if "epoch" in logged else None
    accuracy = logged.get("val_acc")
    if state == FINISHED and results is not None:
        step, accuracy = results.get("step"), results.get("test_acc")
    why = why if state == DIVERGED else None
    return Status(str(run), state, epoch, max_epochs, step, accuracy, _go_on(run, state), holder, why, newest)


def _go_on(run: str | Path, state: str) -> str | None:
    return f"cifar-lightning fit --resume {shlex.quote(str(run))}" if state == TO_BE_RESUMED else None
