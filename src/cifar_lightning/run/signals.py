"""SIGTERM, SIGINT and SIGHUP: the first asks the job to stop, a second (but of SIGHUP) ends it at once.

SIGUSR1 and SIGUSR2 ask for no more than that: schedulers send them ahead (`#SBATCH --signal=USR1@90`), and what comes
after one of them is a first.

While there is something to save or to end in order (inside `deferred()`: training, evaluation, watching over ranks),
the first signal only raises a flag (stop.py), which the callback `StopOnSignal` reads between batches. At any other
time, such as start-up, the process ends where it is: an exception raised in the middle of an import is too easily lost.

The handler does nothing. It may have interrupted anything, so it must not wait, print or take a lock; and Python runs
it only once the main thread is back from whatever C function it is in. Python also writes each signal's number into a
pipe (`signal.set_wakeup_fd`), at once, and a thread that reads it does the work.

This module imports nothing heavy, so that a script can install the handlers before it imports torch.

Where nobody has installed them (`fit` is called in Python, in a notebook say), `deferred()` borrows the signals for as
long as it lasts. What is then raised, once all is saved, is KeyboardInterrupt; a second signal does not end the process
but is raised at once.
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

# Of a terminal that is closed; Windows has none.
SIGHUP = getattr(signal, "SIGHUP", None)
# Ahead of time, from a scheduler; Windows has none.
WARNINGS = tuple(getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name))
STOPS = (signal.SIGTERM, signal.SIGINT, *((SIGHUP,) if SIGHUP is not None else ()), *WARNINGS)
# A shell's `timeout` and some schedulers send a signal to a process and again to its group: that is one request.
ECHO_SECONDS = 0.3
PRINT_SECONDS = 1.0  # that a last line may wait for who reads it
END = 0  # in the pipe, no signal: who has borrowed them gives them back


class Phase(Enum):
    """What a signal means now."""

    START_UP = auto()  # there is nothing to save: the first ends the process
    DEFERRED = auto()  # the first raises the flag, the second ends the process
    WATCHED = auto()  # as DEFERRED, but the main loop sees to the second: it has other processes to end
    DONE = auto()  # nothing: the work is done


ANEW = "; start all ranks again"  # how to go on where another rank is lost before it is known

next_step = ""  # what the last line adds: how to go on
tell_others: Callable[[int], object] | None = None  # of the job's ranks, that this one is told to stop
requeues = False  # whether a job of SLURM's that is warned asks to be started again
at_once = 0  # while WATCHED: number of the signal that asks for an end at once
_phase = Phase.START_UP
_first_at: float | None = None
_handled: tuple[int, ...] = ()
_silent = False
_borrowed = False  # from a process that is not a script's of ours
_heard = False  # of a signal, by a handler that raises
_terminals: list[int] = []
_deciding = threading.Lock()  # between the threads; no handler takes it


def install(silent: bool = False) -> None:
    """Handles these signals from now on, but one that this process is to ignore, as `nohup` has it. Main thread only.

    Args:
        silent: Another process says that the job was stopped; so does the first rank for the others.
    """
    global _handled, _silent
    _silent = silent or not is_first_rank()
    _terminals[:] = [fd for fd in (1, 2) if os.isatty(fd)]
    reader, writer = os.pipe()
    threading.Thread(target=_read, args=(reader,), daemon=True).start()
    _wake(writer)
    # a child that is forked, and starts no other program, shares the pipe: its signals are not this process's
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
    always = (signal.SIGTERM, signal.SIGINT)
    _handled = tuple(s for s in STOPS if s in always or signal.getsignal(s) != signal.SIG_IGN)
    _answer_with(_noted)


def installed() -> bool:
    """Whether this process is a script's of ours, or a rank."""
    return bool(_handled) and not _borrowed


def _wake(writer: int) -> int:
    """Has Python write the numbers of signals into a pipe; gives what it wrote them into before."""
    os.set_blocking(writer, False)
    return signal.set_wakeup_fd(writer, warn_on_full_buffer=False)


