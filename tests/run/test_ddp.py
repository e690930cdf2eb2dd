"""Tests training and evaluation on several devices, which give the same figures as on one."""

import csv
import json

import numpy as np
import pytest
import torch
import torch.distributed as dist
from conftest import PLAIN, SYNTHETIC, run_script
from jobs import end, job, start
from test_cluster import by_name
from torch.distributed.distributed_c10d import BackendConfig

from cifar_lightning import CIFAR10DataModule, load_model
from cifar_lightning.run.process_group import _backends

# 505 training and 101 test images, which neither 2 nor 3 devices divide.
SMALL = (*SYNTHETIC, "--data.synthetic_size", 505, "--data.batch_size", 12, "--max_epochs", 1, "--log_every_n_steps", 1)
SMALL += ("--data.augment", "true", "--data.eval_batch_size", 8, "--model.lr", 0.01)


# What the recipes of the speed runs add: batch norm, Muon, a learning rate for each kind of weight, small images first.
# In float64, because in float32 Muon turns rounding errors into a difference of a thousandth within ten steps.
SPEED = ("--model.net", "speed", "--model.width", 8, "--model.muon_lr", 0.1, "--model.bias_lr", 0.1, "--max_steps", 12)
SPEED += ("--model.sizes", "[16]", "--precision", "64-true")


def fit_on(devices, home, launcher=(), flags=()):
    command = ("fit", *SMALL, *flags, "--devices", devices)
    if launcher:
        code, out, err = run_script(*command, cwd=home, launcher=launcher, env=PLAIN)
    else:
        done = job(*command, cwd=home)
        code, out, err = done.code, done.text, ""
    assert code == 0, out + err
    folder = home / "lightning_logs" / "version_0"
    with (folder / "metrics.csv").open() as file:
        losses = [float(row["train_loss"]) for row in csv.DictReader(file) if row["train_loss"]]
    return {
        "folder": folder,
        "said": out + err,
        "losses": losses,
        "results": json.loads((folder / "results.json").read_text()),
    }


@pytest.fixture(scope="module")
def on(tmp_path_factory):
    """Returns `on(devices)`, which trains on that many devices, once, and returns the run."""
    runs = {}

    def on(devices):
        if devices not in runs:
            runs[devices] = fit_on(devices, tmp_path_factory.mktemp(f"on{devices}"))
        return runs[devices]

    return on


def test_two_devices_train_as_one(on):
    one, two = on(1), on(2)
    assert len(one["losses"]) == 42
    assert two["losses"][:10] == pytest.approx(one["losses"][:10], abs=1e-5)
    assert two["losses"] == pytest.approx(one["losses"], abs=1e-3)
    assert max(one["losses"]) - min(one["losses"]) > 1e-2  # the losses do change from step to step
    assert two["results"]["devices"] == 2
    assert two["results"]["global_batch_size"] == one["results"]["global_batch_size"] == 12
    assert two["results"]["images_seen"] == one["results"]["images_seen"] == 504


@pytest.mark.soak
@pytest.mark.parametrize("flags", [(), ("--model.compile", "default")])
def test_two_devices_train_the_speed_network_as_one(tmp_path, flags):
    homes = {n: tmp_path / f"on{n}" for n in (1, 2)}
    for home in homes.values():
        home.mkdir()
    one = fit_on(1, homes[1], flags=SPEED)["losses"]
    two = fit_on(2, homes[2], flags=(*SPEED, *flags))["losses"]
    assert len(one) == 12
    assert two == pytest.approx(one, abs=1e-5)
    assert max(one) - min(one) > 1e-2


def test_figures_count_every_image_once(on):
    for devices in (1, 2):
        results = on(devices)["results"]
        assert results["test_count"] == 101
        assert sum(map(sum, results["confusion"])) == 101


def test_an_evaluation_is_the_same_on_one_two_and_three_devices(on, tmp_path):
    """An evaluation on one, two or three devices has the same counts, to the image."""
    two, pages = on(2), []
    for devices in (1, 3):
        output = tmp_path / f"on{devices}"
        flags = ("--accelerator", "cpu", "--devices", devices, "--output_dir", output)
        done = job("evaluate", two["folder"], *flags, cwd=tmp_path, env={"FAULT_PLAIN": "page"})
        assert done.code == 0, done.text
        assert done.lines[0].startswith("Accuracy ")
        results = json.loads((output / "results.json").read_text())
        assert results["devices"] == devices
        assert results["confusion"] == two["results"]["confusion"]
        assert results["test_loss"] == pytest.approx(two["results"]["test_loss"], rel=1e-6)
        assert (np.array(results["confusion"]).sum(0) > 0).sum() > 1  # the network predicts several classes
        pages.append((output / "report.html").read_text().partition('<h2 id="settings">')[0])
    assert pages[0] == pages[1]  # the pages have each image's confidence


