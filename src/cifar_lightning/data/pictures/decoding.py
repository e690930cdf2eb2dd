"""Decodes a picture of any kind and size: upright, RGB on white, 32×32."""

import io
import os
import re
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cifar_lightning.data.pictures.kinds import what_else
from cifar_lightning.errors import InputError, quoted

if TYPE_CHECKING:
    from PIL import Image

Pixels = npt.NDArray[np.uint8]
PNG = b"\x89PNG\r\n\x1a\n"
# Matches Pillow's names of raw modes with 16 bits per value; "BGR;16" has 16 bits per pixel.
DEEP = re.compile("(?<!BGR);16")
# If all 16-bit values are below this, the upper two bits are unused: a camera has filled only 10, 12 or 14 bits.
DARK = 2**14
# A JPEG is decoded at an eighth, a quarter or half of its size if each side keeps at least this many pixels: 8 × 8 for
# each of ours. Our pixels are then closer to the picture that was saved than with decoding at full size, which clips
# JPEG's ringing around edges at white and black. See docs/experiments.md.
DRAFT = (256, 256)
# Keys of Pillow's `info` that say nothing about orientation: a picture with only these need not be turned upright.
BARE = {"jfif", "jfif_version", "jfif_unit", "jfif_density", "dpi"}


class Remarks:
    """Remarks, other than errors, on pictures that have been decoded.

    Attributes:
        metadata: Paths of the pictures whose metadata cannot be read.
        deep: The largest value of each picture with 16 bits per value. In colour only its upper byte is known, and the
            lower one is taken as 255.
    """

    def __init__(self) -> None:
        self.metadata: list[str] = []
        self.deep: dict[str, int] = {}

    def add(self, others: "Remarks") -> None:
        """Adds the remarks on other pictures."""
        self.metadata += others.metadata
        self.deep |= others.deep

    def on(self, path: str) -> "Remarks":
        """Returns the remarks on one picture."""
        remarks = Remarks()
        remarks.metadata = [path] if path in self.metadata else []
        remarks.deep = {path: self.deep[path]} if path in self.deep else {}
        return remarks

    def notes(self) -> tuple[str, ...]:
        """Returns the remarks as messages, one line each."""
        notes = []
        if len(self.metadata) == 1:
            notes.append(f"the metadata of {quoted(self.metadata[0])} cannot be read: the pixels are used as stored")
        elif self.metadata:
            files = f"{len(self.metadata)} pictures, first {quoted(min(self.metadata))},"
            notes.append(f"the metadata of {files} cannot be read: their pixels are used as stored")
        brightest = max(self.deep.values(), default=0)
        if 0 < brightest < DARK:
            what = f"16 bits per value, but no value above {brightest:,} of 65,535"
            if len(self.deep) == 1:
                dark = f"{quoted(*self.deep)} has {what}, and looks almost black: scale its values"
            else:
                files = f"{len(self.deep)} pictures, first {quoted(min(self.deep))},"
                dark = f"{files} have {what}, and look almost black: scale their values"
            notes.append(f"{dark} to all 16 bits")
        return tuple(notes)


@contextmanager
def pillows_warnings() -> Iterator[None]:
    """A context in which Pillow ignores broken metadata, and refuses more than 89 million pixels instead of warning."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


@cache
def formats() -> list[str]:
    """Returns Pillow's names of the formats to try, and loads its plugins, which is not safe in several threads."""
    from PIL import Image

    Image.init()
    common = [name for name in ("JPEG", "PNG") if name in Image.ID]  # first: Pillow tries in order
    others = [name for name in Image.ID if name not in common]
    return [*common, *(name for name in others if name != "EPS")]  # Ghostscript runs programs in EPS


def decode(path: str, remarks: Remarks) -> Pixels:
    """Decodes a file to pixels, uint8 (32, 32, 3).

    Args:
        path: Path of the file.
        remarks: Receives any remarks on it.

    Raises:
        InputError: The file cannot be read as an image; the message names it.
    """
    from PIL import Image, UnidentifiedImageError

    name = quoted(path)
    try:
        return _decoded(path, remarks)
    except UnidentifiedImageError as error:
        raise InputError(f"{name} {what_else(path)}") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise InputError(f"{name} has more than {Image.MAX_IMAGE_PIXELS:,} pixels: scale it down") from error
    except (FileNotFoundError, IsADirectoryError) as error:
        raise InputError(f"{name} {_absent(path)}") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"{name} cannot be read ({reason}): replace or remove it") from error
    except Exception as error:  # a damaged file can make a decoder raise anything
        raise InputError(f"{name} cannot be read ({error}): replace or remove it") from error


