"""Handles SIGTERM, SIGINT and SIGHUP: the first signal asks the job to stop, a second (except SIGHUP) ends it at once.

SIGUSR1 and SIGUSR2 only ask the job to stop: schedulers send them ahead of time (`#SBATCH --signal=USR1@90`), and the
signal that follows still counts as the first.

While there is something to save or to shut down (inside `deferred()`: training, evaluation, watching over ranks), the
first signal only sets a flag (stop.py), which the callback `StopOnSignal` reads between batches. At any other time,
such as start-up, the process ends where it is: an exception raised in the middle of an import is too easily lost.

The signal handler itself does nothing. It may have interrupted anything, so it must not wait, print or take a lock;
and Python runs it only after the main thread has returned from its current C function. But Python also writes each
signal's number into a pipe at once (`signal.set_wakeup_fd`), and a thread that reads the pipe does the work.

This module imports nothing heavy, so that a script can install the handlers before it imports torch.

If no script has installed the handlers (`fit` is called in a notebook, say), `deferred()` borrows the signals while it
lasts. If one has come, it raises KeyboardInterrupt once everything is saved; a signal other than SIGINT goes to the
program's own handler first, which by default ends the process. A second signal does not end the process, but raises an
exception at once.
"""

import os
import select
import shlex
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import Enum, auto
from types import FrameType

from cifar_lightning import stop
from cifar_lightning.console import say, to_nowhere
from cifar_lightning.errors import Stopped
from cifar_lightning.run.cluster import is_first_rank, requeue

# Sent when a terminal is closed; Windows does not have it.
SIGHUP = getattr(signal, "SIGHUP", None)
# Sent ahead of time by a scheduler; Windows does not have them.
WARNINGS = tuple(getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name))
STOPS = (signal.SIGTERM, signal.SIGINT, *((SIGHUP,) if SIGHUP is not None else ()), *WARNINGS)
# A shell's `timeout` and some schedulers signal a process, then its group: two signals this close are one request.
ECHO_SECONDS = 0.3
PRINT_SECONDS = 1.0  # how long the last line may wait until standard error can take it
END = 0  # not a signal: in the pipe, it ends the thread that reads it, when borrowed signals are given back


class Phase(Enum):
    """What a signal does at present."""

    START_UP = auto()  # there is nothing to save: the first signal ends the process
    DEFERRED = auto()  # the first signal sets the flag, the second ends the process
    WATCHED = auto()  # as DEFERRED, but the main loop handles the second: it has other processes to end
    DONE = auto()  # signals do nothing: the work is done


ANEW = "; start all ranks again"  # in place of `next_step`, if another rank is lost before that is known

next_step = ""  # how to resume the job: appended to the last line
tell_others: Callable[[int], object] | None = None  # tells the job's other ranks that this one was told to stop
requeues = False  # whether a SLURM job that is sent one of WARNINGS asks to be started again
at_once = 0  # while WATCHED: number of the signal that asks to end everything at once
_phase = Phase.START_UP
_first_at: float | None = None
_handled: tuple[int, ...] = ()
_silent = False
_borrowed = False  # from a program that is not one of our scripts
_heard = False  # whether the handler that raises has been called for the first signal
_terminals: list[int] = []
_deciding = threading.Lock()  # between threads; no signal handler takes it


def install(silent: bool = False) -> None:
    """Handles these signals from now on, except those that this process already ignores, as under `nohup`.

    Must be called in the main thread. SIGTERM and SIGINT are always handled.

    Args:
        silent: Whether another process says that the job was stopped, as the first rank does for the other ranks.
    """
    global _handled, _silent
    _silent = silent or not is_first_rank()
    _terminals[:] = [fd for fd in (1, 2) if os.isatty(fd)]
    reader, writer = os.pipe()
    threading.Thread(target=_read, args=(reader,), daemon=True).start()
    _wake(writer)
    # A forked child that starts no other program shares the pipe, but its signals are not meant for this process.
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
    always = (signal.SIGTERM, signal.SIGINT)
    _handled = tuple(s for s in STOPS if s in always or signal.getsignal(s) != signal.SIG_IGN)
    _answer_with(_noted)


def installed() -> bool:
    """Whether this process runs one of our scripts, or is a rank."""
    return bool(_handled) and not _borrowed


def _wake(writer: int) -> int:
    """Makes Python write signal numbers into a pipe; returns the descriptor that it wrote them to before."""
    os.set_blocking(writer, False)
    return signal.set_wakeup_fd(writer, warn_on_full_buffer=False)


