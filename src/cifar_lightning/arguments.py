"""Checks of the arguments that a constructor was given: whether it has them, and whether their types are right."""

import difflib
import inspect
import os
import sys
import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import wraps
from pathlib import Path
from types import FrameType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin

import numpy as np

from cifar_lightning.errors import InputError, brief
from cifar_lightning.signatures import refusal

UNEVALUATED: dict[str, Any] = {}  # arguments of inspect.signature
if sys.version_info >= (3, 14):
    import annotationlib

    UNEVALUATED["annotation_format"] = annotationlib.Format.FORWARDREF


def arguments_of(module: object) -> dict[str, Any]:
    """Returns the arguments that `module` is being made with: of the constructor that calls this, and of subclasses'.

    If both have an argument of the same name, the value is the calling constructor's, because that is what it works
    with. Lightning's `save_hyperparameters` takes the subclass's value, and also takes the arguments of any other
    module whose constructor makes this one.
    """
    arguments: dict[str, Any] = {}
    frame: FrameType | None = inspect.currentframe()
    frame = frame and frame.f_back
    while frame is not None:
        names, _, keywords, values = inspect.getargvalues(frame)
        if frame.f_code.co_name != "__init__" or not names or values[names[0]] is not module:
            break
        given = {name: values[name] for name in names[1:]} | (values[keywords] if keywords else {})
        arguments |= {name: value for name, value in given.items() if name not in arguments}
        frame = frame.f_back
    return arguments


Init = TypeVar("Init", bound=Callable[..., None])


def explained(why: Mapping[str, str], named: Mapping[str, str]) -> Callable[[Init], Init]:
    """Decorates a constructor: it refuses arguments that it does not have, with a hint.

    Args:
        why: The hint for some arguments, by their names.
        named: The constructor's own name for arguments that other libraries call differently.
    """

    def of(init: Init) -> Init:
        signature = inspect.signature(init)
        kind, known = init.__qualname__.partition(".")[0], [*signature.parameters][1:]

        @wraps(init)
        def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # arguments_of looks for this name
            for name in kwargs:
                if name not in known:
                    said = why.get(name) or instead_of(name, known, named)
                    raise InputError(f"{name} is not an argument of {kind}: {said}")
            init(self, *args, **kwargs)

        # Lightning inspects this signature to rebuild a module from a checkpoint.
        __init__.__signature__ = signature  # type: ignore[attr-defined]
        return cast(Init, __init__)

    return of


def instead_of(name: str, known: Sequence[str], named: Mapping[str, str]) -> str:
    """Hints at the known argument that an unknown one may stand for; otherwise lists those that are known."""
    near = [named[name]] if name in named else difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else f"choose from {', '.join(known)}"


def typed(arguments: Mapping[str, Any], signature: inspect.Signature) -> dict[str, Any]:
    """Checks the arguments' types and returns them as plain values: numbers are Python's, and sequences are lists.

    A checkpoint with other values is refused by torch.load's `weights_only`, or cannot be written at all.

    Args:
        arguments: By name. Those that the signature lacks are a subclass's; if they are code they are left out.
        signature: The signature of the constructor that takes them.

    Raises:
        InputError: One is of another type, which would cause a traceback later or be taken for something else.
    """
    checked: dict[str, Any] = {}
    for name in arguments:
        if name not in signature.parameters:
            with suppress(_CodeError):
                checked[name] = _stored(arguments[name])
            continue
        kind = signature.parameters[name].annotation
        checked[name] = value = _plain(arguments[name])
        if not is_of(value, kind):
            in_a_file = Path in get_args(kind) and (isinstance(value, list) or hasattr(value, "__array__"))
            remedy = "; save an array in a file (np.save) and pass its path" if in_a_file else ""
            raise InputError(refusal(name, brief(arguments[name]), kind) + remedy)
    return checked


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    is_list = isinstance(value, Sequence) and not isinstance(value, str | bytes)
    return [_plain(item) for item in value] if is_list else value


class _CodeError(Exception):
    """A value is a function, a class, or an object of a class that a checkpoint cannot hold."""


def parameters_of(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """Returns the parameters of a user's function or class.

    Annotations are not evaluated: since Python 3.14 they may name what is imported for type checkers only.

    Raises:
        TypeError: It is not callable.
        ValueError: It has no signature, as a callable written in C.
    """
    return inspect.signature(function, **UNEVALUATED).parameters


def code_in(given: Mapping[str, Any], kept: Mapping[str, Any], kind: type) -> list[str]:
    """Names the arguments that `typed` has left out, except those that are the constructor's defaults.

    Args:
        given: All arguments that the constructor was given.
        kept: What `typed` returned for them.
        kind: The class of the constructor.
    """
    parameters = parameters_of(kind)
    left_out = {name: value for name, value in given.items() if name not in kept}
    return [name for name, x in left_out.items() if name not in parameters or x is not parameters[name].default]


def warn_of_defaults(kind: type, code: Sequence[str], plain: Mapping[str, Any], before: Sequence[str]) -> None:
    """Warns if an argument was code when a checkpoint was made, which cannot hold it, and is now the default.

    Args:
        kind: The class of the constructor.
        code: The names of the arguments that are code now.
        plain: The other arguments.
        before: The names of the arguments that were code when the checkpoint was made.
    """
    for name in before:
        parameter = parameters_of(kind).get(name)
        if parameter is None or parameter.default is parameter.empty:
            continue
        if name not in code and plain.get(name, parameter.default) is parameter.default:
            warnings.warn(
                f"the checkpoint was made with its own {name}, which a checkpoint cannot store, and this "
                f"{kind.__name__} has {brief(parameter.default)}: pass {name} again",
                stacklevel=2,
            )


def _stored(value: Any) -> Any:
    """Converts a value for a checkpoint: numpy's to torch's or Python's, and paths to text; others stay as they are.

    Raises:
        _CodeError: A checkpoint cannot store it.
    """
    import torch  # imported late: scripts use this module for flags

    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        with suppress(TypeError, ValueError):  # torch lacks float128, and foreign byte orders
            return torch.from_numpy(value.copy())  # copied: torch refuses negative strides
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if type(value) in (list, tuple, set):
        return type(value)(map(_stored, value))
    if type(value) in (dict, OrderedDict, Counter):
        return type(value)({_stored(key): _stored(item) for key, item in value.items()})
    # The types that torch reads with `weights_only`, but no types derived from them.
    plain = (type(None), bool, int, float, complex, str, bytes, bytearray)
    if type(value) not in (*plain, torch.Tensor, torch.nn.Parameter, torch.Size, torch.device, torch.dtype):
        raise _CodeError
    return value


def is_of(value: Any, kind: Any) -> bool:
    """Whether a value is of an annotated type."""
    origin, parts = get_origin(kind) or kind, get_args(kind)
    if origin in (Union, UnionType):
        return any(is_of(value, part) for part in parts)
    if origin is Literal:
        return isinstance(value, str) and value in parts
    if origin in (list, Sequence):  # any sequence but text
        return isinstance(value, Sequence) and not isinstance(value, str) and all(is_of(x, parts[0]) for x in value)
    if isinstance(value, bool):  # which is also an int to Python
        return origin is bool
    wider: dict[Any, Any] = {float: (int, float), Path: os.PathLike}
    return isinstance(value, wider.get(origin, origin))
