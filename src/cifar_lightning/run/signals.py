"""SIGTERM, SIGINT and SIGHUP: the first asks the job to stop, a second (but of SIGHUP) ends it at once.

While there is something to save or to end in order (inside `deferred()`: training, evaluation, watching over ranks),
the first signal only raises a flag, which the callback `StopOnSignal` reads between batches: a handler that did more
could interrupt a checkpoint or a collective. At any other time, such as start-up, the process ends where it is: an
exception raised in the middle of an import is too easily lost. This module imports nothing heavy, so that a script can
install the handlers before it imports torch.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from cifar_lightning.console import to_nowhere
from cifar_lightning.errors import Stopped

# Of a terminal that is closed; Windows has none.
SIGHUP = getattr(signal, "SIGHUP", None)
STOPS = tuple(signum for signum in (signal.SIGTERM, signal.SIGINT, SIGHUP) if signum is not None)
# A shell's `timeout` and some schedulers send a signal to a process and again to its group: that is one request.
ECHO_SECONDS = 0.3

requested = 0  # number of the signal that asks this process to stop; 0: none has
at_once: Callable[[], object] | None = None  # called before the process ends at once
next_step = ""  # what the last line adds: how to go on
_first_at = float("-inf")
_deferred = False
_done = False
_silent = False
_terminals: list[int] = []


def install(silent: bool = False) -> None:
    """Handles these signals from now on, but a SIGHUP that `nohup` has this process ignore. Main thread only.

    Args:
        silent: Another process says that the job was stopped; so does the first rank for the others.
    """
    global _silent
    _silent = silent or os.environ.get("RANK", "0") != "0"
    _terminals[:] = [fd for fd in (1, 2) if os.isatty(fd)]
    for signum in STOPS:
        if signum != SIGHUP or signal.getsignal(signum) != signal.SIG_IGN:
            signal.signal(signum, _handle)


def message(signum: int) -> str:
    """The one line that a stopped job leaves."""
    return f"stopped by {signal.Signals(signum).name}{next_step}"


def _handle(signum: int, frame: FrameType | None) -> None:
    global _first_at, requested
    _leave_terminal(signum)
    now = time.monotonic()
    if _done or (_deferred and now - _first_at < ECHO_SECONDS):
        return
    if signum == SIGHUP and requested:  # from the kernel, and again from the shell as it ends: a second is no order
        return
    if not _deferred or _first_at > float("-inf"):
        _end(signum)
    _first_at = now
    requested = requested or signum


def _end(signum: int) -> None:
    if at_once is not None:
        at_once()
    if not _silent:
        os.write(2, f"{message(signum)}\n".encode())
    os._exit(128 + signum)


def request(signum: int) -> None:
    """Asks this process to stop, from another thread: what the launcher passes on. Never counts as a second signal."""
    global requested
    _leave_terminal(signum)
    if _done:
        return
    if not _deferred:
        _end(signum)
    requested = requested or signum


def _leave_terminal(signum: int) -> None:
    """After a SIGHUP the terminal is gone: whatever this process went on to print there would be an error."""
    while signum == SIGHUP and _terminals:
        to_nowhere(_terminals.pop())


@contextmanager
def deferred() -> Iterator[None]:
    """Within it, a first signal raises the flag; the flag then raises `Stopped` at its end, if nothing has before."""
    global _deferred, _done
    _deferred, _done = True, False
    try:
        yield
        raise_if_requested()
    finally:
        _deferred = False


def ignore() -> None:
    """The work is done and the process about to end: a signal that has come, or is to come, changes nothing."""
    global _done, requested
    _done, requested = True, 0


def raise_if_requested() -> None:
    """Raises `Stopped` where the flag is up."""
    if requested:
        raise Stopped(requested)
