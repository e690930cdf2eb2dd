"""Faults at random: `pytest -n 0 -m soak`. SOAK_SEED repeats one; SOAK_FAULTS says how many, SOAK_DEVICES on what."""

import os
import random
import shutil
import time
from collections import defaultdict

import pytest
from jobs import SMALL, differences, job, leftovers, processes_of, step_of

EVERY = 7  # steps between two checkpoints in a SMALL run

CODES = {"kill": -9, "term": 143, "int": 130, "hup": 129, "crash": 1, "enospc": 1, "nan": 3}


def draw(rng, devices):
    """A fault, and the exit code that the job must end with."""
    ranks = ["-"] if devices == 1 else ["0", "1"]
    places = {"train": 36, "val": 16 // devices, "test": 8 // devices, "data": 2, "write": 9, "rename": 9, "renamed": 9}
    places |= {"report": 1}
    place = rng.choice(list(places))
    kinds = ["kill", "kill", "term", "int", "hup", "crash"]
    if devices == 2:
        kinds += ["kill-parent", "term-parent", "int-parent", "hup-parent", "term-all"]
    if place == "train":
        kinds += ["nan"]
    if place == "write":
        kinds += ["enospc"]
    kind, rank = rng.choice(kinds), rng.choice(ranks)
    if place in ("write", "rename", "renamed", "report") and devices == 2:
        rank = "0"  # which alone writes
    code = CODES[kind.partition("-")[0]]
    if devices == 2 and kind == "kill":
        code = 1  # it is a rank that was killed: the launcher says so
    return f"{kind}@{rank}:{place}:{rng.randint(1, places[place])}", code


@pytest.mark.soak
def test_soak(tmp_path, capsys):
    seed = int(os.environ.get("SOAK_SEED", random.SystemRandom().randrange(10**6)))
    count = int(os.environ.get("SOAK_FAULTS", "100"))
    choices = [int(part) for part in os.environ.get("SOAK_DEVICES", "1,2").split(",")]
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
            fault, code = draw(rng, devices)
            lost, wrong = one(tmp_path / str(number), devices, fault, code, whole[devices])
            kind, _, where = fault.partition("@")
            row = table[kind, where.split(":")[1]]
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


def one(home, devices, fault, code, whole):
    """Runs a job with a fault and resumes it; says what was lost, and what is wrong."""
    home.mkdir()
    arguments = (*SMALL, "--devices", devices, "--resume", "auto")
    done = job("fit", *arguments, cwd=home, fault=fault)
    run = home / "lightning_logs" / "version_0"
    kind, _, where = fault.partition("@")
    place, steps = where.split(":")[1], int(where.split(":")[2])
    # The ranks may have done all their work by the time that the launcher passes a signal of its own on.
    too_late = done.code == 0 and kind.endswith("-parent") and place in ("test", "report")
    if done.code != code and not too_late:
        return "", f"exit code {done.code}, not {code}: {done.lines[-3:]}"
    if kind in ("kill", "nan") and place == "train" and step_of(run) < steps - EVERY:
        return f"it was at step {steps}, and goes on from {step_of(run)}", ""
    if kind in ("term", "int", "hup") and place == "train" and step_of(run) < steps:
        return f"it was stopped at step {steps}, and goes on from {step_of(run)}", ""
    done = job("fit", *arguments, cwd=home)
    if done.code:
        return f"exit code {done.code}: {done.lines[-3:]}", ""
    found = [*differences(run, whole), *leftovers(run)]
    if left := processes_of(home):
        found.append(f"processes {left}")
    return "", ", ".join(found)
