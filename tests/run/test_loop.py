"""Tests that our loop trains like Lightning's, and that the CPU is configured to suit the work of a step."""

import logging
import warnings
from contextlib import suppress

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers.logger import DummyLogger
from torch import nn
from torch.nn import functional as F

from cifar_lightning import LitNet, fake_data
from cifar_lightning.errors import NonFiniteError
from cifar_lightning.run import loop
from cifar_lightning.run.cpu import available_threads, configure_cpu, step_work
from cifar_lightning.run.training import fit

pytestmark = pytest.mark.filterwarnings("ignore:.*`num_workers`")


def two_epochs(ours, **options):
    """Returns a Trainer for two epochs, with our loop or with Lightning's."""
    trainer = Trainer(
        accelerator="cpu", devices=1, max_epochs=2, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, **{"logger": False, **options},
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


@pytest.mark.parametrize("within_validation", [False, True])
def test_a_stop_waits_for_the_end_of_a_step(within_validation):
    """A stop waits until a step has all its gradients; Lightning's own loop leaves before that, and loses them."""

    class Stop(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            trainer.should_stop |= batch_idx == 3 and not within_validation

        def on_validation_end(self, trainer, pl_module):
            validated.append(trainer.fit_loop.epoch_loop.batch_progress.current.ready)
            trainer.should_stop |= within_validation

    def stopped(ours):
        validated.clear()
        trainer = two_epochs(
            ours, accumulate_grad_batches=3, callbacks=[Stop()], val_check_interval=5, num_sanity_val_steps=0
        )
        trainer.fit(LitNet(lr=0.01), fake_data(250, batch_size=20, val_split=50))
        return trainer.fit_loop.epoch_loop.batch_progress.current.ready, trainer.global_step

    validated = []
    assert stopped(ours=True) == (6, 2)
    assert validated == [5, 6]  # the validation that is due, and the one before a stop
    assert stopped(ours=False) == (5 if within_validation else 4, 1)


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
        (False, {"profiler": "simple"}),  # a plain step would leave it nothing to report
        (False, {"precision": "bf16-true"}),  # its batches are not float32
    ],
)
def test_our_loop_trains_the_same_weights_as_lightnings(plain, options):
    ours, theirs = trained(True, **options), trained(False, **options)
    assert ours.plain is plain
    for name, weight in ours.state_dict().items():
        assert torch.equal(weight, theirs.state_dict()[name]), name


@pytest.mark.parametrize("every", [1, 3])
def test_step_figures_are_logged_as_by_lightning_without_its_log(every, monkeypatch):
    """If only our code can log, our loop logs the same without `log`, which takes half as long as a small step."""
    asked, log = [], LightningModule.log
    monkeypatch.setattr(
        LightningModule, "log", lambda self, name, *args, **kw: asked.append(name) or log(self, name, *args, **kw)
    )

    def logged(ours):
        rows, logger = [], DummyLogger()
        logger.log_metrics = lambda metrics, step=None: rows.append((step, metrics))
        trainer = two_epochs(ours, logger=logger, log_every_n_steps=every)
        torch.manual_seed(0)
        trainer.fit(LitNet(lr=0.01, schedule="cosine"), fake_data(240, batch_size=20, val_split=40))
        return rows, trainer.callback_metrics, trainer.logged_metrics, trainer.progress_bar_metrics

    ours = logged(ours=True)
    ends = 2 * ["train_loss", "lr"] if every == 3 else []  # at the ends of epochs, where a step is left to log
    assert [name for name in asked if not name.startswith("val_")] == ends
    assert ours == logged(ours=False)
    assert len(ours[0]) > 20 // every


def test_a_callbacks_hook_is_called_in_every_step():
    watch = Watch()
    assert not trained(True, callbacks=[watch]).plain
    assert watch.seen == 20


@pytest.mark.parametrize(("accumulated", "kept"), [(1, [False] * 4), (4, [True, False] * 2)])
def test_a_validation_finds_no_gradients_but_accumulated_ones(accumulated, kept):
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


