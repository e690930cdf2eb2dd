"""Weights that come with the package, named after the recipes that trained them."""

import json
import re
from pathlib import Path

import pytest
import torch
from conftest import PROJECT, one_line
from PIL import Image
from safetensors import safe_open

from cifar_lightning import CLASSES, InputError, LitNet, export, fake_data, load_model
from cifar_lightning.data.cifar10 import MEAN, STD
from cifar_lightning.run import trained
from cifar_lightning.run.trained import FOLDER, LARGEST

IN_PACKAGE = sorted(path.stem for path in FOLDER.glob("*.safetensors"))
IMAGES = fake_data(200).image_set("test").images


def facts_in(path):
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["cifar_lightning"])


def test_package_has_the_weights_of_three_recipes():
    assert IN_PACKAGE == ["quick", "speed54", "tutorial"]


@pytest.mark.parametrize("name", IN_PACKAGE)
def test_weights_in_the_package_load_and_their_metadata_is_true(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = FOLDER / f"{name}.safetensors"
    facts = facts_in(path)
    assert path.stat().st_size <= LARGEST
    model = load_model(name)
    assert model.classes == facts["classes"] == list(CLASSES)
    normalised = ((0.5,) * 3, (0.5,) * 3) if name == "tutorial" else (MEAN, STD)
    assert (model.preprocessing.mean, model.preprocessing.std) == normalised
    assert (tuple(facts["mean"]), tuple(facts["std"])) == normalised
    assert facts["command"].startswith(f"cifar-lightning fit --recipe {name} --seed ")
    assert facts["data"] == {"images": "CIFAR-10 re-encoded as JPEG", "train": 50_000, "test": 10_000}
    assert facts["test"]["test_count"] == 10_000
    assert re.fullmatch(r"\d+\.\d+\.\d+", facts["version"])
    row = f"| `{name}` | {path.stat().st_size / 1e6:.2f} | {100 * facts['test']['test_acc']:.2f} % |"
    assert row in (PROJECT / "docs" / "trained.md").read_text()
    assert all(weight.isfinite().all() for weight in model.state_dict().values())
    labels, probabilities = model.predict(IMAGES)
    assert len(labels.unique()) > 2  # it tells some images apart
    torch.testing.assert_close(probabilities.sum(1), torch.ones(len(IMAGES)))


def test_commands_take_weights_by_name_and_write_to_the_current_folder(call, tmp_path):
    Image.new("RGB", (32, 32), "orange").save(tmp_path / "cat.png")
    code, out, err = call("predict", "tutorial", "cat.png")
    assert code == 0, err
    assert f"by {FOLDER}/tutorial.safetensors, step 25,000" in out
    before = sorted(FOLDER.iterdir())
    small = ("--data.source", "synthetic", "--data.synthetic_size", 100, "--accelerator", "cpu")
    for name in ("tutorial", "speed54"):  # the second replaces nothing of the first
        code, out, err = call("evaluate", name, *small)
        assert code == 0, err
    for name in ("tutorial", "speed54"):
        results = json.loads((tmp_path / f"evaluation-{name}" / "results.json").read_text())
        assert (results["test_count"], results["checkpoint"]) == (20, str(FOLDER / f"{name}.safetensors"))
    assert not (tmp_path / "evaluation").exists()
    code, out, err = call("export", "tutorial", "--format", "safetensors")
    assert (code, out) == (0, "model.safetensors (0.2 MB)\n"), err
    known = facts_in(FOLDER / "tutorial.safetensors")
    assert facts_in(tmp_path / "model.safetensors") == {**known, "checkpoint": "tutorial.safetensors"}
    assert sorted(FOLDER.iterdir()) == before


def test_folder_with_a_recipes_name_takes_precedence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = LitNet(classes=["cat", "dog"])
    export(model, "safetensors", tmp_path / "quick" / "model.safetensors")
    (tmp_path / "quick" / "config.json").write_text("{}")
    assert load_model("quick").classes == ["cat", "dog"]
    (tmp_path / "tutorial").mkdir()
    with pytest.raises(InputError, match="tutorial has no readable checkpoint: use a run's folder"):
        load_model("tutorial")


def test_path_is_not_taken_for_a_recipes_name(call):
    for path in ("./quick", "quick/"):
        for command in (("evaluate", path), ("predict", path, "cat.png"), ("export", path)):
            line = one_line(*call(*command))
            assert line == "error: checkpoint quick does not exist: use a run's folder or a .ckpt file\n", command
    with pytest.raises(InputError, match="checkpoint quick does not exist"):
        load_model(Path("quick"))


@pytest.mark.parametrize(
    "command", [("compare", "quick", "tutorial"), ("fit", "--resume", "quick"), ("status", "quick")]
)
def test_weights_in_place_of_a_run_are_refused(call, tmp_path, command):
    words = "quick is the name of weights that come with the package, not of a run: train one with fit --recipe quick\n"
    assert one_line(*call(*command)).endswith(f" {words}")
    (tmp_path / "quick").mkdir()  # then it is a path
    assert words not in one_line(*call(*command))


def test_recipe_without_weights_is_refused(call):
    line = one_line(*call("predict", "cpu", "cat.png"))
    assert line == (
        "error: weights cpu: no release has them yet; use quick or speed54 or tutorial, or a run of fit --recipe cpu\n"
    )


def test_weights_are_made_only_from_a_run_of_their_recipe(call, tmp_path, plain, monkeypatch):
    monkeypatch.setattr(trained, "FOLDER", tmp_path / "weights")
    small = ("--data.source", "synthetic", "--data.synthetic_size", 1_000, "--accelerator", "cpu")
    code, _, err = call("fit", "--recipe", "speed54", *small, "--report", "false")
    assert code == 0, err
    run, images = tmp_path / "lightning_logs" / "version_0", ("--images", "drawn ones")
    line = one_line(*call("weights", run, "--recipe", "quick", *images))
    assert line == f"error: {run} has data.batch_size 250, but the recipe quick has 500: use a run of this recipe\n"
    clock = ("--trainer.max_time", "00:01:00:00")
    for number, flags in enumerate((("--max_steps", 3), ("--model.test_views", "mirror"), clock), 1):
        code, _, err = call("fit", "--recipe", "speed54", *small, "--report", "false", *flags)
        assert code == 0, err
        other = tmp_path / "lightning_logs" / f"version_{number}"
        line = one_line(*call("weights", other, "--recipe", "speed54", *images))
        before = {"max_steps": 60, "model.test_views": "one", "trainer.max_time": None}[
            name := flags[0].removeprefix("--")
        ]
        said = f"{other} has {name} {flags[1]}, but the recipe speed54 has {before}: use a run of this recipe"
        assert line == f"error: {said}\n"
    code, out, err = call("weights", run, "--recipe", "speed54", *images)
    assert code == 0, err
    path = tmp_path / "weights" / "speed54.safetensors"
    facts, ours, whole = facts_in(path), load_model("speed54"), load_model(run)
    assert facts["data"] == {"images": "drawn ones", "train": 1_000, "test": 200}
    assert facts["command"] == "cifar-lightning fit --recipe speed54 --seed 0"
    assert out.endswith(f"\n{path}\n| `speed54` | 0.16 | {100 * facts['test']['test_acc']:.2f} % |\n")
    assert torch.equal(ours.predict(IMAGES)[1], whole.predict(IMAGES)[1])
    test = fake_data(1_000).image_set("test")
    assert facts["test"]["test_acc"] == (ours.predict(test.images)[0] == test.labels).double().mean().item()
