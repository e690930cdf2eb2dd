"""Start-up of a process: whether runs work on its system, and the import of torch and Lightning."""

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
from cifar_lightning.garbage import lasting


def check_system() -> None:
    """Raises an ImportError, of one line, on a system without what runs stand on, such as locks and signals."""
    try:
        import fcntl  # noqa: F401
    except ImportError:
        raise ImportError(
            "runs and scripts need Linux or macOS, and this system has no fcntl: use WSL, or CIFAR10DataModule, LitNet "
            "and load_model from Python"
        ) from None


# What torchmetrics, which Lightning imports, imports in its turn where it is there: for metrics of sounds and of boxes,
# and to plot one. A report draws without it.
UNUSED = {"scipy", "torchvision", "matplotlib"}


@contextmanager
def importing() -> Iterator[None]:
    """Within it they are imported in a third of the time, and whatever the user's surroundings."""
    if "torch" in sys.modules:
        yield
        return
    _settle()
    with lasting(), unused_left_out():
        defer_compiler()
        _import_counter()
        yield


def _import_counter() -> None:
    """Imports what counts a step's operations without Triton, whose kernels it would count: 70 MB for nothing."""
    logging.getLogger("torch.utils.flop_counter").setLevel(logging.ERROR)  # it would warn
    if importlib.util.find_spec("triton") is None or "triton" in sys.modules:
        return
    sys.modules["triton"] = None  # type: ignore[assignment]  # an import of it fails
    try:
        import torch.utils.flop_counter  # noqa: F401
    finally:
        del sys.modules["triton"]


@contextmanager
def unused_left_out() -> Iterator[None]:
    """Within it torchmetrics takes UNUSED for missing: over a second, and 75 MB. Whoever else may import them."""
    try:
        module: Any = importlib.import_module("lightning_utilities.core.imports")
        available, check = module.package_available, module.RequirementCache._check_requirement
    except (ImportError, AttributeError):  # another version, which looks in another way
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
    # matplotlib, where it draws a report, then caches in a folder that is gone at the end, and warns of it
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    os.environ["MPLBACKEND"] = "agg"  # nothing is shown here, and it does not start with one that it does not have
