"""Tests --verify_steps: steps that are computed twice do not change a run, and an error names what differs."""

import re
from functools import partial
from math import inf

import pytest
import torch
from jobs import SMALL, differences, job, step_of
from torch import nn

from cifar_lightning import LitNet, fake_data, fit
from cifar_lightning.errors import NonFiniteError, RunError
from cifar_lightning.model.networks import build
from cifar_lightning.run.callbacks.verification import Verification
from cifar_lightning.run.checkpoint import load_checkpoint
from cifar_lightning.run.loop import Optimization, StepEnd
from cifar_lightning.run.trainer import new_trainer

DATA = {"source": "synthetic", "synthetic_size": 140, "batch_size": 20, "augment": True}
MODEL = {"net": "speed54", "width": 8, "lr": 1.0, "muon_lr": 0.1, "head_lr": 0.02, "schedule": "linear"}


def counts(run):
    """Returns how often the optimiser has stepped and zeroed gradients, according to a run's last checkpoint."""
    loops = load_checkpoint(run / "checkpoints" / f"step-{step_of(run)}.ckpt")["loops"]["fit_loop"]
    return loops["epoch_loop.automatic_optimization.optim_progress"]


@pytest.mark.parametrize(
    ("steps", "options"),
    [
        (14, {}),  # both epochs
        (3, {"precision": "bf16-mixed"}),
        (5, {"trainer": {"accumulate_grad_batches": 2}}),  # the last step of an epoch has one batch
        (3, {"trainer": {"gradient_clip_val": 0.1}}),
    ],
)
def test_a_verified_run_is_bit_identical_to_one_that_is_not(plain, tmp_path, capsys, steps, options):
    runs = [tmp_path / name / "lightning_logs" / "version_0" for name in ("verified", "not")]
    for run, verify_steps in zip(runs, (steps, 0), strict=True):
        options |= {"accelerator": "cpu", "log_every_n_steps": 2, "default_root_dir": run.parents[1]}
        fit(DATA, MODEL, verify_steps=verify_steps, **options)
    assert differences(*runs) == []
    assert counts(runs[0]) == counts(runs[1])
    said = [line for line in capsys.readouterr().out.splitlines() if "twice" in line]
    assert said == [f"steps 1 to {steps}, computed twice, agree bit for bit"]


def test_a_verified_run_on_two_devices_is_bit_identical(whole, tmp_path):
    done = job("fit", *SMALL, "--devices", 2, "--verify_steps", 5, cwd=tmp_path)
    assert done.code == 0, done.text
    assert differences(tmp_path / "lightning_logs" / "version_0", whole[2]) == []
    assert done.lines.count("steps 1 to 5, computed twice, agree bit for bit") == 1


@pytest.mark.soak
@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_verified_run_on_three_devices_is_bit_identical(tmp_path, accumulated):
    """On three devices a verified run is bit-identical too, although DDP rounds its first sum differently."""
    flags = (*SMALL, "--data.batch_size", 21, "--devices", 3, "--trainer.accumulate_grad_batches", accumulated)
    runs = [tmp_path / "lightning_logs" / f"version_{number}" for number in range(2)]
    for verify_steps in (5, 0):
        done = job("fit", *flags, "--verify_steps", verify_steps, cwd=tmp_path)
        assert done.code == 0, done.text
    assert differences(*runs) == []


class Watch(StepEnd):
    """Notes which steps were plain."""

    def __init__(self):
        self.plain = []

    def on_step_end(self, trainer, pl_module):
        optimization = trainer.fit_loop.epoch_loop.automatic_optimization
        assert isinstance(optimization, Optimization)
        self.plain.append(optimization.plain)


class Counting(LitNet):
    computed = 0

    def training_step(self, batch, batch_idx):
        self.computed += 1
        return super().training_step(batch, batch_idx)


def tutorial():
    return build("tutorial", 10, None)


def trained(net, verify_steps, watch=None):
    """Returns a model trained for two epochs of six steps; `net` makes its network."""
    torch.manual_seed(0)
    callbacks = [*([Verification(verify_steps)] if verify_steps else []), *([watch] if watch else [])]
    trainer = new_trainer(
        accelerator="cpu", devices=1, precision="32-true", max_epochs=2, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, callbacks=callbacks,
    )  # fmt: skip
    model = Counting(net=net(), lr=0.01)
    trainer.fit(model, fake_data(120, batch_size=20))
    return model


