"""Locks that keep other processes out of a folder, also on the file systems that machines share."""

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """A context that locks other processes out of `folder`, which it creates if need be. Yields the result of `lock`.

    Raises:
        OSError: The folder cannot be created or written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = open_for_all(folder / "lock")
    try:
        yield lock(descriptor)
    finally:
        os.close(descriptor)


def lock(descriptor: int, wait: bool = True) -> bool:
    """Locks a file that is open for writing. The lock ends when no process has the file open, even if one was killed.

    On Linux it is a record lock of the open file description, which NFS and other network file systems pass on between
    machines. Unlike the record locks of a process (fcntl.lockf), processes that inherit the file hold it too. Elsewhere
    it is flock.

    Returns:
        Whether the file is locked. Some network file systems have no locks, so that nobody can be kept out. A caller
        that goes on without one must write so that other processes may write the same.

    Raises:
        BlockingIOError: Another process has locked the file, and `wait` is false.
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
    except PermissionError as error:  # POSIX allows EACCES in place of EAGAIN
        raise BlockingIOError(*error.args) from error
    except OSError:
        return False
    return True


def is_locked(descriptor: int) -> bool:
    """Whether a file, open for reading, is locked through another opening of it. Only asks, and keeps nobody out.

    Also false if the file system has no locks.
    """
    if fcntl is None:
        return False
    try:
        if hasattr(fcntl, "F_OFD_GETLK"):
            whole = struct.pack("hhqqi0q", fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)  # C's struct flock
            found: int = struct.unpack("hhqqi0q", fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, whole))[0]
            return found != fcntl.F_UNLCK
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # a shared lock: others may ask at the same time
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def open_for_all(path: Path) -> int:
    """Opens a file, creating it if need be, so that every user may open it; returns the descriptor."""
    try:
        return os.open(path, os.O_RDWR)  # O_CREAT is refused for another user's file in a folder like /tmp
    except FileNotFoundError:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    with suppress(OSError):
        path.chmod(0o666)  # whatever this user's umask
    return descriptor
