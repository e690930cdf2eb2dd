"""Signatures that are read from source, the words for types, and scripts that do not import torch too early."""

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Literal, Union

import pytest
from lightning import Trainer

from cifar_lightning import CIFAR10DataModule, LitNet, evaluate, fit
from cifar_lightning.signatures import signature_of, trainer_arguments, words_of

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.mark.parametrize("real", [fit, evaluate, CIFAR10DataModule, LitNet])
def test_a_signature_from_source_equals_the_real_one(real):
    stub = signature_of(real.__module__.removeprefix("cifar_lightning."), real.__name__)
    ours, theirs = inspect.signature(stub).parameters, inspect.signature(real).parameters
    assert {n: p.default for n, p in ours.items()} == {n: p.default for n, p in theirs.items()}
    own = {
        CIFAR10DataModule: ["device"],
        LitNet: ["net", "preprocessing"],
        fit: ["logger", "callbacks"],
        evaluate: ["net"],
    }  # these take objects, which a flag cannot give
    same = [name for name in ours if ours[name].annotation == theirs[name].annotation]
    assert [name for name in ours if name not in same] == own.get(real, [])
    assert inspect.getdoc(stub) == inspect.getdoc(real)


def test_words_for_types_have_one_order_despite_typings_cache():
    for kind in (Union[int, float], Union[float, int, None], float | int):  # noqa: UP007  # typing caches the order
        assert words_of(kind) == ["a number"]
    for kind in (Union[str, bool, int], Union[bool, int, str]):  # noqa: UP007
        assert words_of(kind) == ["a whole number", "true", "false", "text (in quotes)"]
    assert words_of(Literal["b", "a"] | int) == ["a whole number", "b", "a"]


@pytest.mark.parametrize("script", ["fit", "evaluate"])
@pytest.mark.parametrize("flag", ["--help", "--unknown"])
def test_help_and_unknown_flags_do_not_import_torch(script, flag):
    code = (
        "import sys, runpy, atexit; sys.argv = [sys.argv[1], sys.argv[2]]\n"
        "atexit.register(lambda: print(sorted({'torch', 'lightning'} & set(sys.modules))))\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code, SCRIPTS / f"{script}.py", flag], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_the_trainers_arguments_are_read_from_its_source():
    assert trainer_arguments() == [*inspect.signature(Trainer).parameters]
