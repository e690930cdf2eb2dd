"""Pictures in numbers, decoded in their order: large ones by threads, small ones by helpers."""

import os
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cifar_lightning.data import decoding
from cifar_lightning.data.bar import bar
from cifar_lightning.data.cache import Decoded
from cifar_lightning.data.decoding import Pixels, Remarks, pillows_warnings
from cifar_lightning.data.folder import Listing
from cifar_lightning.data.helpers import helpers, serve, usable_cores
from cifar_lightning.errors import InputError

# Bytes a file, on the mean, above which they are photographs.
PHOTOGRAPH = 2**15
# Files that a thread or a helper decodes in one go: of small ones many, for to hand one over takes as long.
AT_ONCE = 64
# Small pictures for which a helper is worth its start: it decodes as many in that time.
WORTH = 2_000
# What may be decoded for each thread, or wait to be, before somebody takes it.
AHEAD = 4


class Part(NamedTuple):
    """Some pictures that have been decoded.

    Attributes:
        pixels: uint8 (N, 32, 32, 3).
        remarks: On them.
        errors: By its path, of each that cannot be read; its pixels are any.
    """

    pixels: Pixels
    remarks: Remarks
    errors: dict[str, InputError]


def read(listing: Listing) -> Decoded:
    """Decodes the listed files.

    Raises:
        InputError: A file cannot be read as an image; names it.
    """
    images = np.empty((len(listing.paths), 32, 32, 3), dtype=np.uint8)
    remarks, done = Remarks(), 0
    parts = _in_order(listing.paths, listing.size)
    with closing(parts), bar("reading pictures", len(images)) as advance:
        for _, part in parts:
            for error in part.errors.values():
                raise error
            images[done : done + len(part.pixels)] = part.pixels
            remarks.add(part.remarks)
            done += len(part.pixels)
            advance(done)
    return Decoded(images, listing.labels, listing.classes, listing.held_out, remarks.notes())


def read_each(paths: Sequence[str | Path]) -> Generator[tuple[Pixels, tuple[str, ...]] | InputError, None, None]:
    """Reads image files as `read` does, in order, a few ahead of whoever asks for them.

    Yields:
        Of each its pixels, uint8 (32, 32, 3), and what there is to say of it; or the error, where it cannot be read.
    """
    names = [str(path) for path in paths]
    with closing(_in_order(names, sum(map(_size, names)))) as parts:
        for some, part in parts:
            for path, pixels in zip(some, part.pixels, strict=True):
                yield part.errors.get(path) or (pixels, part.remarks.on(path).notes())


def _size(path: str) -> int:
    with suppress(OSError, ValueError):  # one that is not there is reported when it is read
        return os.path.getsize(path)
    return 0


def _in_order(paths: Sequence[str], size: int) -> Generator[tuple[Sequence[str], Part], None, None]:
    """Some of the paths at a time, in order, and what they hold.

    Args:
        paths: Of the files.
        size: Of all of them, in bytes.
    """
    photographs = size > PHOTOGRAPH * len(paths)  # with which threads help: most of their time is the decoder's
    helping = 0 if photographs else min(usable_cores(), len(paths) // WORTH)
    workers, step = (usable_cores(), 1) if photographs else (max(1, helping), AT_ONCE)
    decoding.formats()  # before the threads ask for them
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
    """Some pictures, by a helper if there are any; not where it is gone, or knows less than this process's Pillow."""
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
    """Decodes for the process that has started this one as its helper: see helpers.py."""
    decoding.formats()
    with pillows_warnings():
        serve(_part)
