"""Ranks meet on their machine and import what their parent would, whatever its name and the current folder are."""

import json
import random
import sys

import pytest

from cifar_lightning.errors import RunError
from cifar_lightning.run import launch

HEARD = """
import json, os, random, sys
def note(path):
    json.dump([random.__file__, sys.path], open(path, "w"))
def where(path):
    json.dump(os.environ["GLOO_SOCKET_IFNAME"], open(path, "w"))
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


@pytest.mark.parametrize("given", [None, "eth7"])
def test_ranks_do_not_look_for_their_machine_by_its_name(here, monkeypatch, given):
    """A container's may be unknown, of which gloo warns: they are all on this one, unless somebody says otherwise."""
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    if given:
        monkeypatch.setenv("GLOO_SOCKET_IFNAME", given)
    launch.launch("heard:where", {"path": str(here / "where.json")}, 1)
    assert json.loads((here / "where.json").read_text()) in ([given] if given else ["lo", "lo0"])


def test_a_machine_on_which_they_cannot_meet(monkeypatch):
    def refuse(*args, **kwargs):
        raise RuntimeError("Network is unreachable\nException raised from ...")

    monkeypatch.setattr("torch.distributed.TCPStore", refuse)
    with pytest.raises(
        RunError, match=r"^the ranks cannot meet on this machine \(Network is unreachable\): bring up its "
    ):
        launch.launch("heard:fail", {}, 2)


@pytest.mark.parametrize("sign", ["é", "汉", "😀", "\x1b", "\udc80"])
def test_last_words_in_any_letters_fit_into_a_pipe_that_nobody_reads_yet(sign):
    words = launch.last_words(RuntimeError(sign * 20_000))
    assert len(words) <= launch.REPORT_BYTES
    assert json.loads(words)["message"].count(sign) > 1_000
