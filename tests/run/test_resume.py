"""Tests resuming: an interrupted run ends bit-identical to a whole one. faults/sitecustomize.py explains the faults."""

import json
import os
import shutil
import signal
import socket
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import NOBODY, another_user
from jobs import SMALL, contents, differences, end, job, leftovers, processes_of, start, step_of, suspended
from lightning.pytorch import Callback
from test_stop import wait_for

from cifar_lightning.errors import InputError, RunError
from cifar_lightning.run import folder as run_folder
from cifar_lightning.run.callbacks.checkpoints import Checkpoints
from cifar_lightning.run.checkpoint import load_checkpoint
from cifar_lightning.run.folder import RunInUseError, held, newest_unfinished
from cifar_lightning.run.metrics_log import read_rows
from cifar_lightning.run.resuming import resume, resume_newest
from cifar_lightning.run.status import status
from cifar_lightning.run.testing import evaluate
from cifar_lightning.run.training import fit

OLD = Path(__file__).parents[1] / "data" / "run_of_0.1.0"


def interrupted(cwd, devices, fault, *arguments):
    done = job("fit", *SMALL, "--devices", devices, *arguments, cwd=cwd, fault=fault)
    return done, cwd / "lightning_logs" / "version_0"


@pytest.mark.parametrize(
    ("devices", "fault", "code", "goes_on"),
    [
        (1, "kill@-:train:13", -9, "resumes from step-7.ckpt"),  # in the middle of an epoch
        (1, "kill@-:train:19", -9, "resumes from step-18.ckpt"),  # between two epochs
        (1, "kill@-:val:3", -9, "resumes from step-18.ckpt"),
        (1, "kill@-:test:3", -9, "resumes from step-36.ckpt"),
        (1, "kill@-:write:1", -9, "starts"),  # before there is any checkpoint
        (1, "kill@-:write:4", -9, "resumes from step-14.ckpt"),
        (1, "kill@-:rename:3", -9, "resumes from step-7.ckpt"),
        (1, "kill@-:renamed:3", -9, "resumes from step-14.ckpt"),
        (2, "kill@1:train:13", 1, "resumes from step-7.ckpt"),
        pytest.param(2, "kill@0:write:4", 1, "resumes from step-14.ckpt", marks=pytest.mark.soak),
    ],
)
def test_a_killed_run_resumes_bit_identical(whole, tmp_path, devices, fault, code, goes_on):
    done, run = interrupted(tmp_path, devices, fault)
    assert done.code == code, done.text
    if devices == 2:
        assert done.lines[-1] == (
            f"error: rank {fault[5]}: was killed by SIGKILL; continue with --resume lightning_logs/version_0"
        )
    done = job("fit", "--resume", run, cwd=tmp_path)
    assert done.code == 0, done.text
    assert f"{goes_on}:" in done.lines[0]
    assert differences(run, whole[devices]) == []
    assert leftovers(run) == []


def test_a_run_killed_several_times_resumes_bit_identical(whole, tmp_path):
    _, run = interrupted(tmp_path, 1, "kill@-:train:10")
    for fault in ("kill@-:train:5", "kill@-:val:2", "kill@-:train:9", "kill@-:report:1"):
        assert job("fit", "--resume", run, cwd=tmp_path, fault=fault).code == -9
    assert job("fit", "--resume", run, cwd=tmp_path).code == 0
    assert differences(run, whole[1]) == []


def test_a_killed_launcher_leaves_no_process_and_a_resumable_run(whole, tmp_path):
    _, run = interrupted(tmp_path, 2, "kill-parent@0:train:5")
    # This waits for the ranks: they hold the run's folder until they are gone.
    done = job("fit", "--resume", run, cwd=tmp_path)
    assert done.code == 0, done.text
    assert differences(run, whole[2]) == []
    assert processes_of(tmp_path) == []


def test_an_extended_run_is_bit_identical_to_a_longer_one(tmp_path):
    settings = (*SMALL, "--model.schedule", "constant", "--default_root_dir")
    longer, extended = (tmp_path / name / "lightning_logs" / "version_0" for name in ("longer", "extended"))
    assert job("fit", *settings, tmp_path / "longer", "--max_epochs", 3, cwd=tmp_path).code == 0
    assert job("fit", *settings, tmp_path / "extended", "--max_epochs", 1, cwd=tmp_path).code == 0
    assert job("fit", "--resume", extended, "--max_epochs", 2, cwd=tmp_path, fault="kill@-:val:2").code == -9
    assert job("fit", "--resume", extended, "--max_epochs", 3, cwd=tmp_path).code == 0
    assert differences(extended, longer) == []


def test_a_run_with_unsaved_epoch_ends_is_extended_bit_identical(plain, tmp_path, monkeypatch):
    """A run with epochs too short to save each one's end is extended from the checkpoint after its last epoch."""
    monkeypatch.setattr("cifar_lightning.run.callbacks.checkpoints.WORTH", 1e9)
    data = {"source": "synthetic", "synthetic_size": 200, "batch_size": 20, "augment": True}
    runs = [tmp_path / name / "lightning_logs" / "version_0" for name in ("whole", "extended")]
    for run, epochs in zip(runs, (4, 2), strict=True):
        root = run.parents[1]
        fit(data, accelerator="cpu", max_epochs=epochs, log_every_n_steps=7, default_root_dir=root)
    with pytest.raises(InputError, match="would change the result"):
        resume(runs[1], {"trainer": {"gradient_clip_val": 1}})
    resume(runs[1], {"max_epochs": 4, "trainer": None})
    assert differences(*runs) == []


