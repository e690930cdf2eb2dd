"""Changes of a run's settings, when it is resumed: those that do not change its result, or make it longer."""

import inspect
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from cifar_lightning.arguments import typed
from cifar_lightning.errors import InputError
from cifar_lightning.run.cluster import this_rank
from cifar_lightning.run.devices import devices_and_nodes, resolve_devices
from cifar_lightning.run.networks import is_import_path
from cifar_lightning.run.precision import crawls, resolve_precision
from cifar_lightning.run.settings import (
    GROUPS,
    PATHS,
    Arguments,
    Settings,
    by_flags,
    check_names,
    check_trainer_names,
    dictionary,
    in_place,
    plain,
    seconds_in,
)

# Settings that say where and how a run is computed, not what: they can be changed on resuming.
FREE = {
    "accelerator", "devices", "num_nodes", "strategy", "default_root_dir", "checkpoint_every_n_steps", "verify_steps",
    "threads", "logger", "report", "data.data_dir", "data.mirror", "data.train_labels", "data.device",
}  # fmt: skip
INDIFFERENT = FREE - {"data.train_labels"}  # `compare` disregards these; a file of labels may hold other labels


def changed(settings: Settings, changes: Mapping[str, Any], folder: Path) -> Settings:
    """Returns the settings of the run in `folder` with `changes`; see `check_changes`.

    Raises:
        InputError: Changes would change the result (the message names all of them), or one is not a setting or has
            the wrong type.
    """
    changes = check_changes(changes)
    if is_import_path(net := settings.model["net"]) and "model.net" not in changes:
        raise InputError(f"{folder} trains {net}, your own code: name it again with --model.net {net}")
    if changes.get("precision") == "auto":
        del changes["precision"]  # keeps the run's precision
    if this_rank() is not None:  # the launcher decides, whatever the run had before
        changes["devices"], changes["num_nodes"] = devices_and_nodes(changes.get("devices"), changes.get("num_nodes"))
    after = {**asdict(settings), **changes}
    accelerator, _ = resolve_devices(after["accelerator"], after["devices"])
    precision = resolve_precision(after["precision"], accelerator)
    if "precision" in changes:
        changes["precision"] = precision
    elif precision != settings.precision or crawls(precision, accelerator):
        raise InputError(
            f"accelerator {accelerator} does not compute in {settings.precision}, the precision of {folder}: "
            "resume it on the device where it ran, or start a new run"
        )
    return _with(settings, changes)


def _with(settings: Settings, changes: Arguments) -> Settings:
    after, refused = asdict(settings), []
    for name, given in changes.items():
        group, _, key = name.rpartition(".")
        value, values = in_place(name, given), after[group] if group else after
        before = values.get(key)
        if before == value or (name == "trainer.max_time" and 0 < seconds_in(value) == seconds_in(before)):
            continue
        if not _keeps_result(name, value, before):
            refused.append(f"--{name} (the run has {before}, not {value})")
        values[key] = value
    if refused:
        them = "it" if len(refused) == 1 else "them"
        raise InputError(
            f"{', '.join(refused)} would change the result of a resumed run: leave {them} out, or start a new run"
        )
    return replace(settings, **after)


def _keeps_result(name: str, value: Any, before: Any) -> bool:
    """Whether a setting's new value does not change the result of the steps so far."""
    if name in ("max_epochs", "max_steps"):
        return before is not None and before != -1 and (value == -1 or value > before)  # -1 means no limit
    if name == "trainer.max_time":
        if value is None or not seconds_in(value):  # no limit, or not a time, which the checks refuse
            return True
        return before is not None and seconds_in(value) > seconds_in(before)
    return name in FREE


def changes_in(given: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Returns the changes that were given to `resume`, if any; raises an InputError if they are not a dictionary."""
    return dictionary("changes", given or {}, 'use settings by their names, such as {"max_epochs": 10}')


def check_changes(changes: Mapping[str, Any]) -> Arguments:
    """Checks changes to settings; returns them by name, as plain values, without those that keep the run's value.

    Args:
        changes: By names such as "data.data_dir", or in groups as for `fit`.

    Raises:
        InputError: One is not a setting, or has the wrong type.
    """
    found = by_flags(plain(changes))
    for name in ("devices", "num_nodes", "trainer"):
        if found.get(name, 1) is None:
            del found[name]
    known = {field.name for field in fields(Settings)} - set(GROUPS)
    for name in found:
        group, dot, key = name.partition(".")
        if dot and group in ("data", "model"):
            check_names([key], group)
        elif dot and group == "trainer":
            check_trainer_names([key])
        elif dot or name not in known:
            raise InputError(f"{name} is not a setting of a run: use one of fit's, such as max_epochs or data.data_dir")
    types = {name: value for name, value in found.items() if name != "precision"}  # precision may still be a number
    typed(types, inspect.signature(Settings))
    return found


def places_in(changes: Mapping[str, Any]) -> Arguments:
    """Returns those changes to settings that say where a machine has its images; see `Settings.places`."""
    found = by_flags(plain(changes))
    return {name.partition(".")[2]: in_place(name, value) for name, value in found.items() if name in PATHS}
