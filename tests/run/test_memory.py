"""Tests steps that do not fit into memory: the error is one line, and the run can be resumed."""

import pytest
import torch
from conftest import SYNTHETIC
from lightning.pytorch import Callback

from cifar_lightning import LitNet, evaluate, fit, fit_many, resume
from cifar_lightning.errors import RunError
from cifar_lightning.run import many
from cifar_lightning.run.status import status

DATA = {"source": "synthetic", "synthetic_size": 200, "batch_size": 20, "eval_batch_size": 10}
SMALL = {"data": DATA, "accelerator": "cpu", "max_epochs": 1, "report": False}


class Greedy(Callback):
    """Asks for more memory than there is, in one hook."""

    def __init__(self, hook):
        setattr(self, hook, lambda *args: torch.empty(2**50, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("hook", "said"),
    [
        (
            "on_train_batch_end",
            r"with batch_size 20 and eval_batch_size 10 \(RuntimeError: .*DefaultCPUAllocator.*\): start a new run "
            r"with smaller ones \(--trainer\.accumulate_grad_batches .*; continue with resume\('lightning_logs",
        ),
        (
            "on_test_batch_start",
            r"with eval_batch_size 10 \(RuntimeError: .*\): use evaluate with a smaller --data\.eval_bat",
        ),
    ],
)
def test_a_run_that_is_out_of_memory_can_be_resumed(hook, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match=f"^out of memory {said}"):
        fit(**SMALL, callbacks=Greedy(hook))
    assert status("lightning_logs/version_0").state == "to be resumed"
    assert resume("lightning_logs/version_0", callbacks=[])["step"] == 10


def gpu_is_full(*args):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee documentation")


def test_a_command_that_is_out_of_memory_prints_one_line(call, monkeypatch, finished):
    monkeypatch.setattr(LitNet, "training_step", gpu_is_full)
    monkeypatch.setattr(LitNet, "test_step", gpu_is_full)
    code, out, err = call("fit", *SYNTHETIC, "--data.synthetic_size", 100, "--report", "false")
    assert (code, out, err.count("\n")) == (1, "", 1)
    start = (
        "error: out of memory with batch_size 4 and eval_batch_size 500 (OutOfMemoryError: CUDA out of memory. Tried"
    )
    assert err.startswith(start)
    with pytest.raises(
        RunError, match=r"^out of memory with eval_batch_size 500 \(OutOfMemoryError: CUDA .*\): use ev"
    ):
        evaluate(finished.folder, accelerator="cpu", output_dir="out")


def test_other_runtime_errors_are_raised_unchanged(tmp_path, monkeypatch):
    def broken(*args):
        raise RuntimeError(3)

    monkeypatch.setattr(LitNet, "training_step", broken)
    with pytest.raises(RuntimeError, match=r"^3$"):
        fit(**SMALL, default_root_dir=tmp_path)


def test_a_group_frees_the_memory_of_a_failed_run(tmp_path, monkeypatch):
    """The error of a failed run in a group keeps no traceback, whose tensors would leave no memory for the next run."""
    monkeypatch.setattr(many, "SIDE_BY_SIDE_STEP", 0)
    monkeypatch.setattr(LitNet, "training_step", gpu_is_full)
    with pytest.raises(RunError, match=r"^2 of 2 runs failed, first seed_0: out of memory .*; continue with") as raised:
        fit_many(seeds=2, default_root_dir=tmp_path, **SMALL)
    assert raised.value.__cause__.__cause__ is raised.value.__cause__.__traceback__ is None
