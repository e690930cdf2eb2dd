"""group.yaml, the file that makes a folder a group of runs and names them.

This module imports nothing heavy, because `cifar-lightning status` uses it in job scripts.
"""

import os
from contextlib import suppress
from pathlib import Path

import yaml

from cifar_lightning.errors import InputError
from cifar_lightning.files import readable

PLAN = "group.yaml"
KINDS = {"seeds": "seed", "folds": "fold"}  # what the runs of a group differ in, and its singular


def is_group(folder: Path) -> bool:
    """Returns whether a folder is a group's."""
    return os.path.exists(folder / PLAN)  # False in a folder that this user may not see, where Path.exists raises


def read_plan(folder: Path) -> tuple[str, tuple[str, ...]]:
    """Returns what the runs of a group differ in, and their names, which are also their folders' names.

    Raises:
        InputError: The folder is not a group's, or group.yaml cannot be read.
    """
    path = folder / PLAN
    with readable(path):
        text = path.read_text("utf-8", errors="replace")
    with suppress(yaml.YAMLError, TypeError, KeyError, ValueError):
        plan = yaml.safe_load(text)
        kind, names = plan["kind"], plan["runs"]
        # The file may come from anywhere: each name must name a folder directly in this one.
        if kind in KINDS and all(name == Path(name).name for name in names):
            return kind, tuple(names)
    raise InputError(f"{path} does not describe a group of runs: fix it, or use one of the runs in its folder")
