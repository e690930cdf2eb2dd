"""What a network says of each image that it was tested on, and which images are worth a look for it."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

MISTAKES, DOUBTFUL = 36, 24  # images that are shown as such
MATRIX_CLASSES = 20  # up to which the whole confusion matrix is shown
PAIRS = 40  # of more classes: their most frequent confusions
CELL_IMAGES, IMAGES_A_CELL = 400, 24  # images behind all cells together, and behind one, at most


class Cell(NamedTuple):
    """A cell of the confusion matrix: two classes, how many images, and some of them, most confident first."""

    true: int
    said: int
    total: int
    images: list[int]


@dataclass(frozen=True, eq=False)
class Judgements:
    """What a network says of N images, N at least 1. All that is computed from it is in float64.

    Attributes:
        logits: `(N, K)`.
        labels: int64 `(N,)`.
        predicted: int64 `(N,)`, the class that each was counted as.
    """

    logits: Tensor
    labels: Tensor
    predicted: Tensor

    @cached_property
    def right(self) -> Tensor:
        """Whether each is: bool `(N,)`."""
        return self.predicted == self.labels

    @cached_property
    def not_finite(self) -> Tensor:
        """Whether some of its logits are NaN or infinite: bool `(N,)`."""
        return not_finite(self.logits)

    @cached_property
    def confidences(self) -> Tensor:
        """The probability of the class that each was counted as, `(N,)`."""
        return self._as_it_is[0]

    @cached_property
    def losses(self) -> Tensor:
        """The cross-entropy of each, `(N,)`."""
        return self._as_it_is[1]

    @cached_property
    def _as_it_is(self) -> tuple[Tensor, Tensor]:
        return self.at(1.0)

    def at(self, temperature: float) -> tuple[Tensor, Tensor]:
        """Confidences and losses, `(N,)` each, of the logits divided by a temperature."""
        # A few thousand at a time: float64 of a thousand classes is large.
        parts = zip(*(torch.split(x, 4_096) for x in (self.logits, self.labels, self.predicted)), strict=True)
        found = [_confidences_and_losses(logits.double() / temperature, *named) for logits, *named in parts]
        confidences, losses = (torch.cat(x) for x in zip(*found, strict=True))
        return confidences, losses

    @cached_property
    def top2(self) -> float:
        """The share of images that are right, or whose class is the most probable of the others."""
        others = self.logits.scatter(1, self.predicted[:, None], -torch.inf)
        return (self.right | (others.argmax(1) == self.labels)).double().mean().item()

    def mistakes(self) -> Tensor:
        """Indices of images that are counted as another class, most confident first."""
        return self._wrong_by(self.confidences)[:MISTAKES]

    def doubtful(self) -> Tensor:
        """Indices of images whose label may be the mistake: of the largest losses, the largest first; none of NaN."""
        found = self._wrong_by(self.losses)
        return found[~self.losses[found].isnan()][:DOUBTFUL]

    def _wrong_by(self, values: Tensor) -> Tensor:
        wrong = (~self.right).nonzero().squeeze(1)
        return _by(values, wrong)

    def cells(self) -> list[Cell]:
        """The cells of the confusion matrix that are not empty, row by row; of many classes, the largest mistakes."""
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
    """Of `(N, K)` logits, the rows of which some are NaN or infinite: bool `(N,)`.

    Such an image counts as the first class whose logit is NaN, the first of all where each is: as right, if it is that.
    """
    return ~logits.isfinite().all(1)


def _by(values: Tensor, index: Tensor) -> Tensor:
    """Indices from the largest of the values to the smallest, and what is NaN at the end."""
    known = values[index].nan_to_num(nan=-torch.inf, posinf=torch.inf)
    return index[known.argsort(descending=True, stable=True)]


def _confidences_and_losses(logits: Tensor, labels: Tensor, predicted: Tensor) -> tuple[Tensor, Tensor]:
    log = F.log_softmax(logits, 1)
    return log.gather(1, predicted[:, None]).squeeze(1).exp(), -log.gather(1, labels[:, None]).squeeze(1)
