"""Defers the import of torch's compiler until something is compiled.

Importing it takes a third of the time of all imports, and 150 MB. Lightning imports it to find out whether a network is
compiled, and torch's optimisers to exclude themselves from compilation. Before anything is compiled, neither needs it.
"""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from importlib import import_module
from types import FunctionType
from typing import Any

from cifar_lightning.deferred import Deferred, defer

NAME = "torch._dynamo"


def defer_compiler() -> None:
    """Defers the import of torch's compiler until something is compiled."""
    import torch  # noqa: F401

    defer(NAME, {"OptimizedModule": _Compiled, "disable": _disable, "graph_break": lambda *args, **kwargs: None})


def compiler() -> Any:
    """Returns the compiler if it is imported; None otherwise, when nothing can have been compiled in this process."""
    module = sys.modules.get(NAME)
    if module is None or isinstance(module, Deferred):
        return None
    return import_module(NAME)  # waits if another thread is still importing it


def eager() -> AbstractContextManager[Any]:
    """A context in which compiled functions and networks run uncompiled."""
    return nullcontext() if compiler() is None else compiler().set_stance("force_eager")


class _AnyCompiled(type):
    def __instancecheck__(cls, instance: Any) -> bool:
        return compiler() is not None and isinstance(instance, compiler().OptimizedModule)


class _Compiled(metaclass=_AnyCompiled):
    """Stands for the compiler's OptimizedModule, which Lightning imports for isinstance checks."""


def _disable(fn: Any = None, *args: Any, **kwargs: Any) -> Any:
    """Excludes a function from compilation, by the compiler's own `disable` once the compiler is imported."""
    if not isinstance(fn, FunctionType):
        return import_module(f"{NAME}.decorators").disable(fn, *args, **kwargs)
    disabled: list[Callable[..., Any]] = []

    @wraps(fn)  # Lightning inspects the signature of a step
    def call(*given: Any, **named: Any) -> Any:
        if compiler() is None:
            return fn(*given, **named)
        if not disabled:
            disabled.append(compiler().disable(fn, *args, **kwargs))
        return disabled[0](*given, **named)

    return call
