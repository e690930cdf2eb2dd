"""The user's own networks, by import path: "package.module:Name". They are imported only if the user names them.

A checkpoint does not hold the import path: as with a network given as a module, it is of "a network of your own".
"""

import importlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from cifar_lightning.arguments import parameters_of
from cifar_lightning.data.cifar10 import CLASSES
from cifar_lightning.errors import InputError, RunError, in_short, place_of
from cifar_lightning.model.lit_net import LitNet

_changed: dict[str, int] = {}  # by module name, when the file of a network's module was last changed, in ns


def is_import_path(net: object) -> bool:
    """Whether `net` is the import path of a network."""
    return isinstance(net, str) and ":" in net


def lit_net(arguments: Mapping[str, Any], classes: Sequence[str] = CLASSES) -> LitNet:
    """Makes a LitNet from its arguments; `net` may be an import path.

    Raises:
        InputError: The network cannot be imported or made.
    """
    net = arguments["net"]
    if is_import_path(net):
        net = imported(net, len(classes), arguments.get("width"))
    return LitNet(**{**arguments, "net": net, "classes": classes})


def imported(path: str, num_classes: int, width: int | None = None) -> nn.Module:
    """Makes a network, with random weights, by calling the class or function at an import path.

    It is called with `num_classes=` if it takes that, by name or by `**kwargs`, and with `width=` if a width is given.

    Args:
        path: "package.module:Name", in an installed package or in the current folder.
        num_classes: Number of classes of the images.
        width: As for LitNet.

    Raises:
        InputError: There is no such callable, a `width` is given that it does not take, or it does not return a module.
    """
    make = _at(path)
    if isinstance(make, nn.Module) or not callable(make):
        raise InputError(f"net {path} is of type {type(make).__name__}: use a class or a function that makes a network")
    net = _made(path, make, num_classes, width)
    if not isinstance(net, nn.Module):
        raise InputError(f"net {path} returns an object of type {type(net).__name__}: make it return a torch.nn.Module")
    return net


def _at(path: str) -> Any:
    """Returns the object at an import path."""
    module_name, _, name = path.partition(":")
    if (here := os.getcwd()) not in sys.path:
        sys.path.append(here)  # last, so that a user's random.py does not hide Python's
    if module_name.endswith(".py"):
        file = Path(os.path.relpath(module_name))
        use = f"use {'.'.join(file.with_suffix('').parts)}:{name}"
        if ".." in file.parts:
            use = f"start in {Path(module_name).parent}, and use {file.stem}:{name}"
        raise InputError(f"net {path}: {module_name} is a file, not the name of a module: {use}")
    try:
        module = _module(module_name)
    except Exception as error:  # the user's code runs, and may raise anything
        missing = isinstance(error, ModuleNotFoundError) and module_name.startswith(error.name or " ")
        hint = "start in the folder that contains it, or install it" if missing else "fix it"
        raise InputError(
            f"net {path}: {module_name} cannot be imported{place_of(error)} ({in_short(error)}): {hint}"
        ) from error
    try:
        return attrgetter(name)(module)
    except AttributeError as error:
        where, what = getattr(module, "__file__", None) or module_name, name or "name after the colon"
        raise InputError(f"net {path}: {where} has no {what}: use a name that it has") from error


def _module(name: str) -> ModuleType:
    """Imports a module, or reloads it if its file has changed since: a notebook's cell may have rewritten it."""
    module = importlib.import_module(name)
    file = getattr(module, "__file__", None)
    if file is None or not os.path.isfile(file):
        return module
    changed = os.stat(file).st_mtime_ns
    if _changed.setdefault(name, changed) != changed:
        module = importlib.reload(module)
        _changed[name] = changed
    return module


def _made(path: str, make: Any, num_classes: int, width: int | None) -> Any:
    try:
        takes = parameters_of(make)
    except (TypeError, ValueError):  # a callable written in C
        takes = {}
    anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes.values())
    given = {"num_classes": num_classes} if anything or "num_classes" in takes else {}
    if width is not None:
        if not (anything or "width" in takes):
            raise InputError(f"width {width}: net {path} does not take a width; leave it out")
        given["width"] = width
    try:
        return make(**given)
    except Exception as error:
        name, values = path.partition(":")[2], ", ".join(f"{name}={value}" for name, value in given.items())
        raise InputError(f"net {path}: {name}({values}) fails{place_of(error)} ({in_short(error)}): fix it") from error


def check_outputs(arguments: Mapping[str, Any], classes: Sequence[str]) -> None:
    """Raises an InputError if these arguments name the user's own network and it does not map images to logits."""
    if not is_import_path(path := arguments["net"]):
        return
    net, num_classes = imported(path, len(classes), arguments.get("width")).eval(), len(classes)
    try:
        with torch.no_grad():
            logits = net(torch.zeros(2, 3, 32, 32))
    except Exception as error:
        raise InputError(
            f"net {path} fails on images of shape (2, 3, 32, 32){place_of(error)} ({in_short(error)}): fix it"
        ) from error
    if logits is None:
        raise InputError(f"net {path}: its forward returns None: return the logits")
    found = tuple(logits.shape) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
    if found != (2, num_classes):
        raise InputError(
            f"net {path} returns {found} for 2 images of {num_classes} classes: make it return logits of shape "
            f"(2, {num_classes}); its argument num_classes gets this number"
        )


@contextmanager
def no_unused_parameters(net: str, strategy: str) -> Iterator[None]:
    """A context that turns DDP's long error about parameters without a gradient into one line.

    Args:
        net: Name of the network.
        strategy: The Trainer's strategy: some look for parameters without a gradient.

    Raises:
        RunError: A step leaves some of the parameters out.
    """
    try:
        yield
    except RuntimeError as error:
        if "parameters that were not used" not in str(error) or "find_unused_parameters_true" in strategy:
            raise
        raise RunError(
            f"net {net} has parameters that a step does not use, which several devices do not allow: add "
            "--strategy ddp_find_unused_parameters_true"
        ) from error
