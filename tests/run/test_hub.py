"""export --format hf: the folder can be loaded, its model card is true, and it is written whole or not at all."""

import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import SYNTHETIC, one_line
from huggingface_hub import ModelCard
from safetensors import safe_open
from test_export import PREPROCESSING, Own, drawn, model_with

from cifar_lightning import MEAN, STD, InputError, LitNet, Preprocessing, export, load_model
from cifar_lightning.report.statistics import wilson
from cifar_lightning.run.checkpoint import load_checkpoint
from cifar_lightning.run.saved import data_of, select_checkpoint

FILES = ["README.md", "config.json", "model.safetensors", "preprocessor_config.json"]


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished.folder, tmp_path / "run")


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_folder_exported_by_command_is_read_back(plain, call, run):
    code, out, err = call("export", run, "--format", "hf")
    assert (code, err) == (0, "")
    folder = run / "hf"
    assert out == f"{folder} ({sum(path.stat().st_size for path in folder.iterdir()) / 1e6:.1f} MB)\n"
    assert sorted(path.name for path in folder.iterdir()) == FILES
    ours, again = load_model(run), load_model(folder)
    assert (again.classes, again.preprocessing, again.training) == (ours.classes, ours.preprocessing, False)
    torch.testing.assert_close(again.predict(drawn(50))[1], ours.predict(drawn(50))[1], atol=1e-6, rtol=0)
    code, out, err = call("evaluate", folder, "--accelerator", "cpu", "--data.source", "synthetic")
    assert code == 0, err
    assert json.loads((folder / "evaluation" / "results.json").read_text())["seed"] is None  # not in a file of weights


def test_images_are_normalised_as_in_the_training_of_the_weights(tmp_path):
    folder = export(model_with("tutorial", preprocessing=Preprocessing(MEAN, STD)), "hf", tmp_path / "hf")
    weights = load_checkpoint(select_checkpoint(folder))
    assert data_of(weights, {"source": "synthetic"}).preprocessing == Preprocessing(MEAN, STD)


def test_card_has_the_figures_and_settings_of_the_run(run):
    results = json.loads((run / "results.json").read_text())
    card = ModelCard.load(export(run, "hf") / "README.md")
    (evaluation,) = card.data.eval_results
    assert (evaluation.metric_type, evaluation.metric_value) == ("accuracy", results["test_acc"])
    assert (card.data.library_name, card.data.datasets) == ("cifar-lightning", None)
    low, high = wilson(sum(row[i] for i, row in enumerate(results["confusion"])), 600)
    said = f"{100 * results['test_acc']:.2f} % of 600 test images are classified correctly"
    assert f"{said} (95 % interval {100 * low:.2f} to {100 * high:.2f} %" in card.text
    for (name, accuracy), row in zip(results["per_class_acc"].items(), results["confusion"], strict=True):
        assert f"| {name} | {sum(row)} | {100 * accuracy:.1f} % |" in card.text
    assert "no photographs" in card.text
    for line in (
        "| net | tutorial |",
        "| lr | 0.01 |",
        "| batch\\_size | 20 |",
        "| val\\_split | 500 |",
        "| seed | 0 |",
    ):
        assert line in card.text
    assert f"| step of these weights | {results['step']} |" in card.text
    for name in ("fit_steps", "images_seen", "fit_seconds"):
        assert f"| {name}, of the whole training | {results[name]} |" in card.text.replace("\\", "")
    assert f"| lightning, in training | {results['lightning']} |" in card.text
    assert str(run) not in card.content


def test_card_names_the_versions_that_trained_and_that_exported(run):
    path, here = run / "results.json", importlib.metadata.version("cifar-lightning")
    results = json.loads(path.read_text())
    assert results["cifar_lightning"] == here
    path.write_text(json.dumps({**results, "cifar_lightning": "0.0.1"}))
    text = (export(run, "hf") / "README.md").read_text()
    assert f"trained with PyTorch Lightning and cifar_lightning, and exported by cifar_lightning {here}." in text
    assert "| cifar\\_lightning, in training | 0.0.1 |" in text


def test_loss_that_is_not_finite_is_n_a_on_the_card(run):
    path = run / "results.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "test_loss": float("nan")}))  # as an early version
    folder = export(run, "hf")
    assert ", with a mean cross-entropy of n/a. " in (folder / "README.md").read_text()
    assert "NaN" not in (folder / "README.md").read_text()
    path.write_text(json.dumps({**json.loads(path.read_text()), "not_finite": 1_234}))
    folder = export(run, "hf")
    assert "logits of 1,234 of these images are NaN or infinite." in (folder / "README.md").read_text()
    with safe_open(folder / "model.safetensors", "pt") as file:
        metadata = file.metadata()["cifar_lightning"]
    assert json.loads(metadata)["test"]["test_loss"] is None
    assert "NaN" not in metadata
    assert json.loads(metadata)["test"]["not_finite"] == 1_234


