"""What fit() takes in Python in addition to its settings: the user's callbacks and loggers, and `report`."""

import csv
import json
import time

import numpy as np
import pytest
import torch
from jobs import differences, leftovers, step_of
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import (
    BaseFinetuning,
    BatchSizeFinder,
    EarlyStopping,
    EMAWeightAveraging,
    GradientAccumulationScheduler,
    LambdaCallback,
    LearningRateMonitor,
    ModelCheckpoint,
    ModelPruning,
    OnExceptionCheckpoint,
    RichProgressBar,
    SpikeDetection,
    StochasticWeightAveraging,
    TQDMProgressBar,
    WeightAveraging,
)
from lightning.pytorch.callbacks import ProgressBar as LightningProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger
from stand_ins import Terminal

from cifar_lightning import CIFAR10DataModule, InputError, LitNet, fit, load_model, resume
from cifar_lightning.run.callbacks.checkpoints import Checkpoints
from cifar_lightning.run.metrics_log import read_rows

SMALL = {
    "data": {"source": "synthetic", "synthetic_size": 200, "batch_size": 20, "val_split": 0.1, "eval_batch_size": 10},
    "model": {"lr": 0.02},
    "accelerator": "cpu",
    "log_every_n_steps": 4,
}


@pytest.fixture(autouse=True)
def _home(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def never_better(**kwargs):
    """Returns an EarlyStopping that stops after the second validation."""
    return EarlyStopping("val_loss", min_delta=10, patience=1, **kwargs)


class Broken(Callback):
    """Raises a KeyError at the end of an epoch's validation."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_validation_end(self, trainer, pl_module):
        if trainer.current_epoch == self.epoch:
            raise KeyError("theirs")


def test_fit_that_a_callback_ends_has_finished(plain, tmp_path, capsys):
    results = fit(
        **SMALL, max_epochs=5, callbacks=[never_better(), ModelCheckpoint(monitor="val_loss", save_last=True)]
    )
    run = tmp_path / "lightning_logs" / "version_0"
    captured = capsys.readouterr()
    (note,) = (line for line in captured.err.splitlines() if line.startswith("note"))
    tested = f"best.ckpt, from step {results['step']}"
    assert note == f"note: a callback ended the training at step 18 of 45; the test uses {tested}"
    assert "warning" not in captured.err.lower()
    assert json.loads((run / "results.json").read_text()) == results
    rows = {row["step"]: row for row in read_rows(run / "metrics.csv")}
    assert max(rows) == 18
    assert results["val_acc"] == rows[results["step"]]["val_acc"]
    ours = {"best.ckpt", "step-9.ckpt", "step-18.ckpt"}
    assert {path.name for path in (run / "checkpoints").iterdir()} - {"last.ckpt"} > ours  # beside the callback's
    with pytest.raises(InputError, match="has finished; to train it further, use a higher --max_epochs than 5"):
        resume(run)


def test_length_of_a_fit_follows_a_gradient_accumulation_scheduler(capsys):
    fit(**SMALL, max_epochs=5, callbacks=[never_better(), GradientAccumulationScheduler({1: 3})])
    assert "a callback ended the training at step 12 of 21; " in capsys.readouterr().err


def test_callback_error_propagates_and_resume_restores_callback_state(plain, tmp_path):
    fit(**SMALL, max_epochs=5, callbacks=never_better(), report=False)
    with pytest.raises(KeyError, match="theirs"):
        fit(**SMALL, max_epochs=5, callbacks=[never_better(), Broken(epoch=1)], report=False)
    whole, run = (tmp_path / "lightning_logs" / f"version_{number}" for number in (0, 1))
    assert not (run / "results.json").exists()
    assert leftovers(run) == []
    before = (run / "config.yaml").read_bytes()
    needs = r"was started with callbacks \(EarlyStopping\).*callbacks=\[\.\.\.\]\); \[\] leaves them out"
    with pytest.raises(InputError, match=needs):
        resume(run)
    assert (run / "config.yaml").read_bytes() == before
    callback = never_better()
    resume(run, callbacks=[callback])
    assert callback.wait_count == 1
    assert differences(run, whole) == []
    resume(run, {"max_epochs": 6}, callbacks=[])
    assert read_rows(run / "metrics.csv")[-1]["step"] == 54


class Goal(Callback):
    """Ends the training at step 12, and keeps no state that says so."""

    def on_train_batch_end(self, trainer, *args):
        trainer.should_stop = trainer.should_stop or trainer.global_step == 12


class OfATest(Callback):
    def on_test_start(self, *args):
        raise KeyError("theirs")


@pytest.mark.parametrize(("val_split", "breaks"), [(0, OfATest()), (0.1, OfATest()), (0.1, Broken(epoch=1))])
def test_resumed_run_stays_ended_by_its_callback(plain, tmp_path, val_split, breaks):
    """A run that a callback has ended stays ended when resumed, even after an error in its last validation or test."""
    settings = {**SMALL, "data": {**SMALL["data"], "val_split": val_split}, "report": False}
    fit(**settings, max_epochs=5, callbacks=Goal())
    with pytest.raises(KeyError, match="theirs"):
        fit(**settings, max_epochs=5, callbacks=[Goal(), breaks])
    whole, run = (tmp_path / "lightning_logs" / f"version_{number}" for number in (0, 1))
    resume(run, callbacks=Goal())
    assert differences(run, whole) == []
    assert read_rows(run / "metrics.csv")[-1]["step"] == 12
    resume(run, {"max_epochs": 6}, callbacks=Goal())  # trains on: Goal asks only at step 12
    assert max(row["step"] for row in read_rows(run / "metrics.csv")) > 12


class Epochs(Callback):
    """Counts epochs, and keeps the count in checkpoints."""

    def __init__(self):
        self.count = 0

    def on_train_epoch_start(self, *args):
        self.count += 1

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state_dict):
        self.count = state_dict["count"]


class BrokenAt(Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step == self.step:
            raise KeyError("theirs")


class Thaw(BaseFinetuning):
    """Freezes one layer until the second epoch."""

    def freeze_before_training(self, pl_module):
        self.freeze(pl_module.net.fc1)

    def finetune_function(self, pl_module, epoch, optimizer):
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.net.fc1, optimizer)


class Noting(Callback):
    def on_train_epoch_start(self, trainer, *args):
        trainer.logger.log_metrics({"theirs": 1.0}, trainer.global_step)


class Decay(Callback):
    def on_train_epoch_start(self, trainer, *args):
        for group in trainer.optimizers[0].param_groups:
            group["lr"] /= 2


class Changing(Callback):
    """Changes whatever it can reach, by a state of its own."""

    epochs = 0

    def on_train_epoch_start(self, trainer, pl_module):
        self.epochs += 1
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = 0.02 / self.epochs
            group["weight_decay"] += 0.001
        with torch.no_grad():
            for parameter in pl_module.parameters():
                parameter.mul_(1 - 0.1 * torch.rand(1))

    def state_dict(self):
        return {"epochs": self.epochs}

    def load_state_dict(self, state_dict):
        self.epochs = state_dict["epochs"]


@pytest.mark.parametrize("callback", [Thaw, Noting, Decay, Changing])
def test_resume_within_an_epoch_keeps_what_callbacks_did_at_its_start(plain, tmp_path, callback):
    settings = {**SMALL, "checkpoint_every_n_steps": 5, "max_epochs": 3, "report": False}
    fit(**settings, callbacks=callback())
    with pytest.raises(KeyError, match="theirs"):
        fit(**settings, callbacks=[callback(), BrokenAt(13)])
    whole, run = (tmp_path / "lightning_logs" / f"version_{number}" for number in (0, 1))
    resume(run, callbacks=callback())
    assert differences(run, whole) == []


class ByAverage(Callback):
    """Validates an average of the weights, and counts and draws a random number before each validation."""

    def __init__(self):
        self.average, self.count = None, 0

    def on_train_batch_end(self, trainer, pl_module, *args):
        now = {name: value.clone() for name, value in pl_module.state_dict().items()}
        before = self.average or now
        self.average = {name: torch.lerp(before[name].float(), now[name].float(), 0.1) for name in now}

    def on_validation_start(self, trainer, pl_module):
        self.count += 1
        torch.rand(1)
        self.kept = {name: value.clone() for name, value in pl_module.state_dict().items()}
        pl_module.load_state_dict(self.average)

    def on_validation_end(self, trainer, pl_module):
        pl_module.load_state_dict(self.kept)

    def on_train_end(self, trainer, pl_module):
        assert self.count == 6

    def state_dict(self):
        return {"average": self.average, "count": self.count}

    def load_state_dict(self, state_dict):
        self.average, self.count = state_dict["average"], state_dict["count"]


class BrokenInValidation(Callback):
    def on_validation_batch_start(self, trainer, *args):
        if trainer.global_step == 13:
            raise KeyError("theirs")


@pytest.mark.parametrize("fault", [BrokenInValidation(), BrokenAt(15)], ids=["in the validation", "after it"])
def test_checkpoint_before_a_validation_is_of_the_training(plain, tmp_path, fault):
    """What callbacks do in on_validation_start, they do again when that validation is repeated."""
    model = {"net": "speed54", "width": 4, "lr": 0.02}
    settings = {**SMALL, "model": model, "max_epochs": 3, "trainer": {"val_check_interval": 0.5}, "report": False}
    fit(**settings, callbacks=ByAverage())
    with pytest.raises(KeyError, match="theirs"):
        fit(**settings, callbacks=[ByAverage(), fault])
    whole, run = (tmp_path / "lightning_logs" / f"version_{number}" for number in (0, 1))
    assert step_of(run) == 13
    resume(run, callbacks=ByAverage())
    assert differences(run, whole) == []


def test_log_has_each_figure_once_if_min_epochs_puts_off_a_stop(plain, tmp_path):
    """With should_stop set, Lightning's loop logs at every step, and repeats the figures of earlier ones."""
    settings = {**SMALL, "log_every_n_steps": 5, "max_epochs": 4, "trainer": {"min_epochs": 4}, "report": False}
    fit(**settings, callbacks=BrokenAt(99))
    fit(**settings, callbacks=[BrokenAt(99), EarlyStopping("val_loss", patience=1, min_delta=9.0)])
    plain_run, stopping = (tmp_path / "lightning_logs" / f"version_{number}" / "metrics.csv" for number in (0, 1))
    assert stopping.read_text() == plain_run.read_text()


class ThawBlocks(BaseFinetuning):
    """Freezes layers, and their norms' means, until the second epoch."""

    def freeze_before_training(self, pl_module):
        self.freeze(pl_module.net.blocks, train_bn=False)

    def finetune_function(self, pl_module, epoch, optimizer):
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.net.blocks, optimizer)


