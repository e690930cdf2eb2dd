"""Decoded images, cached on disk so that the next start takes an instant instead of seconds.

A cache file is valid as long as the key of its source is unchanged. If it contains notes, which name files, the data
folder must also be at the same path as then.

For each file of a source, the key contains the name, size and modification time, and also the change time (ctime) and
the inode, which no program can set. So the key changes even if two files or folders swap names, or if pixels are
replaced and the modification time is restored. (The device number is left out: two machines that share a folder have
different ones.) The key also contains the versions of the decoders.

This fails on file systems that make up these values: a network file system without change times, or a disk image, such
as squashfs, that is replaced by another one with all times set to one value and files of the same sizes in the same
order. After such a change, remove `.cifar_lightning`.
"""

import hashlib
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cifar_lightning.errors import RunError
from cifar_lightning.files import cache_folder, remove_parts, write_atomically
from cifar_lightning.locks import locked

# Folder for the lock and the decoded images, in the user's data folder, beside the archive.
HIDDEN = ".cifar_lightning"
# Increase this when one of our decoders gives different pixels, labels or names, or a cache file's contents change.
VERSION = 6


class Decoded(NamedTuple):
    """Images as the decoders return them.

    Attributes:
        images: uint8 (N, 32, 32, 3).
        labels: int64 (N,), indices into `classes`.
        classes: Names of the classes.
        held_out: Number of images, at the end, that are for validation.
        notes: What the user should know about the images, one line each.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    held_out: int = 0
    notes: tuple[str, ...] = ()


def identity(name: str, stat: os.stat_result) -> bytes:
    """Returns a file's part of a key, for its name or its path in the data folder; see the top of this file."""
    known = f"{name}\0{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {stat.st_ino}\n"
    return known.encode("utf-8", "surrogateescape")


def cached(home: Path, name: str, key: str, build: Callable[[], Decoded], shared: bool = False) -> Decoded:
    """Returns the images cached under `name` if their key is still `key` and their bytes are sound, or builds them.

    What is built is cached. If files can be locked, one process builds and the others wait for it. If nothing can be
    written, the images are only kept in memory.

    Args:
        home: The data folder.
        name: File name without suffix. There is one file per name: a new one replaces a stale one.
        key: Changes when the source of the images does.
        build: Decodes the images; called only if necessary.
        shared: Map the images from the file: the system then keeps one copy for all processes of a machine.
    """
    places = _places(home)
    for place in places:
        if (hit := _read(_file(place, name), home, key, shared)) is not None:
            return hit
    built = None
    for place in places:
        try:
            with locked(place) as alone:
                # Another process may have built it while this one waited.
                if (hit := _read(_file(place, name), home, key, shared)) is not None:
                    return hit
                built = built or build()
                if alone:
                    remove_parts(place)
                _write(_file(place, name), home, key, built)
                return built
        except (OSError, RunError):  # read-only, or full: the next place
            continue
    return built or build()


def has(home: Path, name: str, key: str) -> bool:
    """Returns whether `cached` would find the images, without reading them."""
    return any(_would_read(_file(place, name), home, key) for place in _places(home))


def _places(home: Path) -> list[Path]:
    here, own = home / HIDDEN, _own_place(home)
    return [here, *own] if os.access(home, os.W_OK) else [*own, here]


def _own_place(home: Path) -> list[Path]:
    """Returns a folder in the user's cache folder, for data folders that are read-only; nothing if there is no home."""
    try:
        root = cache_folder()
    except RuntimeError:  # the user has no home folder, as may be in a container
        return []
    digest = hashlib.sha256(os.fsencode(home.resolve())).hexdigest()[:16]
    return [root / digest] if root.is_absolute() else []


def _file(place: Path, name: str) -> Path:
    # .npz is a zip of plain .npy files: there is one file to rename, nothing is pickled, and zip's CRC-32 covers every
    # byte.
    return place / f"{name}.npz"


def _read(path: Path, home: Path, key: str, shared: bool) -> Decoded | None:
    try:
        with zipfile.ZipFile(path) as file:
            if not _is_true(file, home, key):
                return None
            classes, notes = (tuple(str(text) for text in array_in(file, name)) for name in ("classes", "notes"))
            held_out = int(array_in(file, "held_out"))
            images = _mapped_in(file, "images") if shared else array_in(file, "images")
            return Decoded(images, array_in(file, "labels"), classes, held_out, notes)
    except Exception:  # missing, forbidden, cut short or with a flipped bit: zip and numpy raise many kinds of errors
        return None


def _would_read(path: Path, home: Path, key: str) -> bool:
    try:
        with zipfile.ZipFile(path) as file:
            return _is_true(file, home, key)
    except Exception:  # as in `_read`
        return False


def _is_true(file: zipfile.ZipFile, home: Path, key: str) -> bool:
    """Returns whether a cache file has this key and, if it has notes that name files, is of this folder."""
    if str(array_in(file, "key")) != _versioned(key):
        return False
    return not array_in(file, "notes").size or str(array_in(file, "home")) == _named(home)


def _versioned(key: str) -> str:
    return f"{VERSION} {key}"


def _named(home: Path) -> str:
    return repr(os.path.realpath(home))  # repr, since the name may not be UTF-8


def array_in(file: zipfile.ZipFile, name: str) -> npt.NDArray[Any]:
    """Reads an array of a .npz file. Raises any error of zip or numpy if it is damaged or would need unpickling."""
    with file.open(f"{name}.npy") as member:
        array = np.lib.format.read_array(member, allow_pickle=False)
        member.read()  # to the end, where zip compares the CRC: np.load believes a header that lies about the size
    return array


class Header(NamedTuple):
    """The header of a numpy file, before the bytes of the array."""

    shape: tuple[int, ...]
    by_columns: bool
    dtype: np.dtype[Any]


def header_of(file: IO[bytes]) -> Header:
    """Reads the header, up to the array's first byte. Raises any error of numpy if there is no header."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return Header(*read(file))


def _mapped_in(file: zipfile.ZipFile, name: str) -> npt.NDArray[np.uint8]:
    """Maps an array of bytes in a .npz file, copy-on-write: changes stay in this process. Raises like `array_in`."""
    info = file.getinfo(f"{name}.npy")
    with file.open(info) as member:
        shape = header_of(member).shape
        begin = member.tell()
    assert file.fp is not None
    file.fp.seek(info.header_offset + 26)  # two lengths in the member's local header, after which its bytes begin
    start = info.header_offset + 30 + sum(struct.unpack("<HH", file.fp.read(4)))
    stored = np.asarray(np.memmap(file.fp, np.uint8, "c", start, (info.file_size,)))
    if zlib.crc32(stored.data) != info.CRC:
        raise zipfile.BadZipFile(f"{name} is not what was written")
    return stored[begin:].reshape(shape)


def _write(path: Path, home: Path, key: str, decoded: Decoded) -> None:
    arrays: dict[str, Any] = decoded._asdict()
    arrays["notes"] = np.asarray(decoded.notes, dtype=str)  # str even if there are none
    write_atomically(path, lambda file: np.savez(file, key=_versioned(key), home=_named(home), **arrays))
