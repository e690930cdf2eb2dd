"""Tests files that several processes write at once, and the locks of folders."""

import errno
import fcntl
import os
import re
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from conftest import PROJECT

from cifar_lightning import files
from cifar_lightning.errors import InputError, RunError

WRITERS = """
import sys
from pathlib import Path
from cifar_lightning.files import write_atomically
for number in range(40):
    write_atomically(Path(sys.argv[1]), lambda file: [file.write(sys.argv[2].encode()) for _ in range(200)])
"""


def test_processes_that_write_the_same_file_at_once(tmp_path):
    target = tmp_path / "results.json"
    texts = [letter * 500 for letter in "abc"]
    writers = [subprocess.Popen([sys.executable, "-c", WRITERS, target, text]) for text in texts]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        if target.exists():
            seen.add(target.read_text())
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert seen <= {text * 200 for text in texts}  # never a partial file, nor a mixture of two
    assert seen
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_threads_that_write_the_same_file_at_once(tmp_path):
    target, failed = tmp_path / "results.json", []
    together = threading.Barrier(8)

    def write(text):
        try:
            for _ in range(20):
                together.wait()
                files.write_atomically(target, lambda file: [file.write(text) for _ in range(50)])
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(bytes([65 + i]) * 1_000,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert len(set(target.read_bytes())) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.parametrize("name", ["results.json", ".hidden"])
def test_remove_parts_removes_unfinished_files_and_nothing_else(tmp_path, name):
    (tmp_path / name).touch()
    (tmp_path / ".results.json.0123456789ab.part").touch()
    (tmp_path / "cifar-10-python.tar.gz.part").touch()  # of a download, which resumes from it
    files.remove_parts(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "cifar-10-python.tar.gz.part"])


def test_a_folder_that_cannot_be_written_stays_unchanged(tmp_path, monkeypatch):
    target = tmp_path / "hf"
    files.write_folder(target, {"a": b"1", "b": b"2"})
    files.write_folder(target, {"a": b"3"})
    assert {path.name: path.read_bytes() for path in target.iterdir()} == {"a": b"3"}
    rename = Path.rename

    def full(self, other):
        if other == target and self.joinpath("b").exists():
            raise OSError(28, "No space left on device")
        return rename(self, other)

    monkeypatch.setattr(Path, "rename", full)
    monkeypatch.setattr(files, "_exchanged", lambda one, other: False)  # as on macOS
    with pytest.raises(
        RunError, match=rf"could not write {target}: No space left on device; any earlier version is unchanged"
    ):
        files.write_folder(target, {"a": b"4", "b": b"5"})
    assert {path.name: path.read_bytes() for path in target.iterdir()} == {"a": b"3"}
    assert list(tmp_path.iterdir()) == [target]
    with pytest.raises(RunError, match="could not write"):
        files.write_folder(target / "a" / "hf", {"a": b"4"})


KILLED = """
import os, sys
from pathlib import Path
from cifar_lightning.files import write_folder
rename = Path.rename
Path.rename = lambda self, other: (rename(self, other), os._exit(9))
write_folder(Path(sys.argv[1]), {"a": b"2"})
"""


def test_a_killed_write_leaves_an_old_or_a_new_folder(tmp_path):
    target, other = tmp_path / "hf", tmp_path / "other"
    target.mkdir()
    other.mkdir()
    if not files._exchanged(target, other):
        pytest.skip("this file system has no exchange of names")
    files.write_folder(target, {"a": b"1"})
    subprocess.run([sys.executable, "-c", KILLED, target], check=False)
    assert (target / "a").read_bytes() in (b"1", b"2")
    files.write_folder(target, {"a": b"3"})
    assert (target / "a").read_bytes() == b"3"


def test_remove_parts_removes_unfinished_folders(tmp_path):
    (tmp_path / ".hf.0123456789ab.part").mkdir()
    (tmp_path / ".hf.0123456789ab.part" / "config.json").touch()
    files.remove_parts(tmp_path)
    assert list(tmp_path.iterdir()) == []


# --- what a file system lacks: FUSE, network mounts ------------------------------------------------------


@pytest.fixture
def no_locks(monkeypatch):
    def refuse(*args):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    for name in ("fcntl", "flock"):
        monkeypatch.setattr(fcntl, name, refuse)


