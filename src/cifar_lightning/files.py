"""Writing where others write too: one lock a folder, and files that appear whole or not at all."""

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from cifar_lightning.errors import RunError


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps every other process out of `folder`, which is made if need be.

    The kernel frees the lock when its holder dies, even by SIGKILL.

    Raises:
        OSError: The folder cannot be made or written to.
    """
    from filelock import FileLock

    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock", mode=0o666):
        yield


def publish(temporary: Path, target: Path) -> None:
    """Gives a finished file its name, so that a crash leaves the old file or the new one, never a part."""
    with open(temporary, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(temporary, target)
    folder = os.open(target.parent, os.O_RDONLY)  # the new name is safe once its folder is flushed
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Gives `write` a file that becomes `path` once it is whole and on the disk.

    Any number of processes and threads may write the same file at once: it is then that of the last to finish.

    Raises:
        RunError: The disk or the folder does not take it. Nothing is left behind, and `path` is as it was.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("xb") as file:
            write(file)
        publish(part, path)
    except (OSError, RuntimeError) as error:
        cause = _os_error(error)  # torch's writer turns an OSError into a RuntimeError
        if cause is None:
            raise
        raise RunError(
            f"could not write {path}: {cause.strerror}; what stood there before is untouched: "
            "make room, or mend the folder"
        ) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def remove_parts(folder: Path) -> None:
    """Removes what processes have left in `folder` that were killed while they wrote; for who holds its lock."""
    for part in folder.glob(".*.part"):
        part.unlink(missing_ok=True)


def _os_error(error: BaseException | None) -> OSError | None:
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error
