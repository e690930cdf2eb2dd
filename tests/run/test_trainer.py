"""Our Trainer takes arguments and callbacks from its caller alone; Lightning's also looks in other places."""

import inspect
import json
import os
import sys

import pytest
from conftest import SYNTHETIC
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities import rank_zero_only

from cifar_lightning.run.metrics_log import read_rows
from cifar_lightning.run.trainer import new_trainer

CPU = {"accelerator": "cpu", "devices": 1, "precision": "32-true", "logger": False, "enable_checkpointing": False}
PLUGIN = """
from pathlib import Path
from lightning.pytorch import Callback

Path(__file__).with_name("loaded").touch()


def factory():
    return [Callback()]
"""


@pytest.mark.parametrize("own", [{}, {"limit_test_batches": 2, "gradient_clip_val": 0.5}])
def test_trainer_takes_no_argument_from_the_environment(monkeypatch, own):
    def told(make):
        return {name: value for name, value in vars(make(**CPU, **own)).items() if isinstance(value, int | float | str)}

    before, stock = told(new_trainer), told(Trainer)
    assert told(new_trainer) == before
    for name in inspect.signature(Trainer).parameters:
        monkeypatch.setenv(f"PL_TRAINER_{name.upper()}", "7")
    assert told(new_trainer) == before
    for name in inspect.signature(Trainer).parameters:
        monkeypatch.delenv(f"PL_TRAINER_{name.upper()}")
    monkeypatch.setenv("PL_TRAINER_LIMIT_PREDICT_BATCHES", "7")
    assert told(Trainer) == stock | {"limit_predict_batches": 7}  # Lightning's Trainer takes it


def test_trainer_takes_no_callback_from_an_installed_package(monkeypatch, tmp_path):
    info = tmp_path / "their_plugin-1.dist-info"
    info.mkdir()
    (tmp_path / "their_plugin.py").write_text(PLUGIN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-plugin\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[lightning.pytorch.callbacks_factory]\ntheirs = their_plugin:factory\n")
    monkeypatch.syspath_prepend(tmp_path)
    own = Callback()
    trainer = new_trainer(**CPU, callbacks=[own], enable_progress_bar=False)
    assert trainer.callbacks == [own]
    assert not (tmp_path / "loaded").exists()
    theirs = Trainer(**CPU, callbacks=[own], enable_progress_bar=False, enable_model_summary=False)
    assert len(theirs.callbacks) == 2  # Lightning's Trainer still has it
    assert (tmp_path / "loaded").exists()
    del sys.modules["their_plugin"]


def test_stray_local_rank_does_not_keep_a_run_from_logging(plain, call, monkeypatch, tmp_path):
    """A run logs even if Lightning's import has taken another program's LOCAL_RANK or SLURM_PROCID for the rank."""
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    code, _, err = call("fit", *SYNTHETIC, "--data.synthetic_size", 100, "--data.batch_size", 20, "--max_epochs", 1)
    assert code == 0, err
    assert len(read_rows(tmp_path / "lightning_logs" / "version_0" / "metrics.csv")) == 1


def test_fit_neither_reads_settings_from_the_environment_nor_changes_it(plain, call, monkeypatch, tmp_path):
    for name, value in (
        *(("PL_TRAINER_LIMIT_TEST_BATCHES", "1"), ("PL_TRAINER_LIMIT_TRAIN_BATCHES", "2"), ("PL_GLOBAL_SEED", "99")),
        *(("JSONARGPARSE_DEFAULT_ENV", "true"), ("FIT_MAX_EPOCHS", "3"), ("FIT_SEED", "3")),
    ):
        monkeypatch.setenv(name, value)
    environment = dict(os.environ)
    flags = ("--data.synthetic_size", 100, "--data.batch_size", 20, "--max_epochs", 1)
    code, _, err = call("fit", *SYNTHETIC, *flags)
    assert code == 0, err
    results = json.loads((tmp_path / "lightning_logs" / "version_0" / "results.json").read_text())
    assert (results["test_count"], results["images_seen"], results["seed"]) == (20, 100, 0)
    assert dict(os.environ) == environment
