"""Fixtures, marks and an environment that all tests share."""

import contextlib
import gc
import importlib.util
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

# Tests run side by side and share the cores: threads that spin while they wait for a core are slower than one thread.
os.environ["OMP_NUM_THREADS"] = "1"

from cifar_lightning import cli
from cifar_lightning.data import download
from cifar_lightning.locks import locked
from cifar_lightning.run import signals

for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS"):  # rich reads these
    os.environ.pop(name, None)
# Downloads would use these proxies, but tests download from this machine only.
PROXIES = {name: os.environ.pop(name) for name in [*os.environ] if name.lower().endswith("_proxy")}
os.umask(0o022)  # so that other users can read the files that tests make for them

PROJECT = Path(__file__).parents[1]
# The environment of a process that draws no figures: see faults/sitecustomize.py.
PLAIN = {
    **{"FAULT": "", "FAULT_PLAIN": "1"},
    "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent / "faults"), os.environ.get("PYTHONPATH", "")]),
}
# What torch's compiler needs on a CPU.
compiles = pytest.mark.skipif(
    not shutil.which(os.environ.get("CXX", "g++")) or not Path(sysconfig.get_path("include"), "Python.h").exists(),
    reason="needs a C++ compiler and Python.h",
)
SCRIPTS, BENCHMARKS = PROJECT / "scripts", PROJECT / "benchmarks"
NOBODY = 65_534


def becomes_another_user():
    """Whether this process can: root can, unless it is root only by a mapping of its own id (`unshare -r`)."""
    try:
        subprocess.run(["true"], user=NOBODY, group=NOBODY, check=True)
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


another_user = pytest.mark.skipif(not becomes_another_user(), reason="needs to become another user")


def pytest_collection_finish():
    """Leaves what is imported out of garbage collection, which Lightning's searches run dozens of times."""
    gc.freeze()
    if "jobs" in sys.modules:
        sys.modules["jobs"].begin()


@pytest.fixture(autouse=True)
def _no_seed_of_another_test(monkeypatch):
    """Removes the seed that Lightning's seed_everything leaves in the environment: a data module would use it."""
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)


@pytest.fixture
def own_cache(monkeypatch, tmp_path):
    """Gives the user a cache of the test's own, and no mirror."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv(download.MIRROR_VARIABLE, raising=False)


@pytest.fixture
def interruptible():
    """Restores Python's handling of SIGINT, which a shell makes its background jobs ignore."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def _loopback_only(monkeypatch):
    """Fails a test that connects to another machine."""
    connect = socket.socket.connect

    def guarded(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"a test connects to {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(autouse=True)
def _ranks_are_started_in_the_soak(request, monkeypatch):
    """Starts ranks as new processes in soak tests; other tests fork them, in a twentieth of the time."""
    if request.node.get_closest_marker("soak"):
        monkeypatch.setattr("jobs.forked_ranks", False)


def run_script(script, *arguments, cwd, launcher=(), env=None):
    """Runs scripts/SCRIPT.py in a new process, for at most four minutes; returns (code, stdout, stderr)."""
    command = [sys.executable, *launcher, SCRIPTS / f"{script}.py", *arguments]
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, "COLUMNS": "100", **(env or {})},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def for_anyone():
    """Makes a folder that every user may write to: pytest closes its own to others whenever another pytest starts."""
    if not all(
        folder.stat().st_mode & 0o001 for home in (SCRIPTS, Path(sys.prefix)) for folder in (home, *home.parents)
    ):
        pytest.skip("other users cannot reach the scripts, or Python")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


@pytest.fixture
def run(tmp_path):
    """Runs a script as a process in the test's folder: `run("fit", "--seed", 1)`."""
    return lambda script, *arguments, **kwargs: run_script(script, *arguments, **{"cwd": tmp_path, **kwargs})


@pytest.fixture
def call(monkeypatch, tmp_path):
    """Runs a script in this process, which has already imported torch: for the many cases that end early."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(signals, "install", lambda: None)  # pytest keeps its own handlers
    monkeypatch.setattr(signals, "installed", lambda: True)

    def call(script, *arguments):
        spec = importlib.util.spec_from_file_location(script, SCRIPTS / f"{script}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = cli.run(module.script)
            except SystemExit as end:  # --help
                code = end.code
        return code, out.getvalue(), err.getvalue()

    return call


def made_once(tmp_path_factory, name, make):
    """Runs `make(folder)` once for all of pytest's workers, and returns a copy of that folder for the caller alone."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    original = root / f"made-{name}"
    with locked(root / f"made-{name}-lock"):
        if not (original / "made").exists():
            shutil.rmtree(original, ignore_errors=True)  # left by another worker, whose `make` failed
            original.mkdir()
            make(original)
            (original / "made").touch()
    copy = tmp_path_factory.mktemp(name) / "copy"
    shutil.copytree(original, copy)
    return copy


SYNTHETIC = ("--data.source", "synthetic", "--accelerator", "cpu")


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """Returns one finished run of fit.py, which has learnt something: its `folder`, `out` and `err`."""

    def make(home):
        code, out, err = run_script(
            *("fit", *SYNTHETIC, "--data.synthetic_size", 3_000, "--data.batch_size", 20, "--data.val_split", 500),
            *("--model.lr", 0.01, "--max_epochs", 3),
            cwd=home,
        )
        assert code == 0, err
        (home / "out").write_text(out)
        (home / "err").write_text(err)

    home = made_once(tmp_path_factory, "finished", make)
    out, err = ((home / name).read_text() for name in ("out", "err"))
    return SimpleNamespace(folder=home / "lightning_logs" / "version_0", out=out, err=err)


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """Returns whole runs of `jobs.SMALL` on one and two devices, `whole[devices]`; tests must not change them."""
    from jobs import SMALL, job

    def make(devices, home):
        done = job("fit", *SMALL, "--devices", devices, cwd=home)
        assert done.code == 0, done.text

    homes = {n: made_once(tmp_path_factory, f"whole{n}", partial(make, n)) for n in (1, 2)}
    return {n: home / "lightning_logs" / "version_0" for n, home in homes.items()}


@pytest.fixture
def plain(monkeypatch):
    """Draws no figures, which take most of a small job's time: for tests that do not look at them."""
    monkeypatch.setattr("cifar_lightning.report.report.draw", lambda *args: None)


@pytest.fixture
def undrawn(monkeypatch):
    """Writes a file for each figure, and the page, but draws nothing: for tests of the rest of their contents."""
    monkeypatch.setattr("cifar_lightning.report.drawing.drawn", lambda figure: b"")
    monkeypatch.setattr("cifar_lightning.report.drawing.write_png", lambda pixels, file: file.write(pixels))
    monkeypatch.setattr("cifar_lightning.report.drawing.as_svg", lambda figure, name: "")


@pytest.fixture
def cpu_settings():
    """Restores torch's CPU settings after the test."""
    from cifar_lightning.run.cpu import restored_torch

    with restored_torch():
        yield


def one_line(code, out, err):
    """Checks that a mistake of the user gave exit code 2 and one line of error; returns the line."""
    assert code == 2, err
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    assert err.endswith("\n")
    return err
