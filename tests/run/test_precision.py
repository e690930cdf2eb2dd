"""float16 with a constant loss scale, on the CPU, which has it too, only slower."""

import pytest
import torch
from lightning import Trainer

from cifar_lightning import LitNet, fake_data
from cifar_lightning.run import loop
from cifar_lightning.run.precision import StaticHalf

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


@pytest.mark.parametrize("accumulated", [1, 2])
def test_the_steps_are_those_of_float32_but_for_rounding(accumulated):
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
