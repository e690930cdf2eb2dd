"""metrics.csv only grows, each step is in it once, and a checkpoint knows how far it was."""

import itertools
import re
from types import SimpleNamespace

import pytest

from cifar_lightning.errors import InputError, RunError, Stopped
from cifar_lightning.run import metrics_csv
from cifar_lightning.run.metrics_csv import MetricsCSV
from cifar_lightning.run.metrics_log import read_rows


def log_of(path, columns=()):
    log = MetricsCSV(path, columns)
    log.trainer = SimpleNamespace(global_step=0, current_epoch=0, testing=False)
    return log


def put(log, step, **figures):
    log.trainer.global_step = step
    log.log_metrics(figures)


@pytest.fixture
def rewrites(monkeypatch):
    """The files that are written anew."""
    written, write = [], metrics_csv.write_atomically
    monkeypatch.setattr(metrics_csv, "write_atomically", lambda path, *args: (written.append(path), write(path, *args)))
    return written


def test_the_file_only_grows(tmp_path, rewrites):
    """Whatever is logged of a step, and whenever: what stands there stays as it is."""
    path = tmp_path / "metrics.csv"
    log = log_of(path, ["loss", "val"])
    seen = [b""]
    for step in range(1, 30):
        put(log, step, loss=1 / step)
        if step % 7 == 0:
            put(log, step, val=step / 100)
        seen.append(path.read_bytes() if path.exists() else b"")
    log.close()
    seen.append(path.read_bytes())
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(seen))
    assert rewrites == []
    rows = read_rows(path)
    assert [row["step"] for row in rows] == list(range(1, 30))
    assert {row["step"]: row["val"] for row in rows if row["val"] is not None} == {n: n / 100 for n in (7, 14, 21, 28)}


def test_a_row_costs_the_same_however_many_there_are(tmp_path, rewrites, monkeypatch):
    """100 classes, 16,000 rows: what is written for a row that gains a value is that row."""
    path, columns = tmp_path / "metrics.csv", ["loss", *(f"val_acc/{i}" for i in range(100))]
    log = log_of(path, columns)
    for step in range(1, 16_001):
        put(log, step, loss=1.0)
    reads = []
    monkeypatch.setattr(metrics_csv, "whole_lines", lambda path: reads.append(path))
    size = path.stat().st_size
    put(log, 16_000, **{"val_acc/7": 0.5})
    log.close()
    assert (rewrites, reads) == ([], [])
    assert path.stat().st_size - size < 400


def test_figures_that_nobody_announced_are_kept_too(tmp_path, rewrites):
    log = log_of(tmp_path / "metrics.csv", ["loss"])
    put(log, 1, loss=1.0)
    put(log, 2, loss=0.5)
    put(log, 3, loss=0.25, **{"a, b": 7.0})
    put(log, 4, other=1.0)
    log.close()
    assert len(rewrites) == 2
    rows = read_rows(log.path)
    assert [row["loss"] for row in rows] == [1.0, 0.5, 0.25, None]
    assert [row["a, b"] for row in rows] == [None, None, 7.0, None]
    assert rows[3]["other"] == 1.0


def full(path, write):
    raise RunError("disk full")


def test_a_header_that_cannot_be_written_leaves_a_file_that_can_be_read(tmp_path, monkeypatch):
    log = log_of(tmp_path / "metrics.csv", ["loss"])
    put(log, 1, loss=1.0)
    put(log, 2, loss=0.5)
    monkeypatch.setattr(metrics_csv, "write_atomically", full)
    with pytest.raises(RunError), log:
        put(log, 2, other=7.0)
    assert [(row["step"], row["loss"]) for row in read_rows(log.path)] == [(1, 1.0), (2, 0.5)]


def test_what_has_ended_a_run_is_said_rather_than_that_its_last_row_is_lost(tmp_path):
    log = log_of(tmp_path / "metrics.csv", ["loss"])
    put(log, 1, loss=1.0)
    log.path.mkdir()
    with pytest.raises(Stopped), log:
        raise Stopped(15)
    put(log, 2, loss=1.0)
    with pytest.raises(RunError, match="could not write"), log:
        pass


