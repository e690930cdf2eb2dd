"""Tests the locks that keep other processes out of a folder."""

import errno
import fcntl
import os
import stat
import subprocess
import sys
import threading

import pytest

from cifar_lightning import locks


@pytest.fixture
def no_locks(monkeypatch):
    def refuse(*args):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    for name in ("fcntl", "flock"):
        monkeypatch.setattr(fcntl, name, refuse)


def test_a_lock_keeps_others_out_until_it_is_released(tmp_path):
    entered = []

    def enter():
        with locks.locked(tmp_path) as alone:
            entered.append(alone)

    other = threading.Thread(target=enter)
    with locks.locked(tmp_path) as alone:
        assert alone
        other.start()
        with open(tmp_path / "lock", "r+") as file, pytest.raises(BlockingIOError):
            locks.lock(file.fileno(), wait=False)
        assert entered == []
    other.join(60)
    assert entered == [True]
    assert stat.S_IMODE((tmp_path / "lock").stat().st_mode) == 0o666  # for users who share a folder of images


@pytest.mark.skipif(not hasattr(fcntl, "F_OFD_SETLK"), reason="this system has flock only")
def test_a_lock_is_a_record_lock_as_network_file_systems_support(tmp_path):
    """The lock excludes those of lockf, but unlike them it is kept when its process closes another opening of the file.

    A child process that has inherited the file holds it too, and the lock ends with the block.
    """
    ask = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    command = [sys.executable, "-c", ask, tmp_path / "lock"]
    with locks.locked(tmp_path):
        (tmp_path / "lock").read_bytes()  # closing the file here would release a lock of lockf
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.stderr.splitlines()[-1].startswith("BlockingIOError")
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False)
        assert subprocess.run(command, capture_output=True, check=False).returncode == 1
        child.communicate(b"\n")
    assert subprocess.run(command, check=False).returncode == 0


@pytest.mark.parametrize("kind", ["record", "flock"])
def test_is_locked_does_not_take_the_lock(tmp_path, monkeypatch, kind):
    for name in ("F_OFD_GETLK", "F_OFD_SETLK", "F_OFD_SETLKW") if kind == "flock" else ():
        monkeypatch.delattr(fcntl, name, raising=False)
    path = tmp_path / "lock"
    path.touch()
    with path.open() as one, path.open() as other:
        assert [locks.is_locked(asks.fileno()) for asks in (one, other)] == [False, False]
    with path.open() as one, path.open("r+") as holder:
        if hasattr(fcntl, "F_OFD_GETLK"):  # flock has no way to ask
            assert not locks.is_locked(one.fileno())
        locks.lock(holder.fileno(), wait=False)
        assert locks.is_locked(one.fileno())


def test_locked_yields_false_if_the_file_system_has_no_locks(tmp_path, no_locks):
    with locks.locked(tmp_path) as one, locks.locked(tmp_path) as other:
        assert (one, other) == (False, False)
