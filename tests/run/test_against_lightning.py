"""Tests that our loop and Lightning's have bit-identical weights, the same hooks in order, and the same logged values.

Each test draws one of twelve fixed combinations of options. The soak draws two hundred more from a seed that it prints:
`LOOP_SEED=7 LOOP_DRAWS=200 pytest -n 0 -m soak tests/run/test_against_lightning.py`.
"""

import os
import random
import time
from collections import Counter

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, LambdaCallback, LearningRateMonitor
from lightning.pytorch.profilers import SimpleProfiler
from stand_ins import Log

from cifar_lightning import LitNet, fake_data
from cifar_lightning.run import loop

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's about the drawn options: both loops have them

HOOKS = [
    name
    for name in vars(Callback)
    if name.startswith("on_") and "checkpoint" not in name and "exception" not in name and "predict" not in name
]


class Diary(Callback):
    """Notes which hooks are called and when, and may log in some of them."""

    def __init__(self, logs):
        self.logs, self.entries = logs, []

    def _note(self, hook, trainer, module, *args):
        batch_idx = args[-1] if args and isinstance(args[-1], int) else None
        self.entries.append((hook, trainer.global_step, trainer.current_epoch, batch_idx))
        if self.logs and hook == "on_train_batch_end":
            module.log("mine", float(trainer.global_step), on_step=True, on_epoch=True)
        if self.logs and hook == "on_train_batch_start":
            module.log("before", float(args[-1]))


def _noting(hook):
    return lambda self, trainer, module, *args, **kwargs: self._note(hook, trainer, module, *args)


for _hook in HOOKS:
    setattr(Diary, _hook, _noting(_hook))


class Speaking(LitNet):
    """A LitNet that has hooks and logs figures in them."""

    def on_train_batch_start(self, batch, batch_idx):
        self.seen = [*getattr(self, "seen", []), batch_idx]

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.log("step_loss", loss.detach(), on_step=True, on_epoch=True)
        return loss

    def on_after_backward(self):
        self.log("gradient", self.net.fc3.weight.grad.norm())


class Stopping(Callback):
    """Asks for the end of the fit after a batch, as max_time does: in Lightning's loop this may be within a step."""

    def __init__(self, batch):
        self.batch = batch

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if batch_idx == self.batch:
            trainer.should_stop = True


def draw(rng):
    """Returns random options for the data, the network and the Trainer, and the callbacks and others that take part."""
    validates = rng.random() < 0.7
    options = {
        "max_epochs": rng.randint(1, 3),
        "log_every_n_steps": rng.choice([1, 3, 7]),
        "accumulate_grad_batches": rng.choice([1, 1, 1, 2, 3]),
        "precision": rng.choice(["32-true", "32-true", "bf16-mixed", "bf16-true", "64-true"]),
    }
    if rng.random() < 0.3:
        options |= {"gradient_clip_val": 0.5, "gradient_clip_algorithm": rng.choice(["norm", "value"])}
    if rng.random() < 0.3:
        options["max_steps"] = rng.randint(1, 14)
    if rng.random() < 0.3:
        options["limit_train_batches"] = rng.choice([4, 0.5])
    if rng.random() < 0.2:
        options["overfit_batches"] = 2
    if validates and rng.random() < 0.5:
        options["val_check_interval"] = rng.choice([2, 3, 0.5, 1.0])
    if validates and rng.random() < 0.3:
        options["check_val_every_n_epoch"] = rng.choice([2, None])
    if validates and rng.random() < 0.3:
        options["limit_val_batches"] = rng.choice([1, 0.5])
    if rng.random() < 0.2:
        options["reload_dataloaders_every_n_epochs"] = 1
    if rng.random() < 0.2:
        options["min_epochs"] = 2
    if rng.random() < 0.2:
        options["detect_anomaly"] = True
    if "overfit_batches" in options:
        options.pop("limit_train_batches", None)
        options.pop("limit_val_batches", None)
    few = "overfit_batches" in options or options.get("limit_train_batches") == 0.5
    if (few and options.get("val_check_interval") in (2, 3)) or "check_val_every_n_epoch" in options:
        options["val_check_interval"] = 2  # there are at least two batches
    model = {
        "lr": 0.02,
        "schedule": rng.choice(["constant", "cosine", "one-cycle", "linear"]),
        "sizes": rng.choice([None, None, [24]]),
        "test_views": rng.choice(["one", "mirror"]),
        "net": "tutorial",
    }
    if model["sizes"]:
        model |= {"net": "speed54", "width": 4, "muon_lr": rng.choice([None, 0.1])}
    if "min_epochs" in options and "max_steps" in options:
        del options["min_epochs"]
    data = {"val_split": 30 if validates else 0, "augment": rng.random() < 0.5, "seed": rng.randrange(100)}
    extras = rng.sample(
        ["diary", "logging", "lambda", "rates", "speaking", "stopping", "patience", "profiler"], rng.randint(0, 4)
    )
    if model["net"] != "tutorial" and "speaking" in extras:
        extras.remove("speaking")
    if "patience" in extras and (not validates or "max_steps" in options):  # val_loss might never be logged
        extras.remove("patience")
    if options["accumulate_grad_batches"] > 1:  # ours finishes a step: see test_a_stop_waits_…
        extras = [extra for extra in extras if extra not in ("stopping", "patience")]
    return data, model, options, extras


