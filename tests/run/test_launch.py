"""Ranks meet on this machine whatever its name, and import what their parent would whatever the current folder."""

import json
import random
import sys

import pytest

from cifar_lightning.errors import RunError
from cifar_lightning.run import child, launch

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


def test_ranks_import_no_files_of_the_current_folder(here):

    launch.launch("heard:note", {"path": str(here / "heard.json")}, 1)
    assert json.loads((here / "heard.json").read_text()) == [random.__file__, sys.path]


def test_ranks_find_the_modules_that_their_parent_finds(here):
    with pytest.raises(RunError, match="rank 0: ValueError: as it was to"):
        launch.launch("heard:fail", {}, 1)


@pytest.mark.parametrize("given", [None, "eth7"])
def test_ranks_meet_on_the_loopback_interface_by_default(here, monkeypatch, given):
    """Ranks use the loopback interface unless GLOO_SOCKET_IFNAME is set: gloo warns of a container's unknown name."""
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    if given:
        monkeypatch.setenv("GLOO_SOCKET_IFNAME", given)
    launch.launch("heard:where", {"path": str(here / "where.json")}, 1)
    assert json.loads((here / "where.json").read_text()) in ([given] if given else ["lo", "lo0"])


def test_ranks_that_cannot_meet_are_reported_with_the_reason(monkeypatch):
    def refuse(*args, **kwargs):
        raise RuntimeError("Network is unreachable\nException raised from ...")

    monkeypatch.setattr("torch.distributed.TCPStore", refuse)
    with pytest.raises(
        RunError, match=r"^the ranks cannot meet on this machine \(Network is unreachable\): bring up its "
    ):
        launch.launch("heard:fail", {}, 2)


@pytest.mark.parametrize("sign", ["é", "汉", "😀", "\x1b", "\udc80"])
def test_last_words_of_any_characters_fit_into_an_unread_pipe(sign):
    words = child.last_words(RuntimeError(sign * 20_000))
    assert len(words) <= child.REPORT_BYTES
    assert json.loads(words)["message"].count(sign) > 1_000
