"""group.yaml: which runs a folder is a group of.

This module imports nothing heavy: `cifar-lightning status` asks it, in a job's script.
"""

import os
from contextlib import suppress
from pathlib import Path

import yaml

from cifar_lightning.errors import InputError
from cifar_lightning.files import readable

PLAN = "group.yaml"
KINDS = {"seeds": "seed", "folds": "fold"}  # what its runs differ in, and how one is called


def is_group(folder: Path) -> bool:
    """Whether a folder is a group's."""
    return os.path.exists(folder / PLAN)  # False, where Path's raises, in a folder that this user may not see


def read_plan(folder: Path) -> tuple[str, tuple[str, ...]]:
    """What the runs of a group differ in, and their names, which are those of their folders in it.

    Raises:
        InputError: It is no group's, or cannot be read.
    """
    path = folder / PLAN
    with readable(path):
        text = path.read_text("utf-8", errors="replace")
    with suppress(yaml.YAMLError, TypeError, KeyError, ValueError):
        plan = yaml.safe_load(text)
        kind, names = plan["kind"], plan["runs"]
        # a name is a folder's of this folder, whoever has written it
        if kind in KINDS and all(name == Path(name).name for name in names):
            return kind, tuple(names)
    raise InputError(f"{path} is not that of a group of runs: mend it, or give one of the runs in its folder")