@pytest.mark.parametrize("every", [4, 5])  # an epoch has 10 steps: the last is no log point, or is one
def test_an_extended_run_logs_the_learning_rates_it_continues_at(plain, tmp_path, every):
    data = {"source": "synthetic", "synthetic_size": 200, "batch_size": 20}
    settings = {"accelerator": "cpu", "log_every_n_steps": every, "default_root_dir": tmp_path}
    fit(data, {"lr": 0.02, "schedule": "linear"}, max_epochs=1, **settings)
    run = tmp_path / "lightning_logs" / "version_0"
    rates = dict[int, float]()
    for epochs in (1, 2, 3):
        if epochs > 1:
            resume(run, {"max_epochs": epochs})
        steps = [step for step in range(10 * (epochs - 1), 10 * epochs + 1) if step % every == 0 or step % 10 == 0]
        rates |= {step: 0.02 * (1 - step / (10 * epochs)) for step in steps if step}
        logged = {row["step"]: row["lr"] for row in read_rows(run / "metrics.csv")}
        assert logged == pytest.approx(rates, abs=1e-8)


def assert_longer_from(step, run, whole):
    """Asserts that `run`, which max_steps had ended at `step`, differs from `whole` only by the validation there."""
    assert differences(run, whole) == ["metrics.csv"]
    rows, others = (read_rows(folder / "metrics.csv") for folder in (run, whole))
    (extra,) = (row for row in rows if row["step"] == step)
    assert extra["val_acc"] is not None
    assert [row for row in rows if row is not extra] == others


@pytest.mark.parametrize("precision", ["64-true", "bf16-true"])
def test_a_run_in_another_dtype_is_extended_bit_identical(plain, tmp_path, precision):
    """No bit is lost on resuming, although Lightning loads a checkpoint into float32 and converts the network later."""
    data = {"source": "synthetic", "synthetic_size": 200, "batch_size": 20, "augment": True, "val_split": 20}
    options = {"accelerator": "cpu", "precision": precision, "log_every_n_steps": 5}
    whole, cut = (tmp_path / name / "lightning_logs" / "version_0" for name in ("whole", "cut"))
    fit(data, **options, default_root_dir=tmp_path / "whole")
    fit(data, **options, max_steps=13, default_root_dir=tmp_path / "cut")
    (summed,) = load_checkpoint(cut / "checkpoints" / "step-13.ckpt")["train_loss_window"]["sums"]
    assert (summed == torch.tensor(summed).item()) == (precision == "bf16-true")  # a float32 number, or one of float64
    resume(cut, {"max_steps": -1})
    assert_longer_from(13, cut, whole)


DRAWING = """
import random

import numpy as np
import torch
from torch import nn


class Drawing(nn.Sequential):
    def __init__(self):
        super().__init__(nn.AvgPool2d(4), nn.Flatten(), nn.Dropout(0.3), nn.Linear(192, 10))

    def forward(self, images):
        noise = torch.rand(()) + np.random.rand() + np.random.normal() + random.random() + random.gauss(0, 1)
        return super().forward(images) * (1 + 0.1 * noise if self.training else 1)
"""


@pytest.mark.parametrize(
    ("devices", "fault", "goes_on"),
    [
        (1, "kill@-:train:13", "step-7.ckpt"),  # in the middle of an epoch
        (1, "kill@-:val:3", "step-18.ckpt"),  # at the end of an epoch
        pytest.param(2, "kill@1:train:16", "step-14.ckpt", marks=pytest.mark.soak),
    ],
)
def test_a_network_that_draws_random_numbers_resumes_bit_identical(tmp_path, devices, fault, goes_on):
    """After a resumption, dropout masks and other random numbers are the same as in an uninterrupted run."""
    (tmp_path / "drawing.py").write_text(DRAWING)
    named, runs = ("--model.net", "drawing:Drawing"), [tmp_path / "lightning_logs" / f"version_{n}" for n in (0, 1)]
    job("fit", *SMALL, *named, "--devices", devices, cwd=tmp_path, fault=fault)
    done = job("fit", "--resume", runs[0], *named, cwd=tmp_path)
    assert done.code == 0, done.text
    assert f"resumes from {goes_on}:" in done.lines[0]
    (newest, *_) = sorted((runs[0] / "checkpoints").glob("step-*.ckpt"))
    assert len(torch.load(newest, weights_only=True)["random_states"]) == 1  # one: all ranks draw the same numbers
    assert job("fit", *SMALL, *named, "--devices", devices, cwd=tmp_path).code == 0
    assert differences(*runs) == []


def test_a_run_that_ends_before_its_first_validation_says_so(tmp_path, capsys):
    class Stopping(Callback):
        def on_train_batch_end(self, trainer, *args):
            trainer.should_stop = True

    data = {"source": "synthetic", "synthetic_size": 100, "val_split": 0.1}
    every_other = {"trainer": {"check_val_every_n_epoch": 2}, "max_epochs": 2, "default_root_dir": tmp_path}
    fit(data, {"lr": 0.01}, callbacks=Stopping(), accelerator="cpu", **every_other)
    assert "note: the training ended before its first validation\n" in capsys.readouterr().err


