"""How a job of ours ends badly, the exit code that says so, and what is only to be known."""

from collections.abc import Sequence


class InputError(ValueError):
    """A mistake in what the user gave: one line with the value, the cause and the next step. Exit code 2.

    Example:
        >>> CIFAR10DataModule(batch_size=0)
        Traceback (most recent call last):
        cifar_lightning.errors.InputError: batch_size 0 is out of range: give 1 or more
    """


class ImageWarning(UserWarning):
    """Something about the images that a user should know, and that ends nothing: one line."""


class NonFiniteError(RuntimeError):
    """Training has met NaN or infinity: the learning rate was too high, most often. Exit code 3.

    Example:
        >>> small = {"source": "synthetic", "synthetic_size": 100}
        >>> try:
        ...     fit(small, {"lr": 1e10}, max_epochs=1, accelerator="cpu")
        ... except NonFiniteError:
        ...     print("a lower learning rate next time")
        lightning_logs/version_... starts: 1 x cpu, batch 4, 1 epoch
        computes on the CPU ...
        a lower learning rate next time
    """


class RunError(RuntimeError):
    """A run failed for a reason outside it, such as a full disk: one line. Exit code 1."""


class LostRankError(RunError):
    """Another rank of the job, or its machine, is gone: one rank on each machine says so."""


class Stopped(BaseException):
    """The job was told to stop by a signal. Exit code 128 + the signal's number, as a shell has it.

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
    """What a process of ours has failed by that has ended with this exit code."""
    return _OF_CODE.get(code, RunError)


def in_short(error: BaseException) -> str:
    """What somebody else's code has raised, for a message: its kind, and the first line that it says."""
    return ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])[:200]


def quoted(name: str) -> str:
    """A file's or a class's name for a message: in quotes where it would not be seen to end."""
    return name if name == name.strip() and name.isprintable() and name else repr(name)


def brief(value: object) -> str:
    """A value for a message, in one line; of a long one, its type."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"of type {type(value).__name__}"


def some(names: Sequence[str]) -> str:
    """The first few of many names for a message, and how many there are."""
    return ", ".join(map(quoted, names[:3])) + (f", … ({len(names)})" if len(names) > 3 else "")
