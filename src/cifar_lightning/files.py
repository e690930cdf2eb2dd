"""Files that others read and write too: one lock a folder, and files that appear whole or not at all."""

import ctypes
import errno
import json
import os
import secrets
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from cifar_lightning.errors import InputError, RunError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Keeps every other process out of `folder`, which is made if need be; gives whether it could: see `lock`.

    Raises:
        OSError: The folder cannot be made or written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = open_for_all(folder / "lock")
    try:
        yield lock(descriptor)
    finally:
        os.close(descriptor)


def lock(descriptor: int, wait: bool = True) -> bool:
    """Locks a file that is open for writing; it is free once no process has it open any more, even one that was killed.

    On Linux by a record lock of the open file itself, which NFS and other network file systems carry between machines;
    processes that inherit the file hold it too, which those of a process (fcntl.lockf) are not for. Elsewhere by flock.

    Returns:
        Whether it is locked. Some network file systems have no locks, and then nobody can be kept out: whoever goes on
        writes so that others may write the same.

    Raises:
        BlockingIOError: Another process has locked it, and this one is not to wait.
    """
    if fcntl is None:
        return False
    try:
        if hasattr(fcntl, "F_OFD_SETLK"):
            whole = struct.pack("hhqqi0q", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)  # C's struct flock
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLKW if wait else fcntl.F_OFD_SETLK, whole)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except PermissionError as error:  # the other name that POSIX has for it
        raise BlockingIOError(*error.args) from error
    except OSError:
        return False
    return True


def is_locked(descriptor: int) -> bool:
    """Whether a file, open for reading, is locked by who has opened it for himself; asks, and keeps out nobody.

    No, too, where there are no locks.
    """
    if fcntl is None:
        return False
    try:
        if hasattr(fcntl, "F_OFD_GETLK"):
            whole = struct.pack("hhqqi0q", fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)  # C's struct flock
            found: int = struct.unpack("hhqqi0q", fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, whole))[0]
            return found != fcntl.F_UNLCK
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # which others who ask can have, too
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def open_for_all(path: Path) -> int:
    """A descriptor of a file that every user may open, whoever has made it."""
    try:
        return os.open(path, os.O_RDWR)  # without O_CREAT, which is refused for another's file in a folder like /tmp
    except FileNotFoundError:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    with suppress(OSError):
        path.chmod(0o666)  # whatever this user's files are otherwise
    return descriptor


def part_of(path: Path) -> Path:
    """Where `path` may be written until it is whole: a name in its folder that nobody else has."""
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")


def publish(temporary: Path, target: Path) -> None:
    """Gives a finished file its name, so that a crash leaves the old file or the new one, never a part."""
    with open(temporary, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(temporary, target)
    # The new name outlives a power failure once its folder is flushed, which some network file systems cannot do.
    with suppress(OSError):
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


_staying: list[tuple[Path, os.stat_result]] = []  # of `staying`: a file in each folder, and which it was


@contextmanager
def staying(mark: Path, descriptor: int) -> Iterator[None]:
    """Within it, nothing is written into the folder of a file once that is no longer there: see `check_stays`.

    The folder has been moved or removed then, and another may have its name.

    Args:
        mark: The file.
        descriptor: The same, open: some file systems number a file anew that nobody has open.
    """
    entry = Path(os.path.abspath(mark)), os.fstat(descriptor)
    if not _is(*entry):  # by this file system it could never be told
        yield
        return
    _staying.append(entry)
    try:
        yield
    finally:
        _staying.remove(entry)


def moved(path: Path) -> Path | None:
    """The folder of `staying` that `path` is in, where it is no longer the one that it was."""
    parents = Path(os.path.abspath(path)).parents
    return next((mark.parent for mark, was in _staying if mark.parent in parents and not _is(mark, was)), None)


def check_stays(path: Path) -> None:
    """Raises a RunError where `path` is not to be written, for its folder has not stayed: see `staying`."""
    if folder := moved(path):
        raise RunError(
            f"{folder} has been moved or removed while this job was in it: nothing more is written there; "
            "resume it where it is"
        )


def _is(path: Path, was: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(path), was)
    except OSError as error:  # another than these is for who writes to say
        return error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)


