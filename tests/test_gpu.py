"""What only a GPU can show; skipped where there is none."""

from functools import partial

import pytest
import torch

from cifar_lightning import CIFAR10DataModule, evaluate, fit, resume
from cifar_lightning.model.compilation import resolve_mode

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
    pytest.mark.filterwarnings("ignore"),  # torch's word on the machine, such as of its clock or its cores
]

DATA = {"source": "synthetic", "synthetic_size": 2_000, "batch_size": 100}
compiles = pytest.mark.skipif(resolve_mode("auto", on_gpu=True, graphs=True) == "none", reason="there is no C compiler")
SPEED = {
    "net": "speed", "width": 16, "lr": 5.0, "head_lr": 0.08, "muon_lr": 0.2, "momentum": 0.85, "nesterov": True,
    "schedule": "linear",
}  # fmt: skip


@pytest.mark.parametrize("augment", [False, True])
def test_no_step_waits_for_the_gpu_between_log_points(benchmark, augment):
    waits = benchmark.count_waits(partial(benchmark.our_fit, augment=augment), "gpu", every=50)
    assert waits["waits_between_log_points"] == 0
    assert waits["waits_at_log_points"] > 0


@compiles
def test_no_step_of_the_speed_run_waits_for_the_gpu(benchmark, tmp_path):
    def train(accelerator, steps, max_steps):
        data = {**DATA, "synthetic_size": 100 * steps, "augment": True, "flip": "alternating", "cutout": 8}
        options = {"precision": "bf16-mixed", "max_epochs": 1, "default_root_dir": tmp_path}
        fit(data, {**SPEED, "compile": "reduce-overhead", "sizes": [24]}, accelerator=accelerator, **options)

    waits = benchmark.count_waits(train, "gpu", every=50)
    assert waits["waits_between_log_points"] == 0


@pytest.mark.parametrize("flip", ["random", "alternating"])
def test_a_gpus_batches_are_the_cpus(flip):
    options = {**DATA, "augment": True, "flip": flip, "cutout": 8}
    modules = [CIFAR10DataModule(**options, device=device) for device in ("cpu", "cuda")]
    loaders = [module.train_dataloader() for module in modules]
    for _ in range(2):
        for (x, y), (on_gpu, labels) in zip(*loaders, strict=True):
            torch.testing.assert_close(on_gpu.cpu(), x, rtol=0, atol=1e-6)
            assert torch.equal(labels.cpu(), y)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("mode", ["none", pytest.param("reduce-overhead", marks=compiles)])
def test_a_network_learns_on_a_gpu_in_every_precision(tmp_path, precision, mode):
    options = {"accelerator": "gpu", "max_epochs": 4, "default_root_dir": tmp_path, "precision": precision}
    results = fit(DATA, {**SPEED, "compile": mode, "test_views": "six"}, **options)
    assert results["accelerator"] == "gpu"
    assert results["test_acc"] > 0.8
    (run,) = (tmp_path / "lightning_logs").iterdir()
    on_cpu = evaluate(run, accelerator="cpu", precision="32-true")
    assert on_cpu["test_acc"] == pytest.approx(results["test_acc"], abs=0.01)


@compiles
def test_a_later_network_is_not_taken_for_an_earlier_one(tmp_path):
    """Where its weights lie at the same addresses, a CUDA graph would take them for those it has been recorded with."""
    options = {"accelerator": "gpu", "max_epochs": 1, "default_root_dir": tmp_path, "precision": "bf16-mixed"}
    losses = [fit(DATA, {**SPEED, "compile": "reduce-overhead"}, **options)["test_loss"] for _ in range(4)]
    assert losses == pytest.approx([losses[0]] * 4, rel=0.02)


def test_a_gpus_run_goes_on_where_it_was(tmp_path):
    options = {"accelerator": "gpu", "seed": 3, "log_every_n_steps": 5}
    model = {"net": "speed", "width": 16, "lr": 0.05}
    whole = fit(DATA, model, max_epochs=2, default_root_dir=tmp_path / "whole", **options)
    fit(DATA, model, max_epochs=2, max_steps=27, default_root_dir=tmp_path / "parts", **options)
    run = tmp_path / "parts" / "lightning_logs" / "version_0"
    assert resume(run, {"max_steps": 40})["test_loss"] == pytest.approx(whole["test_loss"], rel=0.05)
