"""Calibration: whether a network is right as often as it says, and the temperature at which it would be."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

BINS = 15


@dataclass(frozen=True)
class Reliability:
    """Images, binned by confidence, the probability of the predicted class.

    There are `BINS` equally wide bins that include their upper ends: (0, 1/15], (1/15, 2/15], … (14/15, 1], as in
    https://arxiv.org/abs/1706.04599. Libraries differ: torchmetrics' bins include their lower ends.

    Attributes:
        counts: int64 `(BINS,)`, the number of images in each bin.
        confidences: float64 `(BINS,)`, their mean confidence; 0 for an empty bin.
        accuracies: float64 `(BINS,)`, their accuracy; 0 for an empty bin.
        images: The number of all images, including those without a confidence, which are in no bin.
        ece: The expected calibration error: the distance between confidence and accuracy, averaged over all images;
            NaN if some images have no confidence.
    """

    counts: Tensor
    confidences: Tensor
    accuracies: Tensor
    images: int
    ece: float

    def rows(self) -> list[tuple[int, float, float]]:
        """Returns the count, confidence and accuracy of each bin, as rows of a table."""
        return list(zip(self.counts.tolist(), self.confidences.tolist(), self.accuracies.tolist(), strict=True))


class Calibrated(NamedTuple):
    """The calibration of a network whose logits are divided by a temperature.

    Attributes:
        temperature: The temperature; 1 leaves the logits unchanged.
        bins: The images, binned by confidence.
        confidence: The mean confidence over all images.
        loss: The mean cross-entropy over all images.
    """

    temperature: float
    bins: Reliability
    confidence: float
    loss: float


def reliability(confidences: Tensor, right: Tensor) -> Reliability:
    """Sorts images into bins.

    Args:
        confidences: float64 `(N,)`, N at least 1; NaN if the logits of an image are not finite.
        right: bool `(N,)`, whether each prediction is right.
    """
    known = ~confidences.isnan()
    bins = torch.bucketize(confidences[known], torch.arange(1, BINS, dtype=torch.float64) / BINS)
    counts = torch.bincount(bins, minlength=BINS)
    sums = [torch.bincount(bins, values[known].double(), minlength=BINS) for values in (confidences, right)]
    means = [total / counts.clamp(min=1) for total in sums]
    ece = (sums[0] - sums[1]).abs().sum().item() / len(confidences) if known.all() else math.nan
    return Reliability(counts, means[0], means[1], len(confidences), ece)


def best_temperature(logits: Tensor, labels: Tensor) -> float | None:
    """Finds the number to divide logits by that minimises their cross-entropy (https://arxiv.org/abs/1706.04599, 4.2).

    Uses LBFGS with a line search, which converges to the minimum; 50 steps without one, at rate 0.01, often do not.

    Args:
        logits: `(N, K)`, of images that the network was neither trained nor tested on.
        labels: int64 `(N,)`.

    Returns:
        The temperature; None if there is no minimum: every image is right, or the logits are no better than chance or
        not finite.
    """
    logits = logits.to(torch.float64, copy=True)
    own = logits.gather(1, labels[:, None]).squeeze(1)
    # The cross-entropy is convex in 1 / temperature: it has a minimum if it falls at 0 and rises towards infinity.
    if len(labels) == 0 or not logits.isfinite().all():
        return None
    if (own >= logits.amax(1)).all() or (own - logits.mean(1)).mean() <= 0:
        return None
    with torch.enable_grad():
        log = torch.zeros((), dtype=torch.float64, requires_grad=True)  # of the temperature, which so stays positive
        optimizer = torch.optim.LBFGS(
            [log], max_iter=100, tolerance_grad=1e-9, tolerance_change=1e-12, line_search_fn="strong_wolfe"
        )

        def closure() -> float:
            optimizer.zero_grad()
            loss = F.cross_entropy(logits * torch.exp(-log), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            return loss.item()

        optimizer.step(closure)  # type: ignore[no-untyped-call]
    return log.exp().item()
