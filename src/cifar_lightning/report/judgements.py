"""What a network predicts for each test image, and which images are therefore worth a look."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

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
class Judgements:
    """The logits of a network for N images, N at least 1, and what follows from them, computed in float64.

    Attributes:
        logits: `(N, K)`.
        labels: int64 `(N,)`.
        predicted: int64 `(N,)`, the class that each image was counted as.
    """

    logits: Tensor
    labels: Tensor
    predicted: Tensor

    @cached_property
    def right(self) -> Tensor:
        """Whether each prediction is right, bool `(N,)`."""
        return self.predicted == self.labels

    @cached_property
    def not_finite(self) -> Tensor:
        """Whether some logits of each image are NaN or infinite, bool `(N,)`."""
        return not_finite(self.logits)

    @cached_property
    def confidences(self) -> Tensor:
        """The probability of the predicted class of each image, `(N,)`."""
        return self._as_it_is[0]

    @cached_property
    def losses(self) -> Tensor:
        """The cross-entropy of each image, `(N,)`."""
        return self._as_it_is[1]

    @cached_property
    def _as_it_is(self) -> tuple[Tensor, Tensor]:
        return self.at(1.0)

    def at(self, temperature: float) -> tuple[Tensor, Tensor]:
        """Computes confidences and losses, each `(N,)`, of the logits divided by a temperature."""
        # A few thousand images at a time, because the float64 logits of a thousand classes are large.
        parts = zip(*(torch.split(x, 4_096) for x in (self.logits, self.labels, self.predicted)), strict=True)
        found = [_confidences_and_losses(logits.double() / temperature, *named) for logits, *named in parts]
        confidences, losses = (torch.cat(x) for x in zip(*found, strict=True))
        return confidences, losses

    @cached_property
    def top2(self) -> float:
        """The share of images whose true class is the predicted one, or the most probable of the others."""
        others = self.logits.scatter(1, self.predicted[:, None], -torch.inf)
        return (self.right | (others.argmax(1) == self.labels)).double().mean().item()

    def mistakes(self) -> Tensor:
        """Returns the indices of misclassified images, the most confident first."""
        return self._wrong_by(self.confidences)[:MISTAKES]

    def doubtful(self) -> Tensor:
        """Returns the indices of images whose label may be wrong: the largest losses first, without losses of NaN."""
        found = self._wrong_by(self.losses)
        return found[~self.losses[found].isnan()][:DOUBTFUL]

    def _wrong_by(self, values: Tensor) -> Tensor:
        wrong = (~self.right).nonzero().squeeze(1)
        return _by(values, wrong)

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
            members = (keys == key).nonzero().squeeze(1)
            members = _by(self.confidences, members)
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
