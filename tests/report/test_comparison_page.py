"""The page of a comparison where no runs are at hand; the others are in run/test_comparison.py."""

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
