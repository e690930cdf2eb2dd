"""ImageDataset: images one by one, as torchvision's datasets return them, for other people's loops and tools."""

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from cifar_lightning.data.image_set import ImageSet

if TYPE_CHECKING:
    from PIL import Image


class ImageDataset(Dataset[tuple[Any, int]]):
    """An ImageSet with the interface of `torchvision.datasets.CIFAR10`.

    Args:
        images: The ImageSet.
        transform: Called with each image, a PIL image of 32×32 pixels.

    Attributes:
        data: The images, a uint8 array `(N, 32, 32, 3)`; made on first use, as `targets` is.
        targets: The labels, a list.
        classes: Names of the classes.
        class_to_idx: Label of each name.
    """

    def __init__(
        self,
        images: ImageSet,
        transform: Callable[["Image.Image"], Any] | None = None,
    ) -> None:
        self._images = images
        self.classes = list(images.classes)
        self.class_to_idx = {name: label for label, name in enumerate(self.classes)}
        self.transform = transform

    @cached_property
    def data(self) -> npt.NDArray[np.uint8]:
        """The images."""
        array: npt.NDArray[np.uint8] = self._images.images.permute(0, 2, 3, 1).cpu().numpy()
        return array

    @cached_property
    def targets(self) -> list[int]:
        """The labels."""
        labels: list[int] = self._images.labels.tolist()
        return labels

    def __len__(self) -> int:
        return len(self._images.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        """Returns an image, as a PIL image or the result of `transform`, and its label."""
        from PIL import Image

        image: Any = Image.fromarray(self.data[index])
        return image if self.transform is None else self.transform(image), self.targets[index]