def test_card_tells_the_trainer_settings_and_the_step_of_the_weights(plain, call, run):
    """The card has the step of the weights beside the training's limits, batch sizes, steps and images seen."""
    small = (*SYNTHETIC, "--data.synthetic_size", 300, "--data.batch_size", 20)
    limits = {"accumulate_grad_batches": 4, "limit_train_batches": 10, "limit_val_batches": 1}
    flags = [word for name, value in limits.items() for word in (f"--trainer.{name}", value)]
    code, _, err = call("fit", *small, "--data.val_split", 40, "--max_epochs", 2, *flags)
    assert code == 0, err
    home = run.parent / "lightning_logs" / "version_0"
    results = json.loads((home / "results.json").read_text())
    assert (results["fit_steps"], results["images_seen"], results["trainer"]) == (6, 400, limits)
    text = (export(home, "hf") / "README.md").read_text().replace("\\", "")
    told = dict(line[2:-2].split(" | ") for line in text.splitlines() if line.count(" | ") == 1)
    assert {f"trainer.{name}": told[f"trainer.{name}"] for name in limits} == {
        f"trainer.{name}": str(value) for name, value in limits.items()
    }
    assert (told["batch_size"], told["global_batch_size"]) == ("20", "80")
    assert told["step of these weights"] == str(results["step"])
    assert (told["fit_steps, of the whole training"], told["images_seen, of the whole training"]) == ("6", "400")


def test_python_code_on_the_card_runs(run, monkeypatch):
    text = (export(run, "hf") / "README.md").read_text()
    code = text.partition("```python\n")[2].partition("```")[0].replace("path/of/this/folder", str(run / "hf"))
    names = {"images": drawn(3)}
    exec(code, names)
    assert torch.equal(names["labels"], load_model(run).predict(drawn(3))[0])


def test_card_says_what_is_not_known(run):
    for checkpoint in (run / "checkpoints").glob("step-*.ckpt"):  # only best.ckpt was tested
        card = ModelCard.load(export(checkpoint, "hf") / "README.md")
        assert card.data.eval_results is None
        assert "Not known: no test of this checkpoint is recorded." in card.text
        assert "| fit" not in card.text
        assert "| global\\_batch\\_size | 20 |" in card.text
    card = ModelCard.load(export(model_with("tutorial"), "hf", run / "memory") / "README.md")
    assert "# tutorial on images unknown" in card.text
    assert card.text.count("Not known: ") == 2


def test_card_names_cifar10_only_for_the_official_images(run):
    checkpoint = run / "checkpoints" / "best.ckpt"
    saved = torch.load(checkpoint, weights_only=True)
    results = json.loads((run / "results.json").read_text())
    assert (results["train_count"], results["val_count"]) == (2_500, 500)
    published = {"train_count": 45_000, "val_count": 5_000, "test_count": 10_000}
    earlier = {"train_count": None, "val_count": None}
    for digest, counts, official in (
        (None, published, True),
        (None, published | earlier, True),
        ("f" * 64, published, False),
        (None, published | {"train_count": 40_000}, False),
        (None, published | {"test_count": 2_000}, False),
        (None, {}, False),
    ):
        saved["datamodule_hyper_parameters"] |= {"source": "cifar10", "sha256": digest}
        torch.save(saved, checkpoint)
        (run / "results.json").write_text(json.dumps({**results, **counts}))
        card = ModelCard.load(export(run, "hf") / "README.md")
        assert card.data.datasets == ("uoft-cs/cifar10" if official else None)
        assert (card.data.eval_results[0].dataset_type == "other") != official
        name = "CIFAR-10" if official else "images in CIFAR-10's layout"
        assert (card.data.eval_results[0].dataset_name, f"# tutorial on {name}\n" in card.text) == (name, True)
        assert ("The training images of CIFAR-10, except those that" in card.text) == official
        assert ("Images in CIFAR-10's layout that are not the official ones; " in card.text) == (digest is not None)
        assert "50,000" not in card.text
        assert f"| images\\_seen, of the whole training | {results['images_seen']} |" in card.text
        if digest is None and counts != {}:  # an untested step has learnt from the same images
            other = run / "checkpoints" / "step-360.ckpt"
            torch.save(saved | {"global_step": 360}, other)
            card = ModelCard.load(export(other, "hf") / "README.md")
            other.unlink()
            assert (card.data.datasets, card.data.eval_results) == ("uoft-cs/cifar10" if official else None, None)


def test_card_of_weights_by_name_tells_their_figures_and_command(tmp_path):
    folder = export("quick", "hf", tmp_path / "hf")
    text = (folder / "README.md").read_text()
    card = ModelCard.load(folder / "README.md")
    (evaluation,) = card.data.eval_results
    images = "CIFAR-10 re-encoded as JPEG"
    assert (evaluation.metric_value, evaluation.dataset_type, evaluation.dataset_name) == (0.8147, "other", images)
    assert card.data.datasets is None
    for line in (
        f"# speed on {images}\n",
        "\n81.47 % of 10,000 test images are classified correctly (95 % interval 80.70 to 82.22 %",
        f"\n{images}: 50,000 training images and 10,000 test images.\n",
        "\n| command | cifar-lightning fit --recipe quick --seed 0 |\n",
    ):
        assert line in text
    assert "Not known" not in text
    assert torch.equal(load_model(folder).predict(drawn(50))[1], load_model("quick").predict(drawn(50))[1])


