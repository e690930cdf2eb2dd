"""Tests files that several processes write at once."""

import errno
import os
import re
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
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


def test_exists_raises_if_the_system_cannot_tell(tmp_path):
    (tmp_path / "file").touch()
    found = {name: files.exists(tmp_path / name) for name in (".", "file", "none", "file/none", "\0")}
    assert found == {".": True, "file": True, "none": False, "file/none": False, "\0": False}
    (tmp_path / "loop").symlink_to("loop")
    names = (".", "file", "none", "file/none", "\0", "loop")
    assert [name for name in names if files.is_file(tmp_path / name)] == ["file"]
    assert [name for name in names if files.is_dir(tmp_path / name)] == ["."]
    assert not files.exists(tmp_path / "loop")
    for look in (files.exists, files.is_file, files.is_dir):  # Path's functions return False since Python 3.14
        with pytest.raises(OSError, match=os.strerror(errno.ENAMETOOLONG)):
            look(tmp_path / ("x" * 300))


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
    sources = sorted((PROJECT / "src" / "cifar_lightning" / "run").rglob("*.py"))
    found = [path.name for path in sources if re.search(r"\.exists\(\)|\.glob\(", path.read_text("utf-8"))]
    assert found == ["trained.py"]  # it lists files of the package itself


def test_images_are_looked_up_by_functions_that_raise():
    """Path's functions take images on a failing disk for a layout that is not there."""
    sources = sorted((PROJECT / "src" / "cifar_lightning" / "data").rglob("*.py"))
    lenient = r"(?<!entry)\.(exists|is_file|is_dir|glob)\("  # an os.DirEntry raises
    found = [path.name for path in sources if re.search(lenient, path.read_text("utf-8"))]
    assert found == ["labels.py", "official.py"]  # a file that is then opened; folders, of which some may be private


@pytest.mark.parametrize("function", [files.user_path, files.absolute])
def test_what_is_no_path_is_refused_in_one_line(function):
    for value, said in ((5, "path 5"), (np.zeros((2, 32)), "path of type ndarray"), (None, "path None")):
        with pytest.raises(InputError, match=f"^{said}: must be text "):
            function(value)
