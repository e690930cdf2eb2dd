"""metrics.csv: it only grows, holds each step once, and can go back to where a checkpoint was."""

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
    """Returns a list of the files that are rewritten as a whole."""
    written, write = [], metrics_csv.write_atomically
    monkeypatch.setattr(metrics_csv, "write_atomically", lambda path, *args: (written.append(path), write(path, *args)))
    return written


def test_file_only_grows(tmp_path, rewrites):
    """What is in the file stays unchanged, whatever is logged for a step, and whenever."""
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


def test_cost_of_a_row_does_not_depend_on_their_number(tmp_path, rewrites, monkeypatch):
    """If a row of 100 classes gains a figure after 16,000 rows, only that row is written, and nothing is read."""
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


def test_figures_without_an_announced_column_are_kept(tmp_path, rewrites):
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


def test_header_that_cannot_be_written_leaves_a_readable_file(tmp_path, monkeypatch):
    log = log_of(tmp_path / "metrics.csv", ["loss"])
    put(log, 1, loss=1.0)
    put(log, 2, loss=0.5)
    monkeypatch.setattr(metrics_csv, "write_atomically", full)
    with pytest.raises(RunError), log:
        put(log, 2, other=7.0)
    assert [(row["step"], row["loss"]) for row in read_rows(log.path)] == [(1, 1.0), (2, 0.5)]


def test_error_that_ended_a_run_hides_a_failure_to_write_its_last_row(tmp_path):
    log = log_of(tmp_path / "metrics.csv", ["loss"])
    put(log, 1, loss=1.0)
    log.path.mkdir()
    with pytest.raises(Stopped), log:
        raise Stopped(15)
    put(log, 2, loss=1.0)
    with pytest.raises(RunError, match="could not write"), log:
        pass


def test_flush_reports_rows_that_do_not_reach_the_disk(tmp_path, monkeypatch):
    def fail(descriptor):
        raise OSError(5, "Input/output error")

    log = log_of(tmp_path / "metrics.csv", ["loss"])
    log.flush()  # there are no rows yet
    put(log, 1, loss=1.0)
    log.close()
    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(RunError, match=r"could not write .*metrics.csv: Input/output error; any earlier version"):
        log.flush()


@pytest.mark.parametrize("cut", [0, 3])
def test_log_goes_back_to_where_a_checkpoint_was(tmp_path, cut):
    path, columns = tmp_path / "metrics.csv", ["loss", "val"]
    whole, log = log_of(tmp_path / "whole.csv", columns), log_of(path, columns)
    for step in range(1, 10):
        put(whole, step, loss=1 / step)
        put(log, step, loss=1 / step)
        if step == 6:
            position = log.position  # of a checkpoint before the validation
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


def test_log_without_a_file_goes_back_to_a_row_with_further_columns(tmp_path):
    """A run whose callback logs its own figure may be killed after its first checkpoint, before a row is written."""
    path = tmp_path / "metrics.csv"
    log = log_of(path, ["loss"])
    log.go_back(1, {"epoch": 0, "step": 10, "loss": 0.5, "theirs": 0.1})
    log.close()
    assert read_rows(path) == [{"epoch": 0, "step": 10, "loss": 0.5, "theirs": 0.1}]


def test_figures_of_a_test_join_the_row_of_the_tested_step(tmp_path):
    path = tmp_path / "metrics.csv"
    log = log_of(path, ["loss", "test_acc"])
    for step in (10, 20, 30):
        put(log, step, loss=step / 10)
    at_the_end, without = log.position, None
    log.trainer.testing = True
    log.trainer.fit_loop = SimpleNamespace(epoch_loop=SimpleNamespace(_batches_that_stepped=19))  # counted from 0
    log.log_metrics({"test_acc": 0.5, "epoch": 1}, 19)
    log.log_metrics({"test_new": 0.25}, 30)  # from a user's callback, with the Trainer's step
    log.close()
    rows = {row["step"]: row for row in read_rows(path)}
    assert [*rows] == [10, 20, 30]
    assert (rows[20]["loss"], rows[20]["test_acc"], rows[20]["test_new"]) == (2.0, 0.5, 0.25)
    assert rows[30] == {"epoch": 0, "step": 30, "loss": 3.0, "test_acc": without, "test_new": without}
    log.trainer.fit_loop.epoch_loop._batches_that_stepped = 34  # a step without a row
    log.log_metrics({"test_acc": 0.75}, 34)
    assert read_rows(path)[-1]["test_acc"] == 0.75
    # A resumed run has not been tested yet.
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
def test_damaged_log_is_refused_in_one_line(tmp_path, content, why):
    path = tmp_path / "metrics.csv"
    path.write_bytes(content)
    with pytest.raises(
        InputError, match=f"^{re.escape(str(path))} is not the log of a run .*{why}.*: fix it, or remove it$"
    ):
        read_rows(path)
