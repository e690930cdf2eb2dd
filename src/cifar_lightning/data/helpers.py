"""Helpers: processes that decode small pictures for this one, in which one thread at a time can.

Most of what a small picture takes is Pillow's own Python, and threads have to wait for each other there. A helper is
this Python with numpy and Pillow alone, without torch, which starts in a fifth of a second. It is no process of
`multiprocessing`'s, which would run a user's script once more, nor a fork, which would copy the locks of torch's
threads as they happen to be.
"""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing import spawn
from queue import SimpleQueue
from typing import Any

Process = subprocess.Popen[bytes]
# It looks for packages where this process does.
PROGRAM = "import sys; sys.path[:] = sys.argv[1:]; from cifar_lightning.data import pictures; pictures.help_out()"
# Before each answer, on the line's end: what this Python runs at its start may have printed something, which is none.
ANSWER = b"cifar_lightning answers:\n"


def usable_cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def helpers(count: int) -> Iterator[Callable[[Sequence[str]], Any]]:
    """Has `count` helpers within it.

    Yields:
        A function, for as many threads, that gives what a helper makes of some paths; None where there is none that
        does, for it has not started, or is gone.
    """
    idle: SimpleQueue[Process | None] = SimpleQueue()

    def ask(paths: Sequence[str]) -> Any:
        process = idle.get()
        try:
            return process and _asked(process, paths)
        finally:
            idle.put(process)

    with ExitStack() as stack:
        for _ in range(count):
            process = _start()
            idle.put(process)
            if process:
                stack.callback(_end, process)
        yield ask


def serve(decode: Callable[[Sequence[str]], Any]) -> None:
    """What a helper does: `decode` of whatever paths it is given, until nobody asks any more."""
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)  # where what a decoder prints is no answer
        while True:
            try:
                paths = pickle.load(sys.stdin.buffer)
            except EOFError:
                return
            answers.write(ANSWER)
            pickle.dump(decode(paths), answers, pickle.HIGHEST_PROTOCOL)
            answers.flush()


def _start() -> Process | None:
    executable = spawn.get_executable()
    if not executable or hasattr(sys, "frozen"):  # a program that has Python in it, and is none
        return None
    # In a session of its own no Ctrl-C reaches it: it ends when its input does, however this process ends.
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    try:
        return subprocess.Popen([executable, "-c", PROGRAM, *map(str, sys.path)], start_new_session=True, **pipes)
    except OSError:  # no more processes for this user, or too little memory
        return None


def _asked(process: Process, paths: Sequence[str]) -> Any:
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        pickle.dump(paths, process.stdin)
        process.stdin.flush()
        while not (line := process.stdout.readline()).endswith(ANSWER):
            if not line:
                raise EOFError
        return pickle.load(process.stdout)  # of our own making
    except Exception:  # it is gone
        process.kill()
        return None


def _end(process: Process) -> None:
    process.kill()
    process.communicate()
