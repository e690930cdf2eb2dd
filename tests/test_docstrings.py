"""The examples in the docstrings of public names."""

import doctest
import shutil

import pytest

import cifar_lightning

FINDER = doctest.DocTestFinder(recurse=True, exclude_empty=True)
PUBLIC = {name: getattr(cifar_lightning, name) for name in cifar_lightning.__all__}
EXAMPLES = [
    example
    for name, public in PUBLIC.items()
    if callable(public)  # a constant has no docstring of its own
    for example in FINDER.find(public, name, module=False, globs={})
    if example.examples
]
CONSTANTS = {"CLASSES", "MEAN", "STD"}


def test_every_public_name_but_constants_has_an_example():
    assert {example.name.partition(".")[0] for example in EXAMPLES} == {*PUBLIC} - CONSTANTS


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_example(example, finished, plain, monkeypatch, tmp_path):
    """An example prints what it shows, in a folder with a finished run; `...` stands for any output."""
    shutil.copytree(finished.folder, tmp_path / "lightning_logs" / finished.folder.name)
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    exec("import torch\nfrom cifar_lightning import *", example.globs)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    results = runner.run(example, out=said.append)
    assert results.attempted
    assert not results.failed, "".join(said)
