"""Files of settings, which are recipes and files for --config, checked before jsonargparse reads them.

jsonargparse accepts a setting without a value, whatever its type.
"""

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from cifar_lightning.errors import InputError

RECIPES = Path(__file__).parent / "recipes"


def recipes() -> list[str]:
    """The names of the recipes."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def recipe(name: str) -> Path:
    """Returns the path of a recipe's file.

    Raises:
        InputError: There is no recipe of that name.
    """
    if name not in recipes():
        raise InputError(f"unknown recipe {name!r}: choose from {', '.join(recipes())}")
    return RECIPES / f"{name}.yaml"


def names_in(path: str, expected: Mapping[str, str], optional: Collection[str]) -> list[str]:
    """Returns the names of the settings in a file. A setting in a group has the group's name too: "data.batch_size".

    Args:
        path: The path of the file.
        expected: What values each known setting takes, by its name.
        optional: The settings that may be null.

    Raises:
        InputError: The file cannot be read or holds no settings, or a setting that needs a value has none.
    """
    content = _read(path)
    if not isinstance(content, dict):
        what = "is empty" if content is None else "holds no settings"
        raise InputError(f"--config {path} {what}: add lines such as max_epochs: 10, or leave out --config")
    names: list[str] = []
    nothing = all(value is None for value in content.values())
    for key, value in content.items():
        if key == "config":
            raise InputError(f"config in {path} does nothing: remove it, and pass --config for each file")
        members = [name for name in expected if name.startswith(f"{key}.")]
        if members and not isinstance(value, dict):
            what = "is empty" if value is None else f"is {value!r}"
            examples = ", ".join(name.rpartition(".")[2] for name in members[:3])
            raise InputError(f"{key} in {path} {what}: put settings below it, such as {examples}, or leave it out")
        found = {f"{key}.{name}": x for name, x in value.items()} if members else {str(key): value}
        for name, x in found.items():
            # jsonargparse refuses a file in which no setting has a value, even if all may be null.
            if x is None and name in expected and (nothing or name not in optional):
                raise InputError(f"--{name} has no value in {path}: use {expected[name]}, or leave it out")
        names += found
    return names


def _read(path: str) -> object:
    try:
        text = Path(os.path.expanduser(path)).read_text("utf-8")
        written, content = yaml.compose(text, yaml.SafeLoader), yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"--config {path} {_why_unread(error)}") from error
    _check_each_once(path, written)
    return content


def _why_unread(error: Exception) -> str:
    match error:
        case FileNotFoundError():
            return "does not exist: use the path of a YAML file"
        case OSError():
            return f"cannot be read ({error.strerror}): use the path of a YAML file"
        case UnicodeDecodeError():
            return f"is not text ({error.reason}): use a YAML file"
        case yaml.MarkedYAMLError():
            line = error.problem_mark.line + 1 if error.problem_mark else "?"
            return f"is not valid YAML ({error.problem}, line {line}): fix it"
        case _:  # a character that YAML forbids, an impossible date
            return f"is not valid YAML ({' '.join(str(error).split())}): fix it"


def _check_each_once(path: str, written: Any) -> None:
    """Raises an InputError if a setting is in the file twice: YAML would drop the first."""
    for settings in (written, *(value for _, value in _pairs(written))):
        before: dict[str, Any] = {}
        for key, _ in _pairs(settings):
            if (first := before.setdefault(str(key.value), key)) is not key:
                lines = f"lines {first.start_mark.line + 1} and {key.start_mark.line + 1}"
                raise InputError(f"--config {path} has {key.value} twice, in {lines}: remove one")


def _pairs(node: Any) -> Sequence[tuple[Any, Any]]:
    """Returns the keys and values of a mapping node that YAML composed; nothing for any other node."""
    return node.value if getattr(node, "id", "") == "mapping" else ()
