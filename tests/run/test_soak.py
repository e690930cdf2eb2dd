"""Tests that runs survive random faults: `pytest -n 0 -m soak tests/run/test_soak.py`.

SOAK_SEED repeats a soak, SOAK_FAULTS is the number of faults, SOAK_DEVICES lists the numbers of devices (`1,2`), and
SOAK_PLACES lists the places of the faults (`checkpoint,collective`), by default all.
"""

import os
import random
import shutil
import time
from collections import defaultdict

import pytest
import torch
from jobs import SMALL, differences, job, leftovers, processes_of, same, step_of

EVERY = 7  # steps between two checkpoints in a SMALL run

# Where a fault can strike, and how often a run on one device gets there.
PLACES = {"train": 36, "val": 16, "test": 8, "data": 2, "write": 9, "rename": 9, "renamed": 9, "report": 1}
PLACES |= {"checkpoint": 36}  # the newest checkpoint is damaged, after a kill at a step
COLLECTIVES = 120  # a run on two devices has some more

# The exit code and the last words that show which fault has ended a job.
ENDS = {
    "kill": (-9, ""),
    "term": (143, "stopped by SIGTERM"),
    "int": (130, "stopped by SIGINT"),
    "hup": (129, "stopped by SIGHUP"),
    "crash": (1, "RuntimeError: injected crash"),
    "enospc": (1, "No space left on device"),
    "nan": (3, "lower --model.lr"),
}


def draw(rng, devices, wanted):
    """Returns a random fault, written as in faults/sitecustomize.py, or `flip` or `truncate` at a `checkpoint`."""
    places = {**PLACES, **({"collective": COLLECTIVES} if devices == 2 else {})}
    place = rng.choice([place for place in places if place in wanted] or list(places))
    kinds = ["kill", "kill", "term", "int", "hup", "crash"]
    if devices == 2:
        kinds += ["kill-parent", "term-parent", "int-parent", "hup-parent", "term-all"]
    if place == "train":
        kinds += ["nan"]
    if place == "write":
        kinds += ["enospc"]
    kinds = {"checkpoint": ["flip", "truncate"], "collective": ["kill", "crash"]}.get(place, kinds)
    kind, rank = rng.choice(kinds), rng.choice(["-"] if devices == 1 else ["0", "1"])
    if place in ("write", "rename", "renamed", "report") and devices == 2:
        rank = "0"  # only rank 0 writes
    first = EVERY + 1 if place == "checkpoint" else 1  # there are two checkpoints by then
    last = places[place] // (devices if place in ("val", "test") else 1)
    return f"{kind}@{rank}:{place}:{rng.randint(first, last)}"


@pytest.mark.soak
def test_runs_survive_random_faults(tmp_path, capsys):
    seed = int(os.environ.get("SOAK_SEED", random.SystemRandom().randrange(10**6)))
    count = int(os.environ.get("SOAK_FAULTS", "100"))
    choices = [int(part) for part in os.environ.get("SOAK_DEVICES", "1,2").split(",")]
    wanted = os.environ.get("SOAK_PLACES", "").split(",")
    rng = random.Random(seed)
    table, problems, whole = defaultdict(lambda: [0, 0, 0]), [], {}
    began = time.monotonic()
    with capsys.disabled():
        print(f"\nSOAK_SEED={seed} SOAK_FAULTS={count} SOAK_DEVICES={','.join(map(str, choices))}", flush=True)
        for devices in choices:
            arguments = (*SMALL, "--devices", devices, "--default_root_dir", tmp_path / f"whole{devices}")
            assert job("fit", *arguments, cwd=tmp_path).code == 0
            whole[devices] = tmp_path / f"whole{devices}" / "lightning_logs" / "version_0"
        for number in range(count):
            devices = rng.choice(choices)
            fault = draw(rng, devices, wanted)
            try:
                lost, wrong = one(tmp_path / str(number), fault, devices, whole[devices], rng)
            except AssertionError as error:  # the job hangs, or the fault did not happen
                lost, wrong = "", str(error)
            kind, _, place, _ = parts(fault)
            row = table[kind, place]
            row[0], row[1], row[2] = row[0] + 1, row[1] + bool(lost), row[2] + bool(wrong)
            if lost or wrong:
                problems.append(f"{fault} on {devices}: {lost} {wrong}")
                print(problems[-1], flush=True)
            shutil.rmtree(tmp_path / str(number))
        print(f"\n{count} faults in {(time.monotonic() - began) / 60:.0f} min\n")
        print("| fault | place | runs | lost | wrong |\n|---|---|---:|---:|---:|")
        for (kind, place), row in sorted(table.items()):
            print(f"| {kind} | {place} | " + " | ".join(map(str, row)) + " |")
        totals = [sum(row[i] for row in table.values()) for i in range(3)]
        print("| **all** | | " + " | ".join(map(str, totals)) + " |", flush=True)
    assert problems == []


