"""TorchLoader: a BatchLoader with the type of torch's DataLoader, on which Lightning's Fabric and others insist."""

import warnings
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader, DistributedSampler, SequentialSampler

from cifar_lightning.data.dataset import ImageDataset
from cifar_lightning.data.loader import Batch, BatchLoader
from cifar_lightning.errors import InputError


class TorchLoader(DataLoader[Batch]):
    """A DataLoader that iterates the batches of a BatchLoader.

    `fabric.setup_dataloaders` accepts nothing else; it moves the batches to the device and sets the epoch.

    Args:
        batches: The BatchLoader.
        others: Arguments with which Lightning re-creates a DataLoader. For prediction the batches stay the same. For a
            Trainer's `overfit_batches` Lightning passes a sequential sampler: every epoch then repeats the first.
    """

    dataset: ImageDataset  # type: ignore[assignment]  # it has single images, while DataLoader[Batch] expects batches

    def __init__(self, batches: BatchLoader, **others: Any) -> None:
        # Lightning advises to add workers, which would have nothing to do.
        warnings.filterwarnings("ignore", "The '.*_dataloader' does not have many workers")
        given, drop_last, dataset = batches.given_batch_size, batches.train, batches.dataset
        if isinstance(others.get("sampler"), SequentialSampler):
            batches = batches.repeating()
        super().__init__(dataset, given, sampler=_Shared(batches), drop_last=drop_last)  # type: ignore[arg-type]
        self.batches, self.preprocessing = batches, batches.preprocessing

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]  # torch's returns a class of its own
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "batches" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.batches, name)

    def state_dict(self) -> dict[str, Any]:
        """Returns the position, as the BatchLoader's `state_dict` does."""
        return self.batches.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Makes the next iteration continue from the position in `state_dict`."""
        self.batches.load_state_dict(state_dict)


class _Shared(DistributedSampler[int]):
    """A sampler that shows that the ranks already share the batches, and that passes the epoch on to the BatchLoader.

    It is iterated only if somebody re-creates the DataLoader, as accelerate's `prepare` does.
    """

    def __init__(self, batches: BatchLoader) -> None:
        self.batches = batches

    def set_epoch(self, epoch: int) -> None:
        self.batches.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.batches.labels)

    def __iter__(self) -> Iterator[int]:
        if self.batches.train:  # it shuffles and augments; `dataset` does not
            raise InputError(
                "a DataLoader re-created from train_dataloader() would neither shuffle nor augment: iterate over "
                "train_dataloader() itself, or use "
                'DataLoader(data.dataset("train", transform), batch_size=128, shuffle=True)'
            )
        return iter(range(len(self)))
