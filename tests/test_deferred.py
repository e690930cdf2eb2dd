"""Packages whose import is deferred until something in them is used."""

import gc
import importlib
import subprocess
import sys
import weakref
from importlib.util import find_spec

import pytest

from cifar_lightning import deferred


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Makes a package `outer` with `inner`, which is deferred; `outer.imported` lists the modules imported so far."""
    inner = tmp_path / "outer" / "inner"
    inner.mkdir(parents=True)
    (tmp_path / "outer" / "__init__.py").write_text("imported = []\n")
    noted = "import outer\nouter.imported.append(__name__)\n"
    # like torch's compiler, it imports itself and its submodules while it is being imported
    (inner / "__init__.py").write_text(noted + "from outer.inner import early\nimport outer.inner.early\nvalue = 1\n")
    (inner / "early.py").write_text(noted + "value = 2\n")
    (inner / "late.py").write_text(noted + "from outer.inner import value\n")
    monkeypatch.syspath_prepend(tmp_path)
    finders = list(sys.meta_path)
    outer = importlib.import_module("outer")
    deferred.defer("outer.inner", {"own": "there"})
    yield outer
    sys.meta_path[:] = finders
    for name in [name for name in sys.modules if name.partition(".")[0] == "outer"]:
        del sys.modules[name]


def test_looking_at_a_deferred_package_imports_nothing(package):
    import outer.inner
    from outer.inner import own

    assert own == outer.inner.own == "there"
    assert find_spec("outer.inner").origin == outer.inner.__file__
    assert find_spec("outer.inner.late").origin == outer.inner.__file__.replace("__init__", "late")
    assert not hasattr(outer.inner, "__warningregistry__")
    deferred.defer("outer.inner", {})
    assert package.imported == []


@pytest.mark.parametrize(
    ("asked", "late"),
    [
        ("outer.inner.value == 1", []),
        ("importlib.import_module('outer.inner').value == 1", []),
        ("importlib.import_module('outer.inner.early').value == 2", []),
        ("importlib.import_module('outer.inner.late').value == 1", ["outer.inner.late"]),
    ],
)
def test_a_package_is_imported_once_whatever_is_asked_for(package, asked, late):
    assert eval(asked, {"outer": package, "importlib": importlib})
    for name in ("outer.inner", "outer.inner.early"):
        module = importlib.import_module(name)
        assert module is sys.modules[name]
        assert module.__spec__.name == name
        assert type(module.__spec__.loader).__name__ == "SourceFileLoader"
    assert not isinstance(package.inner, deferred.Deferred)
    assert package.imported == ["outer.inner", "outer.inner.early", *late]
    with pytest.raises(ModuleNotFoundError, match=r"outer\.inner\.nowhere"):
        importlib.import_module("outer.inner.nowhere")


def test_a_missing_submodule_raises_module_not_found_error(package):
    with pytest.raises(ModuleNotFoundError, match=r"outer\.inner\.nowhere"):
        importlib.import_module("outer.inner.nowhere")
    assert package.inner.value == 1


THREADS = """
import importlib, sys, threading
from pathlib import Path
from cifar_lightning import deferred

started, asked = threading.Event(), threading.Event()
Path("outer/inner").mkdir(parents=True)
Path("needed").mkdir()
Path("outer/__init__.py").touch()
Path("outer/inner/__init__.py").write_text("import __main__; __main__.asked.set(); import needed")
Path("outer/inner/one.py").touch()
Path("needed/__init__.py").write_text(
    "import __main__; __main__.started.set(); __main__.asked.wait(); import needed.part"
)
Path("needed/part.py").touch()
sys.path.insert(0, ".")
import outer
deferred.defer("outer.inner", {})
thread = threading.Thread(target=importlib.import_module, args=("needed",))
thread.start()
started.wait()
import outer.inner.one
thread.join()
assert not isinstance(outer.inner, deferred.Deferred) and "needed.part" in sys.modules
"""


def test_threads_that_import_do_not_deadlock(tmp_path):
    """The import of a deferred package does not deadlock with a thread that is importing a module it needs."""
    subprocess.run([sys.executable, "-c", THREADS], check=True, timeout=30, cwd=tmp_path)


class Ring:
    """An object that only garbage collection frees."""

    def __init__(self):
        self.itself = self


def test_existing_objects_are_not_frozen_by_the_import(package):
    """Objects that exist when a deferred package is imported, such as those of a run, can still be collected."""
    ring = Ring()
    there = weakref.ref(ring)
    assert package.inner.value == 1
    del ring
    gc.collect()
    assert there() is None
