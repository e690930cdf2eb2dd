"""Runs and commands whose standard streams are closed, or lead to a full disk."""

import json
import os
import subprocess
import sys
from contextlib import redirect_stdout, suppress

import pytest
from conftest import PLAIN, SCRIPTS, SYNTHETIC
from jobs import SMALL, differences
from PIL import Image

from cifar_lightning import cli, commands
from cifar_lightning.run import signals

SOAK = pytest.mark.soak  # the scripts open their streams by the same code: fit's cases suffice without it
CLOSED = ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"]


def through_shell(redirections, script, *arguments, cwd, env=PLAIN):
    """Runs a script as `python script.py ARGUMENTS REDIRECTIONS`; returns (code, stdout, stderr)."""
    command = ["sh", "-c", f'exec "$0" "$@" {redirections}', sys.executable, SCRIPTS / f"{script}.py", *arguments]
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_a_run_with_closed_streams_is_bit_identical(whole, tmp_path):
    """A run with all streams closed is bit-identical to others: no output goes to a file that got a stream's number."""
    code, out, err = through_shell(CLOSED[-1], "fit", *SMALL, "--devices", 2, cwd=tmp_path)
    assert (code, out, err) == (0, "", "")
    assert differences(tmp_path / "lightning_logs" / "version_0", whole[2]) == []


@pytest.mark.parametrize(
    ("script", "closed"),
    [
        *(("fit", closed) for closed in CLOSED),
        *(pytest.param(script, closed, marks=SOAK) for script in ("evaluate", "predict") for closed in CLOSED),
    ],
)
def test_help_and_mistakes_with_closed_streams(tmp_path, script, closed):
    code, out, err = through_shell(closed, script, "--help", cwd=tmp_path)
    assert (code, err) == (0, "")
    assert out.startswith(f"usage: python scripts/{script}.py ") is (">&-" not in closed.split())
    code, out, err = through_shell(closed, script, "--colour", "blue", cwd=tmp_path)
    assert (code, out) == (2, "")
    assert err.startswith("error: unknown flag --colour") is ("2>&-" not in closed)


@pytest.mark.soak
def test_an_evaluation_with_closed_streams(finished, tmp_path):
    flags = ("--accelerator", "cpu", "--output_dir", "out")
    code, out, err = through_shell(CLOSED[-1], "evaluate", finished.folder, *flags, cwd=tmp_path)
    assert (code, out, err) == (0, "", "")
    assert json.loads((tmp_path / "out" / "results.json").read_text())["test_count"] == 600


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no such device")
def test_a_run_ends_well_if_its_output_goes_to_a_full_disk(tmp_path):
    few = ("--data.synthetic_size", 100, "--data.batch_size", 10, "--max_steps", 3)
    code, _, err = through_shell("> /dev/full", "fit", "--resume", "auto", *SYNTHETIC, *few, cwd=tmp_path)
    assert code == 0, err
    assert [line.split()[0] for line in err.splitlines()] == ["epoch"]
    assert (tmp_path / "lightning_logs" / "version_0" / "results.json").exists()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no such device")
@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_a_command_whose_result_goes_to_a_full_disk_fails(monkeypatch, capsys, tmp_path, flags):
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    monkeypatch.setattr(signals, "install", lambda: None)
    monkeypatch.setattr(sys, "argv", ["predict", "quick", str(tmp_path / "a.png"), *flags])
    with suppress(OSError), open("/dev/full", "w") as full, redirect_stdout(full):
        code = cli.run(commands.load("predict"))
    assert (code, capsys.readouterr().err) == (
        1,
        "error: could not print all of it (No space left on device): free disk space, or print elsewhere\n",
    )


FROM_PYTHON = """
import os, sys
taken = open("taken.txt", "w")
assert taken.fileno() == 1
from cifar_lightning import fit
fit({"source": "synthetic", "synthetic_size": 100, "batch_size": 10}, accelerator="cpu", max_steps=3)
taken.write("mine")
"""


@pytest.mark.soak
def test_a_file_that_has_the_number_of_a_stream_gets_no_output(tmp_path):
    command = ["sh", "-c", 'exec "$0" -c "$1" >&- 2>&-', sys.executable, FROM_PYTHON]
    done = subprocess.run(command, cwd=tmp_path, env={**os.environ, **PLAIN}, timeout=240, check=False)
    assert done.returncode == 0
    assert (tmp_path / "taken.txt").read_text() == "mine"
    assert (tmp_path / "lightning_logs" / "version_0" / "results.json").exists()