class FreezeBlocks(Callback):
    """Freezes some layers, which the optimiser has, from the second epoch on, and others' norms."""

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            pl_module.net.blocks[0].requires_grad_(False)
            pl_module.net.blocks[1].eval()


@pytest.mark.parametrize(
    ("callback", "schedule"), [(ThawBlocks, "constant"), (ThawBlocks, "one-cycle"), (FreezeBlocks, "constant")]
)
def test_resumed_run_has_the_layers_frozen_that_were_frozen(plain, tmp_path, monkeypatch, callback, schedule):
    monkeypatch.setattr(Checkpoints, "_is_worth_it", lambda *args: False)  # step 18 is saved before its validation
    model = {"net": "speed54", "width": 4, "lr": 0.02, "schedule": schedule}
    settings = {**SMALL, "model": model, "checkpoint_every_n_steps": 5, "max_epochs": 3, "report": False}
    fit(**settings, callbacks=callback())
    for step in (17, 19, 22):
        with pytest.raises(KeyError, match="theirs"):
            fit(**settings, callbacks=[callback(), BrokenAt(step)])
    whole, *runs = (tmp_path / "lightning_logs" / f"version_{number}" for number in range(4))
    assert [step_of(run) for run in runs] == [15, 18, 20]
    for run in runs:
        resume(run, callbacks=callback())
        assert differences(run, whole) == []