def one(home, fault, devices, whole, rng):
    """Runs a job with a fault and resumes it; returns what was lost, and what is wrong."""
    home.mkdir()
    kind, rank, place, step = parts(fault)
    arguments = (*SMALL, "--devices", devices, "--resume", "auto")
    if place == "checkpoint":
        done, expected = job("fit", *arguments, cwd=home, fault=f"kill@{rank}:train:{step}"), "kill"
    else:
        done, expected = job("fit", *arguments, cwd=home, fault=fault), kind
    run = home / "lightning_logs" / "version_0"
    # The ranks may have finished their work before the launcher passes on a signal that it was sent.
    too_late = done.code == 0 and kind.endswith("-parent") and place in ("test", "report")
    if not too_late and (wrong := not_ended_by(done, expected, rank)):
        return "", wrong
    reached = step_of(run)
    if (place == "checkpoint" or (kind in ("kill", "nan") and place == "train")) and reached < step - EVERY:
        return f"it was at step {step}, and goes on from {reached}", ""
    if kind in ("term", "int", "hup") and place == "train" and reached < step:
        return f"it was stopped at step {step}, and goes on from {reached}", ""
    sayings = damage(kind, run, rng) if place == "checkpoint" else [[]]
    done = job("fit", *arguments, cwd=home)
    if done.code:
        return f"exit code {done.code}: {done.lines[-3:]}", ""
    found = [*differences(run, whole), *leftovers(run)]
    if (said := [line for line in done.lines if "warning" in line][:1]) not in sayings:
        found.append(f"it says {said}, not {sayings}")
    if place == "checkpoint" and not said:
        print(f"{fault}: no value has changed, and none is refused", flush=True)
    if left := processes_of(home):
        found.append(f"processes {left}")
    return "", ", ".join(found)


def parts(fault):
    kind, _, where = fault.partition("@")
    rank, place, count = where.split(":")
    return kind, rank, place, int(count)


def not_ended_by(done, kind, rank):
    """Returns what shows that this fault has not ended a job; an empty text if it has."""
    code, words = ENDS[kind.partition("-")[0]]
    if rank != "-" and kind == "kill":  # the launcher survives, and says so
        code, words = 1, "was killed by SIGKILL"
    # All ranks learn of a NaN or a signal, so no rank is named.
    who = f"error: rank {rank}: " if rank != "-" and kind in ("kill", "crash", "enospc") else ""
    last = done.lines[-1] if done.lines else ""
    if done.code == code and last.startswith(who) and words in last:
        return ""
    return f"exit code {done.code}, not {code}, {who}{words!r}: {done.lines[-3:]}"


def damage(kind, run, rng):
    """Damages the newest checkpoint of a run; returns which first warnings, possibly none, may then be printed."""
    before, newest = sorted((run / "checkpoints").glob("step-*.ckpt"), key=lambda path: int(path.stem[5:]))[-2:]
    content, values = newest.read_bytes(), torch.load(newest, weights_only=True)
    place = rng.randrange(len(content))
    if kind == "truncate":
        newest.write_bytes(content[:place])
    else:
        flipped = content[place] ^ 1 << rng.randrange(8)
        newest.write_bytes(content[:place] + bytes([flipped]) + content[place + 1 :])
    refused = (
        f"warning: checkpoint {newest.relative_to(run.parents[1])} cannot be read: it is damaged or not a checkpoint; "
        f"resuming from {before.name}"
    )
    # Between the parts of a checkpoint are bytes without a meaning, which no checksum covers.
    return [[refused], *([[]] if unchanged(newest, values) else [])]


def unchanged(path, values):
    """Whether a damaged checkpoint still has its values."""
    try:
        return same(torch.load(path, weights_only=True), values)
    except Exception:  # torch.load raises nearly anything
        return False
