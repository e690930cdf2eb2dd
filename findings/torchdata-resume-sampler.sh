#!/usr/bin/env bash
# torchdata-resume-sampler: resumed in the middle of an epoch, a StatefulDataLoader with a sampler repeats images.
#
# Run: torchdata 0.11.0, torch 2.14.1. Batches of 128 of the 45,000 of 50,000 images that are no validation images; or
#   of all, with a RandomSampler. One process ends halfway in its second epoch, a second one, with the same seed, loads
#   the state from the first and finishes that epoch.
# Behaviour: with shuffle=True the two processes see each image once. With sampler=SubsetRandomSampler(...),
#   WeightedRandomSampler(...) or RandomSampler(...), all of torch, about a quarter of the images come twice in that
#   epoch, and as many not at all. The state holds how many batches there were; the second process draws a new
#   permutation and leaves out that many batches at its beginning. There is no warning.
# Expected: the rest of the epoch, as with shuffle=True, or an error from load_state_dict: the class is made for
#   checkpoints within an epoch, and a sampler is how one trains on a part of the images. torchdata's README says that
#   torch's RandomSampler and BatchSampler are patched, so that a sampler of one's own is unnecessary; since its first
#   release they are not. Of other samplers it says that they are fast-forwarded unless they have a state_dict.
#   A RandomSampler with a generator, the way out that the issue below suggests for another problem, repeats images too:
#   only in the first epoch is the permutation that of the generator's seed.
#   The way out is shuffle=True with a torch.utils.data.Subset.
# What cifar_lightning does: it does not use torchdata. The order of an epoch is drawn from its seed and number.
# Upstream: https://github.com/meta-pytorch/data/pull/1281 ended the patches, and
#   https://github.com/meta-pytorch/data/issues/1440 suggests the generator; we know of no issue about resuming.
#
# Output seen (Python 3.11, Linux):
#   torchdata 0.11.0 torch 2.14.1
#   shuffle=True, Subset    : 45000 images in the epoch, 0 twice, 0 never
#   SubsetRandomSampler     : 45000 images in the epoch, 11243 twice, 11243 never
#   WeightedRandomSampler   : 50000 images in the epoch, 12415 twice, 12415 never
#   RandomSampler           : 50000 images in the epoch, 12433 twice, 12433 never
#   RandomSampler, generator: 50000 images in the epoch, 12432 twice, 12432 never
#   as stated: with a sampler, images come twice and others never in the epoch that is resumed
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torchdata==0.11.0 torch==2.14.1 numpy==2.4.6
cd "$folder"

cat > run.py <<'PYTHON'
import sys
from pathlib import Path

import torch
from torch.utils.data import RandomSampler, Subset, SubsetRandomSampler, WeightedRandomSampler
from torchdata.stateful_dataloader import StatefulDataLoader

how, part = sys.argv[1:]
torch.manual_seed(0)
images = range(50_000)  # each stands for itself
chosen = torch.randperm(50_000)[:45_000].tolist()
dataset, arguments = {
    "shuffle=True, Subset": (Subset(images, chosen), {"shuffle": True}),
    "SubsetRandomSampler": (images, {"sampler": SubsetRandomSampler(chosen)}),
    "WeightedRandomSampler": (images, {"sampler": WeightedRandomSampler(torch.ones(50_000), 50_000, False)}),
    "RandomSampler": (images, {"sampler": RandomSampler(images)}),
    "RandomSampler, generator": (
        images,
        {"sampler": RandomSampler(images, generator=torch.Generator().manual_seed(0))},
    ),
}[how]
loader = StatefulDataLoader(dataset, 128, **arguments)
if part == "first":
    for _ in loader:
        pass
    seen = []
    for number, batch in enumerate(loader, 1):
        seen += batch.tolist()
        if number == len(loader) // 2:
            break
    torch.save({"loader": loader.state_dict(), "seen": seen}, "state.pt")
else:
    state = torch.load("state.pt")
    loader.load_state_dict(state["loader"])
    seen = state["seen"] + [image for batch in loader for image in batch.tolist()]
    count = len(dataset) if "Subset" not in how else 45_000
    never = count - len(set(seen))
    print(f"{how:24}: {len(seen)} images in the epoch, {len(seen) - len(set(seen))} twice, {never} never", flush=True)
    Path(how).write_text(str(never))
PYTHON

"$folder/venv/bin/python" -c '
from importlib.metadata import version
print("torchdata", version("torchdata"), "torch", version("torch"))'
changed=
for how in "shuffle=True, Subset" SubsetRandomSampler WeightedRandomSampler RandomSampler "RandomSampler, generator"; do
    for part in first second; do
        "$folder/venv/bin/python" run.py "$how" "$part" 2>> log || { tail -n 5 log >&2; exit 1; }
    done
    never=$(cat "$how")
    case $how in
        shuffle*) ((never == 0)) || changed=yes ;;
        *) ((never > 5000)) || changed=yes ;;
    esac
done
if [[ $changed ]]; then
    echo "CHANGED: the behaviour is not the one stated in this script"
    exit 1
fi
echo "as stated: with a sampler, images come twice and others never in the epoch that is resumed"