def test_longer_run_has_the_layers_frozen_that_were_frozen(plain, tmp_path):
    """A fit that ends within an epoch is saved again in its validation, when all layers are in evaluation mode."""
    model = {"net": "speed54", "width": 4, "lr": 0.02}
    settings = {**SMALL, "model": model, "max_epochs": 3, "report": False}
    fit(**settings, callbacks=FreezeBlocks())
    fit(**settings, max_steps=14, callbacks=FreezeBlocks())
    whole, run = (tmp_path / "lightning_logs" / f"version_{number}" for number in (0, 1))
    resume(run, {"max_steps": 27}, callbacks=FreezeBlocks())
    assert not {"state_dict", "optimizer_states"} & set(differences(run, whole))


class Slow(Callback):
    def on_train_batch_end(self, *args):
        time.sleep(0.1)


@pytest.mark.parametrize("changes", [None, {"max_epochs": 50}])
def test_resume_takes_no_steps_after_max_time_is_spent(plain, tmp_path, changes):
    """A resumed run whose max_time is spent takes no step, even if an earlier version's checkpoint lacks `stopped`."""
    settings = {**SMALL, "max_epochs": 20, "trainer": {"max_time": {"seconds": 1}}, "report": False}
    steps = fit(**settings, callbacks=Slow())["fit_steps"]
    run = tmp_path / "lightning_logs" / "version_0"
    (run / "results.json").unlink()
    path = run / "checkpoints" / f"step-{steps}.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint["loops"]["fit_loop"]["state_dict"]["stopped"]
    torch.save(checkpoint, path)
    assert resume(run, changes, callbacks=Slow())["fit_steps"] == steps