@pytest.mark.parametrize("scheduled", [True, False])
@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
def test_a_loader_without_a_data_module_resumes_within_an_epoch(tmp_path, scheduled):
    """A loader that no data module positions resumes at the right batch, with a schedule and without.

    For a schedule, Lightning sets the loader up before it reads the checkpoint.
    """

    class Noting(LitNet):
        def training_step(self, batch, batch_idx):
            seen.append(batch[1].tolist())
            return super().training_step(batch, batch_idx)

        def configure_optimizers(self):
            return super().configure_optimizers() if scheduled else torch.optim.SGD(self.parameters(), 0.01)

    data = fake_data(100)
    data.setup("fit")
    seen, path = [], tmp_path / "step-3.ckpt"

    class Saving(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if trainer.global_step == 3 and not path.exists():
                trainer.save_checkpoint(path)

    for start in (None, path):
        trainer = two_epochs(True, callbacks=[Saving()])
        trainer.fit(Noting(lr=0.01, schedule="cosine"), data.train_dataloader(), ckpt_path=start)
    assert seen[10:] == seen[3:10]


@pytest.mark.parametrize(
    ("images", "threads", "onednn"),
    [(4, 1, False), (12, 1, True), (1_000, 2, True)],
)
def test_threads_and_onednn_suit_the_work_of_a_step(cpu_settings, images, threads, onednn):
    model = LitNet()
    expected = model.net(torch.ones(2, 3, 32, 32))
    configure_cpu(model, images, 2)
    assert torch.get_num_threads() == threads
    assert torch.backends.mkldnn.enabled is onednn
    assert model.training
    torch.testing.assert_close(model.net(torch.ones(2, 3, 32, 32)), expected, atol=1e-5, rtol=1e-5)


def test_the_cpu_is_configured_anew_for_other_work(cpu_settings):
    """oneDNN, which a fit of tiny steps switches off, is switched on again for more work, such as a test."""
    model = LitNet()
    configure_cpu(model, 4, 2)
    configure_cpu(model, 50, 2)
    assert torch.get_num_threads() == 2
    assert torch.backends.mkldnn.enabled


class Attending(nn.Module):
    """A network with attention between patches, once by a layer of torch's and once by its function."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 4, 4, bias=False)
        self.encoder = nn.TransformerEncoderLayer(32, 4, 128, batch_first=True)
        self.head = nn.Linear(32, 10)

    def forward(self, images):
        x = self.encoder(self.patches(images).flatten(2).mT)
        x = x.unflatten(2, (4, 8)).transpose(1, 2)
        return self.head(F.scaled_dot_product_attention(x, x, x).transpose(1, 2).flatten(2).mean(1))


def test_attention_counts_as_work(cpu_settings):
    tokens, width = 64, 32
    patches, head = tokens * width * 48, width * 10
    attention = 2 * tokens * tokens * width
    layer = tokens * width * (3 * width + width + 2 * 128) + attention
    model = LitNet(net=Attending())
    assert step_work(model, 10) == 10 * 2 * (patches + layer + attention + head)
    assert torch.backends.mha.get_fastpath_enabled()
    assert torch.backends.cuda.flash_sdp_enabled()


TORCH = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "8", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
SRUN = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_CPUS_ON_NODE": "8"}


@pytest.mark.parametrize(
    ("env", "threads"),
    [
        ({}, 6),
        ({**TORCH, "LOCAL_WORLD_SIZE": "2"}, 3),
        ({**TORCH, "LOCAL_WORLD_SIZE": "8"}, 1),
        ({**TORCH, "LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "6"}, 6),  # set by the user, for each process
        (
            {**TORCH, "LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "1", "TORCHELASTIC_RESTART_COUNT": "0"},
            4,
        ),  # set by torchrun, so ignored
        ({"OMP_NUM_THREADS": "1", "TORCHELASTIC_RESTART_COUNT": "0"}, 6),  # torchrun does not set it for one rank
        (SRUN, 4),  # may use 6 of 8 cores: not bound to its own
        ({**SRUN, "SLURM_CPUS_ON_NODE": "12"}, 6),  # may use 6 of 12 cores: bound to its own
    ],
)
def test_available_threads_are_shared_by_the_ranks_of_a_machine(cpu_settings, monkeypatch, env, threads):
    for name in ("LOCAL_WORLD_SIZE", "OMP_NUM_THREADS", "TORCHELASTIC_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)), raising=False)
    torch.set_num_threads(6)
    assert available_threads() == threads


@pytest.mark.parametrize("lr", [0.001, 1e6])
def test_a_fit_restores_the_settings_of_the_process(plain, cpu_settings, tmp_path, lr):
    torch.set_num_threads(3)
    torch.backends.mkldnn.enabled = True
    filters, logger = list(warnings.filters), logging.getLogger("lightning.pytorch")
    level = logger.level
    data = {"source": "synthetic", "synthetic_size": 40}
    with suppress(NonFiniteError):
        fit(data, {"lr": lr}, accelerator="cpu", max_epochs=1, log_every_n_steps=1, default_root_dir=tmp_path)
    assert (tmp_path / "lightning_logs" / "version_0" / "results.json").exists() is (lr < 1)
    assert torch.get_num_threads() == 3
    assert torch.backends.mkldnn.enabled
    assert warnings.filters == filters
    assert logger.level == level
