"""Starts one process (a rank) per device, watches the ranks, and ends them together.

The ranks see the environment that torchrun would give them (RANK, LOCAL_RANK, WORLD_SIZE, …), so Lightning treats both
alike. The parent is not a rank: it passes signals on, ends the other ranks when one dies, and finally names the rank
that failed and its error. Each rank's standard input is the pipe for orders of child.py.

Lightning's own launcher turns the user's process into rank 0, so no process is left to notice its death or to name the
rank that failed. torchrun's agent does both, but wraps every message in its log and makes every exit code 1.
"""

import importlib
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any

from cifar_lightning import console, stop
from cifar_lightning.errors import RunError, Stopped
from cifar_lightning.run import signals
from cifar_lightning.run.child import POLL_SECONDS, STOP_SECONDS, STOPS, error_of, heard, work_for_parent
from cifar_lightning.run.cluster import OURS, loopback
from cifar_lightning.startup import check_system, importing

check_system()  # in this module, because all code that makes a run imports it, and code that only reads runs does not

DEATH_SECONDS = 5.0  # for the other ranks to exit once one has died: they can do nothing together any more
SUSPENDED_SECONDS = 20.0  # how long a rank may be suspended (SIGSTOP) while the others wait for it

# A rank takes its parent's sys.path. With `-m`, a user's `random.py` in the current folder would be found first.
RANK = "import sys; sys.path = [p for p in sys.path if p]; import json; sys.path = json.loads(sys.argv[1])['path']; "
RANK += "from cifar_lightning.run.launch import rank_main; rank_main()"


def launch(target: str, kwargs: dict[str, Any], processes: int, inherit: Sequence[int] = ()) -> None:
    """Calls `target` ("module:function") with `kwargs` in `processes` ranks, and returns when all have succeeded.

    Args:
        target: The function, by name.
        kwargs: Its arguments, plain values.
        processes: Number of ranks, all on this machine.
        inherit: File descriptors that the ranks keep open.

    Raises:
        InputError, NonFiniteError, RunError: A rank ended with this error. A rank that was killed or hangs is a
            RunError too. The message names the rank.
        Stopped: This process, or a rank, was told to stop. The ranks have ended.
    """
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # it is documented there

    # The parent holds the store at which the ranks meet, on a free port that the system picks: no two jobs can collide.
    try:
        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise RunError(
            f"the ranks cannot meet on this machine ({reason}): bring up its loopback interface, or use --devices 1"
        ) from error
    ranks: list[_Rank] = []
    with signals.deferred(watched=True):
        try:
            for number in range(processes):
                ranks.append(_Rank(target, kwargs, number, processes, store.port, inherit))
            _watch(ranks)
        finally:
            _kill(ranks)
            for rank in ranks:
                rank.close()


