"""Starts one process per device, watches over them, and ends them together.

The ranks see the environment that torchrun would give them (RANK, LOCAL_RANK, WORLD_SIZE, …), so Lightning treats both
alike. The parent is no rank: it passes signals on, takes the others down when a rank dies, and names the rank and its
error last. Each rank's standard input is a pipe from the parent: it carries "stop", and its end tells a rank that the
parent is gone.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from functools import partial
from pathlib import Path
from typing import Any

from cifar_lightning import signals
from cifar_lightning.errors import InputError, NonFiniteError, RunError, Stopped, exit_code

STOP_SECONDS = 20.0  # to save a checkpoint and leave, once told to stop
DEATH_SECONDS = 5.0  # to leave, once another rank has died: there is nothing left to do together


def launched() -> bool:
    """Whether this process is a rank that a launcher (this one or torchrun) has started."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def launch(target: str, kwargs: dict[str, Any], processes: int) -> None:
    """Calls `target` ("module:function") with `kwargs` in `processes` ranks, and returns when all have ended well.

    Args:
        target: The function, by name.
        kwargs: Its arguments, plain values.
        processes: Number of ranks, all on this machine.

    Raises:
        InputError, NonFiniteError, RunError: A rank ended with it; or RunError: it was killed. The message names the
            rank.
        Stopped: This process, or a rank, was told to stop. The ranks have ended.
    """
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # it is documented there

    # The parent holds the store that the ranks meet at: the system picks a free port, so no two jobs can collide.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    with tempfile.TemporaryDirectory(prefix="cifar_lightning_") as folder:
        ranks = [_start(target, kwargs, rank, processes, store.port, Path(folder)) for rank in range(processes)]
        signals.at_once = partial(_kill, ranks)
        try:
            _watch(ranks, Path(folder))
        finally:
            _kill(ranks)
            signals.at_once = None


def _start(
    target: str, kwargs: dict[str, Any], rank: int, processes: int, port: int, folder: Path
) -> "subprocess.Popen[bytes]":
    env = {
        **os.environ,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "GROUP_RANK": "0",
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "cifar_lightning",  # how Lightning knows that it need not start the ranks
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # torch: rank 0 need not open the store, it is there
    }
    arguments = json.dumps({"target": target, "kwargs": kwargs, "report": str(folder / f"{rank}.json")})
    # A session of its own: Ctrl-C in a terminal then reaches the parent alone, which passes it on once.
    return subprocess.Popen(
        [sys.executable, "-m", "cifar_lightning.launch", arguments],
        env=env,
        stdin=subprocess.PIPE,
        start_new_session=True,
    )


def _kill(ranks: "list[subprocess.Popen[bytes]]") -> None:
    for rank in ranks:
        rank.kill()
    for rank in ranks:
        rank.wait()


def _watch(ranks: "list[subprocess.Popen[bytes]]", folder: Path) -> None:
    """Waits for the ranks; see `launch` for what it raises."""
    deadline, first, told, stopping = float("inf"), None, False, False
    with signals.deferred():
        while any(rank.poll() is None for rank in ranks):
            ended = [i for i, rank in enumerate(ranks) if rank.poll() not in (None, 0)]
            if ended and first is None:
                first = _first_failure(ended, ranks, folder)
                stopping = first["code"] in (128 + signal.SIGTERM, 128 + signal.SIGINT)
                deadline = time.monotonic() + (STOP_SECONDS if stopping else DEATH_SECONDS)
            signum = signals.requested or (first["code"] - 128 if first is not None and stopping else 0)
            if signum and not told:
                told = True
                deadline = min(deadline, time.monotonic() + STOP_SECONDS)
                _tell(ranks, signum)
            if time.monotonic() > deadline:
                break
            time.sleep(0.05)
    # Judged once more now that all have ended: the process that the others missed may have been seen after them.
    if first is None:
        ended = [i for i, rank in enumerate(ranks) if rank.poll() not in (None, 0)]
        first = _first_failure(ended, ranks, folder) if ended else None
    if first is not None:
        _raise(first)


def _tell(ranks: "list[subprocess.Popen[bytes]]", signum: int) -> None:
    for rank in ranks:
        assert rank.stdin is not None
        try:
            rank.stdin.write(f"{int(signum)}\n".encode())
            rank.stdin.flush()
        except OSError:
            pass  # it has ended


def _first_failure(ended: list[int], ranks: "list[subprocess.Popen[bytes]]", folder: Path) -> dict[str, Any]:
    """What the rank that failed first has to say; one that was killed, which says nothing, comes before all."""
    failures = []
    for rank in ended:
        report = folder / f"{rank}.json"
        code = ranks[rank].returncode
        if report.exists():
            failures.append(json.loads(report.read_text()))
        else:
            name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            message = f"was killed by {name}" if code < 0 else f"ended with {name}"
            failures.append({"rank": rank, "time": 0.0, "code": code, "message": message, "traceback": ""})
    return min(failures, key=lambda failure: failure["time"])


def _raise(failure: dict[str, Any]) -> None:
    code, message = failure["code"], f"rank {failure['rank']}: {failure['message']}"
    if code in (128 + signal.SIGTERM, 128 + signal.SIGINT):
        raise Stopped(code - 128)
    if code == 2:
        raise InputError(failure["message"])  # every rank has the same input
    sys.stderr.write(failure["traceback"])
    raise (NonFiniteError if code == 3 else RunError)(message)


def _listen() -> None:
    """In a rank: passes the parent's word on. The end of the pipe means that the parent is gone."""
    line = sys.stdin.readline()
    signals.request(int(line) if line.strip() else signal.SIGTERM)


def _rank_main() -> None:
    signals.install()
    job = json.loads(sys.argv[1])
    threading.Thread(target=_listen, daemon=True).start()
    try:
        module, _, function = job["target"].partition(":")
        getattr(importlib.import_module(module), function)(**job["kwargs"])
        code = 0
    except BaseException as error:
        code = exit_code(error)
        expected = isinstance(error, InputError | NonFiniteError | RunError | Stopped)
        message = str(error) if expected else "".join(traceback.format_exception_only(error)).splitlines()[0]
        report = {"rank": int(os.environ["RANK"]), "time": time.time(), "code": code, "message": message}
        report["traceback"] = "" if expected else traceback.format_exc()
        part = Path(job["report"] + ".part")
        part.write_text(json.dumps(report))
        part.rename(job["report"])
    sys.stdout.flush()
    sys.stderr.flush()
    # Not `sys.exit`: threads of a broken process group would be waited for.
    os._exit(code)


if __name__ == "__main__":
    _rank_main()