@pytest.mark.parametrize(("steps", "validated"), [(5, [5]), (18, [18]), (23, [18, 23])])  # 18 steps per epoch
def test_max_steps_within_an_epoch_validates_the_last_step(tmp_path, steps, validated):
    run = tmp_path / "lightning_logs" / "version_0"
    assert job("fit", *SMALL, "--max_steps", steps, cwd=tmp_path, fault="kill@-:val:1").code == -9
    done = job("fit", "--resume", run, cwd=tmp_path)
    assert done.code == 0, done.text
    rows = read_rows(run / "metrics.csv")
    assert [row["step"] for row in rows if row["val_acc"] is not None] == validated
    assert [row["train_loss"] is None for row in rows if row["step"] == steps] == [False]
    results = json.loads((run / "results.json").read_text())
    assert (results["val_count"], results["val_acc"]) == (40, max(row["val_acc"] or 0 for row in rows))


def test_max_steps_of_a_run_can_be_raised(tmp_path):
    run = tmp_path / "lightning_logs" / "version_0"
    constant = (*SMALL, "--model.schedule", "constant")
    assert job("fit", *constant, "--max_steps", 23, cwd=tmp_path).code == 0  # which is no log point
    assert step_of(run) == 23
    assert job("fit", "--resume", run, "--max_steps", -1, cwd=tmp_path).code == 0
    assert job("fit", *constant, cwd=tmp_path).code == 0
    assert_longer_from(23, run, run.with_name("version_1"))


class StopAt(Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, *args):
        trainer.should_stop = trainer.should_stop or trainer.global_step == self.step


@pytest.mark.parametrize("limited", [True, False])
def test_an_extended_run_keeps_the_validation_of_its_earlier_end(tmp_path, limited):
    """The validation at the end of a run that stops within an epoch still counts when the run is extended.

    It stops by max_steps, or by should_stop, which max_time sets.
    """
    # The images are noise, so that accuracies go up and down.
    noise, counts = np.random.default_rng(0), {"train": 120, "test": 40}
    images = {f"x_{split}": noise.integers(0, 256, (n, 32, 32, 3), np.uint8) for split, n in counts.items()}
    labels = {f"y_{split}": np.arange(n) % 2 for split, n in counts.items()}
    np.savez(tmp_path / "own.npz", **images, **labels, classes=np.array(["a", "b"]))
    data = {"source": "folder", "data_dir": tmp_path, "batch_size": 5, "val_split": 0.25}
    settings = {"accelerator": "cpu", "threads": 1, "seed": 2, "report": False, "default_root_dir": tmp_path}
    stop = {"max_steps": 22} if limited else {"callbacks": StopAt(22)}  # 18 steps per epoch
    ended = fit(data, {"lr": 0.02}, max_epochs=4, **stop, **settings)
    assert ended["step"] == 22  # the better of two validations
    run = tmp_path / "lightning_logs" / "version_0"
    longer = resume(run, {"max_steps": 54} if limited else {"max_epochs": 5}, callbacks=None if limited else StopAt(90))
    assert (longer["step"], longer["val_acc"]) == (22, ended["val_acc"])  # later ones are worse
    rows = read_rows(run / "metrics.csv")
    steps = [row["step"] for row in rows]
    assert steps == sorted(set(steps))
    assert [row["val_acc"] for row in rows if row["step"] == 22] == [pytest.approx(ended["val_acc"])]
    assert [row["step"] for row in rows if row["val_acc"] is not None][:3] == [18, 22, 36]


class Validations(Callback):
    """Counts validations, including those before a resumption: checkpoints keep the count."""

    def __init__(self):
        self.count = 0

    def on_validation_end(self, *args):
        self.count += 1

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state_dict):
        self.count = state_dict["count"]


@pytest.mark.parametrize("best", [True, pytest.param(False, marks=pytest.mark.soak)])
def test_resuming_at_the_last_step_does_not_validate_it_twice(tmp_path, best):
    """A run resumed at its last step repeats the validation of that step only if best.ckpt is gone."""
    data = {"source": "synthetic", "synthetic_size": 200, "batch_size": 20, "val_split": 20}
    ran, again = Validations(), Validations()
    fit(data, {"lr": 0.01}, max_steps=12, accelerator="cpu", default_root_dir=tmp_path, callbacks=ran)
    run = tmp_path / "lightning_logs" / "version_0"
    (run / "results.json").unlink()  # as if the run had been killed during its test
    if not best:
        (run / "checkpoints" / "best.ckpt").unlink()
    resume(run, callbacks=again)
    assert (ran.count, again.count) == (2, 2 if best else 3)
    assert (run / "checkpoints" / "best.ckpt").exists()


