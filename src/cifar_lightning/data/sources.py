"""Where images come from: an official archive, class folders, or a drawing hand. All become an ImageSet."""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cifar_lightning.data import archive, cache, download, folder, shapes
from cifar_lightning.data.cache import Decoded
from cifar_lightning.data.cifar10 import ARCHIVES, CLASSES
from cifar_lightning.errors import InputError

SOURCES = ("cifar10", "cifar100", "folder", "synthetic")
SPLITS = ("train", "test")


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images in memory.

    Attributes:
        images: uint8 (N, 3, 32, 32), channels last in memory, as the loader gathers them fastest.
        labels: int64 (N,), indices into `classes`.
        classes: The names.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]


def prepare(source: str, data_dir: str | Path, *, mirror: str | None = None, sha256: str | None = None) -> None:
    """Does what `load` needs once: downloads, decodes, caches. Any number of processes may call it at once.

    Writes nothing and asks no server where the data is in place.

    Args:
        source: One of SOURCES.
        data_dir: Folder of the archive or of train/ and test/; for an archive also its own path.
        mirror: The only place to get the archive from: an https address of it or of its folder, or a local
            file or folder. Default: the variable CIFAR_LIGHTNING_MIRROR, then the public mirrors.
        sha256: Digest of your own archive in the official format, in place of the official one.

    Raises:
        InputError: The data cannot be had, or is not what it should be.
    """
    _check(source, sha256)
    if source == "synthetic":
        return
    with _naming(data_dir):
        if source in ARCHIVES:
            download.fetch(ARCHIVES[source], _archive_path(source, data_dir), mirror=mirror, sha256=_lower(sha256))
        for split in SPLITS:
            home, key, build = _plan(source, split, data_dir, _lower(sha256))
            if not cache.has(home, f"{source}-{split}", key):
                cache.cached(home, f"{source}-{split}", key, build)


def load(
    source: str, split: str, data_dir: str | Path, *, sha256: str | None = None, synthetic_size: int = 10_000
) -> ImageSet:
    """Reads one split into memory, after `prepare`.

    Args:
        source: One of SOURCES.
        split: "train" or "test".
        data_dir: As in `prepare`.
        sha256: As in `prepare`.
        synthetic_size: Training images that the synthetic source draws; it draws a fifth as many for the test.

    Raises:
        InputError: The data is not there, or is not what it should be.
    """
    _check(source, sha256)
    if split not in SPLITS:
        raise InputError(f"split {split!r} is unknown: use train or test")
    if source == "synthetic":
        return synthetic(split, synthetic_size if split == "train" else max(10, synthetic_size // 5))
    with _naming(data_dir):
        home, key, build = _plan(source, split, data_dir, _lower(sha256))
        return _image_set(cache.cached(home, f"{source}-{split}", key, build))


@contextmanager
def _naming(data_dir: str | Path) -> Iterator[None]:
    """Says which folder it is that the system does not let this user into."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"data_dir {data_dir}: {error.filename or 'it'} cannot be read ({error.strerror or error}): "
            "make it readable, or name another --data.data_dir"
        ) from error


def synthetic(split: str = "train", count: int = 10_000, seed: int = 0, classes: Sequence[str] = CLASSES) -> ImageSet:
    """Draws images: see `shapes` for what they are and how hard.

    Args:
        split: "train" or "test": other images of the same kind.
        count: How many. Fewer are the first of more.
        seed: The same seed draws the same images.
        classes: Names of the classes, ten at most.
    """
    if split not in SPLITS:
        raise InputError(f"split {split!r} is unknown: use train or test")
    images, labels = shapes.draw(count, len(classes), (seed, SPLITS.index(split)))
    return _image_set(Decoded(images, labels, tuple(classes)))


def _image_set(decoded: Decoded) -> ImageSet:
    images = torch.from_numpy(decoded.images).permute(0, 3, 1, 2)
    return ImageSet(images, torch.from_numpy(decoded.labels), decoded.classes)


def _plan(source: str, split: str, data_dir: str | Path, sha256: str | None) -> tuple[Path, str, Callable[[], Decoded]]:
    """Where to cache a split, the key that says the cache is still true, and how to decode it."""
    if source == "folder":
        home = Path(os.path.expanduser(data_dir))
        listing = folder.scan(home, split)
        return home, listing.fingerprint, lambda: folder.read(listing)

    path, expected = _archive_path(source, data_dir), sha256 or ARCHIVES[source].sha256
    try:
        stat = path.stat()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): prepare_data() fetches the archive") from error

    def decode() -> Decoded:
        archive.check_digest(path, expected)
        return archive.read(path, ARCHIVES[source], split)

    # An archive that has not been touched since it was decoded is not hashed again.
    return path.parent, f"{expected} {stat.st_size} {stat.st_mtime_ns}", decode


def _archive_path(source: str, data_dir: str | Path) -> Path:
    path = Path(os.path.expanduser(data_dir))
    return path if path.is_file() or path.name.endswith((".tar.gz", ".tgz")) else path / ARCHIVES[source].name


def _check(source: str, sha256: str | None) -> None:
    if source not in SOURCES:
        raise InputError(f"source {source!r} is unknown: use {', '.join(SOURCES)}")
    if sha256 is not None and not re.fullmatch("[0-9a-fA-F]{64}", sha256):
        raise InputError(f"sha256 {sha256!r} is not a SHA-256 digest: give its 64 hexadecimal digits")


def _lower(sha256: str | None) -> str | None:
    return sha256 and sha256.lower()
