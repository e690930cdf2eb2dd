"""Defers the import of a package that other libraries import without need, until something in it is used."""

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

from cifar_lightning.garbage import without_collection


class Deferred(ModuleType):
    """A placeholder in `sys.modules` for a package, until an attribute or a submodule of the package is asked for.

    Args:
        spec: The spec of the package.
        own: Attributes that the placeholder has without importing the package, by name.
    """

    def __init__(self, spec: ModuleSpec, own: dict[str, Any]) -> None:
        super().__init__(spec.name)
        # Code that goes through all modules finds the attributes that every package has.
        self.__spec__, self.__file__, self.__path__ = spec, spec.origin, spec.submodule_search_locations or []
        self.__dict__.update(own)
        self._lock = Lock()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r} before it is imported")
        return getattr(self.imported(), name)

    def imported(self) -> ModuleType:
        """Imports the package, which takes the place of this, and returns it."""
        with self._lock:
            if stands := sys.modules.get(self.__name__) is self:
                parent, _, child = self.__name__.rpartition(".")
                del sys.modules[self.__name__]
                delattr(sys.modules[parent], child)
        # Not `freezing`: other objects that exist by now, such as those of a run, are not to be frozen.
        with without_collection() if stands else nullcontext():
            return import_module(self.__name__)


class _Modules(MetaPathFinder):
    """Finds the submodules of a package that a Deferred stands for. Their loader, `_Within`, imports the package.

    The finder cannot, because importlib holds its global import lock while it calls finders: if another thread is
    importing something that the package needs, that thread would wait for the lock, and the package for the thread.
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
    """Imports the package of a module first, and then the module, as if the package had never been deferred."""

    def __init__(self, package: Deferred) -> None:
        self._package = package

    def exec_module(self, module: ModuleType) -> None:
        del sys.modules[module.__name__]  # an empty one: the package may import the module itself
        self._package.imported()
        import_module(module.__name__)


def defer(name: str, own: dict[str, Any]) -> None:
    """Defers the import of a package, whose parent is imported, until something other than `own` is asked of it."""
    spec = find_spec(name)
    if spec is None or name in sys.modules:
        return
    parent, _, child = name.rpartition(".")
    sys.modules[name] = Deferred(spec, own)
    setattr(sys.modules[parent], child, sys.modules[name])
    if not any(isinstance(finder, _Modules) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Modules())