@pytest.mark.parametrize(
    ("settings", "faults"),
    [
        (("--max_steps", 25), ("kill@-:train:13", "kill@-:train:16")),  # as in the recipes cpu and speed54
        pytest.param(
            ("--max_steps", 25, "--data.val_split", 0), ("kill@-:train:13", "kill@-:train:16"), marks=pytest.mark.soak
        ),
        (("--max_steps", 23), ("kill@-:test:1",)),  # the log of the last steps is still to be written
        (("--max_steps", 36), ("kill@-:val:11",)),  # the last validation is still to run
        (("--trainer.val_check_interval", 9), ("kill@-:val:3", "kill@-:train:5", "kill@-:val:11")),
        pytest.param(
            ("--trainer.reload_dataloaders_every_n_epochs", 1),
            ("kill@-:train:13", "kill@-:train:16"),
            marks=pytest.mark.soak,
        ),
    ],
)
def test_a_killed_run_with_other_settings_resumes_bit_identical(tmp_path, settings, faults):
    done, killed = (tmp_path / name / "lightning_logs" / "version_0" for name in ("done", "killed"))
    settings = (*SMALL, *settings, "--default_root_dir")
    assert job("fit", *settings, tmp_path / "done", cwd=tmp_path).code == 0
    arguments = (*settings, tmp_path / "killed")
    for fault in faults:
        assert job("fit", *arguments, cwd=tmp_path, fault=fault).code == -9
        arguments = ("--resume", killed)
    assert job("fit", "--resume", killed, cwd=tmp_path).code == 0
    assert step_of(killed) == step_of(done)
    assert differences(killed, done) == []


def test_the_same_command_starts_and_resumes_a_run_of_a_recipe(tmp_path):
    command = ("fit", "--recipe", "cpu", *SMALL, "--model.width", 8, "--model.sizes", "[16]", "--resume", "auto")
    assert job(*command, cwd=tmp_path, fault="kill@-:train:13").code == -9
    done = job(*command, cwd=tmp_path)
    assert done.code == 0, done.text
    assert done.lines[0] == "resuming lightning_logs/version_0"


def test_a_stop_in_a_validation_within_an_epoch_loses_no_step(tmp_path):
    settings = (*SMALL, "--checkpoint_every_n_steps", 100, "--trainer.val_check_interval", 9)
    assert job("fit", *settings, cwd=tmp_path, fault="term@-:val:3").code == 143
    assert step_of(tmp_path / "lightning_logs" / "version_0") == 9


def test_a_stop_in_a_validation_within_a_step_finishes_the_step(tmp_path):
    settings = (*SMALL, "--checkpoint_every_n_steps", 100, "--trainer.val_check_interval", 10)
    done = job("fit", *settings, "--trainer.accumulate_grad_batches", 3, cwd=tmp_path, fault="term@-:val:3")
    assert done.code == 143
    assert step_of(tmp_path / "lightning_logs" / "version_0") == 4


@pytest.mark.parametrize("gone", ["step-*.ckpt", "metrics.csv"])
def test_extending_a_run_needs_its_checkpoints_but_not_metrics_csv(whole, tmp_path, gone):
    run = tmp_path / "run"
    shutil.copytree(whole[1], run)
    for path in run.rglob(gone):
        path.unlink()
    before = {path: path.read_bytes() for path in run.rglob("*.*")}
    done = job("fit", "--resume", run, "--max_epochs", 3, cwd=tmp_path)
    if gone == "metrics.csv":
        assert done.code == 0, done.text
        assert {row["step"] for row in read_rows(run / "metrics.csv")} == {35, 36, 40, 45, 50, 54}
    else:
        assert done.code == 2
        assert done.lines[-1].endswith("has been trained, but its checkpoints/step-*.ckpt are gone: start a new run")
        assert before == {path: path.read_bytes() for path in run.rglob("*.*")}


