"""Tests which runs `compared` groups and what it computes for them, with made-up results."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from cifar_lightning.report import comparison
from cifar_lightning.report.group import print_group, summary, write_figure
from cifar_lightning.report.predictions import Predictions
from cifar_lightning.report.statistics import welch, wilson


def run(seed, lr=0.1, images=None, learnt=None, **results):
    results = {"test_acc": 0.5 + seed / 1_000, "test_count": 1_000, **results}
    predictions = images and Predictions(np.zeros(1_000, np.uint16), np.zeros(1_000, np.uint16), images)
    return comparison.Tested(f"run_{lr}_{seed}", results, {"seed": seed, "lr": lr}, predictions, learnt)


def groups_of(*runs):
    return [one["name"] for one in comparison.compared(runs, set())["runs"]]


def test_seeds_are_in_numerical_order():
    seeds = [2, 10, 9, 1]
    found = comparison.compared([*map(run, seeds), run(1, lr=0.2)], set())
    assert found["settings"]["seed"] == {"A": [1, 2, 9, 10], "B": 1}


def test_more_than_702_groups_have_names():
    """After the 702 names of one and two letters come names of three."""
    found = comparison.compared([run(0, lr=number) for number in range(1, 711)], set())
    assert [one["run"] for one in found["runs"]] == [f"run_{number}_0" for number in range(1, 711)]
    names = [one["name"] for one in found["runs"]]
    assert (names[0], names[25], names[26], names[701], names[702]) == ("A", "Z", "AA", "ZZ", "AAA")


ALL_95 = {"corruption_acc": {f"corruption {i}": [0.5] * 5 for i in range(19)}, "test_count": 950_000}
ONE = {"data": {"data_dir": "/CIFAR-10-C/fog.npy"}, "test_count": 50_000}


@pytest.mark.parametrize("tested", [ALL_95, ONE])
@pytest.mark.parametrize("images", [None, "a"])
def test_copies_of_an_image_count_once(tested, images):
    """The corrupted copies of an image are not independent, so intervals count it once, and there is no p-value."""
    found = comparison.compared([run(0, images=images, **tested), run(0, lr=0.2, images=images, **tested)], set())
    assert found["runs"][0]["test_acc_interval"] == wilson(5_000, 10_000)
    assert (found["comparisons"][0]["p"], found["comparisons"][0]["test"]) == (None, None)
    assert found["comparisons"][0]["why"].startswith(
        "McNemar's test would count the differently corrupted copies of an image"
    )


def test_runs_tested_on_different_images_are_in_different_groups():
    """A run of an earlier version, which kept no predictions, may be in a group with the same number of images."""
    assert groups_of(run(0), run(1), run(2)) == ["A1", "A2", "A3"]
    assert groups_of(run(0), run(1, test_count=2_000)) == ["A", "B"]
    assert groups_of(run(0, images="a"), run(1, images="b"), run(2, images="a")) == ["A1", "A2", "B"]
    assert groups_of(run(0, images="a"), run(1), run(2, images="a")) == ["A1", "A2", "A3"]
    assert groups_of(run(0), run(1, images="a"), run(2, images="b")) == ["A1", "A2", "B"]


@pytest.mark.parametrize("digests", [("a", "a", "b"), (None, None, None)])  # earlier versions stored no digest
def test_runs_tested_on_different_corruptions_are_in_different_groups(digests):
    """Runs are grouped by the corruptions they were tested on, although no setting names these."""
    told = zip(("spatter", "spatter", "fog"), digests, strict=True)
    tests = [{"corruption_acc": {name: [0.5] * 5}, "test_images": digest} for name, digest in told]
    found = comparison.compared([run(seed, **test) for seed, test in enumerate(tests)], set())
    assert [one["name"] for one in found["runs"]] == ["A1", "A2", "B"]
    assert found["groups"][0]["seeds"] == [0, 1]
    assert found["comparisons"][0]["same_images"] is False
    assert found["comparisons"][0]["why"] == "they were not tested on the same images"


def test_the_same_corruption_of_different_images_makes_different_groups():
    corrupted = {"corruption_acc": {"fog": [0.5] * 5}}
    assert groups_of(run(0, test_images="a", **corrupted), run(1, test_images="b", **corrupted)) == ["A", "B"]
    assert groups_of(run(0, test_images="a", **corrupted), run(1, **corrupted)) == ["A1", "A2"]


def test_a_setting_of_none_equals_a_missing_setting():
    """A run that was resumed without its time limit has trainer.max_time None, and stays in its group."""
    unlimited = replace(run(1), settings={**run(1).settings, "trainer.max_time": None})
    assert groups_of(run(0), unlimited, run(2)) == ["A1", "A2", "A3"]


def test_a_number_is_the_same_setting_as_int_or_float():
    """Python's 0 may be 0.0 by a flag; but for the Trainer's limits, 1 is one batch and 1.0 is all batches."""

    def two(name, *values):
        return [replace(run(i), settings={**run(i).settings, name: value}) for i, value in enumerate(values)]

    for name, *values in (("lr", 0, 0.0), ("sizes", [16], [16.0]), ("trainer.limit_val_batches", 0, 0.0)):
        found = comparison.compared(two(name, *values), set())
        assert ([one["name"] for one in found["runs"]], found["settings"]) == (["A1", "A2"], {})
    found = comparison.compared(two("trainer.limit_val_batches", 1, 1.0), set())
    assert found["settings"]["trainer.limit_val_batches"] == {"A": 1, "B": 1.0}


def test_runs_trained_on_different_images_are_in_different_groups():
    assert groups_of(run(0, learnt="a"), run(1), run(2, learnt="a")) == ["A1", "A2", "A3"]
    found = comparison.compared([run(0, learnt="a"), run(1, learnt="a"), run(2, learnt="b")], set())
    assert [one["name"] for one in found["runs"]] == ["A1", "A2", "B"]
    assert found["settings"]["training images"] == {"A": "a", "B": "b"}


def test_a_group_of_a_thousand_classes_shows_the_best_and_the_worst(tmp_path, capsys):
    named = {f"class {number}": number / 1_000 for number in range(1_000)} | {"class 7": None}
    figures = {"test_acc": 0.5, "test_loss": 1.0, "fit_seconds": 1.0, "step": 1}
    found = summary("seeds", {f"seed_{i}": {**figures, "seed": i, "per_class_acc": named} for i in range(2)})
    print_group(found, [])
    out = capsys.readouterr().out.splitlines()
    assert "the 20 best and the 20 worst of 1,000 classes; results.json has all" in out
    shown = [int(line.split()[1]) for line in out if line.startswith("class ")]
    assert shown == [*range(999, 979, -1), *(number for number in range(20, -1, -1) if number != 7)]
    with Image.open(write_figure(found, "seed", tmp_path)) as figure:
        assert figure.height < 1_300


def test_the_interval_of_a_difference_stays_from_minus_1_to_1():
    """With two seeds per group, the interval by Student's t alone would hold impossible differences."""
    accuracies = {0.1: (0.1, 0.9), 0.2: (0.2, 0.8)}
    runs = [run(seed, lr, test_acc=value) for lr, values in accuracies.items() for seed, value in enumerate(values)]
    (pair,) = comparison.compared(runs, set())["comparisons"]
    assert pair["interval"] == (-1.0, 1.0)
    _, (low, high) = welch(*accuracies.values())
    assert low < -1
    assert high > 1