def append(path: Path, text: str) -> None:
    """Adds to the end of a file, which is made if need be.

    Raises:
        RunError: The disk or the folder does not take it.
    """
    check_stays(path)
    try:
        with path.open("a", encoding="utf-8", newline="") as file:
            file.write(text)
    except OSError as error:
        raise unwritten(path, error) from error


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Gives `write` a file that becomes `path` once it is whole and on the disk.

    Any number of processes and threads may write the same file at once: it is then that of the last to finish.

    Raises:
        RunError: The disk or the folder does not take it. Nothing is left behind, and `path` is as it was.
    """
    check_stays(path)
    part = part_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("xb") as file:
            write(file)
        publish(part, path)
    except (OSError, RuntimeError) as error:
        cause = os_error(error)  # torch's writer turns an OSError into a RuntimeError
        if cause is None:
            raise
        raise unwritten(path, cause) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def user_path(name: str | Path) -> Path:
    """The path that a user names, with his home for ~; where he has none it stays, of which Path's own would raise."""
    return Path(os.path.expanduser(name))


def absolute(place: str | Path) -> str:
    """A path that means the same in whatever folder it is read later; an address as it is."""
    place = os.fspath(place)
    return place if "://" in place else os.path.abspath(os.path.expanduser(place))


def cache_folder() -> Path:
    """Where this user's system has programs keep what can be had again.

    Raises:
        RuntimeError: He has no home; some versions of platformdirs then name "~" instead.
    """
    import platformdirs

    return Path(platformdirs.user_cache_dir("cifar_lightning"))


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Within it, what the system does not let this user read of `path` is an InputError, for him to mend."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}): make it readable") from error


def why_unwritable(folder: Path) -> str | None:
    """Why no file can be written into a folder, which may be yet to be made; None where one can. Nothing is left."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(path))
    try:
        with tempfile.TemporaryFile(dir=there):  # the mode of a folder does not tell: of a read-only disk, say
            return None
    except OSError as error:
        return error.strerror or str(error)


def strict_json(values: Any, **options: Any) -> str:
    """What `json.dumps` gives, with null for NaN and infinity, which JSON has no words for and most readers refuse."""
    try:
        return json.dumps(values, allow_nan=False, **options)
    except ValueError:
        return json.dumps(json.loads(json.dumps(values), parse_constant=lambda name: None), **options)


def write_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Writes a folder of files, by their names, that becomes `path` once it is whole; what stood there is replaced.

    Raises:
        RunError: The disk, or the folder that it goes into, does not take it. `path` is as it was.
    """
    part, before = part_of(path), part_of(path)
    try:
        part.mkdir(parents=True)
        for name, content in files.items():
            write_atomically(part / name, lambda file, content=content: file.write(content))  # type: ignore[misc]
        if not path.exists():
            part.rename(path)
        elif not _exchanged(part, path):  # then it has no name for a moment
            path.rename(before)
            part.rename(path)
    except OSError as error:
        if before.exists():
            before.rename(path)
        raise unwritten(path, error) from error
    finally:
        for rest in (part, before):
            shutil.rmtree(rest, ignore_errors=True)


def remove_parts(folder: Path) -> None:
    """Removes what processes have left in `folder` that were killed while they wrote; for who holds its lock."""
    for part in folder.glob(".*.part"):
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        else:
            part.unlink(missing_ok=True)


def _exchanged(one: Path, other: Path) -> bool:
    """Has two folders take each other's names at once; gives whether the system could, as Linux can on most disks."""
    try:
        rename = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    here, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE
    return bool(rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0)


def unwritten(path: Path, error: OSError) -> RunError:
    """What to raise where a disk or a folder does not take a file that leaves what stood in its place as it was."""
    untouched = "what stood there before is untouched"
    return RunError(f"could not write {path}: {error.strerror}; {untouched}: make room, or mend the folder")


def os_error(error: BaseException | None) -> OSError | None:
    """What the system has said, where that is behind an error."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error
