"""A rank imports what its parent would, whatever lies in the folder that a job is started in."""

import json
import random
import sys

import pytest

from cifar_lightning.errors import RunError
from cifar_lightning.run import launch

HEARD = """
import json, random, sys
def note(path):
    json.dump([random.__file__, sys.path], open(path, "w"))
def fail():
    raise ValueError("as it was to")
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    for name in ("random", "json", "queue", "cifar_lightning"):
        (tmp_path / "here" / f"{name}.py").write_text("raise SystemExit('a file of the user')")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "heard.py").write_text(HEARD)
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


def test_files_of_the_current_folder_are_no_modules(here):

    launch.launch("heard:note", {"path": str(here / "heard.json")}, 1)
    assert json.loads((here / "heard.json").read_text()) == [random.__file__, sys.path]


def test_a_module_that_the_parent_has_found_is_found(here):
    with pytest.raises(RunError, match="rank 0: ValueError: as it was to"):
        launch.launch("heard:fail", {}, 1)
