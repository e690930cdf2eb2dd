"""Decoded images, kept on disk so that the next start takes a blink instead of seconds.

A file here is true as long as its key is, and one with notes only where its images lay then. A source's key has of each
of its files the name, the size, the time it was written and, which no program can set, the time it was changed in any
way and its inode: so it is another when two files or folders take each other's names, or when pixels are replaced and
the time is put back. (Not the device, of which two machines that share a folder have different ones.) It also has the
versions of what decodes.

Unprotected is a file system that makes these up: one over a network without times of change, or a file of a whole
disk, such as squashfs, of which another is mounted in its place, with all times set to one, and files of the same sizes
in the same order. Remove `.cifar_lightning` there.
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
from cifar_lightning.files import cache_folder, locked, remove_parts, write_atomically

# What we keep in a user's data folder beside the archive: the lock and the decoded images.
HIDDEN = ".cifar_lightning"
# To be raised when a decoder of ours gives other pixels, labels or names, or a file here holds something else.
VERSION = 6


class Decoded(NamedTuple):
    """Images as the decoders give them.

    Attributes:
        images: uint8 (N, 32, 32, 3).
        labels: int64 (N,), indices into `classes`.
        classes: The names.
        held_out: How many of the images, the last ones, are for validation.
        notes: What the user should know of them, in a line each.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    held_out: int = 0
    notes: tuple[str, ...] = ()


def identity(name: str, stat: os.stat_result) -> bytes:
    """What a key has of a file, by its name or where it lies in the data folder; see above."""
    known = f"{name}\0{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {stat.st_ino}\n"
    return known.encode("utf-8", "surrogateescape")


def cached(home: Path, name: str, key: str, build: Callable[[], Decoded], shared: bool = False) -> Decoded:
    """What was kept under `name` if its key is still `key` and its bytes are sound; else builds and keeps it.

    One process builds, the others wait for it, where files can be locked. Where nothing can be written the images stay
    in memory.

    Args:
        home: The data folder.
        name: File name without suffix. There is one file a name: a new one takes the place of a stale one.
        key: Changes when the source of the images does.
        build: Decodes the images; called only if need be.
        shared: Leave the images in the file, of which the system keeps one copy for all processes of a machine.
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
    """Whether `cached` would find the images. Reads none of them."""
    return any(_would_read(_file(place, name), home, key) for place in _places(home))


def _places(home: Path) -> list[Path]:
    here, own = home / HIDDEN, _own_place(home)
    return [here, *own] if os.access(home, os.W_OK) else [*own, here]


def _own_place(home: Path) -> list[Path]:
    """One in the user's own cache folder, which serves data folders that cannot be written to; none without a home."""
    try:
        root = cache_folder()
    except RuntimeError:  # as a container's user may be
        return []
    digest = hashlib.sha256(os.fsencode(home.resolve())).hexdigest()[:16]
    return [root / digest] if root.is_absolute() else []


def _file(place: Path, name: str) -> Path:
    # .npz is a zip of plain .npy files: one file to rename, nothing pickled, zip's CRC-32 over every byte.
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
    except Exception:  # missing, forbidden, cut short, or with a bit flipped: zip and numpy raise what they like
        return None


def _would_read(path: Path, home: Path, key: str) -> bool:
    try:
        with zipfile.ZipFile(path) as file:
            return _is_true(file, home, key)
    except Exception:  # as in `_read`
        return False


def _is_true(file: zipfile.ZipFile, home: Path, key: str) -> bool:
    """Whether what has been kept is of this key; and of this folder, where notes name files of it."""
    if str(array_in(file, "key")) != _versioned(key):
        return False
    return not array_in(file, "notes").size or str(array_in(file, "home")) == _named(home)


def _versioned(key: str) -> str:
    return f"{VERSION} {key}"


def _named(home: Path) -> str:
    return repr(os.path.realpath(home))  # of a name that is not UTF-8, too


def array_in(file: zipfile.ZipFile, name: str) -> npt.NDArray[Any]:
    """An array of a .npz file. Raises what zip and numpy do where it is damaged, or would have to be unpickled."""
    with file.open(f"{name}.npy") as member:
        array = np.lib.format.read_array(member, allow_pickle=False)
        member.read()  # to its end, where zip compares the CRC: np.load believes a header that lies about the size
    return array


class Header(NamedTuple):
    """What stands before an array's bytes in one of numpy's files."""

    shape: tuple[int, ...]
    by_columns: bool
    dtype: np.dtype[Any]


def header_of(file: IO[bytes]) -> Header:
    """Reads it, after which the bytes begin. Raises what numpy does where there is none."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return Header(*read(file))


def _mapped_in(file: zipfile.ZipFile, name: str) -> npt.NDArray[np.uint8]:
    """An array of bytes where it lies in a .npz file; what this process changes is its own. Raises as `array_in`."""
    info = file.getinfo(f"{name}.npy")
    with file.open(info) as member:
        shape = header_of(member).shape
        begin = member.tell()
    assert file.fp is not None
    file.fp.seek(info.header_offset + 26)  # of its local header, as long as two numbers in it say
    start = info.header_offset + 30 + sum(struct.unpack("<HH", file.fp.read(4)))
    stored = np.asarray(np.memmap(file.fp, np.uint8, "c", start, (info.file_size,)))
    if zlib.crc32(stored.data) != info.CRC:
        raise zipfile.BadZipFile(f"{name} is not what was written")
    return stored[begin:].reshape(shape)


def _write(path: Path, home: Path, key: str, decoded: Decoded) -> None:
    arrays: dict[str, Any] = decoded._asdict()
    arrays["notes"] = np.asarray(decoded.notes, dtype=str)  # which may be none
    write_atomically(path, lambda file: np.savez(file, key=_versioned(key), home=_named(home), **arrays))
