"""LoadedImages: the images of a source as a data module uses them, and what is made of them once."""

from collections.abc import Sequence
from functools import cached_property

from torch import Tensor

from cifar_lightning.data.image_set import ImageSet
from cifar_lightning.data.labels import relabelled
from cifar_lightning.data.sharing import connected
from cifar_lightning.data.sources import Source
from cifar_lightning.data.split import split_of


class LoadedImages:
    """The images of a source: each split is read when it is first needed, and kept.

    Args:
        source: Where the images come from.
        train_labels: Where other labels for the training images come from; None for their own.

    Attributes:
        sets: The images read so far, by split.
        bordered: The training images with their borders mirrored, if they are kept, by what else they depend on.
    """

    def __init__(self, source: Source, train_labels: str | None) -> None:
        self.source = source
        self.sets: dict[str, ImageSet] = {}
        self.bordered: dict[tuple[object, ...], Tensor] = {}
        self._train_labels = train_labels
        self._prepared = False
        self._class_order: tuple[str, ...] | None = None
        self._splits: dict[tuple[int | float | str, int], tuple[Tensor, Tensor]] = {}

    def prepare(self) -> None:
        """Has the source download the images if they are missing."""
        if not self._prepared:  # a Trainer asks for it before every fit, validate, test and predict
            self.source.prepare()
            self._prepared = True

    def image_set(self, split: str) -> ImageSet:
        """Returns all images of a split, `train` or `test`."""
        if split not in self.sets:
            images = self.source.load(split, shared=connected())
            if split == "train" and self._train_labels is not None:
                images = relabelled(images, self._train_labels)
            self.sets[split] = images if self._class_order is None else images.counted_as(self._class_order)
        return self.sets[split]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; reads images if none are read yet and they may have names of their own."""
        if self._class_order:
            return self._class_order
        if not self.sets and (known := self.source.classes):
            return known
        return (next(iter(self.sets.values()), None) or self.image_set(self.source.splits[-1])).classes

    def counted_as(self, classes: Sequence[str]) -> "LoadedImages":
        """Returns the same images, with the classes renumbered in the order of `classes`.

        Raises:
            InputError: These are other classes.
        """
        other = LoadedImages(self.source, self._train_labels)
        other.sets = {split: images.counted_as(classes) for split, images in self.sets.items()}
        other._prepared, other._class_order = self._prepared, tuple(classes)
        return other

    def split(self, val_split: int | float | str, seed: int) -> tuple[Tensor, Tensor]:
        """Returns the indices of the training images that are not held out, and of those that are; see `split_of`."""
        if (val_split, seed) not in self._splits:
            images, place = self.image_set("train"), str(self.source.data_dir)
            self._splits[val_split, seed] = split_of(images, val_split, seed, place)
        return self._splits[val_split, seed]

    @cached_property
    def fingerprint(self) -> int:
        """A checksum of the training images and their labels."""
        return self.image_set("train").checksum()
