"""How ranks share the images: whole batches in an evaluation, and equal parts of every batch in training."""

import torch.distributed as dist

from cifar_lightning.errors import InputError, number_of


def connected() -> bool:
    """Returns whether this process is a rank in an initialised process group of torch."""
    return dist.is_available() and dist.is_initialized()


def evaluation_batches(images: int, batch_size: int, world_size: int) -> int:
    """Returns the number of batches, of at most `batch_size`, in an evaluation of `images`.

    It is a multiple of 8, so that any number of ranks up to 8 evaluates the same batches, with bit-identical results.
    With 1, 2, 4 or 8 ranks each has equally many batches; otherwise collectives in a user's test step would wait for
    ever. For more than 8 ranks it is a multiple of their number. If there are too few images, each is a batch.
    """
    multiple = max(8, world_size)
    return min(images, multiple * -(-images // (multiple * batch_size)))


def check_evaluation(images: int, world_size: int) -> None:
    """Raises an InputError if some ranks would have no image: Lightning cannot evaluate then."""
    if 0 < images < world_size:
        raise InputError(
            f"{world_size} devices are more than the {number_of(images, 'image')} of an evaluation: "
            f"use at most {number_of(images, 'device')}, or more images"
        )


def check_batch_size(batch_size: int, images: int, world_size: int) -> None:
    """Raises an InputError if `batch_size` is not a multiple of `world_size`, less than 1 or more than the images."""
    if batch_size < 1:
        raise InputError(f"batch_size {batch_size}: must be at least 1")
    if batch_size > images:
        raise InputError(f"batch_size {batch_size} is more than the {images} training images: use at most {images}")
    if batch_size % world_size:
        below, above = batch_size // world_size * world_size, -(-batch_size // world_size) * world_size
        possible = " or ".join(str(size) for size in (below, above) if 0 < size <= images)
        what = f"use {possible}" if possible else "use fewer devices, or more images"
        raise InputError(
            f"batch_size {batch_size} cannot be shared by {world_size} devices: it is the global batch, "
            f"the images per step over all devices; {what}"
        )