@pytest.mark.parametrize("accumulated", [1, 3])
def test_max_time_ends_a_run_after_a_whole_step_with_a_checkpoint(tmp_path, accumulated):
    """A run that max_time ends stops after a whole step, of which it has a checkpoint."""
    limit = ("--trainer.max_time", "00:00:00:01", "--max_epochs", 1_000_000, "--model.schedule", "constant")
    accumulate = ("--trainer.accumulate_grad_batches", accumulated)
    assert job("fit", *SMALL, *limit, *accumulate, "--data.val_split", 0, cwd=tmp_path).code == 0
    run = tmp_path / "lightning_logs" / "version_0"
    # An epoch has 20 batches. If 3 are accumulated, its last step has two.
    epochs, steps = divmod(step_of(run), -(-20 // accumulated))
    assert (epochs * 20 + steps * accumulated) * 20 == json.loads((run / "results.json").read_text())["images_seen"]
    rows = read_rows(run / "metrics.csv")
    assert len({row["step"] for row in rows}) == len(rows)


def test_a_run_ended_by_max_time_resumes_with_a_longer_max_time(tmp_path):
    limit = ("--max_epochs", 1_000_000, "--model.schedule", "constant", "--data.val_split", 0)
    assert job("fit", *SMALL, *limit, "--trainer.max_time", "00:00:00:01", cwd=tmp_path).code == 0
    run = tmp_path / "lightning_logs" / "version_0"
    step = step_of(run)
    done = job("fit", "--resume", run, cwd=tmp_path)
    assert done.code == 2
    assert "use a longer --trainer.max_time than 00:00:00:01, and if needed a higher --max_epochs" in done.lines[0]
    assert job("fit", "--resume", run, "--trainer.max_time", "00:00:00:02", cwd=tmp_path).code == 0
    assert step_of(run) > step
    done = job("fit", "--resume", run, "--trainer.max_time", "00:00:00:01", cwd=tmp_path)
    assert "--trainer.max_time (the run has 00:00:00:02, not 00:00:00:01) would change the result" in done.lines[0]
    done = job("fit", "--resume", run, "--trainer.max_time", "{seconds: 2}", cwd=tmp_path)  # equal to 00:00:00:02
    assert "use a longer --trainer.max_time than 00:00:00:02" in done.lines[0]
    done = job("fit", "--resume", run, "--trainer.gradient_clip_val", 1, cwd=tmp_path)
    assert "--trainer.gradient_clip_val (the run has None, not 1) would change the result" in done.lines[0]


def test_results_are_of_the_best_of_several_validations_in_a_step(plain, tmp_path):
    """If a step has several validations, the results have the figures of the first one with the highest accuracy.

    They share a row of metrics.csv, but batch norms' averages change while gradients accumulate.
    """
    seen = []

    class Watch(Callback):
        def on_validation_end(self, trainer, pl_module):
            if not trainer.sanity_checking:
                figures = trainer.callback_metrics
                seen.append((trainer.global_step, float(figures["val_acc"]), float(figures["val_loss"])))

    results = fit(
        {"source": "synthetic", "synthetic_size": 400, "batch_size": 20, "val_split": 0.2},
        {"net": "speed", "width": 4, "lr": 0.05},
        accelerator="cpu",
        max_epochs=1,
        trainer={"accumulate_grad_batches": 5, "val_check_interval": 1},
        callbacks=Watch(),
        default_root_dir=tmp_path,
    )
    step, acc, loss = max(seen, key=lambda one: one[1])  # max returns the first of the highest
    assert [one[0] for one in seen].count(step) > 1
    assert (results["step"], results["val_acc"], results["val_loss"]) == pytest.approx((step, acc, loss), rel=1e-6)


def test_a_stop_does_not_split_the_accumulated_gradients_of_a_step(tmp_path):
    settings = (*SMALL, "--trainer.accumulate_grad_batches", 3, "--default_root_dir")
    done, killed = (tmp_path / name / "lightning_logs" / "version_0" for name in ("done", "killed"))
    assert job("fit", *settings, tmp_path / "done", cwd=tmp_path).code == 0
    assert job("fit", *settings, tmp_path / "killed", cwd=tmp_path, fault="term@-:train:14").code == 143
    assert step_of(killed) == 5
    assert job("fit", "--resume", killed, cwd=tmp_path, fault="kill@-:train:5").code == -9
    assert job("fit", "--resume", killed, cwd=tmp_path).code == 0
    assert differences(killed, done) == []
    assert json.loads((killed / "results.json").read_text())["images_seen"] == 2 * 18 * 20


def test_resume_says_why_there_is_nothing_to_resume(whole, tmp_path):
    reasons = {tmp_path / "none": "does not exist", tmp_path: "is not a run's folder", whole[1]: "has finished"}
    for run, reason in reasons.items():
        done = job("fit", "--resume", run, cwd=tmp_path)
        assert done.code == 2
        assert len(done.lines) == 1
        assert done.lines[0].startswith("error: nothing to resume: ")
        assert reason in done.lines[0]


def test_resume_auto_resumes_the_newest_unfinished_run_or_starts_one(whole, tmp_path):
    done = job("fit", *SMALL, "--resume", "auto", cwd=tmp_path, fault="kill@-:train:13")
    assert done.lines[0] == "no unfinished run: starting a new one"
    done = job("fit", *SMALL, "--resume", "auto", cwd=tmp_path)
    assert done.lines[0] == "resuming lightning_logs/version_0"
    assert done.code == 0
    assert differences(tmp_path / "lightning_logs" / "version_0", whole[1]) == []
    with newest_unfinished(tmp_path) as found:
        assert found is None


def test_resume_auto_accepts_arguments_that_equal_the_defaults(tmp_path):
    command = ("fit", *SMALL, "--resume", "auto")
    assert job(*command, cwd=tmp_path, fault="kill@-:train:13").code == -9
    settings = yaml.safe_load((tmp_path / "lightning_logs" / "version_0" / "config.yaml").read_text())
    assert (settings["data"]["cutout"], settings["model"]["net"]) == (0, "tutorial")
    done = job(*command, "--data.cutout", 0, "--recipe", "tutorial", *SMALL, cwd=tmp_path)
    assert done.code == 0, done.text
    assert any("version_0 resumes from " in line for line in done.lines)


@another_user
def test_resume_auto_skips_runs_of_other_users(for_anyone):
    theirs = for_anyone / "lightning_logs" / "version_3"
    theirs.mkdir(parents=True, mode=0o700)
    shown = theirs.with_name("version_4")
    shown.mkdir(mode=0o755)  # readable, but not writable
    shutil.copy(OLD / "config.yaml", shown)
    theirs.parent.chmod(0o777)
    done = job("fit", *SMALL, "--resume", "auto", cwd=for_anyone, user=NOBODY)
    assert done.code == 0, done.text
    assert done.lines[0].startswith("skipping lightning_logs/version_3: lightning_logs/version_3 cannot be read")
    assert done.lines[1] == "no unfinished run: starting a new one"


def test_changed_settings_are_refused_by_name(tmp_path):
    _, run = interrupted(tmp_path, 1, "kill@-:train:13")
    changes = ("--data.batch_size", 10, "--seed", 7, "--model.net", "resnet18", "--data.synthetic_size", 500)
    done = job("fit", "--resume", run, *changes, "--max_epochs", 1, cwd=tmp_path)
    assert done.code == 2
    assert len(done.lines) == 1
    for name in ("data.batch_size", "seed", "model.net", "data.synthetic_size", "max_epochs"):
        assert f"--{name} " in done.lines[0]
    done = job("fit", "--resume", run, "--recipe", "resnet18", cwd=tmp_path)
    assert done.code == 2
    assert done.lines == ["error: recipe resnet18: --resume continues with the run's own settings; leave out --recipe"]


def test_a_damaged_checkpoint_is_skipped_for_the_one_before_it(whole, tmp_path):
    """If the newest checkpoint is damaged, a run resumes from the one before, and discards a later best.ckpt.

    On two devices, too, each warning is printed once.
    """
    run = tmp_path / "run"
    shutil.copytree(whole[2], run)
    (run / "results.json").unlink()
    newest, best = (run / "checkpoints" / name for name in ("step-36.ckpt", "best.ckpt"))
    assert load_checkpoint(best)["global_step"] == 36
    newest.write_bytes(newest.read_bytes()[:-100])
    done = job("fit", "--resume", run, cwd=tmp_path)
    assert done.code == 0
    assert [line for line in done.lines if "warning" in line] == [
        f"warning: checkpoint {newest} cannot be read: it is damaged or not a checkpoint; resuming from step-35.ckpt",
        f"warning: checkpoint {best} is from step 36, which will be trained again; the best checkpoint is chosen "
        "anew from step 35 on",
    ]
    assert differences(run, whole[2]) == []


VALIDATED = {"source": "synthetic", "synthetic_size": 200, "batch_size": 20, "val_split": 20}  # 9 steps per epoch


def test_a_best_checkpoint_of_retrained_steps_is_chosen_anew(plain, tmp_path):
    """Steps that are trained again replace best.ckpt, even if they now end worse than an earlier, overwritten best.

    That can happen on other devices, where the same steps may have other results.
    """
    fit(VALIDATED, accelerator="cpu", checkpoint_every_n_steps=7, default_root_dir=tmp_path)
    run = tmp_path / "lightning_logs" / "version_0"
    before, last, best = (run / "checkpoints" / f"{name}.ckpt" for name in ("step-14", "step-18", "best"))
    kept = load_checkpoint(last)
    elsewhere = {name: torch.randn(x.shape) for name, x in kept["state_dict"].items()}
    torch.save({**kept, "state_dict": elsewhere}, best)
    older = load_checkpoint(before)
    older["callbacks"]["Checkpoints"]["best_acc"] = 0.99
    torch.save(older, before)
    last.write_bytes(b"nothing")
    (run / "results.json").unlink()
    assert evaluate(run, accelerator="cpu")["checkpoint"] == str(best)  # still the best, before resuming
    assert resume(run)["step"] == 18
    chosen = load_checkpoint(best)["state_dict"]
    assert all(torch.equal(chosen[name], x) for name, x in kept["state_dict"].items())


def test_a_damaged_best_checkpoint_is_reported_and_chosen_anew(plain, tmp_path, monkeypatch, capsys):
    best = tmp_path / "lightning_logs" / "version_0" / "checkpoints" / "best.ckpt"
    with monkeypatch.context() as damage:
        damage.setattr(Checkpoints, "on_train_end", lambda *args: best.write_bytes(b"nothing"))
        with pytest.raises(RunError) as error:
            fit(VALIDATED, accelerator="cpu", default_root_dir=tmp_path)
    problem, run = f"checkpoint {best} cannot be read: it is damaged or not a checkpoint", best.parents[1]
    assert str(error.value) == f"{problem}; continue with resume({str(run)!r})"
    assert resume(run)["checkpoint"] == str(best)
    assert load_checkpoint(best)["global_step"] == 18
    assert f"warning: {problem}; the best checkpoint is chosen anew from step 18 on\n" in capsys.readouterr().err


def test_a_flipped_bit_in_a_weight_is_noticed(whole, tmp_path):
    """A run does not resume from a checkpoint with a flipped bit in a weight, which torch.load would accept."""
    _, run = interrupted(tmp_path, 1, "kill@-:train:17")
    newest = run / "checkpoints" / "step-14.ckpt"
    weight, content = _weight(newest), bytearray(newest.read_bytes())
    content[content.index(weight.numpy().tobytes()) + 3] ^= 0x40
    newest.write_bytes(content)
    assert not torch.equal(_weight(newest), weight)
    done = job("fit", "--resume", run, cwd=tmp_path)
    assert done.code == 0
    assert done.lines[0] == (
        f"warning: checkpoint {newest} cannot be read: it is damaged or not a checkpoint; resuming from step-7.ckpt"
    )
    assert differences(run, whole[1]) == []


def _weight(path):
    return torch.load(path, weights_only=True)["state_dict"]["net.fc3.weight"]


def test_a_checkpoint_without_checksums_is_loaded(tmp_path):
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(
            {"state_dict": {"w": torch.ones(100)}, "hyper_parameters": {}, "global_step": 1}, tmp_path / "a.ckpt"
        )
    finally:
        torch.serialization.set_crc32_options(before)
    assert load_checkpoint(tmp_path / "a.ckpt")["global_step"] == 1


def test_a_slurm_job_loads_no_checkpoint_that_was_not_named(whole, tmp_path):
    """hpc_ckpt_1.ckpt is not loaded, although Lightning resumes from a checkpoint of this name in a SLURM job."""
    slurm = {
        "SLURM_NTASKS": "1",
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NAME": "train",
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
    }
    shutil.copy(whole[1] / "checkpoints" / "step-36.ckpt", tmp_path / "hpc_ckpt_1.ckpt")
    done = job("fit", *SMALL, "--seed", 1, "--max_epochs", 1, cwd=tmp_path, env=slurm)
    assert done.code == 0, done.text
    run = tmp_path / "lightning_logs" / "version_0"
    assert [row["step"] for row in read_rows(run / "metrics.csv")] == [5, 10, 15, 18]
    done = job("evaluate", run, "--accelerator", "cpu", cwd=tmp_path, env=slurm)
    assert done.code == 0, done.text
    fitted, tested = (json.loads((folder / "results.json").read_text()) for folder in (run, run / "evaluation"))
    assert fitted["confusion"] == tested["confusion"]


def test_no_readable_checkpoint_is_an_error_not_a_fresh_start(tmp_path):
    _, run = interrupted(tmp_path, 1, "kill@-:train:17")
    for path in (run / "checkpoints").iterdir():
        path.write_bytes(b"nothing")
    done = job("fit", "--resume", run, cwd=tmp_path)
    assert done.code == 2
    assert done.lines[0].startswith("error: nothing to resume: ")


def test_a_finished_run_that_cannot_be_extended_keeps_its_results(whole, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole[1], run)
    for path in (run / "checkpoints").glob("step-*.ckpt"):
        path.write_bytes(b"nothing")
    before = {path: path.read_bytes() for path in run.rglob("*.*")}
    with pytest.raises(InputError, match="has no readable checkpoint"):
        resume(run, {"max_epochs": 3})
    assert before == {path: path.read_bytes() for path in run.rglob("*.*")}


def test_max_time_cannot_be_added_to_a_run_that_began_without_it(whole, tmp_path):
    with pytest.raises(InputError, match=r"--trainer.max_time \(the run has None, not 00:01:00:00\) would change"):
        resume(whole[1], {"trainer": {"max_time": "00:01:00:00"}})
    with pytest.raises(InputError, match=r"trainer.max_time abc: must be a time"):
        resume(whole[1], {"trainer.max_time": "abc", "max_epochs": 3})


@pytest.mark.parametrize("results", ["", "{", "[]"])
def test_a_run_whose_results_are_damaged_is_tested_again(plain, whole, tmp_path, results):
    run = tmp_path / "lightning_logs" / "version_0"
    shutil.copytree(whole[1], run)
    (run / "results.json").write_text(results)
    assert resume_newest(tmp_path) == json.loads((run / "results.json").read_text())
    assert differences(run, whole[1]) == []
    with pytest.raises(InputError, match="has finished"):
        resume(run)


def test_results_that_cannot_be_read_are_not_replaced(whole, tmp_path):
    """A run whose results.json exists but cannot be read, here because it is a folder, is not resumed."""
    run = tmp_path / "run"
    shutil.copytree(whole[1], run)
    (run / "results.json").unlink()
    (run / "results.json").mkdir()
    with pytest.raises(InputError, match=r"results.json cannot be read \(Is a directory\): make it readable"):
        resume(run)


def test_an_extended_run_loses_its_results_before_any_other_file(plain, whole, tmp_path, monkeypatch):
    run = tmp_path / "run"
    shutil.copytree(whole[1], run)
    unlink, gone = Path.unlink, []

    def once(path, missing_ok=False):
        if gone:
            raise OSError(5, "Input/output error")
        unlink(path, missing_ok)
        gone.append(path.name)

    with monkeypatch.context() as failing:
        failing.setattr(Path, "unlink", once)
        with pytest.raises(RunError, match=r"could not write to .*run: Input/output error"):
            resume(run, {"max_epochs": 3})
    assert gone == ["results.json"]
    assert status(run).state == "to be resumed"
    resume(run)
    assert differences(run, whole[1]) == []


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (
            OSError(28, "No space left on device"),
            RunError,
            r"could not write .*/\.lock: No space left on device",
        ),
        (OSError(30, "Read-only file system"), RunError, r"could not write .*/\.lock: Read-only file system"),
        (
            PermissionError(13, "Permission denied"),
            InputError,
            r"version_0 cannot be written \(Permission denied\): make",
        ),
    ],
)
def test_a_lock_file_that_cannot_be_opened_is_reported_with_its_cause(tmp_path, monkeypatch, error, kind, said):
    def refuse(path):
        raise error

    run = unfinished(tmp_path, 0)
    monkeypatch.setattr(run_folder, "open_for_all", refuse)
    with pytest.raises(kind, match=said), held(run):
        pass


