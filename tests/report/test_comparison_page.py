"""Tests the page of a comparison with made-up runs; run/test_comparison.py tests it with real ones."""

from importlib.resources import files

import numpy as np
import torch
from pages import Page, assert_sound

from cifar_lightning.data.image_set import ImageSet
from cifar_lightning.report import comparison
from cifar_lightning.report.comparison_page import write_comparison
from cifar_lightning.report.predictions import Predictions


def test_the_page_of_a_thousand_classes_is_small(tmp_path):
    rng, names = np.random.default_rng(0), [f"<class {number}>" for number in range(1_000)]
    labels = rng.integers(0, 1_000, 5_000)
    runs = []
    for lr in range(2):
        said = np.where(rng.random(5_000) < 0.4, labels, rng.integers(0, 1_000, 5_000))
        predictions = Predictions(said.astype(np.uint16), labels.astype(np.uint16), "alike")
        confusion = np.array(predictions.confusion(1_000))
        images = confusion.sum(1)
        accuracies = [
            right / count if count else None for right, count in zip(confusion.diagonal(), images, strict=True)
        ]
        results = {
            "test_acc": float((said == labels).mean()), "test_count": 5_000, "confusion": confusion.tolist(),
            "per_class_acc": dict(zip(names, accuracies, strict=True)),
        }  # fmt: skip
        runs.append(comparison.Tested(f"run_{lr}", results, {"seed": 0, "lr": lr}, predictions))
    pixels = torch.from_numpy(rng.integers(0, 256, (5_000, 3, 32, 32), dtype=np.uint8))
    found = comparison.compared(runs, set())
    write_comparison(found, runs, ImageSet(pixels, torch.from_numpy(labels), tuple(names)), tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    page = Page(text)
    assert_sound(page, len(text.encode()), text)
    table = page.one("table", **{"class": "per-class"})
    assert len(page.rows(table)) == 1 + 40
    assert page.one("caption", table)["text"] == "the 20 best and the 20 worst of 1,000 classes, by the accuracy of A"


def two_runs(digest="alike", seeds=1, kept=True):
    """Returns runs with two values of lr, each right on one of two classes, which alternate with lr and seed."""
    runs = []
    for lr in range(2):
        for seed in range(seeds):
            right = (lr + seed) % 2
            labels, said = np.array([0, 1] * 5, np.uint16), np.full(10, right, np.uint16)
            results = {
                "test_acc": 0.5 + seed / 10, "test_count": 10, "confusion": [[5 - 5 * right, 5 * right]] * 2,
                "per_class_acc": {"ant": 1.0 - right, "bee": float(right)},
            }  # fmt: skip
            predictions = Predictions(said, labels, digest if lr else "alike") if kept else None
            runs.append(comparison.Tested(f"run_{lr}_{seed}", results, {"seed": seed, "lr": lr}, predictions))
    return runs


def page_of(runs, folder):
    write_comparison(comparison.compared(runs, set()), runs, None, folder / "page.html")
    return Page((folder / "page.html").read_text())


def test_the_heading_says_if_a_difference_was_not_tested(tmp_path):
    runs = two_runs(digest="others")
    assert page_of(runs, tmp_path).one("h1")["text"] == "A and B were tested on different images"
    runs = two_runs(kept=False)
    runs[1].results["test_acc"] = 0.7
    assert page_of(runs, tmp_path).one("h1")["text"] == "B is 20.00 points better than A: not tested"


def test_the_interval_of_a_class_stays_within_100_points(tmp_path):
    page = page_of(two_runs(seeds=2), tmp_path)
    rows = page.rows(page.one("table", **{"class": "per-class"}))[1:]
    assert [row[-1] for row in rows] == ["-100.0 to +100.0"] * 2


def test_names_beside_many_columns_have_a_minimum_width():
    """Names may break anywhere, so without a minimum width their column would be a few letters wide."""
    base = files("cifar_lightning.report").joinpath("base.html").read_text()
    before, narrow = base.split("@media (max-width: 40rem)")
    assert ".per-class tbody th, .settings tbody th { min-width: 7rem; }" in before
    assert "tbody th" not in narrow