def test_resumed_epoch_begins_only_once_for_callbacks(plain, tmp_path):
    """Resuming within an epoch does not begin it again: neither for a callback's state nor for what it logs then."""
    settings = {**SMALL, "checkpoint_every_n_steps": 5, "max_epochs": 3, "report": False}
    fit(**settings, callbacks=[LearningRateMonitor("epoch"), Epochs()])
    with pytest.raises(KeyError, match="theirs"):
        fit(**settings, callbacks=[LearningRateMonitor("epoch"), Epochs(), BrokenAt(13)])
    whole, run = (tmp_path / "lightning_logs" / f"version_{number}" for number in (0, 1))
    resume(run, callbacks=[LearningRateMonitor("epoch"), epochs := Epochs()])
    assert epochs.count == 3
    assert differences(run, whole) == []


def test_early_stopping_finds_train_loss_after_a_resume_at_an_epochs_end(plain, tmp_path):
    """EarlyStopping finds train_loss at the end of a resumed epoch, even if a log point has left no loss to log."""
    callback, steps = EarlyStopping("train_loss", check_on_train_epoch_end=True), {**SMALL, "log_every_n_steps": 3}
    with pytest.raises(KeyError, match="theirs"):
        fit(**steps, max_epochs=2, callbacks=[callback, Broken(epoch=0)], report=False)
    assert resume(tmp_path / "lightning_logs" / "version_0", callbacks=callback)["step"] in (9, 18)


def test_fit_ignores_another_runs_on_exception_checkpoint(plain, tmp_path):
    """A fit does not resume from another run's OnExceptionCheckpoint, as Lightning's Trainer would without a word."""
    with pytest.raises(KeyError, match="theirs"):
        fit(**SMALL, max_epochs=2, callbacks=[Broken(epoch=0), OnExceptionCheckpoint(tmp_path)], report=False)
    assert (tmp_path / "on_exception.ckpt").exists()
    fit(**SMALL, max_epochs=2, callbacks=OnExceptionCheckpoint(tmp_path), report=False)
    assert read_rows(tmp_path / "lightning_logs" / "version_1" / "metrics.csv")[0]["step"] == 4


class OfEpochs(WeightAveraging):
    """Averages the weights at the ends of epochs."""

    def should_update(self, step_idx=None, epoch_idx=None):
        return epoch_idx is not None


class BrokenInTest(Callback):
    def on_test_start(self, trainer, pl_module):
        raise KeyError("theirs")


class Halving(Callback):
    def on_train_end(self, trainer, pl_module):
        with torch.no_grad():
            pl_module.net.fc3.weight /= 2


@pytest.mark.parametrize("average", [OfEpochs, Halving])
def test_weights_that_a_callback_sets_at_the_end_are_tested_and_saved(average, plain, tmp_path):
    whole, run = (tmp_path / "lightning_logs" / f"version_{number}" for number in (0, 1))
    data = {**SMALL["data"], "val_split": 0}
    settings = {**SMALL, "data": data, "max_epochs": 2, "report": False}
    settings["checkpoint_every_n_steps"] = 10  # so the last one is saved before the average is taken
    results = fit(**settings, callbacks=average())
    assert results["checkpoint"].endswith("final.ckpt")
    test = CIFAR10DataModule(**data).image_set("test")
    with torch.no_grad():
        logits = load_model(whole).logits(test.images)
    assert torch.nn.functional.cross_entropy(logits, test.labels).item() == pytest.approx(results["test_loss"], 1e-5)
    with pytest.raises(KeyError, match="theirs"):
        fit(**settings, callbacks=[average(), BrokenInTest()])
    resume(run, callbacks=average())
    assert differences(run, whole) == []
    resume(run, {"max_epochs": 3}, callbacks=[])
    assert not (run / "checkpoints" / "final.ckpt").exists()  # it had the weights of the earlier end