def test_jobs_started_at_the_same_time_get_different_folders(tmp_path):
    processes = [start("fit", *SMALL, "--max_epochs", 1, "--devices", 2, cwd=tmp_path) for _ in range(2)]
    assert [end(process).code for process in processes] == [0, 0]
    runs = [tmp_path / "lightning_logs" / f"version_{i}" for i in range(2)]
    assert differences(*runs) == []


def test_resume_auto_does_not_resume_a_run_that_finishes_meanwhile(whole, tmp_path):
    """If the run that --resume auto waits for finishes, a new one starts, as by the second of two simultaneous jobs."""
    run = unfinished(tmp_path, 0)
    shutil.copy(whole[1] / "config.yaml", run)
    command = ("fit", *SMALL, "--resume", "auto")
    with held(run):
        waiting = start(*command, cwd=tmp_path)
        line = f"waiting for the job that uses {run.relative_to(tmp_path)} to end"
        while not (waiting.log.exists() and line in waiting.log.read_text()):
            assert waiting.is_alive()
            time.sleep(0.05)
        (run / "results.json").write_text("{}")
    done = end(waiting)
    assert done.code == 0, done.text
    assert "no unfinished run: starting a new one" in done.lines
    assert (run.with_name("version_1") / "results.json").exists()


@pytest.mark.parametrize(("devices", "rank"), [(1, "-"), (2, "1")])
def test_a_run_whose_folder_is_moved_does_not_write_to_its_successor(whole, tmp_path, devices, rank):
    process = start("fit", *SMALL, "--devices", devices, cwd=tmp_path, fault=f"stop@{rank}:train:17")
    run, kept = tmp_path / "lightning_logs" / "version_0", tmp_path / "baseline"
    wait_for(lambda: suspended(tmp_path))
    run.rename(kept)
    shutil.copytree(whole[1], run)
    before = contents(run)
    for pid in processes_of(tmp_path):
        os.kill(pid, signal.SIGCONT)
    done = end(process)
    assert done.code == 1, done.text
    said = (
        "was moved or removed while this job was writing to it: nothing more is written there; "
        "resume the run from its new place"
    )
    assert done.lines[-1] == f"error: {'rank 0: ' * (devices > 1)}{run} {said}"
    assert "Traceback" not in done.text
    assert contents(run) == before
    assert step_of(kept) == 14
    assert job("fit", "--resume", kept, cwd=tmp_path).code == 0
    assert differences(kept, whole[devices]) == []


