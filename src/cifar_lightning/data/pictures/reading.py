"""Decodes many pictures, in order: large ones in threads, small ones in helper processes."""

import os
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cifar_lightning.data.bar import bar
from cifar_lightning.data.pictures import decoding
from cifar_lightning.data.pictures.decoding import Pixels, Remarks, pillows_warnings
from cifar_lightning.data.pictures.helpers import helpers, serve, usable_cores
from cifar_lightning.errors import InputError

# Mean bytes per file above which the files are treated as photographs.
PHOTOGRAPH = 2**15
# Small files that are decoded in one go, because handing a file over takes as long as decoding it.
AT_ONCE = 64
# Small pictures for which it is worth starting a helper: it decodes that many in the time that it takes to start.
WORTH = 2_000
# Tasks per thread that may be waiting, or finished and not yet used.
AHEAD = 4


class Part(NamedTuple):
    """Some decoded pictures.

    Attributes:
        pixels: uint8 (N, 32, 32, 3).
        remarks: Remarks on the pictures.
        errors: By path, the error of each picture that cannot be read, whose pixels are then undefined.
    """

    pixels: Pixels
    remarks: Remarks
    errors: dict[str, InputError]


def read(paths: Sequence[str], size: int) -> tuple[Pixels, tuple[str, ...]]:
    """Reads image files.

    Args:
        paths: Paths of the files.
        size: Total size of the files in bytes.

    Returns:
        Their pixels, uint8 (N, 32, 32, 3), and any remarks on them.

    Raises:
        InputError: A file cannot be read as an image; the message names it.
    """
    images = np.empty((len(paths), 32, 32, 3), dtype=np.uint8)
    remarks, done = Remarks(), 0
    parts = _in_order(paths, size)
    with closing(parts), bar("reading pictures", len(images)) as advance:
        for _, part in parts:
            for error in part.errors.values():
                raise error
            images[done : done + len(part.pixels)] = part.pixels
            remarks.add(part.remarks)
            done += len(part.pixels)
            advance(done)
    return images, remarks.notes()


def read_each(paths: Sequence[str | Path]) -> Generator[tuple[Pixels, tuple[str, ...]] | InputError, None, None]:
    """Reads image files as `read` does, in order, a few ahead of the caller.

    Yields:
        For each file its pixels, uint8 (32, 32, 3), and any remarks on it; or the error, if it cannot be read.
    """
    names = [str(path) for path in paths]
    with closing(_in_order(names, sum(map(_size, names)))) as parts:
        for some, part in parts:
            for path, pixels in zip(some, part.pixels, strict=True):
                yield part.errors.get(path) or (pixels, part.remarks.on(path).notes())


def _size(path: str) -> int:
    with suppress(OSError, ValueError):  # a missing file is reported when it is read
        return os.path.getsize(path)
    return 0


def _in_order(paths: Sequence[str], size: int) -> Generator[tuple[Sequence[str], Part], None, None]:
    """Yields some of the paths at a time, in order, with their decoded pictures; see `read`."""
    photographs = size > PHOTOGRAPH * len(paths)  # threads help with these: most of the time goes into the decoder
    helping = 0 if photographs else min(usable_cores(), len(paths) // WORTH)
    workers, step = (usable_cores(), 1) if photographs else (max(1, helping), AT_ONCE)
    decoding.formats()  # loads Pillow's plugins before there are threads
    waiting: deque[tuple[Sequence[str], Future[Part]]] = deque()
    with ExitStack() as stack:
        stack.enter_context(pillows_warnings())
        ask = stack.enter_context(helpers(helping)) if helping > 1 else None
        pool = stack.enter_context(ThreadPoolExecutor(workers))
        try:
            for start in range(0, len(paths), step):
                some = paths[start : start + step]
                waiting.append((some, pool.submit(_part, some, ask)))
                if len(waiting) > AHEAD * workers:
                    some, part = waiting.popleft()
                    yield some, part.result()
            for some, part in waiting:
                yield some, part.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _part(paths: Sequence[str], ask: Callable[[Sequence[str]], Part | None] | None = None) -> Part:
    """Decodes some pictures by a helper, or here if there is none or it fails: Pillow may know more formats here."""
    if ask and (part := ask(paths)) and not part.errors:
        return part
    part = Part(np.empty((len(paths), 32, 32, 3), np.uint8), Remarks(), {})
    for path, pixels in zip(paths, part.pixels, strict=True):
        try:
            pixels[:] = decoding.decode(path, part.remarks)
        except InputError as error:
            part.errors[path] = error
    return part


def help_out() -> None:
    """Decodes for the process that started this one as a helper; see helpers.py."""
    decoding.formats()
    with pillows_warnings():
        serve(_part)
