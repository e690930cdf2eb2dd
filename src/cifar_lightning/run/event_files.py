"""TensorBoard's event files: an extra for those who have it, which ends no run."""

import threading
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger

from cifar_lightning.console import say


@contextmanager
def event_files(folder: Path) -> Iterator[list[Logger]]:
    """Gives a logger that writes them into `folder`, or none where TensorBoard is not installed, or broken."""
    try:
        logger = EventFiles(folder, name="", version="", default_hp_metric=False)
    except ModuleNotFoundError:
        yield []
        return
    logger.begin()
    hook = threading.excepthook
    threading.excepthook = lambda failed: None if _is_writer(failed.thread) else hook(failed)
    try:
        yield [] if logger.failed else [logger]
    finally:
        threading.excepthook = hook


def _is_writer(thread: threading.Thread | None) -> bool:
    """Whether it is the one in which TensorBoard writes: it hands its error on to the next call, which says it."""
    return type(thread).__module__.partition(".")[0] in ("tensorboard", "tensorboardX")


class EventFiles(TensorBoardLogger):
    """Lightning's logger, until something fails in it: that is said in a line, and from then on it does nothing.

    Attributes:
        failed: Whether something has.
    """

    failed = False

    def begin(self) -> None:
        """Imports TensorBoard and opens the file, where Lightning's would do so with the first figures."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it warns of at its import is its own affair
            self._attempt("TensorBoard cannot be used ({}): no event files", lambda: self.experiment)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Writes figures."""
        self._write(super().log_metrics, metrics, step)

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Notes them, for hparams.yaml."""
        self._write(super().log_hyperparams, params, *args, **kwargs)

    def save(self) -> None:
        """Flushes what has been written."""
        self._write(super().save)

    def finalize(self, status: str) -> None:
        """Closes the file."""
        self._write(super().finalize, status)

    def _write(self, method: Callable[..., object], *args: Any, **kwargs: Any) -> None:
        self._attempt("TensorBoard's event files end here ({})", lambda: method(*args, **kwargs))

    def _attempt(self, note: str, action: Callable[[], object]) -> None:
        if self.failed:
            return
        try:
            action()
        except Exception as error:  # a broken installation raises what it likes
            self.failed = True
            cause = error.__cause__ or error  # Lightning wraps what a writer raises
            reason = ": ".join([type(cause).__name__, *str(cause).splitlines()[:1]])
            say(f"note: {note.format(reason[:200])}")
