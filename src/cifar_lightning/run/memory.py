"""What does not fit into memory: one line that says what to make smaller."""

from collections.abc import Iterator
from contextlib import contextmanager

from cifar_lightning.data.datamodule import CIFAR10DataModule
from cifar_lightning.errors import RunError, in_short

SIGNS = ("out of memory", "DefaultCPUAllocator: ")  # of a GPU's allocator, and of the CPU's, in what torch says
IN_FIT = (
    "start a new run with smaller ones, in which --trainer.accumulate_grad_batches keeps the steps as large, or make "
    "room, or take more --devices"
)
IN_TEST = "give evaluate a smaller --data.eval_batch_size, or make room"


def of_memory(error: Exception) -> bool:
    """Whether an error says that there is no memory left."""
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in SIGNS)


@contextmanager
def within_memory(data: CIFAR10DataModule, fits: bool) -> Iterator[None]:
    """Within it, that there is no memory left is an error of one line.

    Args:
        data: What the batches are of.
        fits: Whether it is a fit, or a test.

    Raises:
        RunError: It is so.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not of_memory(error):
            raise
        names = ("batch_size", "eval_batch_size") if fits else ("eval_batch_size",)
        sizes = " and ".join(f"{name} {data.hparams[name]}" for name in names)
        raise RunError(f"out of memory with {sizes} ({in_short(error)}): {IN_FIT if fits else IN_TEST}") from error
