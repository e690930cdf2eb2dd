"""Tests that every recipe trains as it did when its golden file was recorded: see golden.py."""

import copy

import golden
import pytest

from cifar_lightning.run.settings import settings_of
from cifar_lightning.settings_file import recipes


@pytest.mark.parametrize("name", recipes())
def test_a_recipe_trains_as_recorded(name):
    found = golden.differences(golden.kept(name), golden.made(golden.settings_of_recipe(name)))
    assert not found, "\n".join([f"recipe {name}, if this is meant: python tests/golden.py {name}", *found])


def test_every_recipe_has_a_golden_file_and_every_file_a_recipe():
    assert sorted(path.stem for path in golden.FOLDER.iterdir()) == recipes()


def test_the_defaults_of_fit_are_those_of_the_recipe_tutorial():
    nothing = {**golden.defaults(), "data": {}, "model": {}, "trainer": {}}
    assert settings_of(nothing) == settings_of({**nothing, **golden.settings_of_recipe("tutorial")})


@pytest.mark.parametrize("name", ["tutorial", "speed54"])
def test_a_learning_rate_higher_by_a_hundredth_is_noticed_anywhere(name):
    recipe = golden.settings_of_recipe(name)
    before = golden.made(copy.deepcopy(recipe))  # made here, to compare bits: the recorded one may be another torch's
    recipe["model"]["lr"] *= 1.01
    now = golden.made(recipe)
    setting, loss = golden.differences(before, now)
    assert setting == f"recipe: model.lr was {before['recipe']['model']['lr']} and is {recipe['model']['lr']}"
    assert loss.startswith("the loss of step 2 was ")
    elsewhere = {**now, "recipe": before["recipe"], "made_by": {**now["made_by"], "processor": "another"}}
    assert len(golden.differences(before, elsewhere)) == 1


@pytest.mark.parametrize(
    ("part", "group", "name", "value"),
    [
        ("recipe", "data", "batch_size", 64),  # the small run has another one
        ("recipe", "model", "test_views", "six"),  # which does not affect training
        ("small", "model", "width", 16),
    ],
)
def test_any_changed_setting_is_named(part, group, name, value):
    before = golden.kept("tutorial")
    now = copy.deepcopy(before)
    now[part][group][name] = value
    assert golden.differences(before, now) == [
        f"{part}: {group}.{name} was {before[part][group].get(name)} and is {value}"
    ]


@pytest.mark.parametrize("what", ["torch", "processor", "threads"])
def test_rounding_is_tolerated_only_on_other_software_or_hardware(what):
    before = golden.kept("resnet18")
    now = copy.deepcopy(before)
    now["losses"][7] *= 1 + 2e-9
    (difference,) = golden.differences(before, now)
    assert difference.startswith("the loss of step 8 was ")
    assert difference.endswith(", 2e-09 of it away")
    now["made_by"][what] = "another"
    assert golden.differences(before, now) == []


def test_golden_files_are_recorded_by_one_command(monkeypatch, tmp_path, capsys):
    before = golden.kept("tutorial")
    monkeypatch.setattr(golden, "FOLDER", tmp_path)
    golden.main(["tutorial"])
    assert capsys.readouterr().out == "made tutorial.json\n"
    assert golden.differences(before, golden.kept("tutorial")) == []
