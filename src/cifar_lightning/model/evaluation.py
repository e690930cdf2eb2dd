"""Evaluation: the figures that are computed from the logits of a validation or a test."""

from collections.abc import Iterator, Sequence

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric, Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix
from torchmetrics.utilities.data import dim_zero_cat


def against_people(people: Tensor, logits: Tensor) -> dict[str, float]:
    """Compares a network's predicted distributions over the classes with those of human annotators.

    Args:
        people: The annotators' distribution for each image, `(N, classes)`; each row sums to 1.
        logits: The network's logits, `(N, classes)`.

    Returns:
        cross_entropy: Of the network's predictions against the annotators' distributions: the mean over images, in
            nats.
        entropy: Of the annotators' distributions: the lower bound of the cross-entropy.
        agreement: The share of images whose predicted class is the one that most annotators chose, or one of those tied
            for it.
    """
    people, logits = people.double(), logits.double()
    chosen = people.gather(1, logits.argmax(1, keepdim=True))[:, 0]
    surprise = -logits.log_softmax(1)  # infinite if the network rules a class out; ignored if people do too
    return {
        "cross_entropy": torch.where(people > 0, people * surprise, 0).sum(1).mean().item(),
        "entropy": -torch.xlogy(people, people).sum(1).mean().item(),
        "agreement": (chosen == people.amax(1)).double().mean().item(),
    }


class Evaluation(nn.Module):
    """The figures of an evaluation over all ranks: accuracy overall and per class, confusion counts, mean loss.

    Args:
        classes: Names of the classes, in the order of the labels.
        keeps_logits: Whether to keep the logits of every image too.
    """

    def __init__(self, classes: Sequence[str], keeps_logits: bool = False) -> None:
        super().__init__()
        self.classes = classes
        count = len(classes)
        self.metrics = MetricCollection(
            {
                # "micro" counts images; torchmetrics' default, "macro", is the mean over the classes
                "acc": MulticlassAccuracy(count, average="micro", validate_args=False),
                "acc_per_class": MulticlassAccuracy(count, average=None, validate_args=False),
                "confusion": MulticlassConfusionMatrix(count, validate_args=False),
                "loss": MeanMetric(nan_strategy="disable"),
                "predicted": OfEachImage(),
                **({"logits": OfEachImage()} if keeps_logits else {}),
            }
        )

    def start(self) -> None:
        """Drops what an interrupted evaluation counted; sums losses in float32, even in true half precision."""
        self.metrics.reset()
        self.metrics["loss"].set_dtype(torch.float32)

    def count(self, logits: Tensor, labels: Tensor, batch: int) -> None:
        """Adds a batch to the figures.

        Args:
            logits: `(N, classes)`.
            labels: int64 `(N,)`.
            batch: The batch's index among the batches of all ranks.
        """
        predicted = logits.argmax(1)
        self.metrics["predicted"].update(predicted, batch)
        if "logits" in self.metrics:
            self.metrics["logits"].update(logits, batch)
        self.metrics["loss"].update(F.cross_entropy(logits, labels, reduction="none"))
        for name in ("acc", "acc_per_class", "confusion"):
            self.metrics[name].update(predicted, labels)

    def finish(self, module: LightningModule, prefix: str) -> dict[str, Tensor]:
        """Computes the figures, logs the scalars under the names of `names`, and resets the counts.

        A class without images is not logged: it has no accuracy, which differs from an accuracy of 0.

        Returns:
            All figures, on the CPU: acc, acc_per_class `(classes,)`, confusion `(classes, classes)`, loss; predicted,
            int64 `(images,)`, the predicted class of each image, in the order of the batches; and, if they are kept,
            logits `(images, classes)`, in the same order.
        """
        figures = self.metrics.compute()  # over all ranks
        on_cpu = {name: value.cpu() for name, value in figures.items()}
        on_cpu["predicted"] = on_cpu["predicted"].view(-1)  # torchmetrics turns a single image's into a 0-d tensor
        # The figures to log stay on the GPU: NCCL reduces no others.
        values = (figures["loss"], figures["acc"], *figures["acc_per_class"])
        images = (1, 1, *on_cpu["confusion"].sum(1).tolist())
        named = zip(names(prefix, self.classes), values, images, strict=True)
        # All ranks already have the same figures, but Lightning warns without sync_dist. The maximum of equal figures
        # is exact; their mean may be rounded.
        scalars = {name: value for name, value, count in named if count}
        module.log_dict(scalars, sync_dist=True, reduce_fx="max")
        self.metrics.reset()
        return on_cpu


class OfEachImage(Metric):
    """A metric that keeps a value per image, such as the predicted class, of all ranks, in the order of the batches."""

    values: list[Tensor]
    batch: list[Tensor]
    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        self.add_state("values", [], dist_reduce_fx="cat")
        self.add_state("batch", [], dist_reduce_fx="cat")

    def update(self, values: Tensor, batch: int) -> None:
        """Adds the values of a batch, `(N, …)`, and the batch's index."""
        self.values.append(values)
        self.batch.append(torch.full((len(values),), batch, device=values.device))

    def compute(self) -> Tensor:
        """Returns the values of all images, `(images, …)`."""
        return dim_zero_cat(self.values)[dim_zero_cat(self.batch).argsort(stable=True)]


def names(prefix: str, classes: Sequence[str]) -> Iterator[str]:
    """Yields the names that an evaluation logs: for "val", `val_loss`, `val_acc`, and `val_acc/<class>` per class."""
    yield f"{prefix}_loss"
    yield f"{prefix}_acc"
    yield from (f"{prefix}_acc/{name}" for name in classes)
