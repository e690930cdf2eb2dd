"""Standard output of commands whose purpose is to print."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from cifar_lightning.console import printing
from cifar_lightning.errors import RunError


@contextmanager
def output() -> Iterator[None]:
    """A context for a command's output: like `printing`, but a full disk is an error.

    Raises:
        RunError: The disk is full.
    """
    with printing(1):
        try:
            yield
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise RunError(
                f"could not print all of it ({error.strerror}): free disk space, or print elsewhere"
            ) from error
