"""A package that others import without need is imported when something of it is asked for.

torch's compiler takes a third of the time of all imports and 150 MB. Lightning imports it to ask of a network whether
it has been compiled, and torch's optimisers to keep themselves out of what is: nothing of it is needed before something
is to be compiled.
"""

import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import wraps
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec, module_from_spec
from threading import Lock
from types import FunctionType, ModuleType
from typing import Any

COMPILER = "torch._dynamo"


class Deferred(ModuleType):
    """Stands for a package in `sys.modules` until something of it, or a module in it, is asked for.

    Args:
        spec: The package's.
        own: What is here without it, by its name.
    """

    def __init__(self, spec: ModuleSpec, own: dict[str, Any]) -> None:
        super().__init__(spec.name)
        # What looks through all modules finds what is said of every package.
        self.__spec__, self.__file__, self.__path__ = spec, spec.origin, spec.submodule_search_locations or []
        self.__dict__.update(own)
        self._lock = Lock()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r} before it is imported")
        return getattr(self._imported(), name)

    def _imported(self) -> ModuleType:
        """The package itself, in the place of this."""
        with self._lock:
            if stands := sys.modules.get(self.__name__) is self:
                parent, _, child = self.__name__.rpartition(".")
                del sys.modules[self.__name__]
                delattr(sys.modules[parent], child)
        # What else there is by now, such as a run, is not to last.
        with no_looks() if stands else nullcontext():
            return import_module(self.__name__)


class _Modules(MetaPathFinder):
    """Finds the modules in a package for which one stands; `_Within` imports the package.

    Not this: importlib holds a lock of all imports while it asks, and what another thread imports, of which the package
    needs it, would wait for that, and the package for it.
    """

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        package = sys.modules.get(name.rpartition(".")[0])
        if not isinstance(package, Deferred):
            return None
        spec = PathFinder.find_spec(name, package.__path__)
        if spec is None:
            return None
        inside = spec.submodule_search_locations is not None
        return ModuleSpec(name, _Within(package, spec), origin=spec.origin, is_package=inside)


class _Within(Loader):
    """Loads a module once its package is imported; or gives the one that has come with the package."""

    def __init__(self, package: Deferred, spec: ModuleSpec) -> None:
        self._package, self._spec, self._there = package, spec, False

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        self._package._imported()
        self._there = spec.name in sys.modules
        return sys.modules[spec.name] if self._there else module_from_spec(self._spec)

    def exec_module(self, module: ModuleType) -> None:
        if not self._there:
            assert self._spec.loader is not None
            self._spec.loader.exec_module(module)
        module.__spec__ = self._spec  # not before: others wait while it is this one's


@contextmanager
def no_looks() -> Iterator[None]:
    """Within it nobody looks for garbage: imports leave none, and looks take over a second of their million objects."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


@contextmanager
def lasting() -> Iterator[None]:
    """Likewise, and all that there is at its end is kept from later looks: it stays as long as the process does.

    https://docs.python.org/3/library/gc.html#gc.freeze
    """
    try:
        with no_looks():
            yield
    finally:
        gc.freeze()


def defer(name: str, own: dict[str, Any]) -> None:
    """Has a package, whose parent is imported, be imported when something of it is asked for that is not its `own`."""
    spec = find_spec(name)
    if spec is None or name in sys.modules:
        return
    parent, _, child = name.rpartition(".")
    sys.modules[name] = Deferred(spec, own)
    setattr(sys.modules[parent], child, sys.modules[name])
    if not any(isinstance(finder, _Modules) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Modules())


def defer_compiler() -> None:
    """Has torch's compiler be imported when something is compiled."""
    import torch  # noqa: F401

    defer(COMPILER, {"OptimizedModule": _Compiled, "disable": _disable, "graph_break": lambda *args, **kwargs: None})


def compiler() -> Any:
    """The compiler, if it is imported; else nothing has been compiled in this process, and it is None."""
    module = sys.modules.get(COMPILER)
    return None if isinstance(module, Deferred) else module


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
        return import_module(f"{COMPILER}.decorators").disable(fn, *args, **kwargs)
    disabled: list[Callable[..., Any]] = []

    @wraps(fn)  # Lightning goes by the signature of a step
    def call(*given: Any, **named: Any) -> Any:
        if compiler() is None:
            return fn(*given, **named)
        if not disabled:
            disabled.append(compiler().disable(fn, *args, **kwargs))
        return disabled[0](*given, **named)

    return call
