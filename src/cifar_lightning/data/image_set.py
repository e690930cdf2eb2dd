"""Labelled images in memory, as every source returns them."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cifar_lightning.data.cache import Decoded
from cifar_lightning.data.class_names import numbers_in
from cifar_lightning.errors import InputError, some


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images in memory.

    Attributes:
        images: uint8 (N, 3, 32, 32), in torch.channels_last, the layout from which the loader gathers fastest.
        labels: int64 (N,), indices into `classes`.
        classes: Names of the classes.
        held_out: Number of images, at the end, that their owner has set aside for validation.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    held_out: int = 0

    @property
    def pixels(self) -> npt.NDArray[np.uint8]:
        """The images as an array (N, 32, 32, 3); not a copy if they are stored in this layout."""
        pixels: npt.NDArray[np.uint8] = self.images.permute(0, 2, 3, 1).contiguous().numpy()
        return pixels

    def part(self, index: Tensor) -> "ImageSet":
        """Returns some of the images, with their labels.

        Args:
            index: Indices of the images, int64 `(n,)`.

        Returns:
            These images in this order, none of them held out; not a copy if they are all images in their own order,
            since copying takes a tenth of a second.
        """
        whole = torch.equal(index, torch.arange(len(self.labels)))
        images, labels = (self.images, self.labels) if whole else (self.images[index], self.labels[index])
        return ImageSet(images, labels, self.classes)

    def checksum(self) -> int:
        """Computes a checksum of the images and their labels.

        Returns:
            A CRC-32.
        """
        return zlib.crc32(self.labels.numpy().data, zlib.crc32(self.pixels.data))

    def counted_as(self, classes: Sequence[str]) -> "ImageSet":
        """Returns the same images, with labels that are indices into `classes`: the same classes in another order.

        Raises:
            InputError: `classes` are other classes.
        """
        numbers = numbers_in(classes, self.classes)
        if numbers is None:
            raise InputError(
                f"the images have the classes {some(self.classes)}, not {some(classes)}: use images of the same classes"
            )
        return replace(self, labels=torch.tensor(numbers)[self.labels], classes=tuple(classes))


def image_set_of(decoded: Decoded) -> ImageSet:
    """Makes an ImageSet of a decoder's result; both share memory, so the result must not be changed afterwards."""
    images = torch.from_numpy(decoded.images).permute(0, 3, 1, 2)
    return ImageSet(images, torch.from_numpy(decoded.labels), decoded.classes, decoded.held_out)
