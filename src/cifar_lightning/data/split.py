"""Stratified orders of images, any part of which has all classes alike, and the validation split."""

import re
from typing import NamedTuple

import torch
from torch import Tensor

from cifar_lightning.data.image_set import ImageSet
from cifar_lightning.data.progress import epoch_generator
from cifar_lightning.errors import InputError, quoted


class Fold(NamedTuple):
    """One of several parts of the training images, which are held out in turn: "2of5".

    The images of each class are spread evenly over the folds, to within one image: with few images per class, the folds
    may differ in size.
    """

    number: int  # starting at 1
    folds: int

    def __str__(self) -> str:
        return f"{self.number}of{self.folds}"

    @classmethod
    def of(cls, text: str) -> "Fold | None":
        """Returns the fold that `text` names; None if it names none."""
        parts = re.fullmatch(r"(\d{1,6})of(\d{1,6})", text)
        fold = cls(int(parts[1]), int(parts[2])) if parts else None
        return fold if fold and 1 <= fold.number <= fold.folds and fold.folds > 1 else None


def split_of(images: ImageSet, val_split: int | float | str, seed: int, data_dir: str) -> tuple[Tensor, Tensor]:
    """Returns the indices of the training images and of those held out, by a stratified split or by their owner.

    Raises:
        InputError: Images are held out by both; or the split would hold out all images, or none.
    """
    if not images.held_out:
        if not isinstance(val_split, str):
            return stratified_split(images.labels, val_split, seed)
        fold = Fold.of(val_split)
        assert fold is not None  # `check_ranges` has checked the value
        return stratified_fold(images, fold, seed)
    if val_split:
        raise InputError(
            f"val_split {val_split}: data_dir {data_dir} already has a folder of validation images; "
            "leave out val_split, or move the folder away"
        )
    first = len(images.labels) - images.held_out
    return torch.arange(first), first + stratified_order(images.labels[first:], seed)


def stratified_split(labels: Tensor, val_split: int | float, seed: int) -> tuple[Tensor, Tensor]:
    """Holds out the same share of every class.

    Args:
        labels: `(N,)` int64.
        val_split: How many images to hold out, or a fraction of them.
        seed: The split depends only on the seed and the labels.

    Returns:
        The indices of the rest, sorted, and those of the held-out images, any first part of which is stratified too.

    Raises:
        InputError: The split would hold out all images, or a share of less than one image.
    """
    count = round(val_split * len(labels)) if isinstance(val_split, float) else val_split
    if count >= len(labels):
        raise InputError(
            f"val_split {val_split} leaves none of the {len(labels)} training images: use a smaller val_split"
        )
    if val_split and not count:
        raise InputError(
            f"val_split {val_split} holds out none of the {len(labels)} training images: use a larger val_split, or 0"
        )
    if not count:  # avoids computing the order, which takes memory and time
        return torch.arange(len(labels)), torch.arange(0)
    order = stratified_order(labels, seed)
    return order[count:].sort().values, order[:count]


def stratified_fold(images: ImageSet, fold: Fold, seed: int) -> tuple[Tensor, Tensor]:
    """Holds out one fold; all folds have the same share of every class, to within one image.

    Args:
        images: All training images.
        fold: The fold to hold out. For a given seed, each image is in exactly one fold.
        seed: The folds depend only on the seed and the labels.

    Returns:
        The same as `stratified_split`.

    Raises:
        InputError: There are more folds than images of a class.
    """
    order = stratified_order(images.labels, seed)
    ordered, fold_of = images.labels[order], torch.zeros_like(order)
    sizes = torch.bincount(images.labels, minlength=len(images.classes)).tolist()
    rarest = min((size, label) for label, size in enumerate(sizes) if size)
    if rarest[0] < fold.folds:
        raise InputError(
            f"{fold.folds} folds are more than the {rarest[0]} training images of the class "
            f"{quoted(images.classes[rarest[1]])}: use at most {rarest[0]}"
        )
    for label, size in enumerate(sizes):
        fold_of[ordered == label] = torch.arange(size) * fold.folds // max(size, 1)
    held_out = fold_of == fold.number - 1
    return order[~held_out].sort().values, order[held_out]


def stratified_order(labels: Tensor, seed: int) -> Tensor:
    """Returns the indices `(N,)` of all `labels` in a random order, any first part of which is stratified."""
    # Shuffle, then order by the position within the class relative to the class's size.
    shuffled = torch.randperm(len(labels), generator=epoch_generator(seed, 0))
    by_class = shuffled[torch.sort(labels[shuffled], stable=True).indices]
    sizes = torch.bincount(labels)
    starts = sizes.cumsum(0) - sizes
    ordered = labels[by_class]
    position = torch.arange(len(labels)) - starts[ordered]
    return by_class[torch.sort((position + 0.5) / sizes[ordered], stable=True).indices]
