"""Helpers: processes that decode small pictures for this process, in which only one thread at a time could.

Most of the time for a small picture goes into Pillow's Python code, where threads have to wait for each other. A helper
runs the same Python with only numpy and Pillow, without torch, and starts in a fifth of a second. It does not use
`multiprocessing`, which would run the user's script again, nor a fork, which would copy the locks of torch's threads in
whatever state they are.
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
# It searches for packages in the same places as this process.
PROGRAM = (
    "import sys; sys.path[:] = sys.argv[1:]; from cifar_lightning.data.pictures.reading import help_out; help_out()"
)
# Ends the line before each answer: whatever Python runs when it starts may have printed something before it.
ANSWER = b"cifar_lightning answers:\n"


def usable_cores() -> int:
    """Returns the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def helpers(count: int) -> Iterator[Callable[[Sequence[str]], Any]]:
    """A context with `count` helpers.

    Yields:
        A function, for up to `count` threads at a time, that has a helper decode some paths and returns its answer; it
        returns None if the helper could not be started or is gone.
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
    """Runs as a helper: answers each request with `decode` of its paths, until there are no more requests."""
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)  # so that nothing a decoder prints is taken for an answer
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
    if not executable or hasattr(sys, "frozen"):  # a program with Python inside, not an interpreter
        return None
    # In a session of its own the helper gets no Ctrl-C. It ends when its input does, however this process ends.
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
        return pickle.load(process.stdout)  # safe: a helper of ours wrote it
    except Exception:  # the helper is gone
        process.kill()
        return None


def _end(process: Process) -> None:
    process.kill()
    process.communicate()
