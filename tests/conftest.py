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

# Tests share the cores with one another's processes: threads that wait in a spin for a core are slower than one.
os.environ["OMP_NUM_THREADS"] = "1"

from cifar_lightning import cli
from cifar_lightning.files import locked
from cifar_lightning.run import signals

for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS"):  # rich goes by them
    os.environ.pop(name, None)
# Downloads do, which are all from this machine.
PROXIES = {name: os.environ.pop(name) for name in [*os.environ] if name.lower().endswith("_proxy")}
os.umask(0o022)  # so that other users can read what is left to them

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
    """Whether this one can, as root can, but not where it is root by a mapping of its own id alone (`unshare -r`)."""
    try:
        subprocess.run(["true"], user=NOBODY, group=NOBODY, check=True)
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


another_user = pytest.mark.skipif(not becomes_another_user(), reason="needs to become another user")


def pytest_collection_finish():
    """What is imported by then stays, and no look for garbage goes through it: Lightning's searches have dozens."""
    gc.freeze()
    if "jobs" in sys.modules:
        sys.modules["jobs"].begin()


@pytest.fixture(autouse=True)
def _no_seed_of_another_test(monkeypatch):
    """Lightning's seed_everything leaves one in the environment, and a data module takes it."""
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)


@pytest.fixture
def interruptible():
    """Whatever has started the tests: a shell has its background jobs ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def _loopback_only(monkeypatch):
    """No test reaches another machine."""
    connect = socket.socket.connect

    def guarded(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"a test connects to {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(autouse=True)
def _ranks_are_started_in_the_soak(request, monkeypatch):
    """Where there is time for it; elsewhere they are forked, in a twentieth of that time."""
    if request.node.get_closest_marker("soak"):
        monkeypatch.setattr("jobs.forked_ranks", False)


def run_script(script, *arguments, cwd, launcher=(), env=None):
    """Runs scripts/SCRIPT.py in a process of its own, for four minutes at most; gives (code, stdout, stderr)."""
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
    """A folder that every user may write in. pytest's own it closes to others, whenever another pytest begins."""
    if not all(
        folder.stat().st_mode & 0o001 for home in (SCRIPTS, Path(sys.prefix)) for folder in (home, *home.parents)
    ):
        pytest.skip("other users cannot reach the scripts, or Python")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


@pytest.fixture
def run(tmp_path):
    """Runs a script as a process in a folder of the test's own: `run("fit", "--seed", 1)`."""
    return lambda script, *arguments, **kwargs: run_script(script, *arguments, **{"cwd": tmp_path, **kwargs})


@pytest.fixture
def call(monkeypatch, tmp_path):
    """As `run`, in this process, which has torch imported already: for the many cases that end early."""
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
    """A folder with what `make(folder)` leaves there, made once for all of pytest's workers: a copy of their own."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    original = root / f"made-{name}"
    with locked(root / f"made-{name}-lock"):
        if not (original / "made").exists():
            shutil.rmtree(original, ignore_errors=True)  # what another worker's failure has left
            original.mkdir()
            make(original)
            (original / "made").touch()
    copy = tmp_path_factory.mktemp(name) / "copy"
    shutil.copytree(original, copy)
    return copy


SYNTHETIC = ("--data.source", "synthetic", "--accelerator", "cpu")


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """One finished run of fit.py, which has learnt something: `folder`, `out`, `err`."""

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
    """Uninterrupted runs of `jobs.SMALL`, on one and on two devices, which no test changes: `whole[devices]`."""
    from jobs import SMALL, job

    def make(devices, home):
        done = job("fit", *SMALL, "--devices", devices, cwd=home)
        assert done.code == 0, done.text

    homes = {n: made_once(tmp_path_factory, f"whole{n}", partial(make, n)) for n in (1, 2)}
    return {n: home / "lightning_logs" / "version_0" for n, home in homes.items()}


@pytest.fixture
def benchmark(monkeypatch):
    """What benchmarks/benchmark.py measures."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("sides")


@pytest.fixture
def plain(monkeypatch):
    """Without figures, which take most of a small job's time, where a test does not look at any."""
    monkeypatch.setattr("cifar_lightning.report.results.draw", lambda *args: None)


@pytest.fixture
def undrawn(monkeypatch):
    """With a file for each figure, and a page, but nothing drawn: where a test looks at what else they say."""
    monkeypatch.setattr("cifar_lightning.report.drawing.drawn", lambda figure: b"")
    monkeypatch.setattr("cifar_lightning.report.drawing.write_png", lambda pixels, file: file.write(pixels))
    monkeypatch.setattr("cifar_lightning.report.drawing.as_svg", lambda figure, name: "")


@pytest.fixture
def cpu_settings():
    """Leaves torch's settings of the CPU as they were."""
    from cifar_lightning.run.cpu import restored_torch

    with restored_torch():
        yield


def one_line(code, out, err):
    """The one line of a user's mistake."""
    assert code == 2, err
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    assert err.endswith("\n")
    return err
