#!/usr/bin/env bash
# lightning-stray-rank: a fit on one device writes no log if a launcher's variable gives another rank.
#
# Run: lightning 2.6.6, torch 2.14.1. Trainer(accelerator="cpu", devices=1) with a CSVLogger, one epoch of 20 steps, in
#   separate processes: without such a variable, with LOCAL_RANK=1, and with SLURM_PROCID=1, which the second task has
#   if `srun --ntasks 4` starts four independent fits.
# Behaviour: each fit ends with exit code 0, is_global_zero True, global_rank 0 and world_size 1, and writes its
#   checkpoint. With either variable there is no metrics.csv, and no warning: `rank_zero_only` reads the variables
#   (RANK, LOCAL_RANK, SLURM_PROCID, JSM_NAMESPACE_RANK) when Lightning is imported, and the Trainer never corrects it.
# Expected: the log of a Trainer that says that it is rank 0 of 1, or a warning.
# What cifar_lightning does: new_trainer (run/trainer.py) sets rank_zero_only.rank to the Trainer's own rank.
#
# Output seen (Python 3.11, Linux, CPU):
#   lightning 2.6.6 torch 2.14.1+cu130
#   none:           exit code 0, is_global_zero True, rank 0 of 1, files ['epoch=0-step=20.ckpt', 'metrics.csv']
#   LOCAL_RANK=1:   exit code 0, is_global_zero True, rank 0 of 1, files ['epoch=0-step=20.ckpt']
#   SLURM_PROCID=1: exit code 0, is_global_zero True, rank 0 of 1, files ['epoch=0-step=20.ckpt']
#   as stated: a stray rank leaves a fit without its log
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet lightning==2.6.6 torch==2.14.1 torchmetrics==1.9.0 numpy==2.4.6
cd "$folder"
unset RANK LOCAL_RANK SLURM_PROCID JSM_NAMESPACE_RANK

cat > fit.py <<'EOF'
import os
import sys

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader


class Net(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)

    def training_step(self, batch, batch_idx):
        loss = self.layer(batch).square().mean()
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


quiet = {"enable_progress_bar": False, "enable_model_summary": False}
trainer = Trainer(accelerator="cpu", devices=1, max_epochs=1, log_every_n_steps=1, logger=CSVLogger(sys.argv[1]), **quiet)
trainer.fit(Net(), DataLoader(torch.randn(100, 4), 5))
files = sorted(name for _, _, names in os.walk(sys.argv[1]) for name in names if name != "hparams.yaml")
print(f"is_global_zero {trainer.is_global_zero}, rank {trainer.global_rank} of {trainer.world_size}, files {files}")
EOF

"$folder/venv/bin/python" -c "import lightning, torch; print('lightning', lightning.__version__, 'torch', torch.__version__)"
whole="is_global_zero True, rank 0 of 1, files ['epoch=0-step=20.ckpt', 'metrics.csv']"
silent="is_global_zero True, rank 0 of 1, files ['epoch=0-step=20.ckpt']"
for variable in none LOCAL_RANK=1 SLURM_PROCID=1; do
    assignment=$([ "$variable" = none ] && echo _=_ || echo "$variable")
    seen=$(env "$assignment" "$folder/venv/bin/python" fit.py "logs-$variable" 2> "$folder/log") || { tail -n 5 log >&2; exit 1; }
    printf '%-15s exit code 0, %s\n' "$variable:" "$seen"
    expected=$([ "$variable" = none ] && echo "$whole" || echo "$silent")
    if [ "$seen" != "$expected" ]; then
        echo "CHANGED: the behaviour is not the one stated in this script"
        exit 1
    fi
done
echo "as stated: a stray rank leaves a fit without its log"
