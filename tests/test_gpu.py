"""Training on a GPU; on a machine without one, on a pretended GPU, whose limits pretended.py states."""

import json
from contextlib import nullcontext
from functools import partial

import pytest
import sides
import torch
from jobs import SMALL, differences, job
from pretended import pretended_gpu

from cifar_lightning import CIFAR10DataModule, LitNet, evaluate, fit, resume
from cifar_lightning.model.compilation import resolve_mode

# torch warns about the machine, such as about its clock or its cores
pytestmark = pytest.mark.filterwarnings("ignore")

THERE = torch.cuda.is_available()
# A pretended GPU is as slow as a CPU is in float16: a tenth of the images, but also 20 steps per epoch.
DATA = {"source": "synthetic", "synthetic_size": 2_000 if THERE else 200, "batch_size": 100 if THERE else 10}
compiles = pytest.mark.skipif(
    not THERE or resolve_mode("auto", on_gpu=True, graphs=True) == "none", reason="there is no GPU, or no C compiler"
)
SPEED = {
    "net": "speed", "width": 16 if THERE else 8, "lr": 5.0, "head_lr": 0.08, "muon_lr": 0.2, "momentum": 0.85,
    "nesterov": True, "schedule": "linear",
}  # fmt: skip


@pytest.fixture(autouse=True)
def gpu(request):
    kind = getattr(request, "param", "cuda")
    with nullcontext() if THERE and kind == "cuda" else pretended_gpu(kind):
        yield


def test_tensors_on_different_devices_cannot_be_added():
    with pytest.raises(RuntimeError, match="on cuda:0 and on the CPU" if not THERE else "same device"):
        torch.ones(2, device="cuda:0") + torch.ones(2)


@pytest.mark.parametrize("augment", [False, True])
def test_no_step_waits_for_the_gpu_between_log_points(augment):
    waits = sides.count_waits(partial(sides.our_fit, augment=augment), "gpu", every=50)
    assert waits["waits_between_log_points"] == 0
    assert waits["waits_at_log_points"] > 0


@compiles
def test_compiled_speed_run_does_not_wait_between_log_points(tmp_path):
    def train(accelerator, steps, max_steps):
        data = {**DATA, "synthetic_size": 100 * steps, "augment": True, "flip": "alternating", "cutout": 8}
        options = {"precision": "bf16-mixed", "max_epochs": 1, "default_root_dir": tmp_path}
        fit(data, {**SPEED, "compile": "reduce-overhead", "sizes": [24]}, accelerator=accelerator, **options)

    waits = sides.count_waits(train, "gpu", every=50)
    assert waits["waits_between_log_points"] == 0


@pytest.mark.parametrize("flip", ["random", "alternating"])
def test_batches_on_a_gpu_equal_those_on_the_cpu(flip):
    options = {**DATA, "augment": True, "flip": flip, "cutout": 8}
    modules = [CIFAR10DataModule(**options, device=device) for device in ("cpu", "cuda")]
    loaders = [module.train_dataloader() for module in modules]
    for _ in range(2):
        for (x, y), (on_gpu, labels) in zip(*loaders, strict=True):
            torch.testing.assert_close(on_gpu.cpu(), x, rtol=0, atol=1e-6)
            assert torch.equal(labels.cpu(), y)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("mode", ["none", pytest.param("reduce-overhead", marks=compiles)])
def test_a_network_learns_on_a_gpu_in_every_precision(tmp_path, plain, precision, mode):
    options = {"accelerator": "gpu", "max_epochs": 4, "default_root_dir": tmp_path, "precision": precision}
    results = fit(DATA, {**SPEED, "compile": mode, "test_views": "six"}, **options)
    assert results["accelerator"] == "gpu"
    assert results["test_acc"] > (0.8 if THERE else 0.5)  # on 40 test images instead of 400; guessing gives 0.1
    (run,) = (tmp_path / "lightning_logs").iterdir()
    on_cpu = evaluate(run, accelerator="cpu", precision="32-true")
    assert on_cpu["test_acc"] == pytest.approx(results["test_acc"], abs=0.01 if THERE else 0.1)


@compiles
def test_cuda_graphs_of_earlier_networks_are_not_reused(tmp_path):
    """Equal fits give the same loss: no CUDA graph is replayed on a later network that has the same addresses."""
    options = {"accelerator": "gpu", "max_epochs": 1, "default_root_dir": tmp_path, "precision": "bf16-mixed"}
    losses = [fit(DATA, {**SPEED, "compile": "reduce-overhead"}, **options)["test_loss"] for _ in range(4)]
    assert losses == pytest.approx([losses[0]] * 4, rel=0.02)


def test_a_resumed_gpu_run_ends_like_an_uninterrupted_one(tmp_path, plain):
    options = {"accelerator": "gpu", "seed": 3, "log_every_n_steps": 5}
    model = {"net": "speed", "width": 16, "lr": 0.05}
    whole = fit(DATA, model, max_epochs=2, default_root_dir=tmp_path / "whole", **options)
    fit(DATA, model, max_epochs=2, max_steps=27, default_root_dir=tmp_path / "parts", **options)
    run = tmp_path / "parts" / "lightning_logs" / "version_0"
    assert resume(run, {"max_steps": 40})["test_loss"] == pytest.approx(whole["test_loss"], rel=0.05)


@pytest.mark.skipif(torch.cuda.device_count() == 1, reason="there is one GPU")
def test_runs_on_two_gpus_match_runs_on_two_cpu_processes(tmp_path):
    """Two GPUs give the results of two CPU processes, also after a kill; on pretended GPUs they are bit-identical."""
    flags, env = (*SMALL, "--model.compile", "none", "--devices", 2), {"PRETENDED_GPUS": "" if THERE else "2"}
    on_gpus = ("--accelerator", "gpu")
    folders = gpus, cpus, killed = [tmp_path / name for name in ("gpus", "cpus", "killed")]
    for folder in folders:
        folder.mkdir()
    assert job("fit", *flags, *on_gpus, cwd=gpus, env=env).code == 0
    assert job("fit", *flags, cwd=cpus).code == 0
    assert job("fit", *flags, *on_gpus, cwd=killed, env=env, fault="kill-all@1:train:11").code
    assert job("fit", "--resume", "auto", *flags, *on_gpus, cwd=killed, env=env).code == 0
    run, *others = [folder / "lightning_logs" / "version_0" for folder in folders]
    results = [json.loads((run / "results.json").read_text()) for run in (run, *others)]
    assert [(one["accelerator"], one["devices"]) for one in results] == [("gpu", 2), ("cpu", 2), ("gpu", 2)]
    if THERE:
        assert [one["test_loss"] for one in results] == pytest.approx([results[0]["test_loss"]] * 3, rel=0.02)
    else:
        assert [differences(run, other) for other in others] == [[], []]


@pytest.mark.parametrize("gpu", ["mps"], indirect=True)
@pytest.mark.parametrize("precision", ["auto", pytest.param("16-mixed", marks=pytest.mark.soak)])
def test_a_network_learns_on_an_apple_gpu(tmp_path, plain, precision):
    model = {**SPEED, "sizes": [20, 24], "test_views": "six"}
    options = {"accelerator": "mps", "max_epochs": 4, "default_root_dir": tmp_path, "precision": precision}
    results = fit({**DATA, "augment": True, "cutout": 8}, model, **options)
    assert results["test_acc"] > 0.5


@pytest.mark.parametrize("gpu", ["mps"], indirect=True)
def test_a_pretended_apple_gpu_refuses_float64():
    with pytest.raises(TypeError, match="float64"):
        LitNet().to("mps:0").double()
