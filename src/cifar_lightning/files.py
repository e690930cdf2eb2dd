"""Files that other processes read and write too: they appear whole or not at all."""

import ctypes
import errno
import fnmatch
import json
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from cifar_lightning.errors import InputError, RunError, brief


def part_of(path: Path) -> Path:
    """Returns a path to write `path` at until it is whole: a name in its folder that nobody else uses."""
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")


def publish(temporary: Path, target: Path) -> None:
    """Gives a finished file its name. A crash leaves the old file or the new one, never a part of it."""
    with open(temporary, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(temporary, target)
    # The new name survives a power failure once the folder is flushed, which some network file systems cannot do.
    with suppress(OSError):
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


_staying: list[tuple[Path, os.stat_result]] = []  # see `staying`: a file in each folder, and its identity


@contextmanager
def staying(mark: Path, descriptor: int) -> Iterator[None]:
    """A context in which nothing is written into a file's folder once the file is gone from there: see `check_stays`.

    The folder has then been moved or removed, and another folder may have its name.

    Args:
        mark: The file.
        descriptor: The same file, open: some file systems give a file a new inode number if nobody has it open.
    """
    entry = Path(os.path.abspath(mark)), os.fstat(descriptor)
    if not _is(*entry):  # on this file system it can never be told
        yield
        return
    _staying.append(entry)
    try:
        yield
    finally:
        _staying.remove(entry)


def moved(path: Path) -> Path | None:
    """Returns the folder, of those of `staying`, that `path` is in, if that has been moved or removed; else None."""
    parents = Path(os.path.abspath(path)).parents
    return next((mark.parent for mark, was in _staying if mark.parent in parents and not _is(mark, was)), None)


def check_stays(path: Path) -> None:
    """Raises a RunError if `path` must not be written, because its folder was moved or removed: see `staying`."""
    if folder := moved(path):
        raise RunError(
            f"{folder} was moved or removed while this job was writing to it: nothing more is written there; "
            "resume the run from its new place"
        )


def _is(path: Path, was: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(path), was)
    except OSError as error:  # any other error is for the writer to report
        return error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)


def append(path: Path, text: str) -> None:
    """Appends text to a file, which it creates if need be.

    Raises:
        RunError: The text cannot be written to the disk or the folder.
    """
    check_stays(path)
    try:
        with path.open("a", encoding="utf-8", newline="") as file:
            file.write(text)
    except OSError as error:
        raise unwritten(path, error) from error


def write_atomically(path: Path, content: bytes | Callable[[IO[bytes]], object]) -> None:
    """Writes bytes, or what a function writes into an open file, which becomes `path` once it is whole and on the disk.

    Any number of processes and threads may write the same file at once: the last to finish wins.

    Raises:
        RunError: The file cannot be written to the disk or the folder. Nothing is left behind, and `path` is unchanged.
    """
    check_stays(path)
    part = part_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("xb") as file:
            if isinstance(content, bytes):
                file.write(content)
            else:
                content(file)
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
    """Returns a user's path with ~ expanded; ~ stays if the user has no home, for which Path.expanduser would raise.

    Raises:
        InputError: It is no path, but for example an array.
    """
    return Path(os.path.expanduser(_text(name)))


def absolute(place: str | Path) -> str:
    """Returns a path that means the same in any working directory. An address (with ://) stays as it is.

    Raises:
        InputError: It is no path, but for example an array.
    """
    place = _text(place)
    return place if "://" in place else os.path.abspath(os.path.expanduser(place))


def _text(place: object) -> str:
    if isinstance(place, str | os.PathLike):
        return os.fspath(place)
    raise InputError(f"path {brief(place)}: must be text (in quotes) or a path")


