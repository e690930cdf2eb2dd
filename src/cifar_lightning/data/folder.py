"""Pictures in class folders: train/<class>/* and test/<class>/*."""

import hashlib
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from cifar_lightning.data.cache import Decoded
from cifar_lightning.data.cifar10 import CIFAR100_CLASSES, CLASSES
from cifar_lightning.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

LAYOUT = "the folder source reads train/<class>/* and test/<class>/*"


class Listing(NamedTuple):
    """One split's files.

    Attributes:
        paths: Class by class, sorted by name within a class.
        labels: int64, one a path.
        classes: The names.
        fingerprint: Changes when a file is added, removed, renamed or written to.
        size: Of all files, in bytes.
    """

    paths: list[str]
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    fingerprint: str
    size: int


def scan(data_dir: Path, split: str) -> Listing:
    """Lists one split without opening a file. Hidden files and folders inside class folders are passed over.

    Raises:
        InputError: A folder is missing, train and test have not the same classes, the name of one is not UTF-8, or
            there are no files.
    """
    if not data_dir.is_dir():
        raise InputError(f"data_dir {data_dir} is not a folder: {LAYOUT}")
    names = {}
    for folder in ("train", "test"):
        if not (data_dir / folder).is_dir():
            raise InputError(f"data_dir {data_dir} has no folder {folder}/: {LAYOUT}")
        names[folder] = {
            entry.name for entry in os.scandir(data_dir / folder) if entry.is_dir() and not entry.name.startswith(".")
        }
    for folder, other in (("train", "test"), ("test", "train")):
        if lacking := sorted(names[folder] - names[other]):
            raise InputError(
                f"{data_dir / other} lacks the class {lacking[0]}, which {folder}/ has: both need the same"
            )
    classes = next((c for c in (CLASSES, CIFAR100_CLASSES) if set(c) == names[split]), None)
    classes = classes or tuple(sorted(names[split]))

    for name in classes:
        if any("\ud800" <= letter <= "\udfff" for letter in name):  # bytes that Python could not read as UTF-8
            raise InputError(f"{data_dir / split} has a folder {name!r}, whose name is not UTF-8: rename it")

    paths, labels, size, digest = [], [], 0, hashlib.sha256(repr(classes).encode())
    for label, name in enumerate(classes):
        entries = os.scandir(data_dir / split / name)
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name.startswith(".") or not entry.is_file():
                continue
            stat = entry.stat()
            digest.update(
                f"{name}/{entry.name}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode("utf-8", "surrogateescape")
            )
            paths.append(entry.path)
            labels.append(label)
            size += stat.st_size
    if not paths:
        raise InputError(f"{data_dir / split} has no images: {LAYOUT}")
    return Listing(paths, np.array(labels, dtype=np.int64), classes, digest.hexdigest(), size)


def read(listing: Listing) -> Decoded:
    """Decodes the listed files.

    Raises:
        InputError: A file cannot be read as an image; names it.
    """
    images = np.empty((len(listing.paths), 32, 32, 3), dtype=np.uint8)

    def decode(chunk: range) -> None:
        for i in chunk:
            images[i] = _read(listing.paths[i])

    _formats()  # loads Pillow's plugins before the threads ask for them
    chunks = [range(i, min(i + 256, len(images))) for i in range(0, len(images), 256)]
    # Threads help with photographs; with thumbnails they only contend for the interpreter (1.5 times slower).
    workers = os.cpu_count() if listing.size / len(images) > 2**15 else 1
    with warnings.catch_warnings(), ThreadPoolExecutor(workers) as pool:
        _refuse_bombs()
        try:
            for _ in pool.map(decode, chunks):
                pass
        except InputError:
            pool.shutdown(cancel_futures=True)
            raise
    return Decoded(images, listing.labels, listing.classes)


def read_image(path: str | Path) -> npt.NDArray[np.uint8]:
    """Reads an image file as `read` does: upright, RGB on white, scaled to 32×32 by antialiased bicubic.

    Returns:
        uint8 (32, 32, 3).

    Raises:
        InputError: The file is missing, no image, damaged, or would unpack to far more than a picture.
    """
    with warnings.catch_warnings():
        _refuse_bombs()
        return _read(path)


def _refuse_bombs() -> None:
    from PIL import Image

    # Pillow warns from 89 million pixels and refuses from twice that; we refuse from the warning on.
    warnings.simplefilter("error", Image.DecompressionBombWarning)


def _formats() -> list[str]:
    from PIL import Image

    Image.init()
    return [name for name in Image.ID if name != "EPS"]  # Pillow hands EPS to Ghostscript, which runs programs


def _read(path: str | Path) -> npt.NDArray[np.uint8]:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path, formats=_formats()) as image:
            return _to_pixels(image)
    except UnidentifiedImageError as error:
        raise InputError(f"{path} is not an image: remove it, or hide it with a leading dot") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise InputError(f"{path} has more than {Image.MAX_IMAGE_PIXELS:,} pixels: scale it down") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"{path} cannot be read ({reason}): replace or remove it") from error
    except Exception as error:  # a damaged file can make a decoder raise anything
        raise InputError(f"{path} cannot be read ({error}): replace or remove it") from error


def _to_pixels(image: "Image.Image") -> npt.NDArray[np.uint8]:
    from PIL import Image, ImageOps

    ImageOps.exif_transpose(image, in_place=True)
    if image.mode in ("I", "F") and image.format not in ("PNG", "PPM"):  # 16 bits of these may also come as "I"
        raise ValueError("it has 32 bits a pixel, and nothing says which of their values is white")
    if image.mode.startswith("I"):  # 16 bits a pixel, which convert() would clip at 255
        image = Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    if image.size != (32, 32):
        image = image.resize((32, 32), Image.Resampling.BICUBIC)
    return np.asarray(image)
