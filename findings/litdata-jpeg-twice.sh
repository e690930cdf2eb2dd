#!/usr/bin/env bash
# litdata-jpeg-twice: litdata stores JPEG pictures from files as they are in the file, whatever was done to them, and
# compresses JPEG pictures from memory a second time.
#
# Run: litdata 0.2.76, torch 2.14.1, Pillow 13.0.0. A JPEG picture of quality 95 and 64 x 64 pixels, opened by Pillow
#   from its file or from its bytes, unchanged or made 8 x 8 in place by thumbnail(), written by optimize() and read
#   again.
# Behaviour: (1) for a JPEG picture from a file, litdata stores the file, so that thumbnail() and any other edit in
#   place are lost. (2) A picture from bytes, as from a tar or parquet file, is compressed again with Pillow's default
#   quality, 75: the file is smaller, and its pixels differ. A picture that Pillow made from an array loses nothing.
# Expected: for (1) the picture that was returned, for (2) the original bytes, or Pillow's quality="keep". Which of the
#   two happens depends on where a picture came from, and there is no warning.
# What cifar_lightning does: nothing; it writes PNG and parquet files from arrays of pixels (data/writing.py).
# Upstream: src/litdata/streaming/serializers.py, JPEGSerializer; we know of no issue about either. litdata's README
#   lists JpegImageFile as stored in "compressed bytes", and prefers its own Jpeg(..., quality=95), with which the user
#   chooses. For (1) in another library: datasets-edited-in-place.sh.
#
# Output seen (Python 3.11, Linux):
#   litdata 0.2.76 torch 2.14.1 pillow 13.0.0
#   file           : 64 x 64, pixels differ from the original's by 0.00 on average
#   bytes          : 64 x 64, pixels differ from the original's by 4.50 on average
#   array          : 64 x 64, pixels differ from the original's by 0.00 on average
#   file thumbnail : 64 x 64, pixels differ from the original's by 0.00 on average
#   bytes thumbnail: 8 x 8
#   as stated: the edit in place is lost, and a picture from bytes is compressed twice
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet litdata==0.2.76 torch==2.14.1 torchvision==0.29.1 Pillow==13.0.0 numpy==2.4.6
cd "$folder"

cat > run.py <<'PYTHON'
import contextlib
import io
import os
import sys
from importlib.metadata import version
from pathlib import Path

import litdata
import numpy as np
from PIL import Image

JPEG = Path("picture.jpg")


def picture(how):
    """What is to be stored, by where it comes from and what is done to it."""
    image = Image.open(JPEG if "file" in how else io.BytesIO(JPEG.read_bytes()))
    if "array" in how:
        image = Image.fromarray(np.asarray(image))
    if "thumbnail" in how:
        image.thumbnail((8, 8))
    return {"image": image}


def stored(how):
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        litdata.optimize(picture, [how], how.replace(" ", "-"), num_workers=1, chunk_bytes="1MB")
        image = litdata.StreamingDataset(how.replace(" ", "-"))[0]["image"]
    pixels = np.asarray(image)
    return pixels if pixels.shape[-1] == 3 else pixels.transpose(1, 2, 0)


if __name__ == "__main__":
    print(*(f"{name} {version(name)}" for name in ("litdata", "torch", "pillow")))
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((64, 64), Image.Resampling.BICUBIC).save(JPEG, quality=95)
    original = np.asarray(Image.open(JPEG)).astype(int)
    widths, errors = {}, {}
    for how in ("file", "bytes", "array", "file thumbnail", "bytes thumbnail"):
        pixels = stored(how)
        widths[how] = pixels.shape[1]
        same = pixels.shape == original.shape
        errors[how] = abs(pixels - original).mean() if same else 0
        print(f"{how:15}: {pixels.shape[0]} x {pixels.shape[1]}", end="")
        print(f", pixels differ from the original's by {errors[how]:.2f} on average" if same else "")
    if widths["file thumbnail"] != 64 or widths["bytes thumbnail"] != 8 or errors["file"] > 0.5 or errors["bytes"] < 1:
        print("CHANGED: the behaviour is not the one stated in this script")
        sys.exit(1)
    print("as stated: the edit in place is lost, and a picture from bytes is compressed twice")
PYTHON
"$folder/venv/bin/python" run.py