def test_limits_of_an_evaluation_apply_to_all_devices_together(tmp_path):
    limits = ("--trainer.limit_test_batches", 2, "--trainer.limit_val_batches", 2, "--data.val_split", 101)
    found = []
    for devices in (1, 2):
        (home := tmp_path / f"on{devices}").mkdir()
        run = fit_on(devices, home, flags=(*limits, "--max_steps", 2, "--precision", "64-true"))
        with np.load(run["folder"] / "predictions.npz") as kept:
            found.append({name: kept[name].tolist() for name in ("images", "labels", "predicted")})
        found[-1] |= {name: run["results"][name] for name in ("test_count", "confusion", "val_acc")}
    assert 1 < found[0]["test_count"] < 101
    assert found[0] == found[1]


NORMED = """
from torch import nn

class Normed(nn.Sequential):
    def __init__(self, num_classes):
        convolved = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8, momentum=0.5), nn.ReLU()
        super().__init__(*convolved, nn.Flatten(), nn.Linear(8 * 16 * 16, num_classes))
"""


def test_a_validation_within_a_step_has_the_figures_of_its_checkpoint(tmp_path, monkeypatch):
    """All ranks validate with the batch norm averages of the first, which the checkpoint holds.

    Those of torch's batch norm follow the images of each rank.
    """
    (tmp_path / "normed.py").write_text(NORMED)
    within = ("--trainer.accumulate_grad_batches", 2, "--trainer.val_check_interval", 13)  # 14 batches per epoch
    sizes = ("--data.synthetic_size", 211, "--data.val_split", 37, "--data.eval_batch_size", 4, "--model.lr", 0.05)
    done = job("fit", *SMALL, *within, *sizes, "--model.net", "normed:Normed", "--devices", 2, cwd=tmp_path)
    assert done.code == 0, done.text
    run = tmp_path / "lightning_logs" / "version_0"
    results = json.loads((run / "results.json").read_text())
    assert results["step"] == 6  # only whole steps count
    monkeypatch.syspath_prepend(tmp_path)
    model = load_model(run, net="normed:Normed").eval()
    data = CIFAR10DataModule(source="synthetic", synthetic_size=211, val_split=37)
    images, labels = (x[data.val_indices] for x in (data.image_set("train").images, data.image_set("train").labels))
    with torch.no_grad():
        logits = model(data.normalize(images))
    assert results["val_loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), rel=1e-5)
    assert results["val_acc"] == pytest.approx((logits.argmax(1) == labels).double().mean().item())


def test_each_line_is_printed_once(on):
    for devices in (1, 2):
        lines = [line for line in on(devices)["said"].splitlines() if line]
        assert len(set(lines)) == len(lines)
        assert sum("starts:" in line for line in lines) == 1
        assert sum(line.startswith("computes on the CPU") for line in lines) == 1
        assert sum(line.startswith("epoch 1/1") for line in lines) == 1
        assert sum("Accuracy" in line for line in lines) == 1
        assert "warn" not in on(devices)["said"].lower()
    assert "2 x cpu, batch size 12 = 2 x 6" in on(2)["said"]
    assert ", 1 thread per process, " in on(2)["said"]


def test_torchrun_trains_like_our_own_launcher(on, tmp_path):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2)
    run_by_torchrun = fit_on(2, tmp_path, launcher)
    assert run_by_torchrun["losses"] == on(2)["losses"]
    assert run_by_torchrun["results"]["confusion"] == on(2)["results"]["confusion"]
    assert run_by_torchrun["said"].count("Accuracy") == 1
    assert len(list((tmp_path / "lightning_logs").iterdir())) == 1


@pytest.mark.parametrize("gpus", [False, True])
def test_ranks_are_connected_on_the_cpu_even_if_there_are_gpus(monkeypatch, gpus):
    """Ranks share objects over the CPU, although torch by default connects only the GPUs if there are any."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus)
    monkeypatch.setattr(dist, "is_nccl_available", lambda: gpus)
    carriers = BackendConfig(_backends()).get_device_backend_map()
    assert carriers["cpu"] == "gloo"
    assert carriers["cuda"] == ("nccl" if gpus else "gloo")


TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "2"}  # tells Lightning that there are two ranks
LOADERS = """
import torch
from lightning.pytorch import Trainer
from cifar_lightning import LitNet, fake_data

