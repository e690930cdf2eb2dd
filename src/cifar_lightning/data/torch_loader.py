"""TorchLoader: a BatchLoader by the type of torch's DataLoader, on which Lightning's Fabric and others insist."""

import warnings
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader, DistributedSampler, SequentialSampler

from cifar_lightning.data.dataset import ImageDataset
from cifar_lightning.data.loader import Batch, BatchLoader
from cifar_lightning.errors import InputError


class TorchLoader(DataLoader[Batch]):
    """Iterates the batches of a BatchLoader, and has what a DataLoader has.

    `fabric.setup_dataloaders` takes no other, moves its batches to the device and tells it the epoch.

    Args:
        batches: The loader.
        others: What Lightning would have another DataLoader made anew with, to predict: the same batches serve; in
            order, for a Trainer's `overfit_batches`: then those of the first epoch do, in every one.
    """

    dataset: ImageDataset  # type: ignore[assignment]  # of images, where a batch is one of tensors

    def __init__(self, batches: BatchLoader, **others: Any) -> None:
        # The workers that Lightning advises to give would have nothing to do.
        warnings.filterwarnings("ignore", "The '.*_dataloader' does not have many workers")
        given, drop_last, dataset = batches.given_batch_size, batches.train, batches.dataset
        if isinstance(others.get("sampler"), SequentialSampler):
            batches = batches.repeating()
        super().__init__(dataset, given, sampler=_Shared(batches), drop_last=drop_last)  # type: ignore[arg-type]
        self.batches, self.preprocessing = batches, batches.preprocessing

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]  # that of torch names a class of its own
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "batches" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.batches, name)

    def state_dict(self) -> dict[str, Any]:
        """That of the batches."""
        return self.batches.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Has the batches go on from there."""
        self.batches.load_state_dict(state_dict)


class _Shared(DistributedSampler[int]):
    """Says that the ranks share the batches already, and hears of the epoch.

    It is asked for an index only where somebody makes a DataLoader anew, as accelerate's `prepare` does.
    """

    def __init__(self, batches: BatchLoader) -> None:
        self.batches = batches

    def set_epoch(self, epoch: int) -> None:
        self.batches.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.batches.labels)

    def __iter__(self) -> Iterator[int]:
        if self.batches.train:  # whose images are shuffled and augmented by it, not by their dataset
            raise InputError(
                "a DataLoader made anew from train_dataloader() would neither shuffle nor augment: iterate that as it "
                'is, or make DataLoader(data.dataset("train", transform), batch_size=128, shuffle=True)'
            )
        return iter(range(len(self)))