def test_steps_after_the_verified_ones_are_plain_and_computed_once(capsys):
    watch = Watch()
    model = trained(tutorial, 3, watch)
    assert model.computed == 12 + 3
    assert watch.plain == [False] * 2 + [True] * 10  # noted after each step, so already after the third
    capsys.readouterr()
    assert trained(tutorial, 20).computed == 2 * 12
    assert capsys.readouterr().out == "steps 1 to 12, computed twice, agree bit for bit\n"


class Unsteady(nn.Module):
    """The tutorial's network, but from the third step on `part` draws from a generator that no seed reaches."""

    def __init__(self, part):
        super().__init__()
        self.net, self.part, self.passes = tutorial(), part, 0
        self.generator = torch.Generator().manual_seed(7)
        self.register_buffer("noise", torch.zeros(2))
        self.sometimes = nn.Parameter(torch.zeros(10))

    def draw(self, *shape):
        return torch.randn(shape, generator=self.generator)

    def forward(self, x):
        self.passes += 1
        if self.passes <= 4:
            return self.net(x)
        if self.part == "buffer":
            self.noise.copy_(self.draw(2))
        if self.part == "dropout":
            x = x * (self.draw(1, 3, 1, 1) > 0)
        if self.part == "gradient":
            logits = self.net(x)
            logits.register_hook(lambda gradient: gradient + 1e-9 * self.draw(1, 10))
            return logits
        if self.part == "use" and self.passes % 2:
            return self.net(x) + self.sometimes
        return self.net(x)


@pytest.mark.parametrize(
    ("part", "named"),
    [
        ("buffer", "net.noise"),
        ("dropout", "the loss, the gradient of net.net.conv1.weight, the gradient of net.net.conv1.bias and 8 more"),
        (
            "gradient",
            "the gradient of net.net.conv1.weight, the gradient of net.net.conv1.bias, the gradient of "
            "net.net.conv2.weight and 7 more",
        ),
        ("use", "the gradient of net.sometimes"),
    ],
)
def test_the_error_names_what_differs(part, named):
    with pytest.raises(RunError) as error:
        trained(partial(Unsteady, part), 5)
    distance = re.fullmatch(
        rf"step 3, computed twice, differs by up to (\S+) in {re.escape(named)}: start a new run with "
        r"--trainer.deterministic true or fewer threads \(OMP_NUM_THREADS\), or on another machine",
        str(error.value),
    )
    least, most = {"gradient": (1e-12, 1e-6), "use": (inf, inf)}.get(part, (1e-3, 10))
    assert least <= float(distance[1]) <= most


def test_steps_after_the_verified_ones_are_not_compared():
    assert trained(partial(Unsteady, "buffer"), 2).computed == 12 + 2


def test_the_error_has_the_largest_difference():
    drawn = torch.Generator().manual_seed(7)
    first, second = (torch.randn(2, generator=drawn) for _ in range(2))
    said = re.escape(f"by up to {(first - second).abs().max():.1e} in net.noise:")
    with pytest.raises(RunError, match=said):
        trained(partial(Unsteady, "buffer"), 5)


def test_both_computations_draw_the_same_random_numbers():
    def dropping():
        return nn.Sequential(tutorial(), nn.Dropout())

    verified, not_verified = (trained(dropping, steps).state_dict() for steps in (12, 0))
    assert all(torch.equal(weight, not_verified[name]) for name, weight in verified.items())


def test_a_nan_in_both_computations_is_no_difference(plain, tmp_path):
    with pytest.raises(NonFiniteError):
        fit(DATA, {"lr": 1e30}, accelerator="cpu", log_every_n_steps=5, verify_steps=5, default_root_dir=tmp_path)


def test_a_difference_ends_the_command_with_one_line(call, monkeypatch):
    step, generator = LitNet.training_step, torch.Generator()
    monkeypatch.setattr(
        LitNet, "training_step", lambda *args: step(*args) * (1 + 1e-3 * torch.rand((), generator=generator))
    )
    code, out, err = call("fit", *SMALL, "--verify_steps", 2)
    assert code == 1
    assert "twice" not in out
    assert err.startswith("error: step 1, computed twice, differs by up to ")
    assert err.endswith("or on another machine; continue with --resume lightning_logs/version_0\n")
    assert err.count("\n") == 1
