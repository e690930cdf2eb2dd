"""A package that others import without need is imported when something of it is asked for."""

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from threading import Lock
from types import ModuleType
from typing import Any

from cifar_lightning.garbage import no_looks


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
        return getattr(self.imported(), name)

    def imported(self) -> ModuleType:
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
        if spec is not None:
            spec.loader = _Within(package)
        return spec


class _Within(Loader):
    """Has a module imported as if it had not been asked for before its package was there."""

    def __init__(self, package: Deferred) -> None:
        self._package = package

    def exec_module(self, module: ModuleType) -> None:
        del sys.modules[module.__name__]  # an empty one: the package may bring the module with it
        self._package.imported()
        import_module(module.__name__)


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
