"""Orders of images of which every part has all classes alike, and the validation split."""

import torch
from torch import Tensor

from cifar_lightning.data.place import epoch_generator
from cifar_lightning.data.sources import ImageSet
from cifar_lightning.errors import InputError


def split_of(images: ImageSet, val_split: int | float, seed: int, data_dir: str) -> tuple[Tensor, Tensor]:
    """The indices of the training images and of those held out: by `stratified_split`, or by their owner.

    Raises:
        InputError: By both; or it would hold out all images.
    """
    if not images.held_out:
        return stratified_split(images.labels, val_split, seed)
    if val_split:
        raise InputError(
            f"val_split {val_split}: data_dir {data_dir} has a folder of validation images already: "
            "leave val_split out, or move the folder away"
        )
    first = len(images.labels) - images.held_out
    return torch.arange(first), first + stratified_order(images.labels[first:], seed)


def stratified_split(labels: Tensor, val_split: int | float, seed: int) -> tuple[Tensor, Tensor]:
    """Holds out the same share of every class.

    Args:
        labels: `(N,)` int64.
        val_split: How many images to hold out, or a fraction of them.
        seed: The split is a function of it and of the labels.

    Returns:
        The indices of the rest, sorted, and of the held-out images, of which any first part is stratified too.

    Raises:
        InputError: It would hold out all images.
    """
    count = round(val_split * len(labels)) if isinstance(val_split, float) else val_split
    if count >= len(labels):
        raise InputError(f"val_split {val_split} leaves none of the {len(labels)} training images: give less")
    order = stratified_order(labels, seed)
    return order[count:].sort().values, order[:count]


def stratified_order(labels: Tensor, seed: int) -> Tensor:
    """Indices `(N,)` of all the images of which `labels` are, in a random order: any first part is stratified."""
    # Shuffle, then order by the position within the class relative to the class's size.
    shuffled = torch.randperm(len(labels), generator=epoch_generator(seed, 0))
    by_class = shuffled[torch.sort(labels[shuffled], stable=True).indices]
    sizes = torch.bincount(labels)
    starts = sizes.cumsum(0) - sizes
    ordered = labels[by_class]
    position = torch.arange(len(labels)) - starts[ordered]
    return by_class[torch.sort((position + 0.5) / sizes[ordered], stable=True).indices]
