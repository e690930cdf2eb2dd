"""`--logger` with the real packages, if installed: what they keep, and that a resumed run continues its own log."""

import glob
import json
import os
import sqlite3
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import one_line
from test_additions import SMALL, Broken

from cifar_lightning import fit, resume
from cifar_lightning.run import loggers
from cifar_lightning.run.metrics_log import read_rows

# Not imported here, because the tests check what the packages print when they are imported.
with_mlflow, with_wandb, with_tensorboard = (
    pytest.mark.skipif(find_spec(name) is None, reason=f"{name} is not installed")
    for name in ("mlflow", "wandb", "tensorboard")
)
FIT = ("--data.source", "synthetic", "--data.synthetic_size", 200, "--accelerator", "cpu")


@pytest.fixture(autouse=True)
def _home(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("WANDB_", "MLFLOW_"))]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_logger_that_is_not_installed_is_refused(name, call, monkeypatch, tmp_path):
    (tmp_path / name).mkdir()  # a mere folder, as some of them make, is not a package
    monkeypatch.syspath_prepend(tmp_path)
    find = loggers.importlib.util.find_spec
    found = dict.fromkeys(loggers.NAMES)  # of these only: jsonargparse, which may be imported now, looks for yaml
    found["wandb"] = find(name) if find(name) and find(name).origin is None else None
    monkeypatch.setattr(loggers.importlib.util, "find_spec", lambda name: found[name] if name in found else find(name))
    line = one_line(*call("fit", *FIT, "--logger", f"csv,{name}"))
    assert line == f"error: logger {name} needs a package; install it with: pip install 'cifar-lightning[{name}]'\n"
    assert {path.name for path in tmp_path.iterdir()} == {name}


def interrupted(name):
    """Interrupts a run in its second epoch, and resumes it for a third; returns its rows of metrics.csv by step."""
    environment = dict(os.environ)
    with pytest.raises(KeyError, match="theirs"):
        fit(**SMALL, max_epochs=2, callbacks=Broken(epoch=1), logger=name, report=False)
    resume("lightning_logs/version_0", {"max_epochs": 3})
    assert dict(os.environ) == environment
    rows = read_rows(Path("lightning_logs/version_0/metrics.csv"))
    return {row["step"]: row for row in rows}


@with_mlflow
def test_mlflow_continues_its_run_after_an_interruption(plain, capfd):
    rows = interrupted("mlflow")
    assert capfd.readouterr().err.count("\n") == 0
    with sqlite3.connect("mlflow.db") as database:
        ((run, name, status),) = database.execute("select run_uuid, name, status from runs").fetchall()
        parameters = dict(database.execute("select key, value from params").fetchall())
        metrics = database.execute("select key, value, step from metrics").fetchall()
    assert (name, status) == ("version_0", "FINISHED")
    assert json.loads((Path("lightning_logs") / "version_0" / loggers.IDS).read_text()) == {"mlflow": run}
    assert parameters.items() >= {"lr": "0.02", "batch_size": "20", "seed": "0", "max_epochs": "2"}.items()
    found = {(key, step): value for key, value, step in metrics}
    for step, row in rows.items():
        if row.get("val_acc") is not None:
            assert found["val_acc", step - 1] == pytest.approx(row["val_acc"])
    assert {key for key, _ in found} >= {"train_loss", "test_acc", "test_loss"}


@with_mlflow
def test_mlflow_run_resumed_from_another_folder_keeps_its_database(plain, monkeypatch, tmp_path, capfd):
    """A run that is resumed from another folder continues in the database in which it began."""
    fit(**SMALL, max_epochs=1, logger="mlflow", report=False)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    resume(tmp_path / "lightning_logs" / "version_0", {"max_epochs": 2})
    assert capfd.readouterr().err == ""
    assert not list((tmp_path / "elsewhere").iterdir())
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        ((runs, last),) = database.execute("select count(distinct run_uuid), max(step) from metrics").fetchall()
    assert runs == 1
    assert last == max(row["step"] for row in read_rows(tmp_path / "lightning_logs" / "version_0" / "metrics.csv")) - 1


@with_mlflow
def test_mlflow_follows_its_environment_variables(plain, monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/elsewhere.db")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    fit(**SMALL, max_epochs=1, logger="mlflow", report=False)
    assert not (tmp_path / "mlflow.db").exists()
    with sqlite3.connect("elsewhere.db") as database:
        assert ("mine",) in database.execute("select name from experiments").fetchall()
        assert database.execute("select count(*) from metrics where key = 'test_acc'").fetchone() == (1,)


@with_wandb
def test_wandb_continues_its_run_after_an_interruption(plain, capfd):
    import wandb

    rows = interrupted("wandb")
    assert wandb.run is None
    assert capfd.readouterr().err.count("\n") == 0
    (kept,) = json.loads((Path("lightning_logs") / "version_0" / loggers.IDS).read_text()).values()
    files = sorted(glob.glob("lightning_logs/version_0/wandb/offline-run-*/*.wandb"))
    assert [os.path.basename(file) for file in files] == [f"run-{kept}.wandb"] * 2
    records = [record for file in files for record in read_wandb(file)]
    history = [
        {item.nested_key[0] if item.nested_key else item.key: json.loads(item.value_json) for item in r.history.item}
        for r in records
        if r.WhichOneof("record_type") == "history"
    ]
    found = {(name, row["trainer/global_step"]): row[name] for row in history for name in row}
    for step, row in rows.items():
        if row.get("val_acc") is not None:
            assert found["val_acc", step - 1] == pytest.approx(row["val_acc"])
    assert {name for name, _ in found} >= {"train_loss", "test_acc", "test_loss"}
    configured = {item.key or item.nested_key[0] for r in records for item in r.config.update}
    configured |= {item.key for r in records if r.WhichOneof("record_type") == "run" for item in r.run.config.update}
    assert configured >= {"lr", "batch_size", "seed", "max_epochs"}


def read_wandb(file):
    """Yields a file's records: their parts lie in blocks of 32 KiB, each after a checksum, its length and its kind."""
    from wandb.proto import wandb_internal_pb2

    data, position, parts = Path(file).read_bytes(), 7, []
    while position + 7 <= len(data):
        if (left := 32_768 - position % 32_768) < 7:
            position += left
            continue
        length, kind = int.from_bytes(data[position + 4 : position + 6], "little"), data[position + 6]
        parts.append(data[position + 7 : position + 7 + length])
        position += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield wandb_internal_pb2.Record.FromString(b"".join(parts))
            parts = []


@with_tensorboard
def test_tensorboard_continues_after_an_interruption(plain):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    rows = interrupted("tensorboard")
    events = EventAccumulator("lightning_logs/version_0").Reload()
    found = {event.step: event.value for event in events.Scalars("val_acc")}
    for step, row in rows.items():
        if row.get("val_acc") is not None:
            assert found[step - 1] == pytest.approx(row["val_acc"])
    assert len(events.Scalars("test_acc")) == 1


@with_mlflow
def test_two_ranks_log_to_mlflow_once(plain, tmp_path):
    fit(**{**SMALL, "devices": 2}, max_epochs=1, logger="mlflow", report=False)
    with sqlite3.connect("mlflow.db") as database:
        assert database.execute("select status from runs").fetchall() == [("FINISHED",)]
        assert database.execute("select count(*) from metrics where key = 'test_acc'").fetchone() == (1,)
