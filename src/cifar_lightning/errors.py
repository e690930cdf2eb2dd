"""The errors that end a job, with their exit codes, and the warning that ends nothing."""

import os
import traceback
from collections.abc import Sequence
from pathlib import Path

_NOT_THE_USERS = {"site-packages", "dist-packages"}  # folders of installed packages


class InputError(ValueError):
    """A mistake in what the user gave: one line with the value, the cause and the next step. Exit code 2.

    Example:
        >>> CIFAR10DataModule(batch_size=0)
        Traceback (most recent call last):
        cifar_lightning.errors.InputError: batch_size 0: must be at least 1
    """


class ImageWarning(UserWarning):
    """Something about the images that a user should know, but that does not end the job: one line."""


class NonFiniteError(RuntimeError):
    """Training has met NaN or infinity, most often because the learning rate was too high. Exit code 3.

    Example:
        >>> small = {"source": "synthetic", "synthetic_size": 100}
        >>> try:
        ...     fit(small, {"lr": 1e10}, max_epochs=1, accelerator="cpu")
        ... except NonFiniteError:
        ...     print("a lower learning rate next time")
        lightning_logs/version_... starts: 1 x cpu, batch size 4, 1 epoch
        computes on the CPU ...
        a lower learning rate next time
    """


class RunError(RuntimeError):
    """A run failed for a reason outside it, such as a full disk: one line. Exit code 1."""


class LostRankError(RunError):
    """Another rank of the job, or its machine, is gone: one rank on each machine reports it."""


class Stopped(BaseException):
    """The job was told to stop by a signal. Exit code 128 + the signal's number, as in a shell.

    Not an `Exception`: nothing that handles errors should take it for one.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


_OF_CODE: dict[int, type[Exception]] = {2: InputError, 3: NonFiniteError}


def exit_code(error: BaseException) -> int:
    """The exit code of a process that ends with `error`."""
    if isinstance(error, Stopped):
        return 128 + error.signum
    return next((code for code, kind in _OF_CODE.items() if isinstance(error, kind)), 1)


def kind_of(code: int) -> type[Exception]:
    """Returns the error that one of our processes failed with, by its exit code."""
    return _OF_CODE.get(code, RunError)


def in_short(error: BaseException) -> str:
    """Summarises an error of other people's code for a message: its type, and the first line of its text."""
    return ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])[:200]


def place_of(error: BaseException) -> str:
    """Returns where a user's code raised an error, as " in mine.py, line 15"; nothing if no file of theirs took part.

    That is the innermost line that is not in our package, in an installed one or in Python's library.
    """
    others = (Path(__file__).parent, Path(os.__file__).parent)
    place = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        file = Path(frame.f_code.co_filename)
        if not os.path.isfile(file) or _NOT_THE_USERS & set(file.parts) or any(file.is_relative_to(x) for x in others):
            continue  # no file: code that Python or torch has made, such as <frozen importlib._bootstrap>
        here = Path.cwd()
        place = f" in {quoted(str(file.relative_to(here) if file.is_relative_to(here) else file))}, line {line}"
    return place


def quoted(name: str) -> str:
    """Returns the name of a file or a class for a message, in quotes if a reader could not see where it ends."""
    return name if name == name.strip() and name.isprintable() and name else repr(name)


def number_of(count: int, thing: str) -> str:
    """Returns how many there are of a thing, for a message: "1 image", "2,000 images"."""
    return f"{count:,} {thing}{'s' * (count != 1)}"


def brief(value: object) -> str:
    """Returns a value for a message, in one line; if that is too long, its type."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"of type {type(value).__name__}"


def some(names: Sequence[str]) -> str:
    """Returns the first few of many names for a message, and how many there are."""
    return ", ".join(map(quoted, names[:3])) + (f", … ({len(names)})" if len(names) > 3 else "")