def test_resume_starts_from_the_last_steps_weights_not_from_the_average(plain, tmp_path, monkeypatch):
    monkeypatch.setattr(Checkpoints, "_is_worth_it", lambda *args: False)  # so that the only checkpoint is the end's
    settings = {**SMALL, "data": {**SMALL["data"], "val_split": 0}, "report": False}
    fit(**settings, max_epochs=3, callbacks=EMAWeightAveraging(decay=0.9))
    with pytest.raises(KeyError, match="theirs"):
        fit(**settings, max_epochs=2, callbacks=[EMAWeightAveraging(decay=0.9), BrokenInTest()])
    whole, run = (tmp_path / "lightning_logs" / f"version_{number}" for number in (0, 1))
    tested = resume(run, callbacks=EMAWeightAveraging(decay=0.9))["test_loss"]
    fit(**settings, max_epochs=2, callbacks=EMAWeightAveraging(decay=0.9))
    assert tested == json.loads((tmp_path / "lightning_logs/version_2/results.json").read_text())["test_loss"]
    resume(run, {"max_epochs": 3}, callbacks=EMAWeightAveraging(decay=0.9))
    assert differences(run, whole) == []


def test_report_false_prints_and_draws_nothing_but_writes_results(tmp_path, capfd):
    fit(**SMALL, max_epochs=1, report=False)
    run = tmp_path / "lightning_logs" / "version_0"
    assert capfd.readouterr() == ("", "")
    assert not (run / "figures").exists()
    assert not (run / "report.html").exists()
    for name in ("val_acc", "val_loss", "test_acc", "confusion"):
        assert json.loads((run / "results.json").read_text())[name] is not None


def test_validation_defaults_may_be_passed_without_validation_images():
    """Defaults of the Trainer are accepted where they have no effect: another program's settings may name them all."""
    small = {**SMALL, "data": {**SMALL["data"], "val_split": 0}}
    anyway = {"limit_val_batches": 1.0, "val_check_interval": 1.0, "check_val_every_n_epoch": 1}
    assert fit(**small, max_steps=1, report=False, trainer=anyway)["step"] == 1


@pytest.mark.parametrize("flag", [{"deterministic": True}, {"benchmark": True}], ids=str)
def test_fit_restores_torchs_deterministic_and_benchmark_settings(flag):
    fit(**SMALL, max_steps=1, report=False, trainer=flag)
    assert (torch.get_deterministic_debug_mode(), torch.backends.cudnn.benchmark) == (0, False)
    assert not torch._inductor.config.deterministic


def test_users_loggers_get_the_same_figures_as_metrics_csv(plain, tmp_path, monkeypatch):
    class Theirs(CSVLogger):
        def finalize(self, status):
            self.saved = []
            super().finalize(status)  # which calls `save`

        def save(self):
            super().save()
            self.saved.append("by now")

    theirs = Theirs("theirs")
    theirs.saved = []
    fit(**SMALL, max_epochs=1, callbacks=LearningRateMonitor(), logger=[theirs, "csv"], report=False)
    columns, rest = (tmp_path / theirs.log_dir / "metrics.csv").read_text().split("\n", 1)
    ours = read_rows(tmp_path / "lightning_logs" / "version_0" / "metrics.csv")
    assert {*columns.split(",")} >= {"train_loss", "lr-SGD", "val_acc", "test_acc"} <= {*ours[-1]}
    assert rest
    (tested,) = (int(row["step"]) for row in csv.DictReader((columns, *rest.splitlines())) if row["test_acc"])
    assert tested == ours[-1]["step"] - 1  # Lightning's loggers count steps from 0
    settings = (tmp_path / theirs.log_dir / "hparams.yaml").read_text()
    assert all(f"{name}: " in settings for name in ("seed", "precision", "lr", "batch_size"))
    assert theirs.saved == ["by now"]
    assert theirs.log_metrics.__func__ is CSVLogger.log_metrics  # the run's wrapper has been removed


