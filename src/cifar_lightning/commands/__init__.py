"""The commands: what `cifar-lightning NAME`, `python -m cifar_lightning NAME` and scripts/NAME.py do, a file each.

They import the rooms only once the command line is known to be right, for torch and Lightning take seconds.
"""

import importlib
from collections.abc import Callable, Sequence

NAMES = ("fit", "evaluate", "predict", "compare", "export", "data", "status")


def load(name: str) -> Callable[[Sequence[str]], int | None]:
    """The function that does what a command says, given its arguments; its module's docstring tells of it."""
    script: Callable[[Sequence[str]], int | None] = importlib.import_module(f"{__name__}.{name}").script
    return script
