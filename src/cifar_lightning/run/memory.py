"""Turns an error for lack of memory into one line that says what to make smaller."""

from collections.abc import Iterator
from contextlib import contextmanager

from cifar_lightning.data.datamodule import CIFAR10DataModule
from cifar_lightning.errors import RunError, in_short

SIGNS = ("out of memory", "DefaultCPUAllocator: ")  # in torch's errors: from a GPU's allocator, and from the CPU's
IN_FIT = (
    "start a new run with smaller ones (--trainer.accumulate_grad_batches keeps the steps as large), free memory, or "
    "use more --devices"
)
IN_TEST = "use evaluate with a smaller --data.eval_batch_size, or free memory"


def is_out_of_memory(error: Exception) -> bool:
    """Returns whether an error says that there is no memory left."""
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in SIGNS)


@contextmanager
def within_memory(data: CIFAR10DataModule, fits: bool) -> Iterator[None]:
    """A context in which a lack of memory is an error of one line.

    Args:
        data: The data module, for the batch sizes in the message.
        fits: Whether this is a fit; otherwise it is a test.

    Raises:
        RunError: There is no memory left.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        names = ("batch_size", "eval_batch_size") if fits else ("eval_batch_size",)
        sizes = " and ".join(f"{name} {data.hparams[name]}" for name in names)
        raise RunError(f"out of memory with {sizes} ({in_short(error)}): {IN_FIT if fits else IN_TEST}") from error