def test_rows_that_do_not_reach_the_disk_are_a_failure_of_the_disk(tmp_path, monkeypatch):
    def fail(descriptor):
        raise OSError(5, "Input/output error")

    log = log_of(tmp_path / "metrics.csv", ["loss"])
    log.flush()  # there are none yet
    put(log, 1, loss=1.0)
    log.close()
    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(RunError, match=r"could not write .*metrics.csv: Input/output error; any earlier version"):
        log.flush()


@pytest.mark.parametrize("cut", [0, 3])
def test_it_goes_back_to_where_a_checkpoint_was(tmp_path, cut):
    path, columns = tmp_path / "metrics.csv", ["loss", "val"]
    whole, log = log_of(tmp_path / "whole.csv", columns), log_of(path, columns)
    for step in range(1, 10):
        put(whole, step, loss=1 / step)
        put(log, step, loss=1 / step)
        if step == 6:
            position = log.position  # before its validation
        if step % 3 == 0:
            put(whole, step, val=0.5)
            put(log, step, val=0.5)
    path.write_bytes(path.read_bytes()[: -cut or None])  # killed in the middle of a line
    resumed = log_of(path, columns)
    resumed.go_back(*position)
    put(resumed, 6, val=0.5)
    for step in range(7, 10):
        put(resumed, step, loss=1 / step)
        if step % 3 == 0:
            put(resumed, step, val=0.5)
    whole.close()
    resumed.close()
    assert path.read_bytes() == whole.path.read_bytes()


def test_it_goes_back_to_a_row_of_more_columns_where_no_row_was_written(tmp_path):
    """As one whose callback logs a figure of its own, killed after its first checkpoint."""
    path = tmp_path / "metrics.csv"
    log = log_of(path, ["loss"])
    log.go_back(1, {"epoch": 0, "step": 10, "loss": 0.5, "theirs": 0.1})
    log.close()
    assert read_rows(path) == [{"epoch": 0, "step": 10, "loss": 0.5, "theirs": 0.1}]


def test_a_test_joins_the_row_of_the_step_that_is_tested(tmp_path):
    path = tmp_path / "metrics.csv"
    log = log_of(path, ["loss", "test_acc"])
    for step in (10, 20, 30):
        put(log, step, loss=step / 10)
    at_the_end, without = log.position, None
    log.trainer.testing = True
    log.trainer.fit_loop = SimpleNamespace(epoch_loop=SimpleNamespace(_batches_that_stepped=19))  # from 0
    log.log_metrics({"test_acc": 0.5, "epoch": 1}, 19)
    log.log_metrics({"test_new": 0.25}, 30)  # of a callback of the user's, which asks for the Trainer's step
    log.close()
    rows = {row["step"]: row for row in read_rows(path)}
    assert [*rows] == [10, 20, 30]
    assert (rows[20]["loss"], rows[20]["test_acc"], rows[20]["test_new"]) == (2.0, 0.5, 0.25)
    assert rows[30] == {"epoch": 0, "step": 30, "loss": 3.0, "test_acc": without, "test_new": without}
    log.trainer.fit_loop.epoch_loop._batches_that_stepped = 34  # a step that has logged nothing
    log.log_metrics({"test_acc": 0.75}, 34)
    assert read_rows(path)[-1]["test_acc"] == 0.75
    # A run that goes on has not been tested yet.
    longer = log_of(path, ["loss", "test_acc"])
    longer.go_back(*at_the_end)
    put(longer, 40, loss=4.0)
    longer.close()
    assert [(row["step"], row["loss"], row["test_acc"]) for row in read_rows(path)] == [
        (step, step / 10, None) for step in (10, 20, 30, 40)
    ]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"loss\n1\n", "a row has no step"),
        (b"step,loss\n1,2,3\n", "more cells than there are columns"),
        (b"step,loss\n1,two\n", "could not convert string to float: 'two'"),
        (b"step,loss\n1,\xff\n", "invalid start byte"),
    ],
)
def test_what_is_no_log_is_said_in_a_line(tmp_path, content, why):
    path = tmp_path / "metrics.csv"
    path.write_bytes(content)
    with pytest.raises(
        InputError, match=f"^{re.escape(str(path))} is not the log of a run .*{why}.*: fix it, or remove it$"
    ):
        read_rows(path)
