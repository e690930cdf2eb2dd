#!/usr/bin/env bash
# lightning-resume-loader: if a schedule asks how long the fit is, a resumed run starts its epoch again from the first
# batch.
#
# Run: lightning 2.6.6, torch 2.14.1. A loader of ten batches that has state_dict and load_state_dict, as Lightning
#   requires; checkpoints by ModelCheckpoint every 4 steps; fit for 2 epochs, then fit again from the checkpoint of step
#   4. Once with a constant learning rate; once with a rate that falls until the end, so that configure_optimizers reads
#   trainer.estimated_stepping_batches, which Lightning offers for that.
# Behaviour: with the constant rate the resumed fit continues with batch 4. With the schedule it trains on batches 0 to
#   3 a second time and never sees 6 to 9 in that epoch. The number of steps is right, and there is no warning. To count
#   the batches, Lightning sets up the loader before it reads the checkpoint, and then does not restore the loader's
#   position.
# Expected: the same batches with and without a schedule. The checkpoint holds the loader's position in both cases.
# What cifar_lightning does: its FitLoop.load_state_dict (run/loop.py) restores the loader's position after the
#   checkpoint is read. Tests check that the weights of resumed and uninterrupted runs are bit-identical.
# Upstream: https://github.com/Lightning-AI/pytorch-lightning/issues/20550 (open; fixes proposed in
#   https://github.com/Lightning-AI/pytorch-lightning/pull/21765 and .../pull/21770)
#
# Output seen (Python 3.11, Linux, CPU):
#   lightning 2.6.6 torch 2.14.1+cu130
#   constant learning rate:
#     whole run, batches  [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
#     resumed at step 4           [4, 5, 6, 7, 8, 9, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9], 20 steps in all
#   a schedule that asks for the length:
#     whole run, batches  [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
#     resumed at step 4           [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9], 20 steps in all
#   as stated: the loader starts at 0 if the schedule asks for the length
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet lightning==2.6.6 torch==2.14.1 torchmetrics==1.9.0 numpy==2.4.6
cd "$folder"

"$folder/venv/bin/python" - 2> "$folder/log" <<'EOF' || { tail -n 5 "$folder/log" >&2; exit 1; }
import sys
from importlib.metadata import version

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.optim.lr_scheduler import LambdaLR


class Loader:
    """Gives the batches 0 to 9, each as a tensor of its number."""

    def __init__(self):
        self.start = 0

    def __len__(self):
        return 10

    def __iter__(self):
        start, self.start = self.start, 0
        for self.at in range(start, len(self)):
            yield torch.full((1, 1), float(self.at))

    def state_dict(self):
        return {"next": self.at + 1}

    def load_state_dict(self, state):
        self.start = state["next"]


class Net(LightningModule):
    def __init__(self, schedule):
        super().__init__()
        self.layer, self.schedule, self.seen = torch.nn.Linear(1, 1), schedule, []

    def training_step(self, batch, batch_idx):
        self.seen.append(int(batch))
        return self.layer(batch).square().mean()

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), 1e-4)
        if not self.schedule:
            return optimizer
        total = self.trainer.estimated_stepping_batches
        scheduler = LambdaLR(optimizer, lambda step: 1 - step / total)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def fit(schedule, callbacks, checkpoint=None):
    net = Net(schedule)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(max_epochs=2, accelerator="cpu", callbacks=callbacks, **quiet)
    trainer.fit(net, Loader(), ckpt_path=checkpoint)
    return net.seen, trainer.global_step


print("lightning", version("lightning"), "torch", torch.__version__)
resumed = {}
for schedule in (False, True):
    folder = f"schedule-{schedule}"
    whole, _ = fit(schedule, [ModelCheckpoint(folder, "{step}", every_n_train_steps=4, save_top_k=-1)])
    resumed[schedule], steps = fit(schedule, None, f"{folder}/step=4.ckpt")
    print("a schedule that asks for the length:" if schedule else "constant learning rate:")
    print(f"  whole run, batches  {whole}\n  resumed at step 4           {resumed[schedule]}, {steps} steps in all")
whole = list(range(10))
if resumed != {False: whole[4:] + whole, True: whole[:6] + whole}:
    print("CHANGED: the behaviour is not the one stated in this script")
    sys.exit(1)
print("as stated: the loader starts at 0 if the schedule asks for the length")
EOF
if grep -i "resum.*dataloader" "$folder/log"; then
    echo "CHANGED: there is a warning, which this script says there is not"
    exit 1
fi
