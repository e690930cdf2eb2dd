"""torch's compiler, which is imported when something is to be compiled.

It takes a third of the time of all imports and 150 MB. Lightning imports it to ask of a network whether it has been
compiled, and torch's optimisers to keep themselves out of what is: nothing of it is needed before.
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
    """Has torch's compiler be imported when something is compiled."""
    import torch  # noqa: F401

    defer(NAME, {"OptimizedModule": _Compiled, "disable": _disable, "graph_break": lambda *args, **kwargs: None})


def compiler() -> Any:
    """The compiler, if it is imported; else nothing has been compiled in this process, and it is None."""
    module = sys.modules.get(NAME)
    if module is None or isinstance(module, Deferred):
        return None
    return import_module(NAME)  # which waits where another thread has imported half of it


def eager() -> AbstractContextManager[Any]:
    """Within it, what has been compiled runs as it is written."""
    return nullcontext() if compiler() is None else compiler().set_stance("force_eager")


class _AnyCompiled(type):
    def __instancecheck__(cls, instance: Any) -> bool:
        return compiler() is not None and isinstance(instance, compiler().OptimizedModule)


class _Compiled(metaclass=_AnyCompiled):
    """What is compiled: for Lightning, which takes it from the compiler to compare with."""


def _disable(fn: Any = None, *args: Any, **kwargs: Any) -> Any:
    """A function that is not to be compiled, as the compiler's own `disable` would give it once it is there."""
    if not isinstance(fn, FunctionType):
        return import_module(f"{NAME}.decorators").disable(fn, *args, **kwargs)
    disabled: list[Callable[..., Any]] = []

    @wraps(fn)  # Lightning goes by the signature of a step
    def call(*given: Any, **named: Any) -> Any:
        if compiler() is None:
            return fn(*given, **named)
        if not disabled:
            disabled.append(compiler().disable(fn, *args, **kwargs))
        return disabled[0](*given, **named)

    return call