def _absent(path: str) -> str:
    """Says what a path without a file is, and what to do, as the part of an error message after the path."""
    if os.path.isdir(path):
        is_link = os.path.islink(path)
        circle, unreadable = "link to a folder that contains the link: remove it", "folder that cannot be read: fix it"
        return f"is a {circle if is_link else unreadable}"
    if os.path.islink(path):
        return "is a broken link: fix or remove it"
    if "://" in path:
        return "is an address, but only files can be read: download it, and use the file's path"
    return "does not exist: use an image, or a folder of images"


def _decoded(path: str, remarks: Remarks) -> Pixels:
    from PIL import Image

    try:
        with Image.open(path, formats=formats()) as image:
            if image.format == "PNG":
                check_sums(Path(path).read_bytes())
            return to_pixels(image, path, remarks)
    except (OSError, ValueError, SyntaxError):  # UnidentifiedImageError is an OSError
        with suppress(OSError, ValueError, SyntaxError):
            if bare := _without_metadata(Path(path).read_bytes()):
                with Image.open(io.BytesIO(bare), formats=["PNG"]) as image:
                    pixels = to_pixels(image, path, remarks)
                remarks.metadata.append(path)
                return pixels
        raise


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yields the chunks of a PNG, each as its type and all its bytes; nothing for other files.

    Source: https://www.w3.org/TR/png-3/#5Chunk-layout
    """
    start = len(PNG) if png.startswith(PNG) else len(png)
    while start < len(png):
        end = start + 12 + int.from_bytes(png[start : start + 4], "big")
        yield png[start + 4 : start + 8], png[start:end]
        start = end


def check_sums(png: bytes) -> None:
    """Raises a ValueError if a PNG's pixel chunks fail their checksums; Pillow checks those of all other chunks."""
    for kind, chunk in _chunks(png):
        if kind == b"IDAT" and zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:], "big"):
            raise ValueError("its pixels do not match its checksum")


def _without_metadata(png: bytes) -> bytes:
    """Returns a PNG without its metadata, as Pillow refuses one for a damaged text; empty for other files."""
    check_sums(png)
    kept = [chunk for kind, chunk in _chunks(png) if kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")]
    return b"".join([PNG, *kept]) if kept else b""


def _reduced(image: "Image.Image") -> tuple[float, float, float, float] | None:
    """Makes Pillow decode a large JPEG at reduced size; returns the rectangle it then fills, None if not reduced."""
    # Not for CMYK, which is converted to RGB by products: the mean of products is not the product of the means.
    if image.format not in ("JPEG", "MPO") or image.mode not in ("L", "RGB") or min(image.size) < 2 * DRAFT[0]:
        return None
    draft = image.draft(None, DRAFT)
    return draft and draft[1]


def to_pixels(image: "Image.Image", path: str, remarks: Remarks) -> Pixels:
    """Converts an opened picture to uint8 (32, 32, 3): upright, RGB on white, scaled by antialiased bicubic.

    Args:
        image: The picture, not loaded yet.
        path: The name for it in `remarks`.
        remarks: Receives any remarks on it.

    Raises:
        Exception: The picture is damaged (decoders raise many kinds), or nothing tells which of its values is white.
    """
    from PIL import Image, ImageOps

    deep = any(DEEP.search(str(tile[3])) for tile in getattr(image, "tile", ()))
    box = _reduced(image)
    image.load()  # errors in turning it upright, below, are the metadata's
    bare = image.format in ("JPEG", "PNG") and image.info.keys() <= BARE
    if box:
        image = image.resize((32, 32), Image.Resampling.BICUBIC, box)
    if not bare:
        try:
            ImageOps.exif_transpose(image, in_place=True)
        except Exception:  # an EXIF parser raises many kinds of errors
            remarks.metadata.append(path)
    # In a PNG or PPM, the mode "I" may also stand for 16 bits.
    if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):
        raise ValueError("it has 32 bits per pixel, and does not say which value is white")
    if image.mode.startswith("I"):  # 16 bits per pixel, which convert() would clip at 255
        values = np.asarray(image).clip(0, 65535)
        remarks.deep[path] = int(values.max())
        image = Image.fromarray((values >> 8).astype(np.uint8))
    elif deep:
        remarks.deep[path] = 256 * int(np.asarray(image).max()) + 255
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if image.mode != "RGB":
        image = image.convert("RGB")
    if image.size != (32, 32):
        image = image.resize((32, 32), Image.Resampling.BICUBIC)
    return np.asarray(image)