def test_card_tells_coarse_classes_and_other_train_labels(run):
    checkpoint = run / "checkpoints" / "best.ckpt"
    saved = torch.load(checkpoint, weights_only=True)
    labels = {"train_labels": "/home/me/CIFAR-100_human.pt:noisy_label"}
    saved["datamodule_hyper_parameters"] |= {"source": "cifar100-coarse", "sha256": None, **labels}
    torch.save(saved, checkpoint)
    results = json.loads((run / "results.json").read_text())
    published = {"train_count": 45_000, "val_count": 5_000, "test_count": 10_000}
    (run / "results.json").write_text(json.dumps({**results, **published}))
    card = ModelCard.load(export(run, "hf") / "README.md")
    assert (card.data.datasets, card.data.eval_results[0].dataset_name) == ("uoft-cs/cifar100", "CIFAR-100")
    assert (
        "with the 20 coarse classes. The network was trained on other labels than their own: CIFAR-100\\_human.pt:noisy"
        in (card.text)
    )
    assert "/home/me" not in card.content


def test_json_files_use_the_keys_of_transformers(run):
    model = load_model(run)
    folder = export(run, "hf")
    config, images = (json.loads((folder / name).read_text()) for name in ("config.json", "preprocessor_config.json"))
    assert [config["id2label"][str(i)] for i in range(10)] == model.classes
    assert config["label2id"] == {name: i for i, name in enumerate(model.classes)}
    pixels = drawn(2)
    mean, std = (torch.tensor(images[name]).view(3, 1, 1) for name in ("image_mean", "image_std"))
    expected = (pixels * images["rescale_factor"] - mean) / std
    torch.testing.assert_close(expected, model.preprocessing.normalize(pixels), atol=1e-6, rtol=0, check_stride=False)
    assert images["size"] == {"height": 32, "width": 32}


@pytest.mark.soak
def test_same_network_gives_the_same_folder_in_any_process(run, tmp_path):
    shutil.copytree(run, tmp_path / "elsewhere" / "copy")
    program = 'from cifar_lightning import export; export("copy", "hf", "out")'
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path / "elsewhere", env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert digests(export(run, "hf")) == digests(tmp_path / "elsewhere" / "out")


def test_class_names_are_escaped_in_the_cards_markdown(tmp_path):
    classes = ["a|b", "*c*", "<d>", "e\nf"]
    model = LitNet(Own(), classes=classes, preprocessing=PREPROCESSING)
    folder = export(model, "hf", tmp_path / "hf")
    card = (folder / "README.md").read_text()
    assert "a\\|b, \\*c\\*, \\<d\\>, 'e\\\\nf'." in card
    assert 'load_model("path/of/this/folder", net=net)' in card
    assert "The network itself, `net`, is its author's own code" in card
    assert load_model(folder, Own()).classes == classes


def test_export_does_not_overwrite_other_files_and_folders(call, run, tmp_path, monkeypatch):
    export(run, "hf")
    before = digests(run / "hf")
    export(run, "hf")
    assert digests(run / "hf") == before
    (run / "hf" / ".git").mkdir()
    said = f"output {run / 'hf'} exists and contains .git: choose another folder"
    assert one_line(*call("export", run, "--format", "hf")) == f"error: {said}\n"
    for name in ("file", "model.safetensors"):
        (tmp_path / name).write_text("mine")
        line = one_line(*call("export", run, "--format", "hf", "--output", name))
        assert line == f"error: output {name} is a file: use a folder\n"
        assert (tmp_path / name).read_text() == "mine"
    for name, content in {"README.md": "mine", "config.json": '{"model_type": "bert"}'}.items():
        folder = tmp_path / f"of {name}"
        folder.mkdir()
        (folder / name).write_text(content)
        line = one_line(*call("export", run, "--format", "hf", "--output", folder))
        assert line == f"error: output {folder} exists and contains {name}: choose another folder\n"
        assert (folder / name).read_text() == content
    assert not list(run.glob(".*.part"))
    here = shutil.copytree(run / "hf", tmp_path / "here", ignore=shutil.ignore_patterns(".git"))
    monkeypatch.chdir(here)
    for name, instead in ((".", "hf"), (here, here / "hf")):
        line = one_line(*call("export", run, "--format", "hf", "--output", name))
        assert line == f"error: output {name} is the current folder: choose another, such as {instead}\n"
    assert here.samefile(".")


def test_hf_export_needs_the_normalisation_of_the_images(tmp_path):
    with pytest.raises(
        InputError, match="format hf contains the normalisation of the images, which this model does not know"
    ):
        export(model_with("tutorial", preprocessing=None), "hf", tmp_path / "hf")
    assert list(tmp_path.iterdir()) == []
