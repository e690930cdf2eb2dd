"""A group of runs of one recipe: a folder that holds group.yaml and an ordinary run's folder for each run."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from cifar_lightning.data.split import Fold
from cifar_lightning.errors import InputError
from cifar_lightning.files import write_atomically
from cifar_lightning.run.changes import changed
from cifar_lightning.run.ended import results_in
from cifar_lightning.run.folder import held, new_folder
from cifar_lightning.run.plan import PLAN, is_group, read_plan
from cifar_lightning.run.settings import Settings, read_settings


@dataclass(frozen=True)
class Group:
    """A group of runs.

    Attributes:
        folder: The group's folder.
        kind: What its runs differ in: seeds, or folds.
        names: The names of the runs, and of their folders.
    """

    folder: Path
    kind: str
    names: tuple[str, ...]

    def left(self) -> list[str]:
        """Returns the names of the runs that have not finished."""
        return [name for name in self.names if results_in(self.folder / name) is None]

    def for_each(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the part of `changes` that goes to each run; checks `changes` against the first run's settings.

        Raises:
            InputError: A change would change the result.
        """
        changes = dict(changes)
        if self.kind == "folds" and not changes.get("data.val_split"):  # a recipe has it; here each run has its own
            changes.pop("data.val_split", None)
        first = self.folder / self.names[0]
        before = read_settings(first)
        after = changed(before, changes, first)
        _check_length(self.folder, before, after)
        return {name: value for name, value in changes.items() if (self.kind, name) != ("seeds", "seed")}


def check_member(folder: Path, before: Settings, after: Settings) -> None:
    """Raises an InputError if a run belongs to a group, and `after` would make its length differ from the others'."""
    folder = folder.absolute()
    if is_group(folder.parent) and folder.name in read_group(folder.parent).names:
        _check_length(folder.parent, before, after)


def _check_length(group: Path, before: Settings, after: Settings) -> None:
    had, given = before.by_flags(), after.by_flags()
    for name in ("max_epochs", "max_steps", "trainer.max_time"):
        if (value := given.get(name)) != (own := had.get(name)):
            raise InputError(f"{name} {value}: all runs of {group} have {name} {own}; start a new group")


def counted(seeds: int | None, folds: int | None) -> tuple[str, int]:
    """Returns what the runs of a group differ in ("seeds" or "folds"), and their number.

    Raises:
        InputError: Both or neither are given, or the number is less than 2.
    """
    kind, count = ("seeds", seeds) if folds is None else ("folds", folds)
    if (seeds is None) == (folds is None):
        raise InputError("seeds and folds: pass exactly one of them, such as seeds 10 or folds 5")
    if type(count) is not int or count < 2:
        raise InputError(
            f"{kind} {count!r}: must be a whole number of at least 2; for a single run leave out --{kind}, or in "
            "Python use fit"
        )
    return kind, count


def members(settings: Settings, kind: str, count: int) -> dict[str, Settings]:
    """Returns the settings of each run of a group, by its name.

    Args:
        settings: The settings that all runs share, with the seed of the first run.
        kind: What the runs differ in.
        count: Number of runs.

    Raises:
        InputError: The settings do not allow such a group.
    """
    if settings.num_nodes != 1:
        raise InputError(
            f"{kind} {count}: a group of runs trains on one machine; use num_nodes 1, and divide the {kind} among your "
            "machines yourself"
        )
    settings = replace(settings, report=False)  # the report is on the whole group
    if kind == "seeds":
        last = settings.seed + count - 1
        if last >= 2**32:
            raise InputError(
                f"seeds {count} from seed {settings.seed} on exceed {2**32 - 1}, the highest seed: use a lower seed"
            )
        return {f"seed_{seed}": replace(settings, seed=seed) for seed in range(settings.seed, last + 1)}
    if split := settings.data["val_split"]:
        raise InputError(f"folds {count}: each run is validated on its own fold; leave out val_split {split}")
    all_folds = (Fold(number, count) for number in range(1, count + 1))
    return {
        f"fold_{fold.number}": replace(settings, data={**settings.data, "val_split": str(fold)}) for fold in all_folds
    }


@contextmanager
def new_group(kind: str, runs: dict[str, Settings]) -> Iterator[Group]:
    """A context that makes a group's folder, with all its runs ready to be resumed, and keeps other jobs out of it."""
    first = next(iter(runs.values()))
    folder = new_folder(first.default_root_dir)
    group = Group(folder, kind, tuple(runs))
    with held(folder):
        for name, settings in runs.items():
            settings.write(folder / name)
        text = yaml.safe_dump({"kind": kind, "runs": list(runs)}, sort_keys=False)
        write_atomically(folder / PLAN, text.encode())  # last: it makes the folder a group's
        yield group


def read_group(folder: Path) -> Group:
    """Reads the group in a folder.

    Raises:
        InputError: The folder is not a group's.
    """
    return Group(folder, *read_plan(folder))


def runs_in(folders: Sequence[Path]) -> list[Path]:
    """Returns the folders, with each group's folder replaced by the folders of its runs."""
    return [
        run
        for folder in folders
        for run in ([folder / name for name in read_group(folder).names] if is_group(folder) else [folder])
    ]
