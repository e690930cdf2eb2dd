"""Tests storms of signals, as from a user who holds Ctrl-C down or a scheduler that insists: every job ends in order.

`STORM_SEED=7 STORMS=100 pytest -n 0 -m soak tests/run/test_storms.py` draws other storms.
"""

import os
import random
import re
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest
from jobs import SMALL, end, job, leftovers, processes_of, start, step_of

from cifar_lightning.run.folder import held

GONE_SECONDS = 30  # what docs/reliability.md promises


def handles(pid, signum):
    """Whether a process has a handler for a signal, instead of the system's default action."""
    with suppress(OSError):
        caught = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if "SigCgt" in line)
        return bool(int(caught.split()[1], 16) >> (signum - 1) & 1)
    return False


def begun(run, place):
    """Whether a run has reached a place."""
    return {
        "start-up": True,
        "training": step_of(run) >= 0,
        "saving": step_of(run) >= 7,
        "ending": step_of(run) >= 36,
    }[place]


def weather(home, devices, place, signum, count, gap, ballast=0):
    """Starts a run and sends it a storm once it has reached a place; returns how it ended, and its folder."""
    env = {"FAULT_BALLAST": str(ballast)}
    process = start("fit", *SMALL, "--max_epochs", 2, "--devices", devices, cwd=home, env=env)
    run = home / "lightning_logs" / "version_0"
    deadline = time.monotonic() + 120
    while not (handles(process.pid, signal.SIGTERM) and begun(run, place)) and process.is_alive():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    for _ in range(count):
        with suppress(ProcessLookupError):
            os.kill(process.pid, signum)
        time.sleep(gap)
        if not process.is_alive():
            break
    return end(process, GONE_SECONDS), run


def check(home, devices, place, signum, count, gap, ballast=0):
    done, run = weather(home, devices, place, signum, count, gap, ballast)
    storm = (devices, place, signum, count, gap)
    finished = (run / "results.json").exists()
    assert done.code in ((0, 128 + signum) if finished else (128 + signum,)), (storm, done.text)
    assert sum("stopped by" in line for line in done.lines) == (done.code != 0), (storm, done.text)
    assert "Traceback" not in done.text, (storm, done.text)
    assert processes_of(home) == [], storm
    if run.exists():
        with held(run, seconds=0):  # no job uses it any more
            pass
    return finished, run


@pytest.mark.parametrize(
    ("devices", "place", "signum", "count", "gap", "ballast"),
    [
        (1, "start-up", signal.SIGTERM, 5, 0.003, 0),
        (1, "training", signal.SIGINT, 20, 0.05, 0),
        (1, "ending", signal.SIGTERM, 100, 0.01, 0),
        (2, "start-up", signal.SIGINT, 30, 0.1, 600),  # the ranks die slowly, while more signals come
        (2, "training", signal.SIGINT, 60, 0.1, 600),
        (2, "saving", signal.SIGTERM, 3, 0.02, 0),
    ],
)
def test_a_storm_of_signals_ends_the_job_in_order(tmp_path, devices, place, signum, count, gap, ballast):
    free = re.search(r"MemAvailable: +(\d+)", Path("/proc/meminfo").read_text())
    if ballast and int(free[1]) < 4_000_000:
        pytest.skip("needs 4 GB of memory, to be slow in giving it back")
    check(tmp_path, devices, place, signum, count, gap, ballast)


@pytest.mark.soak
def test_a_random_storm_ends_the_job_in_order_and_it_can_be_resumed(whole, tmp_path):
    from jobs import differences

    seed = int(os.environ.get("STORM_SEED", time.time()))
    print(f"STORM_SEED={seed}")
    for number in range(int(os.environ.get("STORMS", "60"))):
        rng = random.Random(f"{seed}/{number}")
        home = tmp_path / str(number)
        home.mkdir()
        devices, place = rng.choice([1, 2]), rng.choice(["start-up", "training", "saving", "ending"])
        signum = rng.choice([signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
        ballast = rng.choice([0, 0, 2_000]) if devices == 2 else 0
        count, gap = rng.randint(3, 100), rng.uniform(0.003, 0.1)
        finished, run = check(home, devices, place, signum, count, gap, ballast)
        if run.exists() and not finished:
            assert job("fit", "--resume", run, cwd=home).code == 0
            assert differences(run, whole[devices]) == [], number
            assert leftovers(run) == []
