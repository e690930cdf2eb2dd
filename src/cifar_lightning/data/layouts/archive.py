"""Reads the official archives, packed or unpacked, without trusting them: extracts no files and runs no code."""

import gzip
import hashlib
import io
import posixpath
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cifar_lightning.data.cache import Decoded
from cifar_lightning.data.cifar10 import PIXELS, Archive, Binary
from cifar_lightning.data.layouts import pickles
from cifar_lightning.errors import InputError
from cifar_lightning.files import is_file, readable

MAX_MEMBERS = 100
MAX_MEMBER_SIZE = 512 * 2**20  # CIFAR-100's training batch, the largest, has 155 MB
GZIP = b"\x1f\x8b"
FETCHED = "move it away to download the official archive"
Part = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]  # pixels (N, 3072), and labels


def digest(*paths: Path) -> str:
    """Returns the SHA-256 of a file, hexadecimal; for several files, of their bytes concatenated."""
    found = hashlib.sha256()
    for path in paths:
        with readable(path), open(path, "rb") as file:
            while chunk := file.read(2**20):
                found.update(chunk)
    return found.hexdigest()


def check_digest(paths: Sequence[Path], *expected: str, instead: str = FETCHED) -> None:
    """Raises an InputError unless the SHA-256 of the files is one of those expected; see `digest`.

    Args:
        paths: The files.
        expected: The digests that they may have.
        instead: What the user can do to have the expected files, for the message.
    """
    found = digest(*paths)
    if found not in expected:
        name = str(paths[0]) if len(paths) == 1 else f"{paths[0]} with the files after it, {len(paths):,} in all,"
        raise InputError(
            f"{name} has SHA-256 {found}, expected {expected[0]}: {instead}, "
            f"or pass --data.sha256 {found} if the images are your own"
        )


def read(path: Path, versions: Sequence[Archive | Binary], split: str, own: bool = False) -> Decoded:
    """Decodes one split of a tar file, gzip-compressed or decompressed by a browser.

    Args:
        path: The file.
        versions: The versions that it may hold.
        split: "train" or "test".
        own: Whether it is the user's own archive, not the official one; the caller has then checked its digest.

    Raises:
        InputError: The file is damaged, is not the official one, or holds more or less than it should.
    """
    compressed = is_compressed(path)
    if compressed and not own:
        names = {version.name: version.sha256 for version in versions}
        first = names.get(path.name, versions[0].sha256)
        check_digest([path], first, *names.values())
    wanted = {f"{version.folder}/{name}" for version in versions for name in _files(version, split)}
    found: dict[str, bytes] = {}
    for name, data in members(path, wanted):
        if name in found:
            raise InputError(f"{path} has {name} twice, unlike the official {versions[0].name}: replace it")
        found[name] = data

    version = next((one for one in versions if any(name.startswith(f"{one.folder}/") for name in found)), versions[0])
    for name in sorted(_files(version, split)):
        if f"{version.folder}/{name}" not in found and not _may_lack(version, name):
            raise InputError(f"{path} lacks {version.folder}/{name}, which the official {version.name} has: replace it")
    files = {name: found[key] for name in _files(version, split) if (key := f"{version.folder}/{name}") in found}
    if not (own or compressed):
        _check_official(files, version, path, [path])
    return _decode(files, version, split, path)


def read_folder(folder: Path, version: Archive | Binary, split: str, own: bool = False) -> Decoded:
    """Decodes one split of an unpacked archive; see `read`."""
    files = {}
    for name in _files(version, split):
        try:
            files[name] = (folder / name).read_bytes()
        except FileNotFoundError as error:
            if not _may_lack(version, name):
                raise InputError(f"{folder} lacks {name}: unpack {version.name} again, or use it packed") from error
    if not own:
        _check_official(files, version, folder, unpacked(folder, version))
    return _decode(files, version, split, folder)


def unpacked(folder: Path, version: Archive | Binary) -> list[Path]:
    """Lists those of an archive's files that are in `folder`, in the order in which their SHA-256 is computed."""
    paths = [folder / name for name in (*version.train, *version.test, version.meta)]
    return [path for path in paths if is_file(path)]


def _files(version: Archive | Binary, split: str) -> tuple[str, ...]:
    return (*(version.train if split == "train" else version.test), version.meta)


def _may_lack(version: Archive | Binary, name: str) -> bool:
    return isinstance(version, Binary) and name == version.meta  # its class names are then CIFAR's


def _check_official(files: dict[str, bytes], version: Archive | Binary, place: Path, paths: Sequence[Path]) -> None:
    for name, data in files.items():
        expected = version.digests.get(name)
        if expected is None:
            continue
        kind = "SHA-256" if len(expected) == 64 else "MD5"
        # This finds damage and mistakes. It need not stop attackers: the decoders are safe against malicious files.
        found = (hashlib.sha256(data) if kind == "SHA-256" else hashlib.md5(data, usedforsecurity=False)).hexdigest()
        if found != expected:
            raise InputError(
                f"{place} is not the official version: {name} has {kind} {found}, expected {expected}; replace it "
                f"with the official file, or pass --data.sha256 {digest(*paths)} if the images are your own"
            )


