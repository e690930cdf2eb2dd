"""What a process and its children tell each other: ranks (launch.py), and runs side by side (side_by_side.py).

One pipe carries the order to stop from the parent, and its end tells the child that the parent is gone. Another one
carries the child's last words, the error that ends it, to the parent.
"""

import json
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

from cifar_lightning import console
from cifar_lightning.errors import InputError, NonFiniteError, RunError, Stopped, exit_code, kind_of
from cifar_lightning.run import signals

STOP_SECONDS = 20.0  # for a child that was told to stop to save a checkpoint and exit
ORPHAN_SECONDS = STOP_SECONDS + 5.0  # a living parent has killed a child by then
POLL_SECONDS = 0.05  # between two looks of the parent
REPORT_BYTES = 60_000  # a pipe holds 64 KiB without a reader
STOPS = tuple(128 + signum for signum in signals.STOPS)  # exit codes of a process that was told to stop


def work_for_parent(work: Callable[[], object], orders: int, words: int) -> NoReturn:
    """Does a child's work, in which it listens to its parent; then ends the process.

    Args:
        work: The work.
        orders: The file descriptor from which to read the order to stop.
        words: The file descriptor to write the last words to, if the work fails.
    """
    threading.Thread(target=_listen, args=(orders,), daemon=True).start()
    code = 1
    try:
        with console.notes(silent=True):  # the parent has printed them
            work()
        code = 0
    except BaseException as error:
        code = exit_code(error)
        with suppress(OSError):
            os.write(words, last_words(error))
    finally:
        console.flush()
        os._exit(code)  # not `sys.exit`, which would wait for the threads of a broken process group


def _listen(orders: int) -> None:
    """Stops this process when the parent says so, or when the pipe ends, because then the parent is gone."""
    order = os.read(orders, 1)
    signum = order[0] if order else int(signal.SIGTERM)
    signals.receive(signum, passed_on=True)
    time.sleep(ORPHAN_SECONDS)  # then the parent is gone, and this process may hang in a collective
    os._exit(128 + signum)


def last_words(error: BaseException) -> bytes:
    """Returns, as JSON, what a process tells its parent about the error that ends it."""
    expected = isinstance(error, InputError | NonFiniteError | RunError | Stopped)
    message = str(error) if expected else "".join(traceback.format_exception_only(error)).splitlines()[0]
    where = "" if expected else "".join(traceback.format_exception(error))
    said = {"time": time.time(), "code": exit_code(error), "message": message[:1_500], "traceback": where[-8_000:]}
    # Not escaped to ASCII, where an emoji takes 12 bytes: that could fill the pipe, which is read only after the rank
    # has ended.
    return json.dumps(said, ensure_ascii=False).encode(errors="backslashreplace")


def heard(pipe: int, returncode: int) -> dict[str, Any]:
    """Returns the `last_words` of a failed process; one that was killed left none, and counts as the first to fail.

    Args:
        pipe: The file descriptor from which to read them.
        returncode: The return code of the process, as in `subprocess`.
    """
    words = os.read(pipe, REPORT_BYTES) if select.select([pipe], [], [], 0)[0] else b""
    with suppress(ValueError):
        said: dict[str, Any] = json.loads(words)
        return said
    killed = returncode < 0
    name = f"was killed by {signal.Signals(-returncode).name}" if killed else f"ended with exit code {returncode}"
    # A process that was told to stop before it had installed its signal handlers counts as stopped.
    code = 128 - returncode if killed and 128 - returncode in STOPS else returncode
    return {"time": 0.0, "code": code, "message": name, "traceback": ""}


def error_of(said: dict[str, Any], who: str = "") -> Exception:
    """Returns the error that a child has told of, with the child's name in front; prints its traceback, if it has one.

    A mistake in what the user gave is without the name: it is the same in every child.
    """
    with console.printing(2):
        sys.stderr.write(said["traceback"])
    kind = kind_of(said["code"])
    return kind(said["message"] if kind is InputError else f"{who}{said['message']}")
