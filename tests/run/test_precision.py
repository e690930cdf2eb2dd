"""Tests float16 on a CPU: mixed, with a constant loss scale, which is only slower, and throughout, too slow for use."""

import json
import shutil

import pytest
import torch
from conftest import one_line
from lightning import Trainer

from cifar_lightning import LitNet, fake_data
from cifar_lightning.run import loop
from cifar_lightning.run.precision import StaticHalf, resolve_precision

pytestmark = pytest.mark.filterwarnings("ignore:.*`num_workers`")


def trained(**options):
    torch.manual_seed(0)
    model = LitNet(lr=0.05)
    trainer = Trainer(
        accelerator="cpu", devices=1, max_epochs=2, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, **options,
    )  # fmt: skip
    loop.install(trainer)
    trainer.fit(model, fake_data(200, batch_size=20))
    return model, trainer


@pytest.mark.parametrize("accumulated", [pytest.param(1, marks=pytest.mark.soak), 2])
def test_mixed_float16_trains_like_float32_but_for_rounding(accumulated):
    half, trainer = trained(plugins=[StaticHalf("cpu")], accumulate_grad_batches=accumulated)
    assert trainer.precision == "16-mixed"
    full, _ = trained(accumulate_grad_batches=accumulated)
    torch.manual_seed(0)
    start = LitNet()
    assert {weight.dtype for weight in half.parameters()} == {torch.float32}
    ours, theirs, before = (torch.nn.utils.parameters_to_vector(m.parameters()) for m in (half, full, start))
    assert (ours - theirs).norm() < 0.25 * (theirs - before).norm()


def test_convolutions_compute_in_float16():
    seen = set()

    class Noting(LitNet):
        def on_fit_start(self):
            super().on_fit_start()
            self.net.blocks[0].convs[0].register_forward_hook(lambda m, i, out: seen.add(out.dtype))

    trainer = Trainer(
        accelerator="cpu", devices=1, max_steps=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, plugins=[StaticHalf("cpu")],
    )  # fmt: skip
    loop.install(trainer)
    trainer.fit(Noting(net="speed", width=8), fake_data(40))
    assert seen == {torch.float16}


def test_auto_is_float32_on_an_apple_gpu_even_if_its_cpu_has_bfloat16(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"bf16": True})
    assert [resolve_precision("auto", device) for device in ("cpu", "mps")] == ["bf16-mixed", "32-true"]


# --- float16 throughout, in which a GPU may have trained -------------------------------------------------


def test_a_cpu_evaluates_a_float16_checkpoint_in_float32(plain, call, finished, tmp_path):
    """A CPU evaluates a network trained in 16-true in float32, which holds its weights exactly."""
    saved = torch.load(finished.folder / "checkpoints" / "best.ckpt", weights_only=True)
    halves = {name: value.half() if value.is_floating_point() else value for name, value in saved["state_dict"].items()}
    torch.save({**saved, "state_dict": halves, "precision": "16-true"}, tmp_path / "gpu.ckpt")
    singles = {name: value.float() if value.is_floating_point() else value for name, value in halves.items()}
    torch.save({**saved, "state_dict": singles}, tmp_path / "cpu.ckpt")
    code, _, err = call("evaluate", "gpu.ckpt", "--accelerator", "cpu", "--output_dir", "out")
    assert code == 0, err
    assert err == "note: evaluating in 32-true: the precision of the training, 16-true, is slow on a CPU\n"
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["precision"] == "32-true"
    assert results["test_acc"] > 0.3
    assert call("evaluate", "cpu.ckpt", "--accelerator", "cpu", "--output_dir", "exact")[0] == 0
    exact = json.loads((tmp_path / "exact" / "results.json").read_text())
    assert (results["test_loss"], results["confusion"]) == (exact["test_loss"], exact["confusion"])
    line = one_line(*call("evaluate", "gpu.ckpt", "--accelerator", "cpu", "--precision", "16-true"))
    assert line.endswith("float16 is slow on a CPU, bfloat16 is not; use bf16-true or bf16-mixed\n")


def test_a_float16_run_is_not_resumed_on_a_cpu(call, finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished.folder, run)
    (run / "results.json").unlink()
    settings = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(settings.replace("precision: 32-true", "precision: 16-true"))
    line = one_line(*call("fit", "--resume", run, "--accelerator", "cpu"))
    assert line == (
        f"error: accelerator cpu does not compute in 16-true, the precision of {run}: resume it on the device "
        "where it ran, or start a "
        "new run\n"
    )
