"""Imports without garbage collection: they leave no garbage, and searching their million objects takes over 1 s."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collection() -> Iterator[None]:
    """A context without garbage collection."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


@contextmanager
def freezing() -> Iterator[None]:
    """A context without garbage collection. All objects that exist at its end are left out of later collections too.

    They stay as long as the process does.

    https://docs.python.org/3/library/gc.html#gc.freeze
    """
    try:
        with without_collection():
            yield
    finally:
        gc.freeze()