def trained(ours, data, model, options, extras):
    torch.manual_seed(0)
    log, diary, heard = Log(), Diary("logging" in extras), []
    callbacks = [diary] if {"diary", "logging"} & {*extras} else []
    if "lambda" in extras:
        callbacks.append(
            LambdaCallback(
                on_train_batch_end=lambda *args: heard.append(args[-1]),
                on_after_backward=lambda *args: heard.append("backward"),
            )
        )
    if "rates" in extras:
        callbacks.append(LearningRateMonitor("step"))
    if "stopping" in extras:
        callbacks.append(Stopping(3))
    if "patience" in extras:
        callbacks.append(EarlyStopping("val_loss", patience=1, mode="max"))
    profiler = SimpleProfiler() if "profiler" in extras else None
    trainer = Trainer(
        accelerator="cpu", devices=1, logger=log, callbacks=callbacks, enable_checkpointing=False, profiler=profiler,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, **options,
    )  # fmt: skip
    if ours:
        loop.install(trainer)
    else:
        _validate_the_last_step(trainer.fit_loop.epoch_loop)
    net = (Speaking if "speaking" in extras else LitNet)(**model)
    trainer.fit(net, fake_data(130, batch_size=10, eval_batch_size=5, **data))
    assert trainer.global_step
    return {
        "weights": net.state_dict(),
        "steps": trainer.global_step,
        "hooks": diary.entries,
        "heard": heard,
        "rows": log.rows,
        "seen": getattr(net, "seen", []),
        "callback metrics": {name: value.item() for name, value in trainer.callback_metrics.items()},
        "counted": _counts(profiler) if profiler else None,
    }


def _validate_the_last_step(epoch_loop):
    """Has Lightning's loop validate the last step if max_steps ends a fit within an epoch, as our loop does."""
    due = epoch_loop._should_check_val_fx
    epoch_loop._should_check_val_fx = lambda fetcher: epoch_loop.global_step == epoch_loop.max_steps or due(fetcher)


def _counts(profiler):
    """Returns how often each action was recorded, with the same name for both loops."""
    counts = Counter(
        {
            name.replace("[_TrainingEpochLoop]", "[EpochLoop]"): len(times)
            for name, times in profiler.recorded_durations.items()
        }
    )
    return dict(counts)


def check(combination):
    ours, theirs = trained(True, *combination), trained(False, *combination)
    for name, weight in theirs.pop("weights").items():
        assert torch.equal(ours["weights"][name], weight), (name, combination)
    for what, expected in theirs.items():
        assert ours[what] == expected, (what, combination)


@pytest.mark.parametrize("number", range(12))
def test_our_loop_does_what_lightnings_does(number):
    check(draw(random.Random(number)))


@pytest.mark.soak
def test_our_loop_does_what_lightnings_does_with_random_options():
    seed = int(os.environ.get("LOOP_SEED", time.time()))
    print(f"LOOP_SEED={seed}")
    for number in range(int(os.environ.get("LOOP_DRAWS", "200"))):
        check(draw(random.Random(f"{seed}/{number}")))
