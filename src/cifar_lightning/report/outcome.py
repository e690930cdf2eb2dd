"""Outcome: everything that the report of a test is made of, as plain values, and what follows from them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from cifar_lightning.data.image_set import ImageSet
from cifar_lightning.report.calibration import Calibrated, best_temperature, reliability

MISTAKES, DOUBTFUL = 36, 24  # at most this many images are shown as mistakes, and as doubtful
MATRIX_CLASSES = 20  # with more classes, the page does not show the whole confusion matrix
PAIRS = 40  # with more classes, the most frequent confusions that are shown
CELL_IMAGES, IMAGES_A_CELL = 400, 24  # the most images behind all cells together, and behind one


class Cell(NamedTuple):
    """A cell of the confusion matrix: two classes, how many images, and some of them, most confident first."""

    true: int
    said: int
    total: int
    images: list[int]


@dataclass(frozen=True, eq=False)
class Outcome:
    """The outcome of a test, and what its figures and page show, as plain values.

    Attributes:
        confusion: int64 counts `(K, K)`, rows = true class.
        loss: Mean cross-entropy of the test images.
        classes: The K class names.
        facts: Further entries of results.json, including `checkpoint`, what was tested, and its `step`.
        training_images: Some images that the network was trained on; None if these are not known to be among them.
        test_images: The N images that it was tested on, in the order of the test.
        numbers: int64 `(N,)`, the index of each of them in the test set.
        predicted: int64 `(N,)`, their predicted classes.
        logits: `(N, K)`, their logits.
        rows: The rows of the training's metrics.csv; empty if it is not at hand.
        label_smoothing: The label smoothing of the training loss.
        network: The name of the network; empty if it is not known.
        lr: The learning rate of its training; None if it is not known.
        settings: The text of the training's config.yaml; empty if it is not at hand.
        held_out: Logits and labels of the validation images; None if there are none.
        grad_cam: Given n images, uint8, and a class for each, int64, returns maps `(n, h, w)` of the evidence; None if
            the network has no convolution.
    """

    confusion: Tensor
    loss: float
    classes: Sequence[str]
    facts: Mapping[str, Any]
    training_images: ImageSet | None
    test_images: ImageSet
    numbers: Tensor
    predicted: Tensor
    logits: Tensor
    rows: Sequence[Mapping[str, Any]]
    label_smoothing: float
    network: str = ""
    lr: float | None = None
    settings: str = ""
    held_out: tuple[Tensor, Tensor] | None = None
    grad_cam: Callable[[Tensor, Tensor], Tensor | None] = lambda images, classes: None

    @property
    def labels(self) -> Tensor:
        """The true class of each image, int64 `(N,)`."""
        return self.test_images.labels

    @cached_property
    def right(self) -> Tensor:
        """Whether each prediction is right, bool `(N,)`."""
        return self.predicted == self.labels

    @cached_property
    def not_finite(self) -> Tensor:
        """Whether some logits of each image are NaN or infinite, bool `(N,)`."""
        return not_finite(self.logits)

    @cached_property
    def top2(self) -> float:
        """The share of images whose true class is the predicted one, or the most probable of the others."""
        others = self.logits.scatter(1, self.predicted[:, None], -torch.inf)
        return (self.right | (others.argmax(1) == self.labels)).double().mean().item()

    @cached_property
    def confidences(self) -> Tensor:
        """The probability of the predicted class of each image, float64 `(N,)`."""
        return self._unscaled[0]

    @cached_property
    def losses(self) -> Tensor:
        """The cross-entropy of each image, float64 `(N,)`."""
        return self._unscaled[1]

    @cached_property
    def _unscaled(self) -> tuple[Tensor, Tensor]:
        return self.at(1.0)

    def at(self, temperature: float) -> tuple[Tensor, Tensor]:
        """Computes confidences and losses, each float64 `(N,)`, of the logits divided by a temperature."""
        # A few thousand images at a time, because the float64 logits of a thousand classes are large.
        parts = zip(*(torch.split(x, 4_096) for x in (self.logits, self.labels, self.predicted)), strict=True)
        found = [_confidences_and_losses(logits.double() / temperature, *named) for logits, *named in parts]
        confidences, losses = (torch.cat(x) for x in zip(*found, strict=True))
        return confidences, losses

    @cached_property
    def temperature(self) -> float | None:
        """The temperature that suits the validation images best; None if there are no such images, or no best one."""
        return best_temperature(*self.held_out) if self.held_out else None

    @cached_property
    def calibrations(self) -> list[Calibrated]:
        """The calibration of the network as it is, and at the best temperature if there is one."""
        found = []
        for temperature in (1.0, *([] if self.temperature is None else [self.temperature])):
            confidences, losses = self.at(temperature)
            bins = reliability(confidences, self.right)
            found.append(Calibrated(temperature, bins, confidences.mean().item(), losses.mean().item()))
        return found

    def mistakes(self) -> Tensor:
        """Returns the indices of misclassified images, the most confident first."""
        return self._wrong_by(self.confidences)[:MISTAKES]

    def doubtful(self) -> Tensor:
        """Returns the indices of images whose label may be wrong: the largest losses first, without losses of NaN."""
        found = self._wrong_by(self.losses)
        return found[~self.losses[found].isnan()][:DOUBTFUL]

    def _wrong_by(self, values: Tensor) -> Tensor:
        return _by(values, (~self.right).nonzero().squeeze(1))

    def cells(self) -> list[Cell]:
        """Returns the non-empty cells of the confusion matrix, row by row; with many classes, the largest mistakes."""
        classes = self.logits.shape[1]
        keys = self.labels * classes + self.predicted
        found, counts = torch.unique(keys, return_counts=True)
        if classes > MATRIX_CLASSES:
            mistaken = found // classes != found % classes
            found, counts = found[mistaken], counts[mistaken]
            order = counts.argsort(descending=True, stable=True)[:PAIRS]
            found, counts = found[order], counts[order]
        share = min(IMAGES_A_CELL, max(1, CELL_IMAGES // max(1, len(found))))
        cells = []
        for key, count in zip(found.tolist(), counts.tolist(), strict=True):
            members = _by(self.confidences, (keys == key).nonzero().squeeze(1))
            cells.append(Cell(key // classes, key % classes, count, members[:share].tolist()))
        return cells


def not_finite(logits: Tensor) -> Tensor:
    """Finds the rows of logits `(N, K)` that hold NaN or infinity, bool `(N,)`.

    An image with NaN is counted as the first class whose logit is NaN, and so as right if that is its class.
    """
    return ~logits.isfinite().all(1)


def _by(values: Tensor, index: Tensor) -> Tensor:
    """Sorts the indices from the largest value to the smallest, with NaN at the end."""
    known = values[index].nan_to_num(nan=-torch.inf, posinf=torch.inf)
    return index[known.argsort(descending=True, stable=True)]


def _confidences_and_losses(logits: Tensor, labels: Tensor, predicted: Tensor) -> tuple[Tensor, Tensor]:
    log = F.log_softmax(logits, 1)
    return log.gather(1, predicted[:, None]).squeeze(1).exp(), -log.gather(1, labels[:, None]).squeeze(1)
