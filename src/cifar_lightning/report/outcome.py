"""Outcome: everything that a report is made of, as plain values."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from torch import Tensor

from cifar_lightning.data.image_set import ImageSet
from cifar_lightning.report.calibration import Reliability, best_temperature, reliability
from cifar_lightning.report.judgements import Judgements


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

    @cached_property
    def judgements(self) -> Judgements:
        """What the network predicts for each test image."""
        return Judgements(self.logits, self.test_images.labels, self.predicted)

    @cached_property
    def temperature(self) -> float | None:
        """The temperature that suits the validation images best; None if there are no such images, or no best one."""
        return best_temperature(*self.held_out) if self.held_out else None

    @cached_property
    def calibrations(self) -> list[Calibrated]:
        """The calibration of the network as it is, and at the best temperature if there is one."""
        found, said = [], self.judgements
        for temperature in (1.0, *([] if self.temperature is None else [self.temperature])):
            confidences, losses = said.at(temperature)
            bins = reliability(confidences, said.right)
            found.append(Calibrated(temperature, bins, confidences.mean().item(), losses.mean().item()))
        return found
