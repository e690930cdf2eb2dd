"""Printing to standard output and error, whatever their encoding, and whether or not anybody still reads them."""

import errno
import io
import math
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from cifar_lightning.errors import ImageWarning, RunError


def open_closed() -> None:
    """Opens /dev/null in place of each closed standard stream (`2>&-`, a daemon). Must be called before anything else.

    Otherwise the next file that is opened, such as a file of images, would get the descriptor of the stream, and
    whatever prints would write into it.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # gets the lowest free descriptor, which is this one
            os.set_inheritable(opened, True)
        if getattr(sys, name) is None:
            # not by its descriptor, which may be that of another program's file
            setattr(sys, name, open(os.devnull, "w" if descriptor else "r", encoding="utf-8"))  # noqa: SIM115


def print_anything() -> None:
    """Makes both streams print "?" for characters that the terminal's encoding lacks, instead of raising an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


@contextmanager
def printing(descriptor: int) -> Iterator[None]:
    """A context for printing to standard output (1) or error (2), in which a stream without a reader ends no run.

    A terminal may close without a signal, and `head` stops reading. What is printed after that is dropped.
    """
    try:
        yield
    except (OSError, SystemExit):  # rich raises the latter for a broken pipe: see its Console.on_broken_pipe
        to_nowhere(descriptor)


@contextmanager
def output() -> Iterator[None]:
    """A context for a command whose purpose is to print: like `printing(1)`, but a full disk is an error.

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


@contextmanager
def notes(silent: bool = False) -> Iterator[None]:
    """A context in which warnings about the images are printed to standard error, one line each.

    Args:
        silent: Whether to print none, because another process prints them.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if silent else "always", ImageWarning)
        others = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *args: Any, **kwargs: Any) -> None:
            if issubclass(category, ImageWarning):
                say(f"note: {message}")
            else:
                others(message, category, *args, **kwargs)

        warnings.showwarning = show
        yield


def say(line: str, descriptor: int = 2) -> None:
    """Prints a line to standard error (2) or output (1), whether or not anybody reads it."""
    with printing(descriptor):
        print(line, file=sys.stderr if descriptor == 2 else sys.stdout, flush=True)


def flush() -> None:
    """Flushes both streams. Needed before `os._exit`, and before a fork: the child would print the rest again."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # nobody reads it, or it has been closed
            stream.flush()


def to_nowhere(descriptor: int) -> None:
    """Drops whatever is printed to `descriptor` from now on."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def percent(share: float | None, digits: int = 1) -> str:
    """Formats a share for lines and tables. None: there are no images; NaN: logits are not finite."""
    return "n/a" if share is None or math.isnan(share) else f"{100 * share:.{digits}f} %"


def decimal(value: float | None, digits: int = 3) -> str:
    """Formats any other number, in as much room. results.json has None in place of numbers that are not finite."""
    if value is None or not math.isfinite(value):
        return "n/a"
    return f"{value:.{digits}f}" if abs(value) < 1e6 else f"{value:.{digits}g}"


def rounded_down(share: float) -> float:
    """Rounds a share down to a tenth of a per cent, so that only certainty is 100 %. NaN stays NaN."""
    return share if math.isnan(share) else math.floor(1_000 * share) / 1_000