def cache_folder() -> Path:
    """The folder in which this user's system wants programs to cache what they can get again.

    Raises:
        RuntimeError: The user has no home; some versions of platformdirs return a path with "~" instead.
    """
    import platformdirs

    return Path(platformdirs.user_cache_dir("cifar_lightning"))


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """A context in which an OSError from reading `path` becomes an InputError: the user can mend it."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}): make it readable") from error


def exists(path: Path) -> bool:
    """Returns whether a path exists.

    Since Python 3.14 Path.exists also returns False if the disk or the network fails. A run that took that for an
    answer would begin its log again, or test another checkpoint.

    Raises:
        OSError: The operating system cannot tell.
    """
    return _mode(path) is not None


def is_file(path: Path) -> bool:
    """Returns whether a path is a file. Like `exists`, raises an OSError if the operating system cannot tell."""
    return stat.S_ISREG(_mode(path) or 0)


def is_dir(path: Path) -> bool:
    """Returns whether a path is a folder. Like `exists`, raises an OSError if the operating system cannot tell."""
    return stat.S_ISDIR(_mode(path) or 0)


def _mode(path: Path) -> int | None:
    try:
        return os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: it has a null byte
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:  # a link to itself
            return None
        raise


def listed(folder: Path, pattern: str) -> list[Path]:
    """Returns the paths in a folder whose names match a pattern; none if there is no such folder.

    Path.glob also returns none, on newer Pythons, if the folder cannot be read.

    Raises:
        InputError: The folder cannot be read.
    """
    with readable(folder):
        try:
            names = os.listdir(folder)
        except (FileNotFoundError, NotADirectoryError):
            return []
    return [folder / name for name in fnmatch.filter(names, pattern)]


def check_reachable(path: Path) -> None:
    """Checks that this user may look for a path, and for the files in it if it is a folder.

    Path.exists and its like do not tell: if they may not look, they raise PermissionError before Python 3.14, and
    return False since.

    Raises:
        InputError: The path's folder, or the path itself, may not be searched.
    """
    try:
        os.stat(os.path.join(path, "."))
    except PermissionError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): make it readable") from error
    except (OSError, ValueError):  # it is a file, or does not exist
        return


def why_unwritable(folder: Path) -> str | None:
    """Says why no file can be written into a folder, which need not exist yet; None if one can. Leaves nothing."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(path))
    try:
        with tempfile.TemporaryFile(dir=there):  # the folder's mode does not tell of a read-only disk
            return None
    except OSError as error:
        return error.strerror or str(error)


def strict_json(values: Any, **options: Any) -> str:
    """Dumps values as JSON, with null for NaN and infinity, which are not JSON and which most readers refuse."""
    try:
        return json.dumps(values, allow_nan=False, **options)
    except ValueError:
        return json.dumps(json.loads(json.dumps(values), parse_constant=lambda name: None), **options)


def write_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Writes a folder of files, by their names, that replaces `path` once it is whole.

    Raises:
        RunError: The folder cannot be written to the disk or to its parent. `path` is unchanged.
    """
    part, before = part_of(path), part_of(path)
    try:
        part.mkdir(parents=True)
        for name, content in files.items():
            write_atomically(part / name, content)
        if not exists(path):
            part.rename(path)
        elif not _exchanged(part, path):  # for a moment there is no `path`
            path.rename(before)
            part.rename(path)
    except OSError as error:
        if exists(before):
            before.rename(path)
        raise unwritten(path, error) from error
    finally:
        for rest in (part, before):
            shutil.rmtree(rest, ignore_errors=True)


def remove_parts(folder: Path) -> None:
    """Removes what processes that were killed while writing left in `folder`. The caller must hold its lock."""
    for part in folder.glob(".*.part"):
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        else:
            part.unlink(missing_ok=True)


def _exchanged(one: Path, other: Path) -> bool:
    """Swaps the names of two folders atomically; returns whether that worked, as it does on most Linux disks."""
    try:
        rename = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    here, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE
    return bool(rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0)


def unwritten(path: Path, error: OSError) -> RunError:
    """Makes the error for a file that could not be written, and whose previous version is unchanged."""
    unchanged = "any earlier version is unchanged"
    return RunError(f"could not write {path}: {error.strerror}; {unchanged}: free some disk space, or fix the folder")


def os_error(error: BaseException | None) -> OSError | None:
    """Finds the OSError that caused an error, if one did."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error
