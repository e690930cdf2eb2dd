"""group.yaml: which runs a folder is a group of.

This module imports nothing heavy: `cifar-lightning status` asks it, in a job's script.
"""

from pathlib import Path

import yaml

from cifar_lightning.errors import InputError

PLAN = "group.yaml"
KINDS = {"seeds": "seed", "folds": "fold"}  # what its runs differ in, and how one is called


def is_group(folder: Path) -> bool:
    """Whether a folder is a group's."""
    return (folder / PLAN).exists()


def read_plan(folder: Path) -> tuple[str, tuple[str, ...]]:
    """What the runs of a group differ in, and their names, which are those of their folders in it.

    Raises:
        InputError: It is no group's.
    """
    path = folder / PLAN
    try:
        plan = yaml.safe_load(path.read_text("utf-8"))
        kind, names = plan["kind"], plan["runs"]
        # a name is a folder's of this folder, whoever has written it
        if kind in KINDS and all(name == Path(name).name for name in names):
            return kind, tuple(names)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, TypeError, KeyError) as error:
        raise InputError(f"nothing to resume: {folder} is no group of runs (no readable {PLAN})") from error
    raise InputError(f"nothing to resume: {path} is not that of a group of runs")
