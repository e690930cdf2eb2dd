"""Tests that a run of version 0.1.0, interrupted at step 21, is resumed, evaluated and loaded."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import yaml
from jobs import job, step_of

from cifar_lightning import CIFAR10DataModule, LitNet, Preprocessing, evaluate, load_model
from cifar_lightning.run.checkpoint import load_checkpoint
from cifar_lightning.run.metrics_log import read_rows

OLD = Path(__file__).parents[1] / "data" / "run_of_0.1.0"


@pytest.fixture
def run(tmp_path):
    """Returns a copy of the run, as the interruption has left it."""
    folder = tmp_path / "lightning_logs" / "version_0"
    shutil.copytree(OLD, folder, ignore=shutil.ignore_patterns("*-of-the-whole.*"))
    return folder


def test_an_old_run_resumes_to_the_results_of_its_own_version(run, tmp_path):
    done = job("fit", "--resume", run, "--verify_steps", 3, cwd=tmp_path)  # new since that version
    assert done.code == 0, done.text
    assert "resumes from step-21.ckpt" in done.lines[0]
    assert "steps 22 to 24, computed twice, agree bit for bit" in done.lines
    assert step_of(run) == 54
    whole = json.loads((OLD / "results-of-the-whole.json").read_text())
    results = json.loads((run / "results.json").read_text())
    assert results["test_loss"] == pytest.approx(whole["test_loss"], abs=1e-3)
    assert {name: results[name] for name in ("step", "images_seen", "seed", "global_batch_size", "test_views")} == {
        name: whole[name] for name in ("step", "images_seen", "seed", "global_batch_size", "test_views")
    }
    assert set(whole) <= set(results)
    ours, theirs = read_rows(run / "metrics.csv"), read_rows(OLD / "metrics-of-the-whole.csv")
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    for name in theirs[-1]:
        measured = [row[name] for row in theirs if row[name] is not None]
        assert [row[name] for row in ours if row[name] is not None] == pytest.approx(measured, abs=1e-2)
    kept = (OLD / "metrics.csv").read_bytes().splitlines()[1:]
    rows = [line.rstrip(b",") for line in (run / "metrics.csv").read_bytes().splitlines()[1:]]
    assert rows[: len(kept)] == [line.rstrip(b",") for line in kept]


def test_an_old_run_is_evaluated(plain, run, tmp_path):
    """An old run is evaluated as its network predicts; best.ckpt holds the validation accuracy in metrics.csv."""
    results = evaluate(run, accelerator="cpu", output_dir=str(tmp_path / "out"))
    assert (results["step"], results["test_count"], results["test_views"]) == (18, 80, "mirror")
    test = CIFAR10DataModule(**yaml.safe_load((run / "config.yaml").read_text())["data"]).image_set("test")
    right = load_model(run).predict(test.images)[0] == test.labels
    assert results["test_acc"] == pytest.approx(right.double().mean().item())
    with (OLD / "metrics.csv").open() as file:
        validated = next(row for row in csv.DictReader(file) if row["step"] == "18")
    assert load_checkpoint(run / "checkpoints" / "best.ckpt")["callbacks"]["Checkpoints"]["best_acc"] == pytest.approx(
        float(validated["val_acc"])
    )


def test_the_network_of_an_old_run_is_loaded(run):
    model = load_model(run)
    assert isinstance(model, LitNet)
    assert model.hparams["net"] == "speed54"
    assert not model.net.begins_from_images
    assert model.preprocessing == Preprocessing([0.5] * 3, [0.5] * 3)
