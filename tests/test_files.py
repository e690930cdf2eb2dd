"""Files appear whole or not at all, however many write them at once."""

import subprocess
import sys
import threading

import pytest

from cifar_lightning import files

WRITERS = """
import sys
from pathlib import Path
from cifar_lightning.files import write_atomically
for number in range(40):
    write_atomically(Path(sys.argv[1]), lambda file: [file.write(sys.argv[2].encode()) for _ in range(200)])
"""


def test_processes_that_write_one_file_at_once(tmp_path):
    target = tmp_path / "results.json"
    texts = [letter * 500 for letter in "abc"]
    writers = [subprocess.Popen([sys.executable, "-c", WRITERS, target, text]) for text in texts]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        if target.exists():
            seen.add(target.read_text())
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert seen <= {text * 200 for text in texts}  # never a part, nor two mixed
    assert seen
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_threads_that_write_one_file_at_once(tmp_path):
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
def test_parts_of_the_dead_are_removed_and_nothing_else(tmp_path, name):
    (tmp_path / name).touch()
    (tmp_path / ".results.json.0123456789ab.part").touch()
    (tmp_path / "cifar-10-python.tar.gz.part").touch()  # of a download, which goes on from it
    files.remove_parts(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "cifar-10-python.tar.gz.part"])
