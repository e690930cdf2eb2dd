"""A package that is imported when something of it is asked for."""

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
    """`outer.inner`, deferred, with a list of what of it has been imported."""
    inner = tmp_path / "outer" / "inner"
    inner.mkdir(parents=True)
    (tmp_path / "outer" / "__init__.py").write_text("imported = []\n")
    noted = "import outer\nouter.imported.append(__name__)\n"
    # as torch's does, it looks for itself and for what is in it while it is imported
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


def test_what_looks_at_all_modules_imports_nothing(package):
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
def test_all_of_it_is_imported_once_however_it_is_asked_for(package, asked, late):
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


def test_a_module_that_is_not_there_is_said_to_be_not_there(package):
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


def test_no_thread_waits_for_the_import_of_another(tmp_path):
    """The package needs what another thread is importing."""
    subprocess.run([sys.executable, "-c", THREADS], check=True, timeout=30, cwd=tmp_path)


class Ring:
    """What nothing but a look for garbage frees."""

    def __init__(self):
        self.itself = self


def test_what_there_is_when_it_is_imported_is_freed_later(package):
    """Such as a run, of several in a process."""
    ring = Ring()
    there = weakref.ref(ring)
    assert package.inner.value == 1
    del ring
    gc.collect()
    assert there() is None
