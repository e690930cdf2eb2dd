"""A run's folder: `lightning_logs/version_N`, with all the settings of the run in config.yaml."""

import copy
import fcntl
import inspect
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from cifar_lightning.errors import InputError
from cifar_lightning.files import write_atomically

Settings = dict[str, Any]

HELD_SECONDS = 30.0  # that a job may need to leave a run, once its launcher is gone


class RunInUseError(InputError):
    """Another job is in the run's folder."""


# Arguments of the data module, the network and the Trainer that a run sets itself, and what to do.
FROM_ELSEWHERE = {
    "data.seed": "by the run's seed: give that",
    "model.classes": "by the images: leave it out",
    **{
        f"trainer.{name}": "by this package: leave it out"
        for name in ("callbacks", "enable_checkpointing", "enable_progress_bar", "logger", "plugins")
    },
}
NO_FLAGS = {*FROM_ELSEWHERE, "data.device"}
# Settings that say where and how a run goes on, not what it computes.
FREE = {
    "accelerator", "devices", "num_nodes", "strategy", "default_root_dir", "checkpoint_every_n_steps",
    "data.data_dir", "data.mirror", "data.device", "trainer.max_time",
}  # fmt: skip


def changed_settings(settings: Settings, changes: Mapping[str, Any]) -> Settings:
    """`settings` with `changes`.

    Raises:
        InputError: One of them would change the result; all those are named.
    """
    settings = copy.deepcopy(settings)
    refused = []
    changes = dict(changes)
    changes |= {f"trainer.{name}": value for name, value in (changes.pop("trainer", None) or {}).items()}
    for name, value in changes.items():
        group, _, key = name.rpartition(".")
        target = settings[group] if group else settings
        before = target.get(key)
        if before == value:
            continue
        if name not in FREE and not (name in ("max_epochs", "max_steps") and _is_longer(value, before)):
            refused.append(f"--{name} (the run has {before}, not {value})")
        target[key] = value
    if refused:
        raise InputError(
            f"{', '.join(refused)} would change the result of a resumed run: leave out, or start a new run"
        )
    return settings


def _is_longer(value: int, before: int | None) -> bool:
    return before is not None and before != -1 and (value == -1 or value > before)  # -1 is no limit


def plain_settings(settings: Mapping[str, Any], group: str = "") -> Settings:
    """`settings` as config.yaml and the ranks take them: paths as text, numbers as Python's own.

    Raises:
        InputError: A value is none of text, numbers, lists and dictionaries; or it is set from elsewhere.
    """
    plain: Settings = {}
    for key, value in settings.items():
        name = f"{group}.{key}" if group else key
        if name in FROM_ELSEWHERE:
            raise InputError(f"{name} is set {FROM_ELSEWHERE[name]}")
        if isinstance(value, os.PathLike):
            value = os.fspath(value)
        elif isinstance(value, Mapping):
            value = plain_settings(value, name)
        elif isinstance(value, np.generic):
            value = value.item()
        elif isinstance(value, list | tuple):
            value = list(plain_settings({str(i): item for i, item in enumerate(value)}, name).values())
        elif not isinstance(value, str | int | float | None):
            raise InputError(f"{name} {value!r} cannot be kept in config.yaml: give text, a number or a list of them")
        plain[key] = value
    return plain


def check_names(settings: Mapping[str, Any], group: str, kind: type) -> None:
    """Raises an InputError where a group's `settings` name what is no argument of `kind`."""
    known = inspect.signature(kind).parameters
    if unknown := sorted(set(settings) - set(known)):
        raise InputError(f"{group}.{unknown[0]} is no argument of {kind.__name__}: give some of {', '.join(known)}")


def with_defaults(settings: Settings, group: str, kind: type) -> Settings:
    """A group's `settings`, and what the others are by default: config.yaml has them all, whoever starts the run."""
    check_names(settings, group, kind)
    defaults = {name: parameter.default for name, parameter in inspect.signature(kind).parameters.items()}
    return {name: value for name, value in defaults.items() if f"{group}.{name}" not in NO_FLAGS} | settings


def read_settings(folder: Path) -> Settings:
    """The settings of a run, from its config.yaml.

    Raises:
        InputError: There is no such run.
    """
    try:
        settings = yaml.safe_load((folder / "config.yaml").read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"nothing to resume: {folder} is no run's folder (it has no readable config.yaml)") from error
    groups = [settings.get(name) for name in ("data", "model", "trainer")] if isinstance(settings, dict) else []
    if not groups or not all(isinstance(group, dict) for group in groups) or "max_epochs" not in settings:
        raise InputError(f"nothing to resume: {folder / 'config.yaml'} is not the settings of a run of fit.py")
    return settings  # type: ignore[no-any-return]  # it is a dictionary


@contextmanager
def held(folder: Path, seconds: float = HELD_SECONDS) -> Iterator[int]:
    """Keeps every other job out of a run's folder, waiting for `seconds` for one that is about to leave it.

    It holds a file descriptor, which it gives: the folder is free once all processes that have inherited it are gone,
    so a run whose launcher was killed is not resumed while its ranks still save.

    Raises:
        RunInUseError: Another job has it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        deadline, waiting = time.monotonic() + seconds, False
        while not _lock(descriptor):
            if time.monotonic() > deadline:
                raise RunInUseError(f"{folder} is in use by another job: wait for it to end, or stop it")
            if not waiting:
                print(f"waiting for the job that is in {folder}", file=sys.stderr, flush=True)
            waiting = True
            time.sleep(0.1)
        yield descriptor
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # a file system without locks: nobody can be kept out
    return True


def newest_unfinished(default_root_dir: str | Path) -> Path | None:
    """The newest run of a log folder that has begun and not finished, and that no job is in, if there is one."""
    logs = Path(os.path.expanduser(default_root_dir)) / "lightning_logs"
    runs = [path for path in logs.glob("version_*") if path.is_dir()]
    runs = [run for run in runs if run.name.removeprefix("version_").isdigit()]
    deadline = time.monotonic() + HELD_SECONDS
    for run in sorted(runs, key=lambda run: int(run.name.removeprefix("version_")), reverse=True):
        try:
            begun = (run / "config.yaml").exists() and os.access(run, os.W_OK)
            if not begun or (run / "results.json").exists():
                continue
            read_settings(run)
            with held(run, max(0.0, deadline - time.monotonic())):
                return run
        except RunInUseError:
            continue
        # that of another program, such as Lightning's own command line, or one that only another user can read
        except (InputError, OSError) as error:
            print(f"passing over {run}: {error}", file=sys.stderr, flush=True)
    return None


def new_folder(default_root_dir: str) -> Path:
    """Makes the next free `lightning_logs/version_N`. Runs started together get one each."""
    root = Path(default_root_dir) / "lightning_logs"
    try:
        root.mkdir(parents=True, exist_ok=True)
        taken = [int(path.name[8:]) for path in root.glob("version_*") if path.name[8:].isdigit()]
        number = max(taken, default=-1) + 1
        while True:
            try:
                (root / f"version_{number}").mkdir()
                break
            except FileExistsError:
                number += 1
    except OSError as error:
        raise InputError(f"default_root_dir {default_root_dir}: {error.strerror}; give another") from error
    return root / f"version_{number}"


def write_settings(folder: Path, settings: Settings) -> None:
    """Writes config.yaml, from which the run can be repeated or resumed."""
    text = yaml.safe_dump(settings, sort_keys=False)
    write_atomically(folder / "config.yaml", lambda file: file.write(text.encode()))
