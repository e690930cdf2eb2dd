"""Imports without garbage collection: they leave no garbage, and searching their million objects takes over 1 s."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_looks() -> Iterator[None]:
    """A context without garbage collection."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


@contextmanager
def lasting() -> Iterator[None]:
    """A context without garbage collection. All objects that exist at its end are left out of later collections too.

    They stay as long as the process does.

    https://docs.python.org/3/library/gc.html#gc.freeze
    """
    try:
        with no_looks():
            yield
    finally:
        gc.freeze()
