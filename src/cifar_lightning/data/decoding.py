"""A picture of any kind and size, decoded: upright, RGB on white, 32×32."""

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

from cifar_lightning.data.kinds import what_else
from cifar_lightning.errors import InputError, quoted

if TYPE_CHECKING:
    from PIL import Image

Pixels = npt.NDArray[np.uint8]
PNG = b"\x89PNG\r\n\x1a\n"
# In the name that Pillow has for how 16 bits a value lie in a file; "BGR;16" are 16 a pixel.
DEEP = re.compile("(?<!BGR);16")
# Of 16 bits, below which the upper two are unused: a camera has filled 10, 12 or 14 of them.
DARK = 2**14
# A JPEG is decoded at an eighth, a quarter or half of its size, if this is left of either side: a field of 8 × 8 for
# each of our pixels. They are nearer to the picture's that was saved than from all of it, which clips at white and
# black what JPEG adds and takes away around an edge. See docs/experiments.md.
DRAFT = (256, 256)
# What Pillow knows of a picture that says nothing but what a JPEG has to say: there is nothing to be turned upright.
BARE = {"jfif", "jfif_version", "jfif_unit", "jfif_density", "dpi"}


class Remarks:
    """What there is to say of pictures that have been decoded, besides errors.

    Attributes:
        metadata: Those whose metadata cannot be read.
        deep: Of each with 16 bits a value, the largest; as far as its upper byte says it, in colour.
    """

    def __init__(self) -> None:
        self.metadata: list[str] = []
        self.deep: dict[str, int] = {}

    def add(self, others: "Remarks") -> None:
        """Adds those on other pictures."""
        self.metadata += others.metadata
        self.deep |= others.deep

    def on(self, path: str) -> "Remarks":
        """Those on one picture."""
        remarks = Remarks()
        remarks.metadata = [path] if path in self.metadata else []
        remarks.deep = {path: self.deep[path]} if path in self.deep else {}
        return remarks

    def notes(self) -> tuple[str, ...]:
        """In a line each."""
        notes = []
        if len(self.metadata) == 1:
            notes.append(f"the metadata of {quoted(self.metadata[0])} cannot be read: the pixels are used as they lie")
        elif self.metadata:
            files = f"{len(self.metadata)} pictures, first {quoted(min(self.metadata))},"
            notes.append(f"the metadata of {files} cannot be read: their pixels are used as they lie")
        brightest = max(self.deep.values(), default=0)
        if 0 < brightest < DARK:
            range_ = f"none above {brightest:,} of 65,535"
            if len(self.deep) == 1:
                dark = f"{quoted(*self.deep)} has 16 bits a value and {range_}: it arrives almost black; scale it"
            else:
                files = f"{len(self.deep)} pictures, first {quoted(min(self.deep))}, have"
                dark = f"{files} 16 bits a value and {range_}: they arrive almost black; scale them"
            notes.append(f"{dark} to all 16 bits")
        return tuple(notes)


@contextmanager
def pillows_warnings() -> Iterator[None]:
    """Within it Pillow says nothing of broken metadata; it warns from 89 million pixels: we refuse from there on."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


@cache
def formats() -> list[str]:
    """What Pillow is to try, by its own names; it has then loaded its plugins, which threads do not take turns at."""
    from PIL import Image

    Image.init()
    common = [name for name in ("JPEG", "PNG") if name in Image.ID]  # first: Pillow tries one after another
    others = [name for name in Image.ID if name not in common]
    return [*common, *(name for name in others if name != "EPS")]  # which Ghostscript reads, and runs programs in it


def decode(path: str, remarks: Remarks) -> Pixels:
    """The pixels of a file, uint8 (32, 32, 3).

    Args:
        path: Its own.
        remarks: Learns what there is to say of it.

    Raises:
        InputError: It cannot be read as an image; names it.
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
    """What a path is where there is no file, and what to do, to follow its name in a message."""
    if os.path.isdir(path):
        is_link = os.path.islink(path)
        return f"is a {'link to a folder that holds it: remove' if is_link else 'folder that cannot be read: mend'} it"
    if os.path.islink(path):
        return "is a link to nothing: mend or remove it"
    if "://" in path:
        return "is an address, and only files are read: download it, and give the file's path"
    return "does not exist: give an image, or a folder of images"


def _decoded(path: str, remarks: Remarks) -> Pixels:
    from PIL import Image

    try:
        with Image.open(path, formats=formats()) as image:
            if image.format == "PNG":
                check_sums(Path(path).read_bytes())
            return to_pixels(image, path, remarks)
    except (OSError, ValueError, SyntaxError):  # the first is also what UnidentifiedImageError is
        with suppress(OSError, ValueError, SyntaxError):
            if bare := _without_metadata(Path(path).read_bytes()):
                with Image.open(io.BytesIO(bare), formats=["PNG"]) as image:
                    pixels = to_pixels(image, path, remarks)
                remarks.metadata.append(path)
                return pixels
        raise


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The chunks of a PNG: the kind of each, and all its bytes; none of other files.

    Source: https://www.w3.org/TR/png-3/#5Chunk-layout
    """
    start = len(PNG) if png.startswith(PNG) else len(png)
    while start < len(png):
        end = start + 12 + int.from_bytes(png[start : start + 4], "big")
        yield png[start + 4 : start + 8], png[start:end]
        start = end


def check_sums(png: bytes) -> None:
    """Raises a ValueError where pixels are not what was written: Pillow compares the sums of all other chunks."""
    for kind, chunk in _chunks(png):
        if kind == b"IDAT" and zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:], "big"):
            raise ValueError("its pixels are not those that were written, by its checksum")


def _without_metadata(png: bytes) -> bytes:
    """What pixels come from of a sound PNG; empty for other files. Pillow refuses one for a text that is damaged."""
    check_sums(png)
    kept = [chunk for kind, chunk in _chunks(png) if kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")]
    return b"".join([PNG, *kept]) if kept else b""


def _reduced(image: "Image.Image") -> tuple[float, float, float, float] | None:
    """Has a large JPEG decoded at a part of its size; gives the rectangle that it then takes, None for another."""
    # None in CMYK, of which RGB is made by products: the mean of those is not the product of the means.
    if image.format not in ("JPEG", "MPO") or image.mode not in ("L", "RGB") or min(image.size) < 2 * DRAFT[0]:
        return None
    draft = image.draft(None, DRAFT)
    return draft and draft[1]


def to_pixels(image: "Image.Image", path: str, remarks: Remarks) -> Pixels:
    """Of an opened picture uint8 (32, 32, 3): upright, RGB on white, scaled by antialiased bicubic.

    Args:
        image: It, not loaded yet.
        path: What `remarks` are to call it.
        remarks: Learns what there is to say of it.

    Raises:
        Exception: It is damaged, or nothing tells which of its values is white; what a decoder likes.
    """
    from PIL import Image, ImageOps

    deep = any(DEEP.search(str(tile[3])) for tile in getattr(image, "tile", ()))
    box = _reduced(image)
    image.load()  # what goes wrong after it is the metadata's
    bare = image.format in ("JPEG", "PNG") and image.info.keys() <= BARE
    if box:
        image = image.resize((32, 32), Image.Resampling.BICUBIC, box)
    if not bare:
        try:
            ImageOps.exif_transpose(image, in_place=True)
        except Exception:  # a parser of EXIF raises what it likes
            remarks.metadata.append(path)
    # 16 bits of these two may also come as "I"
    if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):
        raise ValueError("it has 32 bits a pixel, and nothing says which of their values is white")
    if image.mode.startswith("I"):  # 16 bits a pixel, which convert() would clip at 255
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
