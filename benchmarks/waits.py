"""Counts the operations for which the host must wait for the device."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
TAGS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
INDEXING = (aten.index.Tensor, aten.index_put_.default, aten._index_put_impl_.default)


def must_wait(func: Any, args: Sequence[Any]) -> bool:
    """Whether the host must wait at an operation on a GPU, because it needs the value or the shape of the result."""
    if func in INDEXING:  # only for a mask: the host must know how many elements it selects
        return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
    return not TAGS.isdisjoint(func.tags)


@contextmanager
def counted_waits(accelerator: str) -> Iterator[Callable[[], int]]:
    """Counts, in this thread, the operations in which the host must wait for the device.

    On a GPU torch itself reports them. On the CPU nothing waits, so it counts the operations that would wait on a GPU:
    those that `must_wait`, and tensors converted to numbers, lists or arrays.
    """
    if accelerator == "gpu":
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                yield lambda: sum("synchronizing" in str(warning.message) for warning in seen)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        return

    count = 0

    class Operations(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal count
            count += must_wait(func, args)
            return func(*args, **(kwargs or {}))

    class Methods(TorchFunctionMode):  # on the CPU these methods are not dispatched as operations
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal count
            count += func in (Tensor.cpu, Tensor.numpy, Tensor.tolist)
            return func(*args, **(kwargs or {}))

    with Operations(), Methods():
        yield lambda: count
