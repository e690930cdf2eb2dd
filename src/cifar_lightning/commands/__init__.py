"""The commands `cifar-lightning NAME`, also `python -m cifar_lightning NAME` and scripts/NAME.py; one file each.

They import the other packages only once the command line is known to be valid: torch and Lightning take seconds.
"""

import importlib
from collections.abc import Callable, Sequence

NAMES = ("fit", "evaluate", "predict", "compare", "export", "data", "status")


def load(name: str) -> Callable[[Sequence[str]], int | None]:
    """Returns the function that runs a command, given its arguments; the docstring of its module describes it."""
    script: Callable[[Sequence[str]], int | None] = importlib.import_module(f"{__name__}.{name}").script
    return script
