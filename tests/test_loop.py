"""Our loop trains as Lightning's does, only faster; and a CPU computes as suits the work."""

import pytest
import torch
from lightning import Callback, Trainer

from cifar_lightning import LitNet, fake_data, loop
from cifar_lightning.devices import fit_cpu

pytestmark = pytest.mark.filterwarnings("ignore:`isinstance.treespec", "ignore:.*`num_workers`")


def two_epochs(ours, **options):
    """A Trainer with our loop, or with Lightning's."""
    trainer = Trainer(
        accelerator="cpu", devices=1, max_epochs=2, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, **options,
    )  # fmt: skip
    if ours:
        loop.install(trainer)
    return trainer


def trained(ours, model=None, callbacks=(), **options):
    torch.manual_seed(0)
    model = model or LitNet(lr=0.01, schedule="cosine")
    trainer = two_epochs(ours, callbacks=list(callbacks), **options)
    trainer.fit(model, fake_data(200, batch_size=20))
    assert trainer.global_step == 20 // options.get("accumulate_grad_batches", 1)
    if ours:
        model.plain = trainer.fit_loop.epoch_loop.automatic_optimization.plain
    return model


class Watch(Callback):
    def __init__(self):
        self.seen = 0

    def on_after_backward(self, trainer, pl_module):
        self.seen += 1


@pytest.mark.parametrize(
    ("plain", "options"),
    [
        (True, {}),
        (False, {"gradient_clip_val": 0.1}),
        (False, {"accumulate_grad_batches": 2}),
        (False, {"profiler": "simple"}),  # which would have nothing to report of a step
        (False, {"precision": "bf16-true"}),  # whose batches are not float32
    ],
)
def test_the_weights_are_those_of_lightnings_loop(plain, options):
    ours, theirs = trained(True, **options), trained(False, **options)
    assert ours.plain is plain
    for name, weight in ours.state_dict().items():
        assert torch.equal(weight, theirs.state_dict()[name]), name


def test_a_callbacks_hook_is_called_in_every_step():
    watch = Watch()
    assert not trained(True, callbacks=[watch]).plain
    assert watch.seen == 20


@pytest.mark.parametrize(("accumulated", "kept"), [(1, [False] * 4), (4, [True, False] * 2)])
def test_a_validation_finds_only_gradients_that_are_still_to_be_used(accumulated, kept):
    class Looking(LitNet):
        kept = ()

        def on_validation_start(self):
            self.kept += (self.net.fc3.weight.grad is not None,)

    def gradients(ours):
        trainer = two_epochs(ours, num_sanity_val_steps=0, val_check_interval=5, accumulate_grad_batches=accumulated)
        trainer.fit(model := Looking(), fake_data(220, batch_size=20, val_split=20))
        return list(model.kept)

    assert gradients(ours=True) == gradients(ours=False) == kept


def test_an_optimisers_own_zero_grad_is_called():
    class Counted(torch.optim.SGD):
        count = 0

        def zero_grad(self, set_to_none=True):
            Counted.count += 1
            super().zero_grad(set_to_none)

    class Net(LitNet):
        def configure_optimizers(self):
            return Counted(self.parameters(), lr=0.01)

    assert not trained(True, Net()).plain
    assert Counted.count == 20


@pytest.mark.parametrize(
    ("images", "threads", "onednn"),
    [(4, 1, False), (12, 1, True), (1_000, 2, True)],
)
def test_the_cpu_computes_as_suits_the_work(cpu_settings, monkeypatch, images, threads, onednn):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    model = LitNet()
    expected = model.net(torch.ones(2, 3, 32, 32))
    fit_cpu(model, images)
    assert torch.get_num_threads() == threads
    assert torch.backends.mkldnn.enabled is onednn
    assert model.training
    torch.testing.assert_close(model.net(torch.ones(2, 3, 32, 32)), expected, atol=1e-5, rtol=1e-5)