data = fake_data(101, batch_size=10)
data.prepare_data()
data.setup()
torch.manual_seed(0)
model = LitNet()
trainer = Trainer(
    accelerator="cpu", devices=2, strategy="ddp", max_epochs=1, logger=False, enable_checkpointing=False,
    enable_progress_bar=False, enable_model_summary=False,
)
trainer.fit(model, data.train_dataloader())
trainer.test(model, data.test_dataloader(), verbose=False)
if trainer.is_global_zero:
    again = torch.zeros_like(model.last_evaluation["confusion"])
    for label, predicted in zip(data.image_set("test").labels, model.last_evaluation["predicted"]):
        again[label, predicted] += 1
    same = torch.equal(again, model.last_evaluation["confusion"])
    print("found", trainer.global_step, int(model.last_evaluation["confusion"].sum()), same)
"""


def on_two_ranks(script, home):
    """Runs a script of its own Trainer on two ranks, and returns the lines that each has printed."""
    (home / "own.py").write_text(script)
    ranks = [
        start(home / "own.py", cwd=home, env={**by_name(rank), "LOCAL_RANK": str(rank)} | TORCHRUN) for rank in (0, 1)
    ]
    done = [end(rank) for rank in ranks]
    assert [rank.code for rank in done] == [0, 0], "\n".join(rank.text for rank in done)
    return [rank.lines for rank in done]


def test_loaders_without_a_data_module_are_split_among_the_ranks(tmp_path):
    """Our loaders split the images among ranks by themselves: Lightning gives a sampler to torch's DataLoader only."""
    assert "found 10 20 True" in on_two_ranks(LOADERS, tmp_path)[0]


PREDICTIONS = """
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from cifar_lightning import fake_data

data = fake_data(505, eval_batch_size=8)


class Unchanged(LightningModule):
    def predict_step(self, batch, number):
        return batch[0]


class Writer(BasePredictionWriter):
    def write_on_epoch_end(self, trainer, module, predictions, _):
        index = torch.cat(trainer.predict_dataloaders.batch_indices)
        expected = data.normalize(data.image_set("test").images[index])
        torch.testing.assert_close(torch.cat(predictions), expected, rtol=0, atol=1e-5)
        print("found", *index.tolist())


switches = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
trainer = Trainer(accelerator="cpu", devices=2, strategy="ddp", callbacks=[Writer("epoch")], **switches)
trainer.predict(Unchanged(), data, return_predictions=False)
"""


def test_a_prediction_writer_learns_which_images_its_rank_predicted(tmp_path):
    shares = [
        [int(word) for line in lines if line.startswith("found") for word in line.split()[1:]]
        for lines in on_two_ranks(PREDICTIONS, tmp_path)
    ]
    assert all(shares)
    assert sorted(shares[0] + shares[1]) == list(range(101))


THAWING = """
import torch
from lightning.pytorch.callbacks import BaseFinetuning
from cifar_lightning import fit

class Thaw(BaseFinetuning):
    def freeze_before_training(self, module):
        self.freeze(list(module.net)[:4], train_bn=False)

    def finetune_function(self, module, epoch, optimizer):
        if epoch == 1:
            self.unfreeze_and_add_param_group(list(module.net)[:3], optimizer)
        if epoch == 2:
            self.freeze(list(module.net)[4:8], train_bn=False)

    def on_train_end(self, trainer, module):
        values = torch.cat([value.flatten().double() for value in module.state_dict().values()])
        print("found", *values.tolist())

data = {"source": "synthetic", "synthetic_size": 120, "batch_size": 20, "val_split": 0.2}
model = {"net": "normed", "lr": 0.02}
fit(data, model, callbacks=Thaw(), max_epochs=3, strategy=STRATEGY, accelerator="cpu", report=False)
"""


@pytest.mark.parametrize("strategy", ["ddp", "ddp_find_unused_parameters_true"])
def test_layers_thawed_or_frozen_during_a_fit_are_the_same_on_one_rank_and_two(tmp_path, strategy):
    """torch's DDP averages only gradients of parameters that had one when it wrapped the network."""
    script = THAWING.replace("STRATEGY", repr(strategy))
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "own.py").write_text(script)
    done = end(start(alone / "own.py", cwd=alone))
    assert done.code == 0, done.text
    found = [
        torch.tensor([float(word) for word in line.split()[1:]], dtype=torch.float64)
        for lines in (done.lines, *on_two_ranks(script, tmp_path))
        for line in lines
        if line.startswith("found")
    ]
    one, first, second = found
    assert torch.equal(first, second)
    torch.testing.assert_close(first, one, rtol=1e-4, atol=1e-5)