def refuse_fsync(monkeypatch, of):
    fsync = os.fsync

    def refuse(descriptor):
        if of(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)


def write(path, content):
    files.write_atomically(path, lambda file: file.write(content))


def test_a_file_is_written_if_its_folder_cannot_be_flushed(tmp_path, monkeypatch):
    refuse_fsync(monkeypatch, stat.S_ISDIR)
    write(tmp_path / "config.yaml", b"seed: 0")
    assert (tmp_path / "config.yaml").read_bytes() == b"seed: 0"


def test_a_file_is_written_if_its_folder_cannot_be_opened_to_flush_it(tmp_path, monkeypatch):
    open_, refused = os.open, []

    def refuse(path, flags, *args, **kwargs):
        if os.path.isdir(path):
            refused.append(path)
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return open_(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)
    write(tmp_path / "config.yaml", b"seed: 0")
    assert refused == [tmp_path]
    assert (tmp_path / "config.yaml").read_bytes() == b"seed: 0"


def test_a_file_that_cannot_be_flushed_is_an_error(tmp_path, monkeypatch):
    write(tmp_path / "config.yaml", b"seed: 0")
    refuse_fsync(monkeypatch, stat.S_ISREG)
    with pytest.raises(RunError, match=r"could not write .*config\.yaml: Invalid argument; any earlier version is"):
        write(tmp_path / "config.yaml", b"seed: 1")
    assert (tmp_path / "config.yaml").read_bytes() == b"seed: 0"
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_a_lock_keeps_others_out_until_it_is_released(tmp_path):
    entered = []

    def enter():
        with files.locked(tmp_path) as alone:
            entered.append(alone)

    other = threading.Thread(target=enter)
    with files.locked(tmp_path) as alone:
        assert alone
        other.start()
        with open(tmp_path / "lock", "r+") as file, pytest.raises(BlockingIOError):
            files.lock(file.fileno(), wait=False)
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
    with files.locked(tmp_path):
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
        assert [files.is_locked(asks.fileno()) for asks in (one, other)] == [False, False]
    with path.open() as one, path.open("r+") as holder:
        if hasattr(fcntl, "F_OFD_GETLK"):  # flock has no way to ask
            assert not files.is_locked(one.fileno())
        files.lock(holder.fileno(), wait=False)
        assert files.is_locked(one.fileno())


def test_locked_yields_false_if_the_file_system_has_no_locks(tmp_path, no_locks):
    with files.locked(tmp_path) as one, files.locked(tmp_path) as other:
        assert (one, other) == (False, False)


def test_exists_raises_if_the_system_cannot_tell(tmp_path):
    (tmp_path / "file").touch()
    found = {name: files.exists(tmp_path / name) for name in (".", "file", "none", "file/none", "\0")}
    assert found == {".": True, "file": True, "none": False, "file/none": False, "\0": False}
    with pytest.raises(OSError, match=os.strerror(errno.ENAMETOOLONG)):  # Path.exists returns False since Python 3.14
        files.exists(tmp_path / ("x" * 300))


def test_listed_raises_if_a_folder_cannot_be_read(tmp_path, monkeypatch):
    (tmp_path / "a.ckpt").touch()
    assert files.listed(tmp_path, "*.ckpt") == [tmp_path / "a.ckpt"]
    assert files.listed(tmp_path, "*.yaml") == files.listed(tmp_path / "none", "*") == []
    assert files.listed(tmp_path / "a.ckpt", "*") == []

    def fail(folder):
        raise OSError(errno.EIO, os.strerror(errno.EIO), folder)

    monkeypatch.setattr(os, "listdir", fail)
    with pytest.raises(InputError, match=re.escape(f"{tmp_path} cannot be read ({os.strerror(errno.EIO)})")):
        files.listed(tmp_path, "*.ckpt")


def test_runs_look_up_files_by_functions_that_raise():
    """Path.exists and Path.glob take a failing disk for an empty folder, and a run would begin again."""
    sources = sorted((PROJECT / "src" / "cifar_lightning" / "run").glob("*.py"))
    found = [path.name for path in sources if re.search(r"\.exists\(\)|\.glob\(", path.read_text("utf-8"))]
    assert found == ["trained.py"]  # it lists files of the package itself