@contextmanager
def _borrow() -> Iterator[None]:
    """Handles the signals within it, and gives them back; raises the one that has stopped what was within."""
    global _borrowed, _handled, _heard, _phase, _first_at, at_once
    before = {signum: signal.getsignal(signum) for signum in STOPS}
    theirs = {signum: handler for signum, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    # what a program has these two mean is its own
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
        thread.join()  # which has counted all that came before
        os.close(reader)
        os.close(writer)
        _borrowed, _handled, _phase = False, (), Phase.START_UP
        asked, stop.requested = stop.requested, 0
    if signum := stopped or asked:
        words = message(signum)
        if signum != signal.SIGINT:
            say(words)
            signal.raise_signal(signum)  # as they have it: by default it ends the process
        raise KeyboardInterrupt(words) from None


def _second_is_raised(signum: int, frame: FrameType | None) -> None:
    """The thread has the first, of which Python hears once it is back from a call of torch's: no second by that."""
    global _heard
    before, _heard = _heard, True
    if before and _first_at is not None and time.monotonic() - _first_at >= ECHO_SECONDS and _phase != Phase.DONE:
        raise Stopped(signum)


def _answer_with(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
    for signum in _handled:
        signal.signal(signum, handler)


def _noted(signum: int, frame: FrameType | None) -> None:
    """The thread has it from the pipe."""


def _read(pipe: int) -> None:
    while True:
        for signum in os.read(pipe, 64):
            if signum == END:
                return
            if signum in _handled:
                with suppress(OSError):  # of a terminal: whatever becomes of it, there may be a next signal
                    receive(signum)


def receive(signum: int, passed_on: bool = False) -> bool:
    """Does what a signal asks for.

    Args:
        signum: Its number.
        passed_on: By the launcher, which has counted them: never a second one.

    Returns:
        Whether it is heard: not by a program of others' that is not in a run's training or test.
    """
    global at_once, _first_at
    with _deciding:
        if signum == SIGHUP:  # the terminal is gone: whatever this process went on to print there would be an error
            while _terminals:
                to_nowhere(_terminals.pop())
        if _phase == Phase.DONE:
            return True
        now, first = time.monotonic(), _first_at is None
        if _phase == Phase.START_UP and not _borrowed:
            if not _handled:
                return False
            if tell_others is not None:
                tell_others(signum)
            _end(signum)
        elif signum in WARNINGS:
            stop.requested = stop.requested or signum
        elif first or passed_on:
            _first_at = _first_at if passed_on else now
            stop.requested = stop.requested or signum
        # A second SIGHUP is no order: one is from the kernel, one from the shell as it ends.
        elif signum != SIGHUP and _first_at is not None and now - _first_at >= ECHO_SECONDS:
            if _phase == Phase.WATCHED:
                at_once = at_once or signum
            elif not _borrowed:
                _end(signum)
        return True


def go_on_with(folder: str, function: str) -> str:
    """How to go on with a run, or with several, as `next_step` has it: by a flag, or in Python by a function."""
    return f"; go on with {f'--resume {shlex.quote(folder)}' if installed() else f'{function}({folder!r})'}"


def message(signum: int) -> str:
    """The one line that a stopped job leaves."""
    return f"stopped by {signal.Signals(signum).name}{next_step}"


def farewell(signum: int) -> str:
    """The same, of a job that has nothing left to do: it asks to be started again, where it is to."""
    words = message(signum)
    return f"{words}; {requeue()}" if requeues and signum in WARNINGS else words


def _end(signum: int) -> None:
    try:
        if not _silent and select.select([], [2], [], PRINT_SECONDS)[1]:
            os.write(2, f"{farewell(signum)}\n".encode())
    finally:  # whether or not somebody reads it
        os._exit(128 + signum)


@contextmanager
def deferred(watched: bool = False) -> Iterator[None]:
    """Within it, a first signal raises the flag; the flag then raises `Stopped` at its end, if nothing has before.

    Args:
        watched: The caller looks at `at_once`, and ends what there is to end.
    """
    global _phase
    if not _handled and threading.current_thread() is threading.main_thread():
        with _borrow(), deferred(watched):
            yield
        return
    if _phase == Phase.DONE:
        _answer_with(_noted)
    _phase = Phase.WATCHED if watched else Phase.DEFERRED
    after = Phase.START_UP
    try:
        yield
        stop.raise_if_requested()
    except Stopped:
        # On its way out, to say so: another signal, as srun sends where another rank is out already, is no new order.
        after = Phase.DEFERRED
        raise
    finally:
        if _phase != Phase.DONE:
            _phase = after


def finish() -> None:
    """The work is done and the process about to end: a signal that has come, or is to come, changes nothing."""
    global _phase
    with _deciding:  # what is being decided is decided
        _phase, stop.requested = Phase.DONE, 0
    _answer_with(signal.SIG_IGN)  # else Python gives them back their deadly default as it ends


def begin_again() -> None:
    """After `finish`: there is another run to do in this process, to be stopped as the first was."""
    global _phase
    if installed():
        _phase = Phase.START_UP
        _answer_with(_noted)


def install_anew() -> None:
    """Handles the signals in a child that is forked: none of them has come yet, and another process says it."""
    global _borrowed, _deciding, _first_at, _phase, at_once
    _deciding = threading.Lock()  # which a thread of the parent's may have held
    _borrowed, _first_at, _phase, at_once, stop.requested = False, None, Phase.START_UP, 0, 0
    install(silent=True)
