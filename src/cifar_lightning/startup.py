"""The start of a process: checks that runs work on its system, and speeds up the import of torch and Lightning."""

import getpass
import importlib
import importlib.util
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cifar_lightning.compiler import defer_compiler
from cifar_lightning.garbage import freezing


def check_system() -> None:
    """Raises a one-line ImportError on a system that lacks what runs need, such as locks and signals."""
    try:
        import fcntl  # noqa: F401
    except ImportError:
        raise ImportError(
            "runs and scripts need Linux or macOS, and this system has no fcntl: use WSL, or CIFAR10DataModule, LitNet "
            "and load_model from Python"
        ) from None


# Packages that torchmetrics, which Lightning imports, imports in turn if they are installed: for metrics of audio and
# of bounding boxes, and to plot a metric. Our reports do not draw with torchmetrics.
UNUSED = {"scipy", "torchvision", "matplotlib"}


@contextmanager
def importing() -> Iterator[None]:
    """A context for importing torch and Lightning: in a third of the time, and whatever the user's environment."""
    if "torch" in sys.modules:
        yield
        return
    _settle()
    with freezing(), unused_left_out():
        defer_compiler()
        _import_counter()
        yield


def _import_counter() -> None:
    """Imports torch's counter of operations without Triton, whose kernels it would count too: 70 MB for nothing."""
    logging.getLogger("torch.utils.flop_counter").setLevel(logging.ERROR)  # it would warn that Triton is missing
    if importlib.util.find_spec("triton") is None or "triton" in sys.modules:
        return
    sys.modules["triton"] = None  # type: ignore[assignment]  # makes its import fail
    try:
        import torch.utils.flop_counter  # noqa: F401
    finally:
        del sys.modules["triton"]


@contextmanager
def unused_left_out() -> Iterator[None]:
    """A context in which only torchmetrics takes the UNUSED packages for missing: saves over a second, and 75 MB."""
    try:
        module: Any = importlib.import_module("lightning_utilities.core.imports")
        available, check = module.package_available, module.RequirementCache._check_requirement
    except (ImportError, AttributeError):  # another version, which checks in another way
        yield
        return

    def check_others(cache: Any) -> None:
        if cache.requirement in UNUSED:
            cache.available, cache.message = False, f"{cache.requirement} is left out of this process's torchmetrics"
        else:
            check(cache)

    module.package_available = lambda name: name not in UNUSED and available(name)
    module.RequirementCache._check_requirement = check_others
    try:
        yield
    finally:
        module.package_available, module.RequirementCache._check_requirement = available, check


def _settle() -> None:
    """Corrects what in a user's environment would break these imports, cause warnings in them, or hide output.

    In a container a user may have no name, and either no home or one that cannot be written to.
    """
    if any(option.startswith("error") for option in sys.warnoptions):
        warnings.simplefilter("default")  # shows deprecation warnings among these libraries, but they end no run
    try:
        getpass.getuser()
    except (KeyError, OSError):  # torch 2.11 names a folder after the user
        os.environ["USER"] = f"uid_{os.getuid()}"
    if not os.path.isabs(os.path.expanduser("~")):  # matplotlib 3.9 needs a home
        os.environ["HOME"] = "/"  # as under `docker run -u 12345`
    if not os.environ.get("COLUMNS", "80").strip("0"):
        del os.environ["COLUMNS"]  # rich would print nothing in a width of 0
    # Without a home to write to, matplotlib caches in a temporary folder when it draws a report, and warns of that.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    os.environ["MPLBACKEND"] = "agg"  # nothing is shown, and a backend that is not installed would be an error
