"""Outcome: all that a report is made of, as plain values."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from torch import Tensor

from cifar_lightning.data.image_set import ImageSet
from cifar_lightning.report.calibration import Reliability, best_temperature, reliability
from cifar_lightning.report.judgements import Judgements


class Calibrated(NamedTuple):
    """What a network's confidences are worth where its logits are divided by a temperature; two means over all images.

    Attributes:
        temperature: It; 1 leaves them as they are.
        bins: The images by their confidence.
        confidence: The mean of that.
        loss: The mean cross-entropy.
    """

    temperature: float
    bins: Reliability
    confidence: float
    loss: float


@dataclass(frozen=True, eq=False)
class Outcome:
    """A test's outcome, and what its figures and its page show, as plain values.

    Attributes:
        confusion: int64 counts `(K, K)`, rows = true class.
        loss: Mean cross-entropy of the test images.
        classes: The K names.
        facts: Further entries of results.json, with `checkpoint`, what was tested, and its `step`.
        training_images: Some of those it has learnt from; None where it is not known to have learnt from these.
        test_images: Those it was tested on, in their order.
        numbers: int64, which of the test set each of these is.
        predicted: int64, the classes that they were counted as.
        logits: `(N, K)`, theirs.
        rows: Those of the training's metrics.csv; none where it is not at hand.
        label_smoothing: That of the training loss.
        settings: The text of the training's config.yaml; empty where it is not at hand.
        held_out: Logits and labels of the validation images; None where there are none.
        grad_cam: What gives maps `(n, h, w)` of the evidence for a class in each of some images, uint8 and int64, or
            None where the network has no convolution.
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
    settings: str = ""
    held_out: tuple[Tensor, Tensor] | None = None
    grad_cam: Callable[[Tensor, Tensor], Tensor | None] = lambda images, classes: None

    @cached_property
    def judgements(self) -> Judgements:
        """What the network says of each test image."""
        return Judgements(self.logits, self.test_images.labels, self.predicted)

    @cached_property
    def temperature(self) -> float | None:
        """That which suits the validation images best; None where there are none, or none does."""
        return best_temperature(*self.held_out) if self.held_out else None

    @cached_property
    def calibrations(self) -> list[Calibrated]:
        """As the network is, and at the temperature where there is one."""
        found, said = [], self.judgements
        for temperature in (1.0, *([] if self.temperature is None else [self.temperature])):
            confidences, losses = said.at(temperature)
            bins = reliability(confidences, said.right)
            found.append(Calibrated(temperature, bins, confidences.mean().item(), losses.mean().item()))
        return found
