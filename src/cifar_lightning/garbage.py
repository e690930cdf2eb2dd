"""Imports without looks for garbage: they leave none, and looks take over a second of their million objects."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_looks() -> Iterator[None]:
    """Within it nobody looks for garbage."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


@contextmanager
def lasting() -> Iterator[None]:
    """Likewise, and all that there is at its end is kept from later looks: it stays as long as the process does.

    https://docs.python.org/3/library/gc.html#gc.freeze
    """
    try:
        with no_looks():
            yield
    finally:
        gc.freeze()
