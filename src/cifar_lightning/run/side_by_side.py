"""Runs side by side, each in a process that is forked of this one: it shares what this has imported and read.

As for ranks (launch.py) the parent passes signals on, and a child hears of its end: by a pipe for its orders, whose end
is the parent's; another carries the child's last words.
"""

import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress

import torch
from lightning.pytorch.utilities.seed import isolate_rng

from cifar_lightning import console, stop
from cifar_lightning.errors import Stopped, exit_code, kind_of
from cifar_lightning.run import signals
from cifar_lightning.run.launch import POLL_SECONDS, STOP_SECONDS, STOPS, heard, last_words


def side_by_side(works: Mapping[str, Callable[[], object]], at_once: int) -> Iterator[tuple[str, Exception | None]]:
    """Calls functions, so many at a time; gives the name of each that has returned, or failed and by what.

    Each computes in one thread: OpenMP's others do not survive a fork.

    Args:
        works: The functions by their names.
        at_once: How many.

    Raises:
        Stopped: This process, or one of them, was told to stop. All have ended.
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
    """Whether a process that is forked of this one can take a step: one tries.

    Not where this one has asked CUDA for its GPUs, whose random state Lightning reads in every fit, nor where it has
    computed gradients after a torch.export, GPU or not: see findings/export-then-fork.sh.
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
        # Python 3.12 warns of a fork beside other threads: here it is one that waits for signals, and holds nothing
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _stop(running: "list[_Child]") -> None:
    """Has them save and leave; those that do not are killed by the caller."""
    for child in running:
        child.tell(stop.requested)
    deadline = time.monotonic() + STOP_SECONDS
    while running and time.monotonic() < deadline and not signals.at_once:
        for child in [child for child in running if child.has_ended()]:
            running.remove(child)
            child.close()
        time.sleep(POLL_SECONDS)


class _Child:
    """A process that is forked of this one, as this one sees it."""

    def __init__(self, name: str, work: Callable[[], object], others: "list[_Child]") -> None:
        self.name, self._returncode = name, 0
        orders, self._orders = os.pipe()
        self._words, words = os.pipe()
        console.flush()
        self.pid = _fork()
        if self.pid == 0:
            for child in (self, *others):
                child.close()  # or the end of the parent would not be that of its pipes
            _be_child(work, orders, words)
        os.close(orders)
        os.close(words)

    def has_ended(self) -> bool:
        """Whether it has."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid:
            self._returncode = os.waitstatus_to_exitcode(status)
        return bool(pid)

    @property
    def code(self) -> int:
        """Of one that has ended its exit code, or 128 and the signal that has killed it."""
        return self._returncode if self._returncode >= 0 else 128 - self._returncode

    def failure(self) -> Exception | None:
        """What it has failed by; None where it has not."""
        if self.code == 0:
            return None
        report = heard(self._words, self._returncode)
        with console.printing(2):
            sys.stderr.write(report["traceback"])
        return kind_of(self.code)(report["message"])

    def tell(self, signum: int) -> None:
        """Tells it to stop."""
        with suppress(OSError):  # it may have ended
            os.write(self._orders, bytes([signum]))

    def kill(self) -> None:
        """Ends it at once."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.close()

    def close(self) -> None:
        """Closes the pipes of one that has ended."""
        os.close(self._orders)
        os.close(self._words)


def _be_child(work: Callable[[], object], orders: int, words: int) -> None:
    """What a child does; it does not return."""
    code = 1
    try:
        os.setsid()  # Ctrl-C in a terminal reaches the parent alone, which passes it on
        signals.install_anew()
        torch.set_num_threads(1)  # before all: OpenMP would wait for threads that the parent has
        threading.Thread(target=_listen, args=(orders,), daemon=True).start()
        with console.notes(silent=True):  # the parent has said it
            work()
        code = 0
    except BaseException as error:
        code = exit_code(error)
        with suppress(OSError):
            os.write(words, last_words(error))
    finally:
        console.flush()
        os._exit(code)


def _listen(orders: int) -> None:
    """Passes the parent's word on. The end of the pipe means that the parent is gone."""
    word = os.read(orders, 1)
    signum = word[0] if word else int(signal.SIGTERM)
    signals.receive(signum, passed_on=True)
    time.sleep(STOP_SECONDS)  # by then a parent would have ended this process
    os._exit(128 + signum)
