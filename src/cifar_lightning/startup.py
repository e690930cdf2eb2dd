"""Start-up of a process that is to import torch and Lightning."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """Within it they are imported in two thirds of the time.

    Their million objects stay as long as the process does: looking for garbage among them, while they are made and
    later, takes over a second. https://docs.python.org/3/library/gc.html#gc.freeze
    """
    if "torch" in sys.modules:
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.freeze()