@contextmanager
def _borrow() -> Iterator[None]:
    """A context that handles the signals, gives them back at its end, and raises the signal that has stopped it."""
    global _borrowed, _handled, _heard, _phase, _first_at, at_once
    before = {signum: signal.getsignal(signum) for signum in STOPS}
    theirs = {signum: handler for signum, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    # A program that handles SIGUSR1 or SIGUSR2 itself keeps them.
    theirs = {s: handler for s, handler in theirs.items() if s not in WARNINGS or handler == signal.SIG_DFL}
    _phase, _first_at, at_once, stop.requested = Phase.DEFERRED, None, 0, 0
    _terminals.clear()
    reader, writer = os.pipe()
    thread = threading.Thread(target=_read, args=(reader,), daemon=True)
    thread.start()
    woken = _wake(writer)
    _borrowed, _handled, _heard, stopped = True, tuple(theirs), False, 0
    try:
        _answer_with(_second_is_raised)
        yield
    except Stopped as error:
        stopped = error.signum
    finally:
        for signum, handler in theirs.items():
            signal.signal(signum, handler)
        signal.set_wakeup_fd(woken)
        os.write(writer, bytes([END]))
        thread.join()  # by then it has processed all earlier signals
        os.close(reader)
        os.close(writer)
        _borrowed, _handled, _phase = False, (), Phase.START_UP
        asked, stop.requested = stop.requested, 0
    if signum := stopped or asked:
        words = message(signum)
        if signum != signal.SIGINT:
            say(words)
            signal.raise_signal(signum)  # for the program's own handler: by default it ends the process
        raise KeyboardInterrupt(words) from None


def _second_is_raised(signum: int, frame: FrameType | None) -> None:
    """Raises `Stopped` for a second signal.

    The thread has processed the first one. Python calls this handler for it too, but only after a call of torch has
    returned, which may be late: the first call is never a second signal.
    """
    global _heard
    before, _heard = _heard, True
    if before and _first_at is not None and time.monotonic() - _first_at >= ECHO_SECONDS and _phase != Phase.DONE:
        raise Stopped(signum)


def _answer_with(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
    for signum in _handled:
        signal.signal(signum, handler)


def _noted(signum: int, frame: FrameType | None) -> None:
    """Does nothing: the thread reads the signal from the pipe."""


def _read(pipe: int) -> None:
    while True:
        for signum in os.read(pipe, 64):
            if signum == END:
                return
            if signum in _handled:
                with suppress(OSError):  # a terminal may fail, but later signals must still be read
                    receive(signum)


def receive(signum: int, passed_on: bool = False) -> bool:
    """Does what a signal asks for.

    Args:
        signum: The signal's number.
        passed_on: Whether the launcher has passed it on. The launcher counts signals itself: this is never a second.

    Returns:
        Whether the signal was handled. It is not in a program other than ours, outside a run's training and test.
    """
    with _deciding:
        if signum == SIGHUP:  # the terminal is gone: to print anything more there would be an error
            while _terminals:
                to_nowhere(_terminals.pop())
        if _phase == Phase.START_UP:
            if not _handled:
                return False
            if tell_others is not None:
                tell_others(signum)
            _end(signum)
        elif _phase != Phase.DONE:
            stop.requested = stop.requested or signum
            if not passed_on and signum not in WARNINGS:
                _count(signum)
        return True


def _count(signum: int) -> None:
    """Notes when a first signal has come, and does what a second one asks for."""
    global at_once, _first_at
    now = time.monotonic()
    if _first_at is None:
        _first_at = now
    # A second SIGHUP is not another request: the kernel sends one, and the shell sends one as it ends.
    elif signum != SIGHUP and now - _first_at >= ECHO_SECONDS:
        if _phase == Phase.WATCHED:
            at_once = at_once or signum
        elif not _borrowed:
            _end(signum)


def go_on_with(folder: str, function: str) -> str:
    """Returns a text for `next_step` on how to resume one run or several: by a flag, or in Python by a function."""
    return f"; continue with {f'--resume {shlex.quote(folder)}' if installed() else f'{function}({folder!r})'}"


def message(signum: int) -> str:
    """Returns the one line that a stopped job prints."""
    return f"stopped by {signal.Signals(signum).name}{next_step}"


def farewell(signum: int) -> str:
    """Returns the last line of a job that has nothing left to do. Requeues the job first, if that is wanted."""
    words = message(signum)
    return f"{words}; {requeue()}" if requeues and signum in WARNINGS else words


def _end(signum: int) -> None:
    try:
        if not _silent and select.select([], [2], [], PRINT_SECONDS)[1]:
            os.write(2, f"{farewell(signum)}\n".encode())
    finally:  # even if the line cannot be printed
        os._exit(128 + signum)


@contextmanager
def deferred(watched: bool = False) -> Iterator[None]:
    """A context in which a first signal only sets the flag. At its end a set flag raises `Stopped`.

    Args:
        watched: Whether the caller checks `at_once`, and ends its other processes then.
    """
    global _phase
    if not (_handled or _borrowed) and threading.current_thread() is threading.main_thread():
        with _borrow(), deferred(watched):
            yield
        return
    if _phase == Phase.DONE:
        begin_again()
    after, _phase = _phase, Phase.WATCHED if watched else Phase.DEFERRED
    try:
        yield
        stop.raise_if_requested()
    except Stopped:
        # This process is about to end with a message. Another signal is not a new request: srun sends one when another
        # rank has ended.
        after = Phase.DEFERRED
        raise
    finally:
        if _phase != Phase.DONE:
            _phase = after


def finish() -> None:
    """Makes past and future signals have no effect: the work is done, and the process is about to end."""
    global _phase
    with _deciding:  # waits until the thread is done with a signal
        _phase, stop.requested = Phase.DONE, 0
    _answer_with(signal.SIG_IGN)  # otherwise Python restores the default handlers as it exits, and they kill


def begin_again() -> None:
    """Undoes `finish`, for another run in this process, which signals can stop like the first one."""
    global _first_at, _phase, at_once
    _phase, _first_at, at_once = Phase.START_UP, None, 0
    _answer_with(_noted)


def install_anew() -> None:
    """Installs the handlers in a forked child. It forgets signals that the parent has received, and prints nothing."""
    global _borrowed, _deciding, _first_at, _phase, at_once
    _deciding = threading.Lock()  # a thread of the parent may have held the old one
    _borrowed, _first_at, _phase, at_once, stop.requested = False, None, Phase.START_UP, 0, 0
    install(silent=True)
