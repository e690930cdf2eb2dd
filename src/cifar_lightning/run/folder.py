"""A run's folder, `lightning_logs/version_N`, which one job at a time may use."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from cifar_lightning.console import say
from cifar_lightning.errors import InputError
from cifar_lightning.files import check_reachable, check_stays, exists, staying, unwritten, user_path
from cifar_lightning.locks import lock, open_for_all
from cifar_lightning.run.changes import changed
from cifar_lightning.run.ended import results_in
from cifar_lightning.run.holder import LOCK, Holder
from cifar_lightning.run.no_run import numbered
from cifar_lightning.run.settings import Settings, read_settings

HELD_SECONDS = 30.0  # how long a job's ranks may go on using a run's folder after their launcher is gone


class RunInUseError(InputError):
    """Another job is using the run's folder."""


@contextmanager
def held(folder: Path, seconds: float | None = None) -> Iterator[int]:
    """A context that keeps every other job out of a run's folder; waits for a job that is about to end. See holder.py.

    It gives the file descriptor of the lock. The folder is free once all processes that inherited the descriptor are
    gone, so a run whose launcher was killed is not resumed while its ranks still save. If the folder is moved or
    removed, nothing more is written there.

    Args:
        folder: The run's folder.
        seconds: How long to wait; HELD_SECONDS by default.

    Raises:
        RunInUseError: Another job holds the folder.
        InputError: There is no such folder, or this user may not write to it.
        RunError: The lock file cannot be written, or the folder is in a group's folder that was moved while this job
            held it.
    """
    check_stays(folder / LOCK)  # the folder of the group may have been moved
    try:
        descriptor = open_for_all(folder / LOCK)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"nothing to resume: {folder} is not a run's folder ({error.strerror})") from error
    except PermissionError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror}): make it writable") from error
    except OSError as error:
        raise unwritten(folder / LOCK, error) from error
    try:
        deadline, waiting = time.monotonic() + (HELD_SECONDS if seconds is None else seconds), False
        while not _lock(descriptor):
            if time.monotonic() > deadline:
                raise RunInUseError(
                    f"{folder} is in use by another job{Holder.of(folder)}: wait for it to end, or stop it"
                )
            if not waiting:
                say(f"waiting for the job that uses {folder} to end")
            waiting = True
            time.sleep(0.1)
        Holder.this().write(descriptor)
        with staying(folder / LOCK, descriptor):
            yield descriptor
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    try:
        lock(descriptor, wait=False)  # does nothing on a file system without locks: no job can be kept out there
    except BlockingIOError:
        return False
    return True


def newest_unfinished(
    default_root_dir: str | Path, changes: Mapping[str, Any] | None = None
) -> AbstractContextManager[tuple[Path, int] | None]:
    """A context that holds the newest run of a log folder that can be resumed with `changes`; see `newest_left`."""
    return newest_left(default_root_dir, "config.yaml", lambda run: changed(read_settings(run), changes or {}, run))


@contextmanager
def newest_left(
    default_root_dir: str | Path, begun: str, check: Callable[[Path], object]
) -> Iterator[tuple[Path, int] | None]:
    """A context that holds the newest run, or group, of a log folder that can be resumed and that no job holds.

    Such a run has begun, has not finished and passes `check`. A scheduler's job prefers the run that it held before to
    all others, and takes none of another task of its array.

    Args:
        default_root_dir: The folder that holds `lightning_logs/`.
        begun: The name of the file by which a folder of a run, or of a group, is recognised.
        check: Raises an InputError if the run or group in a folder is not a suitable one.

    Gives the folder and what `held` gives, or None if there is no such run.
    """
    logs = user_path(default_root_dir) / "lightning_logs"
    check_reachable(logs)
    runs = [path for _, path in sorted(numbered(logs), reverse=True)]
    this, holders = Holder.this(), {run: Holder.of(run) for run in runs}
    deadline, passed = time.monotonic() + HELD_SECONDS, False

    def suits(run: Path) -> bool:
        nonlocal passed
        try:
            check(run)
        except InputError as error:
            if not passed:  # say it once: an array may have left a run for each of its many tasks
                say(f"skipping {run}: {error}")
            passed = True
            return False
        return True

    mine = [run for run in runs if not this.neighbour(holders[run])]
    for run in sorted(mine, key=lambda run: not this.same_job(holders[run])):
        with ExitStack() as holding:
            try:
                if not (_is_unfinished(run, begun) and suits(run)):
                    continue
                descriptor = holding.enter_context(held(run, max(0.0, deadline - time.monotonic())))
                if not _is_unfinished(run, begun):  # the job that held it has finished it
                    continue
            except RunInUseError:
                continue
            # A folder of another program, such as Lightning's own command line, or one that only another user can read.
            except (InputError, OSError) as error:
                say(f"skipping {run}: {error}")
                continue
            yield run, descriptor
            return
    yield None


def _is_unfinished(run: Path, begun: str) -> bool:
    check_reachable(run)
    has_begun = exists(run / begun) and os.access(run, os.W_OK)
    return has_begun and results_in(run) is None


@contextmanager
def new_run(settings: Settings) -> Iterator[tuple[Path, int]]:
    """A context that makes a run's folder, with its config.yaml, and holds it: gives the folder and its descriptor."""
    folder = new_folder(settings.default_root_dir)
    with held(folder) as descriptor:
        settings.write(folder)
        yield folder, descriptor


def new_folder(default_root_dir: str) -> Path:
    """Makes the next free `lightning_logs/version_N`. Runs that start at the same time get different ones."""
    root = Path(default_root_dir) / "lightning_logs"
    try:
        root.mkdir(parents=True, exist_ok=True)
        first = max((number for number, _ in numbered(root)), default=-1) + 1
        for number in count(first):
            with suppress(FileExistsError):
                (root / f"version_{number}").mkdir()
                break
    except OSError as error:
        raise InputError(f"default_root_dir {default_root_dir}: {error.strerror}; choose another folder") from error
    return root / f"version_{number}"
