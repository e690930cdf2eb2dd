import math

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from cifar_lightning.report.calibration import best_temperature, reliability


def error_by_hand(confidences, right):
    """Computes the error image by image, in bins (m-1)/15 < confidence <= m/15."""
    total = 0.0
    for m in range(1, 16):
        inside = [i for i, c in enumerate(confidences) if (m - 1) / 15 < c <= m / 15 or (m == 1 and c == 0)]
        if inside:
            gap = np.mean([confidences[i] for i in inside]) - np.mean([right[i] for i in inside])
            total += len(inside) / len(confidences) * abs(gap)
    return total


def test_the_calibration_error_equals_torchmetrics_and_a_plain_loop():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(1_000, 10)) * 2, rng.integers(0, 10, 1_000)
    labels[:600] = logits[:600].argmax(1)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    confidences, right = probabilities.max(1), probabilities.argmax(1) == labels
    bins = reliability(torch.tensor(confidences), torch.tensor(right))
    assert bins.ece == pytest.approx(error_by_hand(confidences, right), abs=1e-12)
    theirs = multiclass_calibration_error(torch.tensor(probabilities), torch.tensor(labels), 10, n_bins=15)
    assert bins.ece == pytest.approx(theirs.item(), abs=1e-6)
    assert bins.counts.sum() == 1_000
    assert (bins.counts * bins.accuracies).sum() == pytest.approx(right.sum())


def test_a_confidence_on_a_boundary_is_in_the_bin_below():
    """The bin matters: in one bin the errors of these two images partly cancel, in two bins they would add up."""
    confidences, right = torch.tensor([0.6, 0.57], dtype=torch.float64), torch.tensor([True, False])
    bins = reliability(confidences, right)  # 0.6 is 9/15: both are in (8/15, 9/15]
    assert bins.counts.nonzero().flatten().tolist() == [8]
    assert bins.ece == pytest.approx(abs(0.585 - 0.5))
    assert bins.ece == pytest.approx(error_by_hand(confidences.tolist(), right.tolist()))
    for edge in range(1, 16):  # every boundary, however float64 rounds it; 1.0 is in the last bin
        assert reliability(torch.tensor([edge / 15], dtype=torch.float64), torch.tensor([True])).counts[edge - 1] == 1
    assert reliability(torch.tensor([0.0], dtype=torch.float64), torch.tensor([True])).counts[0] == 1


def cross_entropy(logits, labels, temperature):
    z = logits / temperature
    largest = z.max(1, keepdims=True)
    return (np.log(np.exp(z - largest).sum(1)) + largest[:, 0] - z[np.arange(len(z)), labels]).mean()


@pytest.mark.parametrize("scale", [0.2, 1.0, 3.0, 12.0])
def test_best_temperature_minimises_the_cross_entropy(scale):
    """A ternary search in numpy finds the same temperature, also far from 1, where `best_temperature` starts."""
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(2_000, 10)) * 1.5
    odds = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = np.array([rng.choice(10, p=p) for p in odds])
    logits = logits * scale  # so that the best temperature is about the scale
    low, high = math.log(scale / 4), math.log(scale * 4)
    for _ in range(100):
        a, b = low + (high - low) / 3, high - (high - low) / 3
        if cross_entropy(logits, labels, math.exp(a)) < cross_entropy(logits, labels, math.exp(b)):
            high = b
        else:
            low = a
    found = best_temperature(torch.tensor(logits), torch.tensor(labels))
    assert found == pytest.approx(math.exp(low), rel=1e-5)
    assert found == pytest.approx(scale, rel=0.15)


def test_best_temperature_is_none_without_a_minimum():
    labels = torch.tensor([0, 1, 2])
    assert best_temperature(torch.eye(3), labels) is None  # all right: the lower the better
    assert best_temperature(-torch.eye(3), labels) is None  # worse than chance: the higher the better
    assert best_temperature(torch.zeros(0, 3), labels[:0]) is None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_best_temperature_is_none_if_logits_are_not_finite(value):
    logits, labels = torch.tensor([[2.0, 1.0], [2.0, 1.0], [2.0, 1.0]]), torch.tensor([0, 0, 1])
    assert best_temperature(logits, labels) is not None
    logits[0, 1] = value
    assert best_temperature(logits, labels) is None


def test_an_image_without_confidence_is_in_no_bin():
    confidences, right = torch.tensor([0.95, math.nan], dtype=torch.float64), torch.tensor([True, True])
    bins = reliability(confidences, right)
    assert (bins.counts.sum(), bins.accuracies[14], math.isnan(bins.ece)) == (1, 1.0, True)
    assert reliability(confidences[1:], right[1:]).counts.sum() == 0


def test_best_temperature_of_logits_made_in_inference_mode():
    with torch.inference_mode():
        logits = torch.tensor([[2.0, 1.0], [2.0, 1.0], [2.0, 1.0]], dtype=torch.float64)
    # two of three are right: the odds are 2 to 1 where the difference of the logits is the logarithm of 2
    assert best_temperature(logits, torch.tensor([0, 0, 1])) == pytest.approx(1 / math.log(2), rel=1e-5)
