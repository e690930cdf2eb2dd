#!/usr/bin/env bash
# export-then-fork: after torch.export and then a backward pass on a machine without a GPU, forked processes cannot
# compute gradients.
#
# Run: torch 2.14.1 on a CPU. In fresh processes: torch.export of a linear layer, gradients of another layer, both in
#   either order, or one of them alone; then a fork, and such gradients in the child.
# Behaviour: the child fails if its parent has exported and then computed gradients, in that order: "Unable to handle
#   autograd's threading in combination with fork-based multiprocessing". torch.export computes with fake tensors. For
#   these, torch registers a CUDA device even if there is none, so that tensors on such a device can be traced
#   (torch/_subclasses/fake_tensor.py, _ensureCUDADeviceGuardSet). The first backward pass after that starts a thread
#   for the device, and from then on torch refuses to compute gradients in any forked process.
# Expected: on a CPU the export changes nothing for later code, as its own tensors are fake. A user who exports and then
#   trains in one notebook, and forks workers that train (as hyper-parameter searches by multiprocessing do on Linux up
#   to Python 3.13), is referred to a page about GPUs.
# What cifar_lightning does: before runs train side by side, one forked process tries to compute a gradient; if it
#   cannot, the runs train one after another (run/side_by_side.py, can_train_forked).
# Upstream: https://github.com/pytorch/pytorch/pull/72689 allows forks until such a thread exists. We know of no issue
#   about an export that starts one.
#
# Output seen (Python 3.11, Linux):
#   torch 2.14.1+cu130
#   gradients then fork -> gradients
#   export then fork -> gradients
#   gradients then export then fork -> gradients
#      Unable to handle autograd's threading in combination with fork-based multiprocessing
#   export then gradients then fork -> an error
#   as stated: after an export and then gradients, a forked process cannot compute gradients
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.14.1 numpy==2.4.6
cd "$folder"

cat > try.py <<'PYTHON'
import os
import sys

import torch
from torch import nn

torch.set_num_threads(1)


def gradients():
    nn.Linear(2, 2)(torch.ones(1, 2)).sum().backward()


for step in sys.argv[1:]:
    if step == "export":
        torch.export.export(nn.Linear(2, 2), (torch.ones(1, 2),))
    else:
        gradients()
pid = os.fork()
if pid == 0:
    try:
        gradients()
        os._exit(0)
    except RuntimeError as error:
        print("  ", str(error).partition(". ")[0], flush=True)
        os._exit(1)
print(" then ".join((*sys.argv[1:], "fork")), "->", ("gradients", "an error")[os.waitpid(pid, 0)[1] != 0])
PYTHON

run() { CUDA_VISIBLE_DEVICES="" "$folder/venv/bin/python" try.py "$@"; }
"$folder/venv/bin/python" -c 'import torch; print("torch", torch.__version__)'
{ run gradients; run export; run gradients export; run export gradients; } | tee seen
diff seen - <<'SEEN' || { echo "CHANGED: the behaviour is not the one stated in this script"; exit 1; }
gradients then fork -> gradients
export then fork -> gradients
gradients then export then fork -> gradients
   Unable to handle autograd's threading in combination with fork-based multiprocessing
export then gradients then fork -> an error
SEEN
echo "as stated: after an export and then gradients, a forked process cannot compute gradients"
