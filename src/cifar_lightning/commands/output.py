"""Standard output, where what is printed there is what a command is for."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from cifar_lightning.console import printing
from cifar_lightning.errors import RunError


@contextmanager
def output() -> Iterator[None]:
    """For what a command is asked to print: as `printing`, but a disk that is full does not end in 0.

    Raises:
        RunError: It is.
    """
    with printing(1):
        try:
            yield
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise RunError(f"could not print all of it ({error.strerror}): make room, or print elsewhere") from error
