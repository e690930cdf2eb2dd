"""scripts/lesson.py: it stands in the README, and fails if its network has not learnt."""

import re
import runpy
import sys

import numpy as np
import pytest
from conftest import PROJECT, SCRIPTS

from cifar_lightning.data.sources import Source

LESSON = SCRIPTS / "lesson.py"


@pytest.fixture
def few(tmp_path):
    """Returns flags for images for two steps only, from which a network does not learn much."""
    arrays = {}
    for split in ("train", "test"):
        images = Source("synthetic", synthetic_size=256).load(split)
        arrays |= {f"x_{split}": images.images.numpy(), f"y_{split}": images.labels.numpy()}
    np.savez(tmp_path / "few.npz", **arrays)
    return ("--source", "folder", "--data_dir", str(tmp_path / "few.npz"))


def test_the_readme_contains_the_lesson_word_for_word():
    lesson = LESSON.read_text()
    assert lesson in re.findall(r"```python\n(.*?)```", (PROJECT / "README.md").read_text(), re.DOTALL)
    assert 40 <= len(lesson.splitlines()) <= 60


@pytest.fixture
def lesson(few, tmp_path, monkeypatch):
    """Runs the lesson in the test's folder with further flags; a warning would be an error."""
    monkeypatch.chdir(tmp_path)

    def run(*flags):
        monkeypatch.setattr(sys, "argv", [str(LESSON), *few, *flags])
        runpy.run_path(str(LESSON), run_name="__main__")

    return run


def test_the_lesson_fails_below_its_accuracy(lesson, capsys):
    with pytest.raises(SystemExit) as end:
        lesson()
    share = float(re.search(r" all +([\d.]+)%$", capsys.readouterr().out, re.MULTILINE)[1])
    assert share < 70
    assert re.fullmatch(r"the accuracy 0\.\d{3} is below 0\.7: something is wrong", end.value.code)
    assert float(end.value.code.split()[2]) == pytest.approx(share / 100, abs=1e-3)


@pytest.mark.parametrize(
    ("flags", "error"),
    [
        (("--source", "cats"), "unknown source 'cats': choose from cifar10"),
        (("--data_dir", "no/such/folder"), "no/such/folder does not exist"),
    ],
)
def test_the_lesson_says_in_a_line_what_is_wrong_with_the_images(lesson, capsys, flags, error):
    with pytest.raises(SystemExit) as end:
        lesson(*flags)
    assert end.value.code == 2
    assert re.search(rf"^lesson.py: error: .*{error}.*\n\Z", capsys.readouterr().err, re.MULTILINE)


def test_the_lesson_succeeds_at_its_accuracy(lesson, tmp_path, capsys):
    lesson("--at_least", "0")
    rows = re.findall(r"^ *(\S+) +[\d.]+%$", capsys.readouterr().out, re.MULTILINE)
    assert len(rows) == 11  # ten classes, and all
    assert rows[-1] == "all"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".cifar_lightning", "few.npz"]
