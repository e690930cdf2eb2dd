"""The line that says on what and how a run computes, compared with what its network did in training."""

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback
from torch.backends import nnpack

from cifar_lightning import fit
from cifar_lightning.run.callbacks import computing
from cifar_lightning.run.precision import has_bfloat16

KERNELS = {"oneDNN": "aten::mkldnn_convolution", "NNPACK instead of oneDNN": "aten::_nnpack_spatial_convolution"}


class Watching(Callback):
    """Notes the number of threads in the first step, and the operations of its forward pass."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 0:
            self.threads = torch.get_num_threads()
            cpu = [torch.profiler.ProfilerActivity.CPU]
            in_precision = trainer.precision_plugin.forward_context()
            with torch.profiler.profile(activities=cpu) as profile, torch.no_grad(), in_precision:
                pl_module.net(batch[0])
            self.operations = {event.key for event in profile.key_averages()}


@pytest.mark.skipif(not nnpack.is_available(), reason="this torch has no NNPACK")
@pytest.mark.parametrize(
    ("images", "threads", "kernels", "precision"),
    [
        (4, "1 thread", "NNPACK instead of oneDNN (small steps: 5.2 million operations in a forward pass)", "32-true"),
        (12, "1 thread", "oneDNN (small steps: 15.6 million operations in a forward pass)", "32-true"),
        (50, "2 threads", "oneDNN", "32-true"),
        (4, "1 thread", "without oneDNN (small steps: 5.2 million operations in a forward pass)", "bf16-mixed"),
    ],
)
def test_line_tells_how_the_run_computed(plain, capsys, monkeypatch, tmp_path, images, threads, kernels, precision):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    watching = Watching()
    small = {"source": "synthetic", "synthetic_size": 100, "batch_size": images}
    how = {"accelerator": "cpu", "threads": 2, "max_steps": 2, "precision": precision, "default_root_dir": tmp_path}
    results = fit(small, {"compile": "auto"}, callbacks=watching, **how)
    has, fast = ("", "fast") if has_bfloat16("cpu") else ("no ", "not faster")
    precision += f" ({fast}: this CPU has {has}instructions for bfloat16)" if precision == "bf16-mixed" else ""
    line = f"on the CPU (no GPU that torch can use), {threads}, {kernels}, precision {precision}, "
    line += "not compiled (auto compiles on NVIDIA GPUs only)"
    assert capsys.readouterr().out.splitlines()[1] == f"computes {line}"
    assert results["computed"] == line
    assert watching.threads == int(threads.split()[0])
    used = {name for name, operation in KERNELS.items() if operation in watching.operations}
    assert used == {kernels.partition(" (")[0]} & KERNELS.keys()


def test_line_tells_whether_the_device_has_bfloat16_instructions(monkeypatch):
    """The line says whether a device has instructions for bfloat16, if torch does: for Apple's GPUs it does not."""
    said = []
    for device, found in (("cpu", True), ("cpu", False), ("cuda", True), ("mps", False)):
        monkeypatch.setattr(computing, "has_bfloat16", lambda accelerator, found=found: found)
        strategy = SimpleNamespace(root_device=torch.device(device))
        said.append(computing._precision(SimpleNamespace(precision="bf16-mixed", strategy=strategy)))
    assert said == [
        "precision bf16-mixed (fast: this CPU has instructions for bfloat16)",
        "precision bf16-mixed (not faster: this CPU has no instructions for bfloat16)",
        "precision bf16-mixed (fast: this GPU has instructions for bfloat16)",
        "precision bf16-mixed",
    ]
