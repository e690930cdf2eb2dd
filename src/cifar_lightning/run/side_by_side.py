"""Runs side by side, each in a process forked from this one, which shares what this process has imported and read.

As with ranks (launch.py), the parent passes signals on to its children; child.py has how they talk.
"""

import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import NoReturn

import torch
from lightning.pytorch.utilities.seed import isolate_rng

from cifar_lightning import console, stop
from cifar_lightning.errors import Stopped
from cifar_lightning.run import signals
from cifar_lightning.run.child import POLL_SECONDS, STOP_SECONDS, STOPS, error_of, heard, work_for_parent


def side_by_side(works: Mapping[str, Callable[[], object]], at_once: int) -> Iterator[tuple[str, Exception | None]]:
    """Calls functions in forked processes; as each one ends, yields its name, and its error or None.

    Each computes in one thread, because OpenMP's other threads do not survive a fork.

    Args:
        works: The functions by their names.
        at_once: Maximum number of functions that run at the same time.

    Raises:
        Stopped: This process, or one of its children, was told to stop. All children have ended.
    """
    waiting, running = list(works.items()), list[_Child]()
    with signals.deferred(watched=True):
        try:
            while waiting or running:
                while waiting and len(running) < at_once:
                    running.append(_Child(*waiting.pop(0), running))
                for child in [child for child in running if child.has_ended()]:
                    running.remove(child)
                    if child.code in STOPS:
                        stop.requested = stop.requested or child.code - 128
                    else:
                        yield child.name, child.failure()
                    child.close()
                if stop.requested:
                    _stop(running)
                    raise Stopped(stop.requested)
                time.sleep(POLL_SECONDS)
        finally:
            for child in running:
                child.kill()


def can_train_forked() -> bool:
    """Whether a process forked from this one can train: forks one that tries.

    It cannot if this process has asked CUDA for its GPUs, whose random state Lightning reads in every fit; nor if this
    process has computed gradients after a torch.export, with or without a GPU: see findings/export-then-fork.sh.
    """
    if sys.platform != "linux":
        return False
    pid = _fork()
    if pid == 0:
        try:
            torch.set_num_threads(1)
            with isolate_rng():
                torch.ones(1, requires_grad=True).backward()  # type: ignore[no-untyped-call]
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(pid, 0)[1] == 0


def _fork() -> int:
    with warnings.catch_warnings():
        # Python 3.12 warns of a fork if other threads run. Here it is one that waits for signals and holds no lock.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _stop(running: "list[_Child]") -> None:
    """Tells the children to save and leave. The caller kills those that do not leave in time."""
    for child in running:
        child.tell(stop.requested)
    deadline = time.monotonic() + STOP_SECONDS
    while running and time.monotonic() < deadline and not signals.at_once:
        for child in [child for child in running if child.has_ended()]:
            running.remove(child)
            child.close()
        time.sleep(POLL_SECONDS)


class _Child:
    """A child process forked from this one, as its parent sees it."""

    def __init__(self, name: str, work: Callable[[], object], others: "list[_Child]") -> None:
        self.name, self._returncode = name, 0
        orders, self._orders = os.pipe()
        self._words, words = os.pipe()
        console.flush()
        self.pid = _fork()
        if self.pid == 0:
            for child in (self, *others):
                child.close()  # otherwise the pipes would outlive the parent
            _be_child(work, orders, words)
        os.close(orders)
        os.close(words)

    def has_ended(self) -> bool:
        """Whether the child has ended."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid:
            self._returncode = os.waitstatus_to_exitcode(status)
        return bool(pid)

    @property
    def code(self) -> int:
        """The exit code of a child that has ended, or 128 plus the signal that has killed it."""
        return self._returncode if self._returncode >= 0 else 128 - self._returncode

    def failure(self) -> Exception | None:
        """Returns the error that the child has failed with, and prints its traceback; None if it has not failed."""
        return error_of(heard(self._words, self._returncode)) if self.code else None

    def tell(self, signum: int) -> None:
        """Tells the child to stop."""
        with suppress(OSError):  # it may have ended
            os.write(self._orders, bytes([signum]))

    def kill(self) -> None:
        """Ends the child at once."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.close()

    def close(self) -> None:
        """Closes the parent's ends of the child's pipes."""
        os.close(self._orders)
        os.close(self._words)


def _be_child(work: Callable[[], object], orders: int, words: int) -> NoReturn:
    try:
        os.setsid()  # Ctrl-C in a terminal then reaches only the parent, which passes it on
        signals.install_anew()
        torch.set_num_threads(1)  # first: OpenMP would wait for threads that only the parent has
        work_for_parent(work, orders, words)
    finally:
        os._exit(1)
