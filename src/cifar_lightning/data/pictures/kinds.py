"""Tells whether a file is a picture, by its name; and what it is instead, if no decoder can read it."""

import os
import re
import warnings
from collections.abc import Sequence
from functools import cache

from cifar_lightning.errors import quoted

# Most data sets have no other suffixes, and asking Pillow for all of them takes a fifth of a second.
USUAL = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm")
# Suffixes that Pillow lists, of files that it cannot read as pictures: data, films, documents.
OTHER_THINGS = {".bufr", ".grib", ".h5", ".hdf", ".iim", ".mpeg", ".mpg", ".pdf"}
# Pictures that Pillow cannot read: they are refused, not passed over.
UNREAD = {".heic", ".heif", ".hif", ".jxl", ".svg", ".svgz"}

# For files found under a picture's name that are something else: how their bytes begin, what they are, and what to do.
CONVERT = "convert it to JPEG or PNG"
SIGNS = (
    (rb"\Z", "is empty", "replace or remove it"),
    (rb"....ftyp(hei|hev|mif1|msf1)", "is a HEIC picture, Apple's format for photos", CONVERT),
    (rb"....ftypavi", "is an AVIF picture, which this version of Pillow does not read", CONVERT),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "is a JPEG XL picture", CONVERT),
    (rb"(\xef\xbb\xbf)?\s*(<\?xml.*|<!--.*)?<svg", "is an SVG drawing", CONVERT),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "is a PostScript drawing", CONVERT),
    (rb"%PDF", "is a PDF document", CONVERT),
    (rb"\x1f\x8b|PK\x03\x04", "is a compressed file", "unpack it"),
    (rb"\s*(<!doctype html|<html)", "is a web page, perhaps from a failed download", "download the picture again"),
    (rb"version https://git-lfs", "is a Git LFS pointer, not the picture", "run git lfs pull"),
)


def may_be_picture(path: str) -> bool:
    """Returns whether a file is a picture by its suffix; if that is missing or a number, whether Pillow knows it."""
    if path.lower().endswith(USUAL):  # four times as fast as splitext, noticeable at the start with 60,000 files
        return True
    suffix = os.path.splitext(path)[1].lower()
    if not suffix[1:] or suffix[1:].isdigit():
        return _opens(path)
    return suffix in _suffixes()


def passed_over(paths: Sequence[str], or_else: str = "") -> str:
    """Returns the note on files passed over for their names, or for the reason `or_else`; empty if there are none."""
    if not paths:
        return ""
    first = quoted(min(paths))
    if len(paths) == 1:
        return f"skipped {first}: not a picture by its name{or_else}"
    return f"skipped {len(paths)} files, first {first}: not pictures by their names{or_else}"


def what_else(path: str | os.PathLike[str]) -> str:
    """Says what a file is that no decoder can read, and what to do, as the part of a message after its name."""
    with open(path, "rb") as file:
        start = file.read(2_000)
    found = ((what, do) for sign, what, do in SIGNS if re.match(sign, start, re.DOTALL | re.IGNORECASE))
    what, do = next(found, ("is not an image", "leave it out; in a folder, hide it with a leading dot"))
    return f"{what}: {do}"


@cache
def _suffixes() -> set[str]:
    from PIL import Image

    return (set(Image.registered_extensions()) | UNREAD) - OTHER_THINGS


def _opens(path: str) -> bool:
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # problems are reported when it is decoded
            with Image.open(path):
                return True
    except (Image.DecompressionBombError, PermissionError):  # also reported when it is decoded
        return True
    except Exception:  # whatever a decoder raises for bytes that are not its own
        return False
