"""TensorBoard is an extra: if it is broken, or breaks later, one line says so, and the run goes on."""

import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import pytest
from conftest import SYNTHETIC
from lightning.fabric.loggers import tensorboard

from cifar_lightning.run import loggers
from cifar_lightning.run.additions import Additions

FIT = (*SYNTHETIC, "--data.synthetic_size", "100", "--data.batch_size", "10", "--max_steps", "4")


@dataclass
class Told:
    """The settings of a run that loggers read."""

    data: dict = field(default_factory=dict)
    model: dict = field(default_factory=dict)
    logger: str = "auto"
    fast_dev_run: bool = False


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """Returns a function that installs a TensorBoard with some source: `installed("raise TypeError")`."""

    def install(source):
        monkeypatch.setattr(tensorboard, "_TENSORBOARD_AVAILABLE", True)
        for name in [name for name in sys.modules if name.startswith(("tensorboard", "torch.utils.tensorboard"))]:
            monkeypatch.delitem(sys.modules, name)
        home = tmp_path / "site-packages" / "tensorboard"
        home.mkdir(parents=True)
        (home / "__init__.py").write_text(source)
        monkeypatch.syspath_prepend(home.parent)

    yield install
    for name in [name for name in sys.modules if name.startswith(("tensorboard", "torch.utils.tensorboard"))]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (
            "raise TypeError('Descriptors cannot be created directly.\\nIf this call ...')",
            "TypeError: Descriptors cannot",
        ),
        ("import pkg_resources_that_setuptools_removed", "ModuleNotFoundError: No module named 'pkg_resources_that"),
        ("import numpy; numpy.bool8_that_is_gone", "AttributeError: module 'numpy' has no attribute 'bool8_that"),
    ],
)
def test_tensorboard_that_cannot_be_imported_does_not_end_the_run(plain, call, installed, tmp_path, source, reason):
    installed(source)
    code, _, err = call("fit", *FIT)
    assert code == 0, err
    note, *epochs = err.splitlines()
    assert note.startswith(f"note: tensorboard failed and logs nothing from here on ({reason}")
    assert [line.split()[0] for line in epochs] == ["epoch"]
    assert (tmp_path / "lightning_logs" / "version_0" / "results.json").exists()


def test_only_rank_0_reports_a_broken_tensorboard(installed, tmp_path, monkeypatch, capsys):
    installed("raise TypeError")
    for first, said in ((False, ""), (True, "note: tensorboard failed and logs nothing from here on (TypeError)\n")):
        monkeypatch.setattr(loggers, "is_first_rank", lambda first=first: first)
        with loggers.loggers_of(Told(), tmp_path, Additions()) as found:
            assert found == []
        assert capsys.readouterr().err == said


class Writer:
    """Writes in a thread, as TensorBoard's writer does, and raises the thread's error in the caller."""

    def __init__(self, log_dir):
        self.path, self.error, self.room = Path(log_dir) / "events.out.tfevents", None, 2
        self.path.touch()

    def add_scalar(self, name, value, step):
        worker = Worker(target=self._write, args=(f"{name} {step}\n",))
        worker.start()
        worker.join()
        if self.error is not None:
            raise self.error

    def _write(self, line):
        if not self.room:
            self.error = OSError(28, "No space left on device")
            raise self.error
        self.room -= 1
        with self.path.open("a") as file:
            file.write(line)

    def flush(self):
        pass

    close = flush


class Worker(threading.Thread):
    __module__ = "tensorboard.summary.writer.event_file_writer"


@pytest.fixture
def writer(monkeypatch):
    monkeypatch.setattr(tensorboard, "_TENSORBOARD_AVAILABLE", True)
    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, module.__name__, module)


def test_tensorboard_that_breaks_later_does_not_end_the_run(plain, call, writer, tmp_path):
    code, _, err = call("fit", *FIT, "--log_every_n_steps", "1")
    assert code == 0, err
    run = tmp_path / "lightning_logs" / "version_0"
    assert (run / "events.out.tfevents").read_text() == "train_loss 0\nlr 0\n"
    assert len((run / "metrics.csv").read_text().splitlines()) == 5  # metrics.csv goes on
    note, *epochs = err.splitlines()
    assert (
        note
        == "note: TensorBoardLogger failed and logs nothing from here on (OSError: [Errno 28] No space left on device)"
    )
    assert [line.split()[0] for line in epochs] == ["epoch"]


def test_errors_in_other_threads_are_not_hidden(writer, tmp_path, monkeypatch):
    failed = []
    monkeypatch.setattr(threading, "excepthook", lambda args: failed.append(args.thread))
    with loggers.loggers_of(Told(), tmp_path, Additions()):
        for kind in (threading.Thread, Worker):
            thread = kind(target=lambda: 1 / 0)
            thread.start()
            thread.join()
    assert [type(thread) for thread in failed] == [threading.Thread]
