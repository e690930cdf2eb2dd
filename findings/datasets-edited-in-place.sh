#!/usr/bin/env bash
# datasets-edited-in-place: a picture that was edited in place is stored without the edit, by map() and in a new
# dataset.
#
# Run: datasets 5.2.0 and Pillow 13.0.0. A white picture of 64 x 64 pixels, opened from a file or from bytes, painted
#   black with ImageDraw or made smaller with thumbnail(), which both edit in place, or with resize(), which returns a
#   new picture; through Dataset.map and Dataset.from_generator; then saved, and loaded without the file.
# Behaviour: for a picture that Pillow has opened from a file, datasets stores the name of the file, not the pixels.
#   What was painted over is visible again, at its full size, without a warning; save_to_disk, which copies files into
#   its output (according to its source, push_to_hub does so too), copies the original. Pictures from bytes, such as
#   those of a dataset from the Hub, and new pictures are stored as returned: the same map() works for them, but not for
#   a folder of pictures.
# Expected: the picture that the function returned. A user who blackens faces or patients' names in this way publishes
#   them.
# What cifar_lightning does: it writes pictures from arrays of pixels (data/writing.py), never by the name of a file.
# Upstream: src/datasets/features/image.py, encode_pil_image; its documentation does not mention this, and we know of no
#   issue. litdata 0.2.76 does the same with JPEG files (JPEGSerializer).
#
# Output seen (Python 3.11, Linux):
#   datasets 5.2.0 Pillow 13.0.0
#   map, from a file       painted black: 64 x 64, mean 255   thumbnail: 64 x 64   resize: 8 x 8
#   map, from bytes        painted black: 64 x 64, mean   0   thumbnail: 8 x 8   resize: 8 x 8
#   generator, from a file painted black: 64 x 64, mean 255   thumbnail: 64 x 64   resize: 8 x 8
#   saved, file deleted    painted black: 64 x 64, mean 255
#   as stated: pictures edited in place are stored as they were in the file
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet datasets==5.2.0 Pillow==13.0.0 numpy==2.4.6
cd "$folder"
export HF_HUB_OFFLINE=1 HF_HOME=$folder/home HF_DATASETS_DISABLE_PROGRESS_BARS=1

"$folder/venv/bin/python" - <<'PYTHON'
import sys
from pathlib import Path

import datasets
import numpy as np
import PIL
from PIL import Image, ImageDraw

datasets.disable_progress_bars()
print("datasets", datasets.__version__, "Pillow", PIL.__version__)
Image.new("RGB", (64, 64), (255, 255, 255)).save("white.png")
FEATURES = datasets.Features({"image": datasets.Image()})


def black(image):
    ImageDraw.Draw(image).rectangle((0, 0, 63, 63), fill=(0, 0, 0))
    return image


def small(image):
    image.thumbnail((8, 8))
    return image


def new(image):
    return image.resize((8, 8))


def look(how, edited):
    """The mean pixel of the black one, and the widths of the small ones."""
    mean = np.asarray(edited(black)).mean()
    sizes = [edited(edit).size for edit in (small, new)]
    words = "   ".join(f"{name}: {w} x {h}" for name, (w, h) in zip(("thumbnail", "resize"), sizes))
    print(f"{how:22} painted black: 64 x 64, mean {mean:3.0f}   {words}")
    return mean, sizes[0][0], sizes[1][0]


def mapped(stored):
    rows = datasets.Dataset.from_dict({"image": [stored]}, features=FEATURES)
    return lambda edit: rows.map(lambda row: {"image": edit(row["image"])})[0]["image"]


def generated(edit):
    def rows():
        yield {"image": edit(Image.open("white.png"))}

    return datasets.Dataset.from_generator(rows, features=FEATURES, cache_dir=f"of-{edit.__name__}")[0]["image"]


white = Path("white.png").read_bytes()
file = look("map, from a file", mapped("white.png"))
memory = look("map, from bytes", mapped({"bytes": white, "path": None}))
generator = look("generator, from a file", generated)
rows = datasets.Dataset.from_dict({"image": ["white.png"]}, features=FEATURES)
rows.map(lambda row: {"image": black(row["image"])}).save_to_disk("saved")
Path("white.png").unlink()
mean = np.asarray(datasets.load_from_disk("saved")[0]["image"]).mean()
print(f"saved, file deleted    painted black: 64 x 64, mean {mean:3.0f}")
if file != (255, 64, 8) or memory != (0, 8, 8) or generator != (255, 64, 8) or mean != 255:
    print("CHANGED: the behaviour is not the one stated in this script")
    sys.exit(1)
print("as stated: pictures edited in place are stored as they were in the file")
PYTHON
