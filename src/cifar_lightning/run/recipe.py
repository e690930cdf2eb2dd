"""fit(recipe=...): fills in the settings of a recipe, which settings given by the user replace."""

import difflib
import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import yaml

from cifar_lightning.errors import InputError
from cifar_lightning.run.refused import NAMED, why_absent, why_refused
from cifar_lightning.settings_file import recipe
from cifar_lightning.signatures import trainer_arguments

P = ParamSpec("P")
R = TypeVar("R")


def takes_recipe(function: Callable[P, R]) -> Callable[P, R]:
    """Decorates a function whose arguments are settings: those not given come from the recipe that `recipe` names.

    If max_epochs is given and max_steps is not, the recipe's own max_steps does not count.
    """
    call: Any = function  # untyped: the settings come by name from a file

    @wraps(function)
    def with_recipe(*args: P.args, **kwargs: P.kwargs) -> R:
        given = bound(function, *args, **kwargs).arguments
        result: R = call(**over_recipe(given))
        return result

    return with_recipe


def bound(function: Callable[..., Any], *args: Any, **kwargs: Any) -> inspect.BoundArguments:
    """Binds the arguments of a call to a function whose arguments are settings.

    Raises:
        InputError: The function has no such argument.
    """
    signature = inspect.signature(function)
    anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.parameters.values())
    if unknown := [] if anything else [name for name in kwargs if name not in signature.parameters]:
        raise InputError(f"{unknown[0]} is not an argument of {function.__name__}: {_instead(unknown[0], signature)}")
    return signature.bind(*args, **kwargs)


def _instead(name: str, signature: inspect.Signature) -> str:
    """Says what to pass in place of an argument that the function does not have."""
    from cifar_lightning.data.datamodule import CIFAR10DataModule
    from cifar_lightning.model.lit_net import LitNet

    data, model = ([*inspect.signature(kind).parameters] for kind in (CIFAR10DataModule, LitNet))
    groups = {"trainer": trainer_arguments(), "model": model, "data": data}
    ways = {x: why_refused(x) or f"use {group}={{{x!r}: ...}}" for group, names in groups.items() for x in names}
    ways |= {known: f"did you mean {known}?" for known in signature.parameters}
    meant = NAMED.get(name, name)
    if meant not in ways and (why := why_absent(name)):
        return why
    near = [meant] if meant in ways else difflib.get_close_matches(name, ways, n=1)
    return ways[near[0]] if near else f"choose from {', '.join(signature.parameters)}"


def over_recipe(given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the given settings, with all others that the recipe named in them has; see `takes_recipe`."""
    given = dict(given)
    name = given.pop("recipe", None)
    settings: dict[str, Any] = {} if name is None else yaml.safe_load(recipe(name).read_text("utf-8"))
    if name is not None and "max_epochs" in given and "max_steps" not in given:
        settings["max_steps"] = -1
    for key, group in settings.items():
        if isinstance(group, dict) and isinstance(over := given.get(key) or {}, Mapping):  # others are refused later
            given[key] = {**group, **over}
    return {**settings, **given}