def _decode(files: dict[str, bytes], version: Archive | Binary, split: str, place: Path) -> Decoded:
    batches = version.train if split == "train" else version.test
    if isinstance(version, Binary):
        classes, parts = _binary(files, version, batches, place)
    else:
        key = version.folder
        content = {name: _unpickle(files.pop(name), place, f"{key}/{name}") for name in (*batches, version.meta)}
        classes = _names(content.pop(version.meta).get(version.names_key), place)
        # in the official order, from which the order in the tar differs
        parts = [_check(content.pop(name), version.labels_key, len(classes), place, name) for name in batches]
    return joined(parts, classes)


def joined(parts: Sequence[Part], classes: tuple[str, ...]) -> Decoded:
    """Joins the images of all parts, with the channels last."""
    images = np.empty((sum(len(pixels) for pixels, _ in parts), 32, 32, 3), dtype=np.uint8)
    start = 0
    for pixels, _ in parts:
        images[start : start + len(pixels)] = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        start += len(pixels)
    return Decoded(images, np.concatenate([labels for _, labels in parts]), classes)


def _binary(
    files: dict[str, bytes], version: Binary, batches: Sequence[str], place: Path
) -> tuple[tuple[str, ...], list[Part]]:
    classes: tuple[str, ...] = version.classes
    if version.meta in files:
        classes = tuple(files[version.meta].decode("utf-8", "replace").split())  # CIFAR-10's ends in a blank line
    parts, size = [], version.label_bytes + PIXELS
    for name in batches:
        data = files[name]
        if not data or len(data) % size:
            raise InputError(
                f"{place} is refused: {name} has {len(data):,} bytes, not a multiple of {size:,} (an image)"
            )
        records = np.frombuffer(data, dtype=np.uint8).reshape(-1, size)
        labels = records[:, version.label_at].astype(np.int64)
        if labels.max() >= len(classes):
            raise InputError(f"{place} is refused: {name} has labels outside 0..{len(classes) - 1}")
        parts.append((records[:, version.label_bytes :], labels))
    return classes, parts


def is_archive(path: Path) -> bool:
    """Returns whether a file is a tar, compressed or not, or a damaged one; or is meant to be one, by its name."""
    if path.name.endswith((".tar", ".tar.gz", ".tgz")):
        return True
    opened = gzip.open if is_compressed(path) else open
    with readable(path), opened(path, "rb") as file:
        try:
            tarfile.TarInfo.frombuf(file.read(tarfile.BLOCKSIZE), "utf-8", "surrogateescape")
        except tarfile.HeaderError:
            return False
        except (gzip.BadGzipFile, EOFError, zlib.error):  # gzip, but damaged
            return True
    return True


def is_compressed(path: Path) -> bool:
    """Returns whether a tar is gzip-compressed; browsers may have decompressed it."""
    with readable(path), open(path, "rb") as file:
        return file.read(2) == GZIP


def members(path: Path, wanted: set[str]) -> Iterator[tuple[str, bytes]]:
    """Streams through a tar and yields the wanted files, each as name and contents.

    Raises:
        InputError: The tar is damaged, cannot be read, or has a suspicious member.
    """
    mode: Literal["r|gz", "r|"] = "r|gz" if is_compressed(path) else "r|"
    with readable(path):
        try:
            with tarfile.open(path, mode) as tar:
                for count, member in enumerate(tar, start=1):
                    name = posixpath.normpath(member.name)
                    if why := _why_refused(name, member, count):
                        raise InputError(f"{path} is refused: its member {member.name!r} {why}")
                    if name in wanted and (file := tar.extractfile(member)):
                        yield name, file.read()
        except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise InputError(f"{path} is damaged ({error}): replace it with an intact copy") from error


def _why_refused(name: str, member: tarfile.TarInfo, count: int) -> str | None:
    if name.startswith(("/", "..")):
        return "points outside the archive"
    if not (member.isreg() or member.isdir()) or member.issparse():
        return "is neither a file nor a folder"
    if member.size > MAX_MEMBER_SIZE or count > MAX_MEMBERS:
        return f"is member {count} with {member.size:,} bytes, more than any CIFAR archive holds"
    return None


def _unpickle(data: bytes, path: Path, name: str) -> dict[str, Any]:
    try:
        content = pickles.load(io.BytesIO(data))
    except Exception as error:  # a broken pickle can raise anything
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is refused: {name} is not a pickle of plain arrays ({reason})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is refused: {name} holds a {type(content).__name__}, not a dict")
    return content


def _names(names: object, path: Path) -> tuple[str, ...]:
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise InputError(f"{path} is refused: it does not name its classes")
    return tuple(names)


def _check(batch: dict[str, Any], labels_key: str, classes: int, path: Path, name: str) -> Part:
    pixels, labels = batch.get("data"), batch.get(labels_key)
    if not (isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8 and pixels.shape[1:] == (PIXELS,)):
        raise InputError(f"{path} is refused: {name} has no array 'data' of uint8 (n, {PIXELS})")
    if not (isinstance(labels, list) and len(labels) == len(pixels) and all(type(x) is int for x in labels)):
        raise InputError(f"{path} is refused: {name} has no list {labels_key!r} with one integer per image")
    if labels and not (min(labels) >= 0 and max(labels) < classes):
        raise InputError(f"{path} is refused: {name} has labels outside 0..{classes - 1}")
    return pixels, np.array(labels, dtype=np.int64)