class _Rank:
    """A rank, as its parent sees it."""

    def __init__(
        self, target: str, kwargs: dict[str, Any], rank: int, processes: int, port: int, inherit: Sequence[int]
    ) -> None:
        env = {
            **loopback(),
            **os.environ,
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "GROUP_RANK": "0",
            "WORLD_SIZE": str(processes),
            "LOCAL_WORLD_SIZE": str(processes),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "TORCHELASTIC_RUN_ID": OURS,
            "TORCHELASTIC_USE_AGENT_STORE": "True",  # tells torch that the parent has the store: rank 0 opens none
        }
        self.rank = rank
        self._suspended_seconds = 0.0
        self._words, report = os.pipe()
        # Each rank has its own session: Ctrl-C in a terminal then reaches only the parent, which passes it on once.
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-c", RANK),
                json.dumps({"path": [*map(str, sys.path)], "target": target, "kwargs": kwargs, "report": report}),
            ],
            env=env,
            stdin=subprocess.PIPE,
            start_new_session=True,
            pass_fds=(report, *inherit),
        )
        os.close(report)

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    @property
    def failed(self) -> bool:
        return self.process.poll() not in (None, 0)

    @cached_property
    def failure(self) -> dict[str, Any]:
        """The last words of a rank that has failed, and its number."""
        return heard(self._words, self.process.returncode) | {"rank": self.rank}

    def tell(self, signum: int) -> None:
        """Tells the rank to stop."""
        assert self.process.stdin is not None
        with suppress(OSError):  # it may have ended
            self.process.stdin.write(bytes([signum]))
            self.process.stdin.flush()

    def close(self) -> None:
        """Closes the pipes to and from a rank that has ended."""
        assert self.process.stdin is not None
        with suppress(OSError):  # closing flushes, and the rank may have ended before it read everything
            self.process.stdin.close()
        os.close(self._words)

    def suspended(self) -> bool:
        """Returns whether the rank has been suspended for too long. To be called exactly once per poll.

        It counts polls, not seconds: a job may go on after it was suspended as a whole, which some schedulers do.
        """
        if not hasattr(os, "waitid"):  # macOS, before Python 3.13
            return False
        try:
            state = os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:  # it has ended
            state = None
        self._suspended_seconds = self._suspended_seconds + POLL_SECONDS if state else 0.0
        return self._suspended_seconds > SUSPENDED_SECONDS


def _kill(ranks: list[_Rank]) -> None:
    for rank in ranks:
        rank.process.kill()
    for rank in ranks:
        rank.process.wait()


def _watch(ranks: list[_Rank]) -> None:
    """Waits for the ranks to end, and raises what `launch` documents."""
    deadline, told = math.inf, False
    while any(rank.alive for rank in ranks) and time.monotonic() < deadline:
        if signals.at_once:
            raise Stopped(signals.at_once)
        failure = _first_failure(ranks)
        if not told and (signum := stop.requested or _stop_of(failure)):
            told, deadline = True, time.monotonic() + STOP_SECONDS
            for rank in ranks:
                rank.tell(signum)
        elif failure and deadline == math.inf:
            deadline = time.monotonic() + DEATH_SECONDS
        if suspended := [rank.rank for rank in ranks if rank.suspended()]:
            seconds = f"{SUSPENDED_SECONDS:g} s"
            raise RunError(f"rank {suspended[0]}: was suspended (SIGSTOP) for {seconds} while the others waited")
        time.sleep(POLL_SECONDS)
    # Asked again: a rank whose death made the others fail may have been seen to end only after them.
    failure, alive = _first_failure(ranks), [str(rank.rank) for rank in ranks if rank.alive]
    if failure:
        _raise(failure, alive)
    if not alive:
        signals.finish()


def _first_failure(ranks: list[_Rank]) -> dict[str, Any] | None:
    return min((rank.failure for rank in ranks if rank.failed), key=lambda failure: failure["time"], default=None)


def _stop_of(failure: dict[str, Any] | None) -> int:
    """Returns the number of the signal that has stopped a rank; 0 if it ended for another reason, or not at all."""
    return failure["code"] - 128 if failure and failure["code"] in STOPS else 0


def _raise(failure: dict[str, Any], alive: list[str]) -> None:
    """Raises the error of a rank that has failed, while those `alive` did not end."""
    if signum := _stop_of(failure):
        raise Stopped(signum)
    which, message = failure["rank"], failure["message"]
    if alive and "imed out" in message:  # the ranks that wait for one that hangs fail before it does
        raise RunError(f"rank {', '.join(alive)}: does not answer; rank {which} has waited ({message})")
    raise error_of(failure, f"rank {which}: ")


def rank_main() -> None:
    """Runs in a rank's process: calls the target, and reports an error to the parent."""
    console.open_closed()
    signals.install(silent=True)
    console.print_anything()
    job = json.loads(sys.argv[1])
    name, _, function = job["target"].partition(":")

    def work() -> None:
        with importing():
            module = importlib.import_module(name)
        getattr(module, function)(**job["kwargs"])

    work_for_parent(work, sys.stdin.fileno(), job["report"])
