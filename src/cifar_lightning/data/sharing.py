"""How ranks share the images: whole batches of an evaluation, and equal parts of every training batch."""

import torch.distributed as dist

from cifar_lightning.errors import InputError


def connected() -> bool:
    """Whether this process is a rank of several, as far as torch knows."""
    return dist.is_available() and dist.is_initialized()


def evaluation_batches(images: int, batch_size: int, world_size: int) -> int:
    """How many batches, of at most `batch_size`, an evaluation of `images` takes.

    A multiple of 8, so that up to 8 ranks share the same ones, and their figures agree to the last bit; 1, 2, 4 and 8
    ranks have equally many each, or collectives in somebody's test step would wait for ever. With more ranks, a
    multiple of those. Where there are fewer images, one each.
    """
    multiple = max(8, world_size)
    return min(images, multiple * -(-images // (multiple * batch_size)))


def check_evaluation(images: int, world_size: int) -> None:
    """Raises an InputError where some of the ranks would have no image: Lightning cannot evaluate then."""
    if 0 < images < world_size:
        raise InputError(
            f"devices: {world_size} are more than the {images} image{'s' * (images != 1)} of an evaluation: "
            f"give at most {images}, or more images"
        )


def check_batch_size(batch_size: int, images: int, world_size: int) -> None:
    """Raises an InputError where `batch_size` images cannot be shared by `world_size` ranks, or are not there."""
    if batch_size < 1:
        raise InputError(f"batch_size {batch_size} is less than 1: give a positive number of images")
    if batch_size > images:
        raise InputError(f"batch_size {batch_size} is more than the {images} training images: give at most {images}")
    if batch_size % world_size:
        below, above = batch_size // world_size * world_size, -(-batch_size // world_size) * world_size
        nearest = f"{below} or {above}" if below else f"{above}"
        raise InputError(
            f"batch_size {batch_size} cannot be shared by {world_size} devices: it is the global batch, "
            f"images per step over all devices; give {nearest}"
        )
