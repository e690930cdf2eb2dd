"""SIGTERM and SIGINT: the first asks the job to stop, a second ends it at once.

While training and evaluation run (inside `deferred()`), the first signal only raises a flag, which the callback
`StopOnSignal` reads between batches: a handler that did more could interrupt a checkpoint or a collective. At any
other time it raises `Stopped` where the program is. This module imports nothing heavy, so that a script can install
the handlers before it imports torch.
"""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from cifar_lightning.errors import Stopped

requested = 0  # number of the signal that asks this process to stop; 0: none has
at_once: Callable[[], object] | None = None  # called on a second signal, before the process ends
_signalled = False
_deferred = False


def install() -> None:
    """Handles SIGTERM and SIGINT from now on. Main thread only."""
    signal.signal(signal.SIGTERM, _handle)
    signal.signal(signal.SIGINT, _handle)


def _handle(signum: int, frame: FrameType | None) -> None:
    global _signalled, requested
    if _signalled:
        if at_once is not None:
            at_once()
        os._exit(128 + signum)
    _signalled = True
    requested = requested or signum
    if not _deferred:
        raise Stopped(requested)


def request(signum: int) -> None:
    """Asks this process to stop, from another thread: what the launcher passes on. Never counts as a second signal."""
    global requested
    if requested:
        return
    if _deferred:
        requested = signum
    else:
        os.kill(os.getpid(), signum)


@contextmanager
def deferred() -> Iterator[None]:
    """Within it, a first signal raises the flag and no exception."""
    global _deferred
    _deferred = True
    try:
        yield
    finally:
        _deferred = False
    raise_if_requested()


def ignore() -> None:
    """From now on a first signal changes nothing: the process is about to end, and says why."""
    global _deferred
    _deferred = True


def raise_if_requested() -> None:
    """Raises `Stopped` where the flag is up."""
    if requested:
        raise Stopped(requested)
