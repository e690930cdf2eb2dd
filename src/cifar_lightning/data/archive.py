"""Reading the official archives without trusting them: nothing is extracted, nothing in them is run."""

import gzip
import io
import pickle
import posixpath
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cifar_lightning.data.cache import Decoded
from cifar_lightning.data.cifar10 import Archive
from cifar_lightning.errors import InputError

MAX_MEMBERS = 100
MAX_MEMBER_SIZE = 512 * 2**20  # CIFAR-100's training batch, the largest, has 155 MB

# Looked up rather than imported: numpy 1 and 2 keep it in different modules.
_RECONSTRUCT = np.empty(0).__reduce__()[0]


def digest(path: Path) -> str:
    """The file's SHA-256, hexadecimal."""
    import pooch  # type: ignore[import-untyped]

    try:
        return str(pooch.file_hash(str(path), alg="sha256"))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): make it readable") from error


def check_digest(path: Path, sha256: str) -> None:
    """Raises InputError unless the file at `path` has this SHA-256."""
    found = digest(path)
    if found != sha256:
        raise InputError(
            f"{path} has SHA-256 {found}, expected {sha256}: delete it to fetch it anew, "
            f"or pass --data.sha256 {found} if it is your own archive"
        )


def read(path: Path, archive: Archive, split: str) -> Decoded:
    """Decodes one split; the caller has checked the file's digest.

    Args:
        path: The .tar.gz file.
        archive: What it should hold.
        split: "train" or "test".

    Raises:
        InputError: The archive is damaged, holds what it should not, or lacks what it should hold.
    """
    batches = archive.train if split == "train" else archive.test
    wanted = {f"{archive.folder}/{name}" for name in (*batches, archive.meta)}
    found: dict[str, dict[str, Any]] = {}
    try:
        for name, data in _members(path, wanted):
            if name in found:
                raise InputError(f"{path} holds {name} twice: it is not an archive of this kind")
            found[name] = _unpickle(data, path, name)
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path} is damaged ({error}): delete it to fetch it anew") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}): make it readable") from error
    if missing := sorted(wanted - found.keys()):
        raise InputError(f"{path} lacks {missing[0]}: it is not an archive of this kind")

    classes = _names(found.pop(f"{archive.folder}/{archive.meta}").get(archive.names_key), path)
    parts = []
    for name in batches:  # the order inside the tar is another
        batch = found.pop(f"{archive.folder}/{name}")
        parts.append(_check(batch, archive.labels_key, len(classes), path, name))
    images = np.empty((sum(len(pixels) for pixels, _ in parts), 32, 32, 3), dtype=np.uint8)
    start = 0
    for pixels, _ in parts:
        images[start : start + len(pixels)] = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        start += len(pixels)
    return Decoded(images, np.concatenate([labels for _, labels in parts]), classes)


def _members(path: Path, wanted: set[str]) -> Iterator[tuple[str, bytes]]:
    """Streams through the tar and gives the wanted files; a member that is up to something ends it."""
    with tarfile.open(path, "r|gz") as tar:
        for count, member in enumerate(tar, start=1):
            name = posixpath.normpath(member.name)
            if name.startswith(("/", "..")):
                reason = "points outside the archive"
            elif not (member.isreg() or member.isdir()) or member.issparse():
                reason = "is neither a file nor a folder"
            elif member.size > MAX_MEMBER_SIZE or count > MAX_MEMBERS:
                reason = f"is member {count} with {member.size:,} bytes, more than any CIFAR archive holds"
            else:
                reason = ""
            if reason:
                raise InputError(f"{path} is refused: its member {member.name!r} {reason}")
            if name in wanted and (file := tar.extractfile(member)):
                yield name, file.read()


class _ArraysOnly(pickle.Unpickler):
    """Builds plain values and numpy arrays; a pickle can name any function, this one finds no other."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = {
            ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
            ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            ("_codecs", "encode"): _encode,  # how Python 3 writes bytes in the archive's pickle protocol, 2
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return allowed[module, name]


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it asks for the codec {encoding}")
    return text.encode("latin1")


def _unpickle(data: bytes, path: Path, name: str) -> dict[str, Any]:
    try:
        # latin1 reads the byte strings of Python 2, which wrote the archives
        content = _ArraysOnly(io.BytesIO(data), encoding="latin1").load()
    except Exception as error:  # a broken pickle can raise anything
        raise InputError(f"{path} is refused: {name} is no pickle of plain arrays ({error})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is refused: {name} holds a {type(content).__name__}, not a dict")
    return content


def _names(names: object, path: Path) -> tuple[str, ...]:
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise InputError(f"{path} is refused: it names no classes")
    return tuple(names)


def _check(
    batch: dict[str, Any], labels_key: str, classes: int, path: Path, name: str
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    pixels, labels = batch.get("data"), batch.get(labels_key)
    if not (isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8 and pixels.shape[1:] == (3072,)):
        raise InputError(f"{path} is refused: {name} has no 'data' of uint8 (n, 3072)")
    if not (isinstance(labels, list) and len(labels) == len(pixels) and all(type(x) is int for x in labels)):
        raise InputError(f"{path} is refused: {name} has no list {labels_key!r} of one integer an image")
    if labels and not (min(labels) >= 0 and max(labels) < classes):
        raise InputError(f"{path} is refused: {name} has labels outside 0..{classes - 1}")
    return pixels, np.array(labels, dtype=np.int64)