class Away(Logger):
    """A logger whose server goes away after `room` calls."""

    name = version = None

    def __init__(self, room):
        super().__init__()
        self.room = room

    @property
    def experiment(self):
        if not self.room:
            self._ask()

    def log_hyperparams(self, *args, **kwargs):
        pass

    def log_metrics(self, *args, **kwargs):
        self._ask()

    def _ask(self):
        self.room -= 1
        if self.room < 0:
            raise ConnectionError("no route\nto host")


@pytest.mark.parametrize("room", [0, 3])
def test_failing_logger_does_not_end_the_run(plain, room, tmp_path, capsys):
    logger = Away(room)
    fit(**SMALL, max_epochs=1, logger=logger)
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note")]
    assert notes == ["note: Away failed and logs nothing from here on (ConnectionError: no route)"]
    assert logger.room == -1  # it is not asked again
    assert (tmp_path / "lightning_logs" / "version_0" / "results.json").exists()


def test_users_progress_bar_replaces_the_runs_own(plain, capsys):
    class Bar(LightningProgressBar):
        def on_train_end(self, trainer, pl_module):
            bars.extend(trainer.progress_bar_callback for _ in trainer.callbacks if _ is self)

    bars = []
    own = Bar()
    fit(**SMALL, max_epochs=1, callbacks=[own])
    assert bars == [own]
    assert "epoch 1/1" not in capsys.readouterr().err


class Looking(Callback):
    """Notes the epoch and the step that the progress bar shows as each step begins."""

    def __init__(self):
        self.seen = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        task = trainer.progress_bar_callback._bar.tasks[0]
        self.seen.append((task.fields["epoch"], task.completed))


def test_progress_bar_shows_every_slow_step_and_the_resumed_epoch(plain, tmp_path, monkeypatch):
    slow = 1e-9  # seconds: every step counts as slow
    monkeypatch.setattr("cifar_lightning.run.callbacks.progress_bar.DRAW_SECONDS", slow, raising=False)
    monkeypatch.setattr("sys.stderr", Terminal())
    fit(**SMALL, max_epochs=1, callbacks=(first := Looking()))
    resume("lightning_logs/version_0", {"max_epochs": 2}, callbacks=(then := Looking()))
    assert first.seen == [("1/1", step) for step in range(9)]
    assert then.seen == [("2/2", step) for step in range(9, 18)]


class Unreadable(Callback):
    def state_dict(self):
        return {"kept": InputError("an object")}


