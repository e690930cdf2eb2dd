#!/usr/bin/env bash
# torchmetrics-bf16-mean: in true bfloat16, a MeanMetric stops counting at 256 batches, and 93.75 % is logged as 100 %.
#
# Run: torchmetrics 1.9.0, lightning 2.6.6, torch 2.14.1 on the CPU. 10,000 images in batches of 32, of which 15 in 16
#   are classified right. A LightningModule logs the accuracy of each batch with a MeanMetric, as many templates do with
#   the loss; with MulticlassAccuracy; and with self.log alone. Then a MeanMetric in a module without Lightning.
# Behaviour: Trainer(precision="bf16-true") calls module.to(dtype=torch.bfloat16), which converts the states of metrics
#   too, and those that reset() returns to. Both states of MeanMetric, the sum and the count, then have 8 binary digits,
#   with which 256 + 1 is 256. The mean that is logged is 100 %, without a warning. (In float16 the count stops at
#   2048.) MulticlassHingeLoss, which sums floats too, is wrong as well. module.bfloat16() leaves states as they are.
# Expected: 93.75 % each time. torchmetrics documents that of all conversions only set_dtype() reaches the states
#   (Metric._apply). It knows the others by their names, such as Module.bfloat16, and Module.to is not among these.
#   Metrics that count in integers, such as MulticlassAccuracy, and Lightning's own means, in float32, are right.
# What cifar_lightning does: its only MeanMetric, of the loss, is set to float32 before each evaluation
#   (Evaluation.start in model/evaluation.py).
# Upstream: https://github.com/Lightning-AI/torchmetrics/issues/1561 (closed) is about module.half(); for the same in
#   Lightning's own means, which was fixed: https://github.com/Lightning-AI/pytorch-lightning/issues/18620
#
# Output seen (Python 3.11, Linux, CPU):
#   torchmetrics 1.9.0 lightning 2.6.6 torch 2.14.1
#   32-true     MeanMetric 93.75%, MulticlassAccuracy 93.75%, self.log 93.75%
#   bf16-mixed  MeanMetric 93.75%, MulticlassAccuracy 93.75%, self.log 93.75%
#   bf16-true   MeanMetric 100.00%, MulticlassAccuracy 93.75%, self.log 93.75%
#   bfloat16()  : the mean of 1000 times 0.9375 is 0.9375, its count 1000
#   to(bfloat16): the mean of 1000 times 0.9375 is 1.0, its count 256
#   as stated: in true bfloat16, the mean of more than 256 batches is wrong
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torchmetrics==1.9.0 lightning==2.6.6 torch==2.14.1 numpy==2.4.6
cd "$folder"

"$folder/venv/bin/python" - 2> "$folder/log" <<'EOF' || { tail -n 5 "$folder/log" >&2; exit 1; }
import sys
from importlib.metadata import version

import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

# The "images" are logits of 10 classes: the network returns them unchanged, and is wrong for 2 images of 32.
labels = torch.arange(10_000) % 10
answers = torch.where(torch.arange(10_000) % 16 == 0, (labels + 1) % 10, labels)
loader = DataLoader(TensorDataset(torch.nn.functional.one_hot(answers, 10).float(), labels), 32)


class Net(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(10, 10, bias=False)
        torch.nn.init.eye_(self.layer.weight)
        self.mean = MeanMetric()
        self.counted = MulticlassAccuracy(10, average="micro")

    def validation_step(self, batch, batch_idx):
        logits = self.layer(batch[0])
        share = (logits.argmax(1) == batch[1]).float().mean()
        self.mean.update(share)
        self.counted.update(logits, batch[1])
        self.log("MeanMetric", self.mean)
        self.log("MulticlassAccuracy", self.counted)
        self.log("self.log", share)


print(*(f"{name} {version(name)}" for name in ("torchmetrics", "lightning", "torch")))
found = {}
for precision in ("32-true", "bf16-mixed", "bf16-true"):
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    net = Net()
    trainer = Trainer(accelerator="cpu", precision=precision, logger=False, **quiet)
    figures = trainer.validate(net, loader, verbose=False)[0]
    found[precision] = [round(value, 4) for value in figures.values()]
    print(f"{precision:10}  " + ", ".join(f"{name} {value:.2%}" for name, value in figures.items()))
for name, convert in (("bfloat16()", lambda net: net.bfloat16()), ("to(bfloat16)", lambda net: net.to(torch.bfloat16))):
    mean = convert(torch.nn.ModuleList([torch.nn.Linear(1, 1), MeanMetric()]))[1]
    for _ in range(1000):
        mean.update(0.9375)
    found[name] = mean.compute().item(), mean.weight.item()
    print(f"{name:12}: the mean of 1000 times 0.9375 is {found[name][0]}, its count {found[name][1]:.0f}")
right = [0.9375] * 3
if found != {
    "32-true": right,
    "bf16-mixed": right,
    "bf16-true": [1.0, 0.9375, 0.9375],
    "bfloat16()": (0.9375, 1000),
    "to(bfloat16)": (1.0, 256),
}:
    print("CHANGED: the behaviour is not the one stated in this script")
    sys.exit(1)
print("as stated: in true bfloat16, the mean of more than 256 batches is wrong")
EOF
