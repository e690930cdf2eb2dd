"""Tests runs whose network cannot be compiled because there is no compiler."""

import json

import pytest
import torch
from conftest import SYNTHETIC

from cifar_lightning.model import compilation

FIT = ("fit", *SYNTHETIC, "--data.synthetic_size", "100", "--data.batch_size", "10", "--max_steps", "3", "--seed", "1")
MODES = ("none", "auto")


@pytest.fixture
def no_compiler():
    with torch._inductor.config.patch({"cpp.cxx": (None, "/nowhere/c++")}):
        yield


def test_a_network_that_cannot_be_compiled_ends_the_run_with_an_error(plain, call, no_compiler):
    code, _, err = call(*FIT, "--model.compile", "default")
    assert code == 1
    assert err.count("\n") == 1
    assert err.startswith("error: the network cannot be compiled (InvalidCxxCompiler: No working C++ compiler found ")
    assert "): fix the cause, or use --model.compile none; continue with --resume " in err


def test_auto_trains_uncompiled_if_the_compilation_fails(plain, call, no_compiler, monkeypatch, tmp_path):
    monkeypatch.setattr(compilation, "resolve_mode", lambda mode, **kwargs: {"auto": "default"}.get(mode, mode))
    for mode in MODES:
        code, _, err = call(*FIT, "--model.compile", mode, "--default_root_dir", mode)
        assert code == 0, err
    note = err.splitlines()[0]
    assert note.startswith(
        "note: the network cannot be compiled, so it runs slower (InvalidCxxCompiler: No working C++ com"
    )
    assert [line.split()[0] for line in err.splitlines()[1:]] == ["epoch"]
    results = [json.loads((tmp_path / mode / "lightning_logs/version_0/results.json").read_text()) for mode in MODES]
    assert results[0]["computed"].endswith(", not compiled")
    assert results[1]["computed"].endswith(", not compiled (compilation failed)")
    logs = [(tmp_path / mode / "lightning_logs" / "version_0" / "metrics.csv").read_text() for mode in MODES]
    assert logs[0] == logs[1]