@pytest.mark.parametrize("place", ["train", "test"])
def test_a_run_whose_folder_is_removed_does_not_recreate_it(plain, tmp_path, place):
    class Remove(Callback):
        def on_train_batch_end(self, trainer, *args):
            if place == "train" and trainer.global_step == 12:
                shutil.rmtree(trainer.log_dir)

        def on_test_end(self, trainer, *args):
            shutil.rmtree(trainer.log_dir)

    with pytest.raises(RunError, match=r"version_0 was moved or removed .*: nothing more is written there"):
        fit(VALIDATED, accelerator="cpu", logger="csv", callbacks=Remove(), default_root_dir=tmp_path)
    assert list((tmp_path / "lightning_logs").iterdir()) == []


def test_a_job_whose_group_is_moved_holds_no_run_of_its_successor(tmp_path):
    group = tmp_path / "version_0"
    (group / "seed_1").mkdir(parents=True)
    with held(group):
        group.rename(tmp_path / "kept")
        (group / "seed_1").mkdir(parents=True)
        (group / ".lock").touch()
        with pytest.raises(RunError, match=r"version_0 was moved or removed"), held(group / "seed_1"):
            pass
    with held(group / "seed_1"):
        pass


def unfinished(home, number):
    """Returns the folder of a run that has begun."""
    run = home / "lightning_logs" / f"version_{number}"
    run.mkdir(parents=True)
    shutil.copy(OLD / "config.yaml", run)
    return run


