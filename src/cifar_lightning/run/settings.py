"""Settings: everything that a run is told, as one typed value, which config.yaml keeps and a Trainer is made from."""

import difflib
import inspect
import os
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Timer

from cifar_lightning.arguments import instead_of, typed
from cifar_lightning.data import absent
from cifar_lightning.data.datamodule import CIFAR10DataModule
from cifar_lightning.errors import InputError
from cifar_lightning.files import absolute, check_reachable, write_atomically
from cifar_lightning.model.absent import NAMED
from cifar_lightning.model.lit_net import LitNet
from cifar_lightning.run import refused
from cifar_lightning.run.devices import devices_and_nodes, resolve_devices
from cifar_lightning.run.no_run import why_no_run
from cifar_lightning.run.precision import resolve_precision

Arguments = dict[str, Any]

NO_FLAGS = {*refused.WHY, *(f"data.{name}" for name in absent.NO_FLAGS)}
PATHS = {"data.data_dir", "data.mirror", "data.train_labels"}
# The class whose arguments a group of settings holds, and an example of the group for messages.
GROUPS: dict[str, tuple[type, str]] = {
    "data": (CIFAR10DataModule, '{"eval_batch_size": 500}'),
    "model": (LitNet, '{"net": "resnet18", "lr": 0.1}'),
    "trainer": (Trainer, '{"gradient_clip_val": 1}'),
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The arguments of `fit`, complete and as plain values; see `fit` for their meaning.

    Those with a default here are missing in the config.yaml of a run of an earlier version.

    Attributes:
        data: All arguments of CIFAR10DataModule except those in NO_FLAGS.
        model: All arguments of LitNet except those in NO_FLAGS.
        trainer: Further arguments of Lightning's Trainer.
    """

    data: Arguments
    model: Arguments
    accelerator: str
    devices: str | int
    num_nodes: int
    strategy: str
    precision: str
    max_epochs: int
    max_steps: int
    fast_dev_run: bool
    default_root_dir: str
    seed: int
    checkpoint_every_n_steps: int | None
    log_every_n_steps: int
    verify_steps: int = 0
    threads: int | None = None
    logger: str = "auto"
    report: bool = True
    trainer: Arguments

    def __post_init__(self) -> None:
        typed(vars(self), inspect.signature(Settings))

    def write(self, folder: Path) -> None:
        """Writes config.yaml, from which the run can be repeated or resumed."""
        text = yaml.safe_dump(asdict(self), sort_keys=False)
        write_atomically(folder / "config.yaml", text.encode())

    def by_flags(self) -> Arguments:
        """Returns all settings by the names of their flags, such as `data.batch_size`."""
        return by_flags(asdict(self))

    def places(self) -> Arguments:
        """Returns the arguments of the data that say where the images are, which differs between machines."""
        return {name: value for name, value in self.data.items() if f"data.{name}" in PATHS}

    def images(self) -> CIFAR10DataModule:
        """Makes the data module of the run."""
        return CIFAR10DataModule(**self.data, seed=self.seed)

    def for_trainer(self, validates: bool = True) -> Arguments:
        """Returns the arguments for `new_trainer`.

        Args:
            validates: Whether there are images to validate on.
        """
        names = (
            "accelerator", "devices", "num_nodes", "strategy", "precision", "max_epochs", "max_steps", "fast_dev_run",
            "default_root_dir", "log_every_n_steps",
        )  # fmt: skip
        limit = {} if validates else {"limit_val_batches": 0}
        return {**{name: getattr(self, name) for name in names}, **limit, **self.trainer}


def settings_of(given: Mapping[str, Any]) -> Settings:
    """Returns the settings that the arguments of `fit` make; `logger` has names only, and `callbacks` are left out.

    Raises:
        InputError: A value is not text, a number, a list or a dictionary; an argument is one that a run does not take;
            or the data module or the network has no such argument.
    """
    given = {**given, "logger": given["logger"] or "auto", **{group: given[group] or {} for group in GROUPS}}
    for group in GROUPS:
        check_group(group, given[group], "fit", "fit(model, data)")
    net = given["model"].get("net")
    if callable(net):  # a module, or a function or class that makes one
        name = getattr(net, "__qualname__", type(net).__name__)
        raise InputError(
            f"model.net {name} is code, which config.yaml cannot hold: use its import path, such as my.nets:{name}; "
            "or train LitNet(net) with lightning.pytorch.Trainer().fit"
        )
    # Callbacks are objects, and the settings of the recipe have been filled in.
    settings = plain({name: value for name, value in given.items() if name not in ("callbacks", "recipe")})
    settings["devices"], settings["num_nodes"] = devices_and_nodes(settings["devices"], settings["num_nodes"])
    accelerator, _ = resolve_devices(settings["accelerator"], settings["devices"])
    settings["precision"] = resolve_precision(settings["precision"], accelerator)
    return _complete(settings)


def check_group(group: str, value: Any, function: str, otherwise: str) -> None:
    """Raises an InputError if one of GROUPS is not a dictionary.

    Args:
        group: Name of the group.
        value: What was given for it.
        function: Name of the function that it was given to.
        otherwise: The method of a Trainer that takes objects.
    """
    kind, example = GROUPS[group]
    own = f"{function} makes its own {kind.__name__} from settings such as {group}={example}"
    dictionary(group, value, f"{own}; pass objects of your own to lightning.pytorch.Trainer().{otherwise}")


def dictionary(name: str, value: Any, give: str) -> Mapping[str, Any]:
    """Returns what was given as `name` if it is a dictionary; if not, raises an InputError that says what to `give`."""
    if isinstance(value, Mapping):
        return value
    what = repr(value) if isinstance(value, str | int | float) else f"a {type(value).__name__}"
    raise InputError(f"{name} is {what}, not a dictionary: {give}")


def read_settings(folder: Path) -> Settings:
    """Reads the settings of a run from its config.yaml.

    Raises:
        InputError: There is no such run.
    """
    path = folder / "config.yaml"
    try:
        settings = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        check_reachable(folder)
        raise InputError(f"nothing to resume: {folder} {why_no_run(folder)}") from error
    required = {field.name for field in fields(Settings) if field.default is MISSING}
    known = {field.name for field in fields(Settings)}
    whole = isinstance(settings, dict) and required <= set(settings) <= known
    if not whole or not all(isinstance(settings[name], dict) for name in GROUPS):
        raise InputError(f"nothing to resume: {path} does not hold the settings of a run of fit")
    return _complete(settings)


def by_flags(settings: Mapping[str, Any]) -> Arguments:
    """Returns settings by the names of their flags, including those in groups."""
    groups = {name: inner for name in GROUPS if isinstance(inner := settings.get(name), Mapping)}
    rest = {name: value for name, value in settings.items() if name not in groups}
    return rest | {f"{group}.{name}": value for group, inner in groups.items() for name, value in inner.items()}


def _complete(settings: Arguments) -> Settings:
    settings = {name: in_place(name, value) for name, value in settings.items()}
    data = _with_defaults(settings["data"], "data")
    data = {name: in_place(f"data.{name}", value) for name, value in data.items()}
    return Settings(**{**settings, "data": data, "model": _with_defaults(settings["model"], "model")})


def in_place(name: str, value: Any) -> Any:
    """Returns the value to keep of a setting: the data's paths become absolute, for a resume from another folder."""
    if name == "devices" and str(value).isdecimal():  # text if it comes from a flag
        return int(value)
    if name == "default_root_dir" and isinstance(value, str):
        return os.path.expanduser(value)
    return absolute(value) if name in PATHS and isinstance(value, str) else value


def seconds_in(time: Any) -> float:
    """Returns the seconds in a time as the Trainer takes it; 0 if it is not a time."""
    try:
        return Timer(time).time_remaining() or 0.0
    except (MisconfigurationException, AttributeError, TypeError, OverflowError):
        return 0.0


def plain(settings: Mapping[str, Any], group: str = "") -> Arguments:
    """Returns `settings` in a form for config.yaml and for other processes: paths as text, numbers as Python's own.

    Raises:
        InputError: A value is not text, a number, a list or a dictionary; or an argument is one that a run refuses.
    """
    found: Arguments = {}
    for key, value in settings.items():
        name = f"{group}.{key}" if group else key
        if name in refused.WHY:
            why, instead = refused.WHY[name]
            raise InputError(f"{name} {why}: {instead}")
        if isinstance(value, os.PathLike):
            value = os.fspath(value)
        elif isinstance(value, Mapping):
            value = plain(value, name)
        elif isinstance(value, np.generic | np.ndarray):
            value = value.tolist()
        elif isinstance(value, list | tuple):
            value = list(plain({str(i): item for i, item in enumerate(value)}, name).values())
        elif not isinstance(value, str | int | float | None):
            what = repr(value)
            what = what if len(what) < 80 and what.isprintable() else f"of type {type(value).__name__}"
            raise InputError(f"{name} {what} cannot be kept in config.yaml: use text, a number or a list of them")
        found[key] = value
    return found


def check_names(arguments: Iterable[str], group: str, prefix: str | None = None) -> None:
    """Raises an InputError if `arguments` of the group data or model are not arguments of its class.

    Args:
        arguments: Their names.
        group: Name of the group.
        prefix: What stands before a name in the call, for the message; by default the group and a dot.
    """
    kind, _ = GROUPS[group]
    known = [*inspect.signature(kind).parameters]
    if unknown := sorted(set(arguments) - set(known)):
        named = {"data": absent.NAMED, "model": NAMED}[group]
        why = refused.why_absent(f"{group}.{unknown[0]}") or instead_of(unknown[0], known, named)
        name = f"{f'{group}.' if prefix is None else prefix}{unknown[0]}"
        raise InputError(f"{name} is not an argument of {kind.__name__}: {why}")


def check_trainer_names(names: Iterable[str]) -> None:
    """Raises an InputError if the Trainer has no argument of such a name, or if it is a setting of the run itself."""
    known = inspect.signature(Trainer).parameters
    for name in names:
        if name in {field.name for field in fields(Settings)}:
            raise InputError(f"trainer.{name} is a setting of its own: use {name}")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean trainer.{near[0]}?" if near else "leave it out"
            raise InputError(f"trainer.{name} is not an argument of Lightning's Trainer: {hint}")


def _with_defaults(arguments: Arguments, group: str) -> Arguments:
    """Returns a group's `arguments` with the defaults of all others: config.yaml is complete however a run starts."""
    check_names(arguments, group)
    kind, _ = GROUPS[group]
    defaults = {name: parameter.default for name, parameter in inspect.signature(kind).parameters.items()}
    return {name: value for name, value in defaults.items() if f"{group}.{name}" not in NO_FLAGS} | arguments
