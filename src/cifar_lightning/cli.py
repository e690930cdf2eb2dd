"""How a script begins and ends: errors are one line, and an exit code says what has become of it."""

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

FIRST_RANK_SECONDS = 5.0  # for a launcher to see that the first rank has ended
FIRST_RANK_READS_SECONDS = 25.0  # for the first rank to come, by way of its images, to where it waits for the others


def main(script: Callable[[Sequence[str]], int | None]) -> NoReturn:
    """Runs a script on the command line's arguments and ends the process; see `run`.

    Not by `sys.exit`: it would wait for threads of a broken process group, and takes a second to take apart what torch
    and Lightning have made; with torch 2.15 it also prints a page of "leaks", for Triton's objects are frozen (see
    `startup.importing` and findings/triton-gc-freeze.sh). What was registered to be done at the end is done.
    """
    code = run(script)
    with suppress(OSError):
        atexit._run_exitfuncs()
    console.flush()
    os._exit(code)


def run(script: Callable[[Sequence[str]], int | None]) -> int:
    """Runs a script on the command line's arguments, and says how it has ended.

    Returns:
        The exit code: 0; 1 for a failed run; 2 for a user's mistake; 3 for NaN; 128 + the signal for one that was
        stopped; what the script gives.
    """
    console.open_closed()
    try:
        check_system()
        os.getcwd()
        first = cluster.is_first_rank()
    except (ImportError, InputError) as error:
        console.say(f"error: {error}")
        return 2
    except FileNotFoundError:  # torch would end the process without a word of it
        console.say("error: the folder that this was started in has been deleted: cd to another")
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
            # Every rank comes here with the same mistake, and most launchers end all at the end of one: leave it to the
            # first rank, unless the mistake is not its own.
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
    except RuntimeError as error:
        if "operator torchvision::nms does not exist" not in str(error):
            raise
        code = 2
        console.say(f"error: {_mismatch()}")
    return code


def _mismatch() -> str:
    from importlib.metadata import version

    return (
        f"torch {version('torch')} and torchvision {version('torchvision')} are not builds that belong together: "
        "pip install --force-reinstall torch torchvision"
    )
