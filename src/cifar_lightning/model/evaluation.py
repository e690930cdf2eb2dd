"""An evaluation: the views of its images that are averaged over, and the figures that it counts."""

from collections.abc import Callable, Iterator, Sequence

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric, Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix
from torchmetrics.utilities.data import dim_zero_cat


def _six_views(images: Tensor) -> list[tuple[float, Tensor]]:
    padded = F.pad(images, (1, 1, 1, 1), mode="reflect")
    # In the others' memory format, so that one compiled network serves all.
    shifted = [x.contiguous(memory_format=torch.channels_last) for x in (padded[:, :, 2:, 2:], padded[:, :, :-2, :-2])]
    return [
        *((0.25, view) for view in (images, images.flip(3))),
        *((0.125, view) for shift in shifted for view in (shift, shift.flip(3))),
    ]


# By name, each with its weight: see LitNet's `test_views`.
VIEWS: dict[str, Callable[[Tensor], list[tuple[float, Tensor]]]] = {
    "one": lambda images: [(1.0, images)],
    "mirror": lambda images: [(0.5, images), (0.5, images.flip(3))],
    "six": _six_views,
}


def mean_logits(net: Callable[[Tensor], Tensor], images: Tensor, views: str) -> Tensor:
    """Logits of `net`, averaged over views of the images, in a precision of at least 32 bits.

    In bfloat16, of eight digits, a mean would make ties. One view's are converted before the next is computed: a CUDA
    graph gives them all the same memory.
    """
    logits = [weight * _float32(net(view)) for weight, view in VIEWS[views](images)]
    return torch.stack(logits).sum(0)


def _float32(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def against_people(people: Tensor, logits: Tensor) -> dict[str, float]:
    """How far a network's answers are from people's, each a distribution over the classes for an image.

    Args:
        people: `(N, classes)`, the sum of a row is 1.
        logits: The network's, `(N, classes)`.

    Returns:
        cross_entropy: The network's against people's, in nats, the mean over the images.
        entropy: People's own, the least that there is.
        agreement: The share of the images taken for the class that most people chose, or one of several that as many
            did.
    """
    people, logits = people.double(), logits.double()
    chosen = people.gather(1, logits.argmax(1, keepdim=True))[:, 0]
    surprise = -logits.log_softmax(1)  # infinite for a class that the network rules out, as people may, too
    return {
        "cross_entropy": torch.where(people > 0, people * surprise, 0).sum(1).mean().item(),
        "entropy": -torch.xlogy(people, people).sum(1).mean().item(),
        "agreement": (chosen == people.amax(1)).double().mean().item(),
    }


class Evaluation(nn.Module):
    """The figures of an evaluation over all ranks: accuracy, per class too, confusion counts, mean loss.

    Args:
        classes: Names of the classes, in the order of the labels.
        keeps_logits: Whether those of every image are kept, too.
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
        """Forgets an evaluation that was cut short; has losses summed in float32, in a true half precision too."""
        self.metrics.reset()
        self.metrics["loss"].set_dtype(torch.float32)

    def count(self, logits: Tensor, labels: Tensor, batch: int) -> None:
        """Counts a batch.

        Args:
            logits: `(N, classes)`.
            labels: int64 `(N,)`.
            batch: Its number, among those of all ranks.
        """
        predicted = logits.argmax(1)
        self.metrics["predicted"].update(predicted, batch)
        if "logits" in self.metrics:
            self.metrics["logits"].update(logits, batch)
        self.metrics["loss"].update(F.cross_entropy(logits, labels, reduction="none"))
        for name in ("acc", "acc_per_class", "confusion"):
            self.metrics[name].update(predicted, labels)

    def finish(self, module: LightningModule, prefix: str) -> dict[str, Tensor]:
        """Logs the scalars that have been counted, named as in `names`, and begins anew.

        A class without images has no accuracy, which is not one of 0.

        Returns:
            All figures, on the CPU: acc, acc_per_class `(classes,)`, confusion `(classes, classes)`, loss; and
            predicted, int64 `(images,)`, the class that each was counted as, in the order of the batches; and logits
            `(images, classes)`, likewise, where they are kept.
        """
        figures = self.metrics.compute()  # over all ranks
        on_cpu = {name: value.cpu() for name, value in figures.items()}
        on_cpu["predicted"] = on_cpu["predicted"].view(-1)  # torchmetrics makes a number of one image's
        # The figures to log stay on their device: NCCL takes no others.
        values = (figures["loss"], figures["acc"], *figures["acc_per_class"])
        images = (1, 1, *on_cpu["confusion"].sum(1).tolist())
        named = zip(names(prefix, self.classes), values, images, strict=True)
        # The ranks have the same figures already; Lightning warns without sync_dist. The maximum of equal figures is
        # exactly those; their mean may be rounded.
        scalars = {name: value for name, value, count in named if count}
        module.log_dict(scalars, sync_dist=True, reduce_fx="max")
        self.metrics.reset()
        return on_cpu


class OfEachImage(Metric):
    """A value of each image, such as the class that it was counted as, over all ranks, in the order of the batches."""

    values: list[Tensor]
    batch: list[Tensor]
    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        self.add_state("values", [], dist_reduce_fx="cat")
        self.add_state("batch", [], dist_reduce_fx="cat")

    def update(self, values: Tensor, batch: int) -> None:
        """Adds those of a batch, `(N, …)`, and its number."""
        self.values.append(values)
        self.batch.append(torch.full((len(values),), batch, device=values.device))

    def compute(self) -> Tensor:
        """`(images, …)`."""
        return dim_zero_cat(self.values)[dim_zero_cat(self.batch).argsort(stable=True)]


def names(prefix: str, classes: Sequence[str]) -> Iterator[str]:
    """What an evaluation logs its figures as: `val_loss`, `val_acc`, `val_acc/<class>` for the prefix "val"."""
    yield f"{prefix}_loss"
    yield f"{prefix}_acc"
    yield from (f"{prefix}_acc/{name}" for name in classes)
