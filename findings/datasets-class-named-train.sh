#!/usr/bin/env bash
# datasets-class-named-train: in a folder of pictures, a class named like a split is put into that split with all its
# images.
#
# Run: datasets 5.2.0 on train/<class>/*.png and test/<class>/*.png, two classes, three pictures each; then with a
#   README.md that lists the files of each split.
# Behaviour: load_dataset takes every folder named train, training, test, eval, val, dev and so on, at any depth, for a
#   split. If a class is called `train`, like one of CIFAR-100's 100, its test images are in train too: 9 images instead
#   of 6, without a warning. If a class is called `test`, its training images are in test too.
# Expected: the outer folder decides, or there is an error.
# What cifar_lightning does: `data --to folders` writes a README.md with the files of each split, which load_dataset
#   follows.
# Upstream: https://huggingface.co/docs/hub/datasets-file-names-and-splits describes the names and the README.md.
#
# Output seen (Python 3.11, Linux):
#   datasets 5.2.0
#   classes apple and pear: {'train': 6, 'test': 6}
#   classes apple and train: {'train': 9, 'test': 6}
#   classes apple and test: {'train': 6, 'test': 9}
#   classes apple and train, with README.md: {'train': 6, 'test': 6}
#   classes apple and test, with README.md: {'train': 6, 'test': 6}
#   as stated: more images if a class is named like a split, unless a README.md lists the files
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet datasets==5.2.0 Pillow==12.1.0
cd "$folder"
export HF_HUB_OFFLINE=1 HF_HOME=$folder/home HF_DATASETS_DISABLE_PROGRESS_BARS=1

"$folder/venv/bin/python" - <<'PYTHON'
import sys
from pathlib import Path

import datasets
from PIL import Image

CARD = "---\nconfigs:\n- config_name: default\n  data_files:\n"
CARD += "".join(f"  - split: {split}\n    path: {split}/**\n" for split in ("train", "test")) + "---\n"


def counts(name, other, card=""):
    home = Path(f"{other}-{bool(card)}").resolve()
    for split in ("train", "test"):
        for label in (name, other):
            (home / split / label).mkdir(parents=True)
            for i in range(3):
                Image.new("RGB", (32, 32), (9 * i, 9, 9)).save(home / split / label / f"{i}.png")
    if card:
        (home / "README.md").write_text(card)
    found = {split: len(images) for split, images in datasets.load_dataset(str(home)).items()}
    print(f"classes {name} and {other}{', with README.md' if card else ''}:", found)
    return found


print("datasets", datasets.__version__)
right = {"train": 6, "test": 6}
plain, train, test = (counts("apple", other) for other in ("pear", "train", "test"))
said = [counts("apple", other, CARD) for other in ("train", "test")]
if plain != right or right in (train, test) or said != [right, right]:
    print("CHANGED: the behaviour is not the one stated in this script")
    sys.exit(1)
print("as stated: more images if a class is named like a split, unless a README.md lists the files")
PYTHON
