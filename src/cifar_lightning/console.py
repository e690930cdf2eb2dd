"""Standard output and error: whatever they can show, and whether or not somebody still reads them."""

import io
import math
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from cifar_lightning.errors import ImageWarning


def open_closed() -> None:
    """Opens /dev/null in place of each standard stream that is closed (`2>&-`, a daemon). To be called first of all.

    Else the next file to be opened, such as one of images, would get its number, and would be written into by whatever
    prints.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
            os.set_inheritable(opened, True)
        if getattr(sys, name) is None:
            # not by its number, which may be that of another program's file
            setattr(sys, name, open(os.devnull, "w" if descriptor else "r", encoding="utf-8"))  # noqa: SIM115


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
                say(f"note: {message}")
            else:
                others(message, category, *args, **kwargs)

        warnings.showwarning = show
        yield


def say(line: str, descriptor: int = 2) -> None:
    """Prints a line to standard error (2) or output (1), whether or not somebody reads it."""
    with printing(descriptor):
        print(line, file=sys.stderr if descriptor == 2 else sys.stdout, flush=True)


def flush() -> None:
    """Prints what is left of both, before this process ends at once, or is forked: the child would print it, too."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # nobody reads it, or it has been closed
            stream.flush()


def to_nowhere(descriptor: int) -> None:
    """Whatever is printed to it from now on is dropped."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def percent(share: float | None, digits: int = 1) -> str:
    """A share as lines and tables have it; None is of what has no images, and NaN of logits that are not finite."""
    return "n/a" if share is None or math.isnan(share) else f"{100 * share:.{digits}f} %"


def decimal(value: float | None, digits: int = 3) -> str:
    """Any other number, in as much room; None is what results.json has in place of one that is not finite."""
    if value is None or not math.isfinite(value):
        return "n/a"
    return f"{value:.{digits}f}" if abs(value) < 1e6 else f"{value:.{digits}g}"


def rounded_down(share: float, digits: int = 0) -> float:
    """A share as that many digits of its percentage have it: only what is certain is 100 %. NaN stays."""
    scale = 100 * 10**digits
    return share if math.isnan(share) else math.floor(scale * share) / scale
