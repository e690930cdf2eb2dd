#!/usr/bin/env bash
# lightning-validation-while-accumulating: on several devices, if the network has batch norms, a validation in the
# middle of gradient accumulation gives figures that are not those of its checkpoint.
#
# Run: lightning 2.6.6, torch 2.14.1. Trainer(strategy="ddp", devices=2, accelerator="cpu", val_check_interval=3) on a
#   network with a torch.nn.BatchNorm2d, val_loss logged with sync_dist=True, and ModelCheckpoint(monitor="val_loss");
#   once with accumulate_grad_batches 1, once with 2. The chosen checkpoint is then validated in one process, on the
#   same images.
# Behaviour: with 1, its val_loss is the one that ModelCheckpoint recorded. With 2 it is another, without a warning.
#   Each rank's batch norm follows its own batches. DistributedDataParallel gives all ranks the first rank's running
#   means before a forward pass, but not after a batch under no_sync(), which Lightning uses for each batch without a
#   step: then every rank validates with its own means, and the checkpoint holds the first rank's.
# Expected: the figure by which a checkpoint is chosen is the checkpoint's own.
# What cifar_lightning does: its training loop has DDP copy the buffers before any validation (run/loop.py). In your own
#   Trainer, let val_check_interval be a multiple of accumulate_grad_batches. The networks that come with the package
#   have their own batch norm, whose means are over all ranks.
#
# Output seen (Python 3.11, Linux, CPU):
#   accumulate_grad_batches 1: chosen by val_loss 1.23765; in one process 1.23765
#   accumulate_grad_batches 2: chosen by val_loss 0.82658; in one process 0.83012
#   lightning 2.6.6 torch 2.14.1+cu130
#   as stated: a validation in the middle of accumulation does not give the figures of its checkpoint
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet lightning==2.6.6 torch==2.14.1 torchmetrics==1.9.0 numpy==2.4.6
cd "$folder"

cat > fit.py <<'EOF'
import sys
from importlib.metadata import version

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

drawn = torch.Generator().manual_seed(0)
images, labels = torch.randn(96, 3, 8, 8, generator=drawn), torch.randint(0, 2, (96,), generator=drawn)
train, val = TensorDataset(images[:64], labels[:64]), TensorDataset(images[64:], labels[64:])


class Net(LightningModule):
    def __init__(self):
        super().__init__()
        layers = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, momentum=0.5), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 2)
        self.net = nn.Sequential(*layers)

    def training_step(self, batch, batch_idx):
        return cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        loss = cross_entropy(self.net(batch[0]), batch[1])
        self.log("val_loss", loss, sync_dist=True)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(accumulate):
    torch.manual_seed(0)
    chosen = ModelCheckpoint(f"chosen_{accumulate}", monitor="val_loss")
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "num_sanity_val_steps": 0}
    ranks = {"strategy": "ddp", "devices": 2, "accelerator": "cpu"}
    steps = {"max_epochs": 1, "limit_train_batches": 4, "val_check_interval": 3, "accumulate_grad_batches": accumulate}
    trainer = Trainer(**ranks, **steps, **quiet, callbacks=chosen)
    trainer.fit(Net(), DataLoader(train, 4), DataLoader(val, 16))
    net = Net().eval()
    net.load_state_dict(torch.load(chosen.best_model_path, weights_only=True)["state_dict"])
    with torch.no_grad():
        again = cross_entropy(net.net(images[64:]), labels[64:]).item()
    return trainer.is_global_zero, chosen.best_model_score.item(), again


same = {}
for accumulate in (1, 2):
    first, chosen, again = fit(accumulate)
    same[accumulate] = abs(chosen - again) < 1e-5
    if first:
        print(f"accumulate_grad_batches {accumulate}: chosen by val_loss {chosen:.5f}; in one process {again:.5f}")
if first:
    print("lightning", version("lightning"), "torch", torch.__version__)
    if not same[1] or same[2]:
        print("CHANGED: the behaviour is not the one stated in this script")
        sys.exit(1)
    print("as stated: a validation in the middle of accumulation does not give the figures of its checkpoint")
EOF
"$folder/venv/bin/python" fit.py 2> log || { tail -n 5 log >&2; exit 1; }
