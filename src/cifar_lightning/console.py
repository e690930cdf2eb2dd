"""Standard output and error: whatever they can show, and whether or not somebody still reads them."""

import io
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cifar_lightning.errors import ImageWarning


def print_anything() -> None:
    """Has a name or a sign that the terminal's encoding lacks be printed as a "?", in place of an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


@contextmanager
def printing(descriptor: int) -> Iterator[None]:
    """For what is printed to standard output (1) or error (2): one that nobody reads any more ends no run.

    A terminal may be closed without a signal, and `head` has seen enough: what comes after goes nowhere.
    """
    try:
        yield
    except (OSError, SystemExit):  # the latter is rich's for a broken pipe: see its Console.on_broken_pipe
        to_nowhere(descriptor)


@contextmanager
def notes(silent: bool = False) -> Iterator[None]:
    """Within it, what is to be known of the images is printed to standard error, in a line each.

    Args:
        silent: Another process says it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if silent else "always", ImageWarning)
        others = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *args: Any, **kwargs: Any) -> None:
            if issubclass(category, ImageWarning):
                with printing(2):
                    print(f"note: {message}", file=sys.stderr, flush=True)
            else:
                others(message, category, *args, **kwargs)

        warnings.showwarning = show
        yield


def to_nowhere(descriptor: int) -> None:
    """Whatever is printed to it from now on is dropped."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
