"""A run's folder: `lightning_logs/version_N`, which one job at a time is in."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from cifar_lightning.console import say
from cifar_lightning.errors import InputError
from cifar_lightning.files import check_stays, lock, open_for_all, staying, unwritten, user_path
from cifar_lightning.run.ended import results_in
from cifar_lightning.run.holder import LOCK, Holder
from cifar_lightning.run.no_run import numbered
from cifar_lightning.run.settings import Settings, read_settings

HELD_SECONDS = 30.0  # that a job may need to leave a run, once its launcher is gone


class RunInUseError(InputError):
    """Another job is in the run's folder."""


@contextmanager
def held(folder: Path, seconds: float | None = None) -> Iterator[int]:
    """Keeps every other job out of a run's folder, waiting for one that is about to leave it; see holder.py.

    It holds a file descriptor, which it gives: the folder is free once all processes that have inherited it are gone,
    so a run whose launcher was killed is not resumed while its ranks still save. And nothing is written there any more
    once the folder is moved or removed.

    Args:
        folder: The run's.
        seconds: To wait; HELD_SECONDS by default.

    Raises:
        RunInUseError: Another job has it.
        InputError: There is no such folder, or none that this user may write to.
        RunError: The disk does not take it, or it is one of a group's that has been moved since this job came into it.
    """
    check_stays(folder / LOCK)  # as one of a group that has been moved
    try:
        descriptor = open_for_all(folder / LOCK)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"nothing to resume: {folder} is no run's folder ({error.strerror})") from error
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
                say(f"waiting for the job that is in {folder}")
            waiting = True
            time.sleep(0.1)
        Holder.this().write(descriptor)
        with staying(folder / LOCK, descriptor):
            yield descriptor
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    try:
        lock(descriptor, wait=False)  # or, without locks, goes on: nobody can be kept out
    except BlockingIOError:
        return False
    return True


def newest_unfinished(
    default_root_dir: str | Path, changes: Mapping[str, Any] | None = None
) -> AbstractContextManager[tuple[Path, int] | None]:
    """Holds the newest run of a log folder that may go on with `changes`; see `newest_left`."""
    return newest_left(default_root_dir, "config.yaml", lambda run: read_settings(run).changed(changes or {}, run))


@contextmanager
def newest_left(
    default_root_dir: str | Path, begun: str, check: Callable[[Path], object]
) -> Iterator[tuple[Path, int] | None]:
    """Holds the newest run, or group of runs, of a log folder that may go on, and that no job is in, if there is one.

    That is, one that has begun and not finished, and is what it is to be. A scheduler's job takes the one that it was
    in before all others, and none of another task of its array.

    Args:
        default_root_dir: Where `lightning_logs/` is.
        begun: The file that the folder of one has.
        check: Raises an InputError where the one in a folder is not what it is to be.

    Gives its folder, and what `held` gives.
    """
    logs = user_path(default_root_dir) / "lightning_logs"
    runs = [path for _, path in sorted(numbered(logs), reverse=True) if path.is_dir()]
    this, holders = Holder.this(), {run: Holder.of(run) for run in runs}
    deadline, passed = time.monotonic() + HELD_SECONDS, False
    with ExitStack() as holding:
        found = None
        for run in sorted(runs, key=lambda run: not this.same_job(holders[run])):
            if this.neighbour(holders[run]):
                continue
            try:
                if not _is_unfinished(run, begun):
                    continue
                try:
                    check(run)
                except InputError as error:
                    if not passed:  # one is enough: there may be as many as tasks of an array
                        say(f"passing over {run}: {error}")
                    passed = True
                    continue
                with ExitStack() as attempt:
                    descriptor = attempt.enter_context(held(run, max(0.0, deadline - time.monotonic())))
                    if _is_unfinished(run, begun):  # still: the job that was in it may have gone on to its end
                        found = run, descriptor
                        holding.enter_context(attempt.pop_all())
                        break
            except RunInUseError:
                continue
            # that of another program, such as Lightning's own command line, or one that only another user can read
            except (InputError, OSError) as error:
                say(f"passing over {run}: {error}")
        yield found


def _is_unfinished(run: Path, begun: str) -> bool:
    has_begun = (run / begun).exists() and os.access(run, os.W_OK)
    return has_begun and results_in(run) is None


@contextmanager
def new_run(settings: Settings) -> Iterator[tuple[Path, int]]:
    """Makes a run's folder, with its config.yaml, and holds it: gives the folder, and what `held` gives."""
    folder = new_folder(settings.default_root_dir)
    with held(folder) as descriptor:
        settings.write(folder)
        yield folder, descriptor


def new_folder(default_root_dir: str) -> Path:
    """Makes the next free `lightning_logs/version_N`. Runs started together get one each."""
    root = Path(default_root_dir) / "lightning_logs"
    try:
        root.mkdir(parents=True, exist_ok=True)
        first = max((number for number, _ in numbered(root)), default=-1) + 1
        for number in count(first):
            with suppress(FileExistsError):
                (root / f"version_{number}").mkdir()
                break
    except OSError as error:
        raise InputError(f"default_root_dir {default_root_dir}: {error.strerror}; give another") from error
    return root / f"version_{number}"