MISTAKES = [
    ({"callbacks": 3}, "callbacks: 3 is not a lightning.pytorch.Callback: pass an object of such a class"),
    (
        {"callbacks": [EarlyStopping]},
        "callbacks: the class EarlyStopping is not a lightning.pytorch.Callback: pass an obj",
    ),
    (
        {"logger": False},
        "logger: False is not a logger: use csv, tensorboard, wandb or mlflow, or an object of lightning.pyt",
    ),
    (
        {"logger": "comet"},
        "unknown logger comet: choose from csv, tensorboard, wandb, mlflow (several with commas), or",
    ),
    (
        {"callbacks": EarlyStopping("val_acc"), "data": {**SMALL["data"], "val_split": 0}},
        "callbacks: EarlyStopping monitors val_acc, but there are no validation images: pass data.val_split, e.g. 0.1",
    ),
    (
        {"callbacks": [LearningRateMonitor(), EarlyStopping("val_los")]},
        "callbacks: EarlyStopping monitors val_los, which is not logged in training: choose "
        "from train_loss, lr, val_loss, val_acc and",
    ),
    (
        {"callbacks": ModelCheckpoint(monitor="test_acc")},
        "callbacks: ModelCheckpoint monitors test_acc, which is not l",
    ),
    (
        {"callbacks": never_better(), "devices": 2},
        "devices: EarlyStopping is an object in this process, but 2 others would train: use devices=1, or start this "
        "program with torchrun --nproc-per-node 2",
    ),
    (
        {"callbacks": StochasticWeightAveraging(0.1)},
        "callbacks: StochasticWeightAveraging would train with another schedule and more epochs than config.yaml has, "
        "and the run could not be resumed: use WeightAveraging of lightning.pytorch.callbacks",
    ),
    ({"callbacks": SpikeDetection()}, "callbacks: SpikeDetection cannot restore its state, so the run could not be re"),
    (
        {"callbacks": ModelPruning("l1_unstructured")},
        "callbacks: ModelPruning keeps its masks out of checkpoints, so the run could not be resumed: use it in a "
        "lightning.pytorch.Trainer of your own, or prune the trained network with torch.nn.utils.prune",
    ),
    (
        {"callbacks": ModelCheckpoint(filename="final")},
        "callbacks: ModelCheckpoint would write final.ckpt among the run's own checkpoints: use "
        "another filename, or a dirpath",
    ),
    (
        {"callbacks": ModelCheckpoint(filename="best")},
        "callbacks: ModelCheckpoint would write best.ckpt among the run's own checkpoints: use "
        "another filename, or a dirpath",
    ),
    (
        {"callbacks": [never_better(), never_better()]},
        "callbacks: EarlyStopping{'monitor': 'val_loss', 'mode': 'min'} is ",
    ),
    (
        {"callbacks": [TQDMProgressBar(), RichProgressBar()]},
        "callbacks: a run can have only one progress bar; leave out the others",
    ),
    (
        {"callbacks": GradientAccumulationScheduler({1: 10})},
        "trainer.accumulate_grad_batches 10: must be at most 9, the batches of an epoch",
    ),
    ({"callbacks": BatchSizeFinder()}, "callbacks: BatchSizeFinder would train with a setting that config.yaml does "),
    ({"callbacks": Unreadable()}, "callbacks: the state_dict of Unreadable holds objects, which could not be read fr"),
    (
        {"model": LitNet()},
        'model is a LitNet, not a dictionary: fit makes its own LitNet from settings such as model={"net": "resnet18", '
        '"lr": 0.1}; pass objects of your own to lightning.pytorch.Trainer().fit(model, data)',
    ),
    ({"data": CIFAR10DataModule()}, "data is a CIFAR10DataModule, not a dictionary: fit makes its own CIFAR10Data"),
    ({"model": "resnet18"}, "model is 'resnet18', not a dictionary: fit makes its own LitNet from settings such as "),
    ({"model": "resnet18", "recipe": "resnet18"}, "model is 'resnet18', not a dictionary: fit makes its own LitNet"),
    ({"trainer": {"logger": True}}, "trainer.logger is a setting of its own: use --logger csv, tensorboard, wandb "),
    ({"trainer": {"callbacks": []}}, "trainer.callbacks takes objects, which a file cannot hold: pass them to "),
    (
        {"data": {"train_transforms": str}},
        "data.train_transforms is code, which config.yaml cannot hold: pass it to CIFAR10D",
    ),
    (
        {"model": {"sizes": torch.zeros(9, 9)}},
        "model.sizes of type Tensor cannot be kept in config.yaml: use text, a num",
    ),
    (
        {"data": {"train_labels": np.zeros(50_000, int)}},
        "train_labels of type list: must be text (in quotes) or a path; save an array in a file (np.save) and pass ",
    ),
]


class Logging(Callback):
    def on_train_epoch_end(self, trainer, pl_module):
        pl_module.log("theirs", 1.0)


def test_callbacks_may_monitor_what_other_callbacks_log(plain):
    by_lambda = LambdaCallback(on_train_epoch_end=lambda trainer, pl_module: pl_module.log("theirs", 1.0))
    watching = EarlyStopping("theirs", check_on_train_epoch_end=True)
    ours = [ModelCheckpoint(monitor=name) for name in ("lr-SGD", "step", "val_acc/cat", "train_loss")]
    for callbacks in ([Logging(), watching], [by_lambda, watching], [LearningRateMonitor("step"), *ours],
                      [EarlyStopping("nowhere", strict=False)]):  # fmt: skip
        assert fit(**SMALL, max_epochs=1, callbacks=callbacks, report=False)["step"] == 9


@pytest.mark.parametrize(("given", "words"), MISTAKES, ids=[words[:40] for _, words in MISTAKES])
def test_unusable_arguments_of_fit_are_refused_before_it_makes_a_folder(given, words, tmp_path):
    with pytest.raises(InputError) as raised:
        fit(**{**SMALL, **given})
    assert str(raised.value).startswith(words)
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []
