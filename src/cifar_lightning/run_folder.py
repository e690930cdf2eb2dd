"""A run's folder: `lightning_logs/version_N`, with all the settings of the run in config.yaml."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from cifar_lightning.errors import InputError
from cifar_lightning.storage import write_atomically

Settings = dict[str, Any]

# Settings that say where and how a run goes on, not what it computes.
FREE = {
    "accelerator", "devices", "num_nodes", "strategy", "default_root_dir", "checkpoint_every_n_steps",
    "data.data_dir", "data.mirror", "data.device",
}  # fmt: skip


def changed_settings(settings: Settings, changes: Mapping[str, Any]) -> Settings:
    """`settings` with `changes`.

    Raises:
        InputError: One of them would change the result; all those are named.
    """
    settings = copy.deepcopy(settings)
    refused = []
    for name, value in changes.items():
        group, _, key = name.rpartition(".")
        target = settings[group] if group else settings
        before = target.get(key)
        if before == value:
            continue
        if name not in FREE and not (name == "max_epochs" and value > before):
            refused.append(f"--{name} (the run has {before}, not {value})")
        target[key] = value
    if refused:
        raise InputError(
            f"{', '.join(refused)} would change the result of a resumed run: leave out, or start a new run"
        )
    return settings


def read_settings(folder: Path) -> Settings:
    """The settings of a run, from its config.yaml.

    Raises:
        InputError: There is no such run.
    """
    try:
        settings = yaml.safe_load((folder / "config.yaml").read_text())
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"nothing to resume: {folder} is no run's folder (it has no readable config.yaml)") from error
    if not isinstance(settings, dict):
        raise InputError(f"nothing to resume: {folder / 'config.yaml'} is no run's settings")
    return settings


def newest_unfinished(default_root_dir: str | Path) -> Path | None:
    """The newest run of a log folder that has begun and not finished, if there is one."""
    runs = [path for path in (Path(default_root_dir) / "lightning_logs").glob("version_*") if path.is_dir()]
    unfinished = [run for run in runs if (run / "config.yaml").exists() and not (run / "results.json").exists()]
    return max(unfinished, key=lambda run: int(run.name.removeprefix("version_")), default=None)


def new_run(settings: Settings) -> Path:
    """Makes the next free `lightning_logs/version_N`. Runs started together get one each."""
    root = Path(settings["default_root_dir"]) / "lightning_logs"
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
        raise InputError(f"default_root_dir {settings['default_root_dir']}: {error.strerror}; give another") from error
    folder = root / f"version_{number}"
    write_settings(folder, settings)
    return folder


def write_settings(folder: Path, settings: Settings) -> None:
    """Writes config.yaml, from which the run can be repeated or resumed."""
    text = yaml.safe_dump(settings, sort_keys=False)
    write_atomically(folder / "config.yaml", lambda file: file.write(text.encode()))