def test_a_run_is_used_by_one_job_at_a_time(tmp_path):
    run = unfinished(tmp_path, 0)
    with held(run), pytest.raises(RunInUseError, match="in use by another job"), held(run, seconds=0):
        pass
    assert issubclass(RunInUseError, InputError)
    with newest_unfinished(tmp_path) as found:
        assert found[0] == run


def test_the_search_for_an_unfinished_run_waits_once(tmp_path, monkeypatch, capsys):
    """The search for an unfinished run waits for one job only, however many runs other jobs are using."""
    runs = [unfinished(tmp_path, i) for i in range(4)]
    monkeypatch.setattr(run_folder, "HELD_SECONDS", 0.3)
    with ExitStack() as jobs:
        for run in runs:
            jobs.enter_context(held(run))
        with newest_unfinished(tmp_path) as found:
            assert found is None
    assert capsys.readouterr().err == f"waiting for the job that uses {runs[-1]} to end\n"


def test_metrics_csv_has_every_logged_step_once(whole):
    lines = (whole[1] / "metrics.csv").read_text().splitlines()
    steps = [int(line.split(",")[1]) for line in lines[1:]]
    assert steps == [5, 10, 15, 18, 20, 25, 30, 35, 36]


def test_the_best_checkpoint_is_chosen_on_the_validation_split(whole):
    """best.ckpt is of the first step with the highest accuracy on the validation split, not on the test images."""
    rows = read_rows(whole[1] / "metrics.csv")
    accuracies = {row["step"]: row["val_acc"] for row in rows if row["val_acc"] is not None}
    best = max(accuracies, key=accuracies.get)
    checkpoint = torch.load(whole[1] / "checkpoints" / "best.ckpt", weights_only=True)
    assert checkpoint["global_step"] == best
    assert json.loads((whole[1] / "results.json").read_text())["test_count"] == 80


def test_status_accepts_a_path_that_begins_with_a_tilde(whole, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(whole[1], tmp_path / "run")
    with held(tmp_path / "run"):
        said = str(status("~/run"))
        assert said == str(status(tmp_path / "run")).replace(str(tmp_path), "~")
        assert socket.gethostname() in said
