"""How a script begins and ends: errors are one line, and the exit code tells the outcome."""

import atexit
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NoReturn

from cifar_lightning import console
from cifar_lightning.errors import InputError, LostRankError, NonFiniteError, RunError, Stopped, exit_code
from cifar_lightning.run import cluster, presence, signals
from cifar_lightning.startup import check_system

FIRST_RANK_SECONDS = 5.0  # time for a launcher to notice that the first rank has ended
FIRST_RANK_READS_SECONDS = 25.0  # time for the first rank to read its images and wait for the others


def main(script: Callable[[Sequence[str]], int | None]) -> NoReturn:
    """Runs a script on the command line's arguments and ends the process; see `run`.

    `sys.exit` would wait for threads of a broken process group, and takes a second to tear down the objects of torch
    and Lightning. With torch 2.15 it also prints a page of "leaks", because Triton's objects are frozen (see
    `startup.importing` and findings/triton-gc-freeze.sh). Functions registered with `atexit` still run.
    """
    code = run(script)
    with suppress(OSError):
        atexit._run_exitfuncs()
    console.flush()
    os._exit(code)


def run(script: Callable[[Sequence[str]], int | None]) -> int:
    """Runs a script on the command line's arguments, and prints how it failed, if it did.

    Returns:
        The exit code: 0; 1 for a failed run; 2 for a user's mistake; 3 for NaN; 128 + the signal's number for a run
        that was stopped; or what the script returns.
    """
    console.open_closed()
    try:
        check_system()
        _check_current_folder()
        first = cluster.is_first_rank()
    except (ImportError, InputError) as error:
        console.say(f"error: {error}")
        return 2
    signals.install()
    console.print_anything()
    try:
        with console.notes(silent=not first):
            code = script(sys.argv[1:]) or 0
    except (InputError, NonFiniteError, RunError) as error:
        code = exit_code(error)
        presence.keep_quiet()
        mine = not isinstance(error, LostRankError) or cluster.is_first_of_its_machine()
        if code == 2 and not first:
            # Every rank gets here with the same mistake, and most launchers end all ranks when one ends. Only the first
            # rank prints it, unless the first rank has not made it.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            time.sleep(FIRST_RANK_SECONDS)
            mine = cluster.first_rank_waits(FIRST_RANK_READS_SECONDS)
        if mine:
            console.say(f"error: {error}")
    except SystemExit as end:  # --help; or a user's own code, which may give a message in place of a code
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            console.say(f"error: {end.code}")
    except Stopped as error:
        code = exit_code(error)
        signals.finish()  # one line is enough
        if first:
            console.say(signals.farewell(error.signum))
    return code


def _check_current_folder() -> None:
    try:
        os.getcwd()
    except FileNotFoundError as error:  # torch would end the process without a message
        raise InputError("the current folder has been deleted: cd to another folder") from error
