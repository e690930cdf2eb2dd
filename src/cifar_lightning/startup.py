"""Start-up of a process: whether runs work on its system, and the import of torch and Lightning."""

import gc
import getpass
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


def check_system() -> None:
    """Raises an ImportError, of one line, on a system without what runs stand on, such as locks and signals."""
    try:
        import fcntl  # noqa: F401
    except ImportError:
        raise ImportError(
            "runs and scripts need Linux or macOS, and this system has no fcntl: use WSL, or CIFAR10DataModule, LitNet "
            "and load_model from Python"
        ) from None


@contextmanager
def importing() -> Iterator[None]:
    """Within it they are imported in two thirds of the time, and whatever the user's surroundings.

    Their million objects stay as long as the process does: looking for garbage among them, while they are made and
    later, takes over a second. https://docs.python.org/3/library/gc.html#gc.freeze
    """
    if "torch" in sys.modules:
        yield
        return
    _settle()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.freeze()


def _settle() -> None:
    """Puts right what of a user's surroundings would end such an import, would be warned of in it, or hides a report.

    In a container a user may have no name, and no home or none to write to.
    """
    if any(option.startswith("error") for option in sys.warnoptions):
        warnings.simplefilter("default")  # what these libraries deprecate of each other is to be seen, but ends no run
    try:
        getpass.getuser()
    except (KeyError, OSError):  # torch 2.11 asks, for the name of a folder
        os.environ["USER"] = f"uid_{os.getuid()}"
    if not os.path.isabs(os.path.expanduser("~")):  # matplotlib 3.9 asks
        os.environ["HOME"] = "/"  # as `docker run -u 12345` has it
    if not os.environ.get("COLUMNS", "80").strip("0"):
        del os.environ["COLUMNS"]  # rich would print nothing in a width of 0
    # matplotlib, which torchmetrics imports, then caches in a folder that is gone at the end, and warns of it
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    os.environ["MPLBACKEND"] = "agg"  # nothing is shown here, and it does not start with one that it does not have
