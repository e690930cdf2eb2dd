"""Where images come from: the official CIFAR sets, the user's own files, or synthetic drawings."""

import hashlib
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from cifar_lightning.data import cache, download, shapes
from cifar_lightning.data.cache import Decoded
from cifar_lightning.data.cifar10 import ARCHIVES, CLASSES, CLASSES_OF, TITLES
from cifar_lightning.data.class_names import named_twice
from cifar_lightning.data.image_set import ImageSet, image_set_of
from cifar_lightning.data.layouts import archive, arrays, class_folders, official, parquet, test_sets
from cifar_lightning.data.layouts.held import Held
from cifar_lightning.errors import ImageWarning, InputError, quoted
from cifar_lightning.files import check_reachable, exists, is_dir, user_path

SOURCES = ("cifar10", "cifar100", "cifar100-coarse", "folder", "synthetic")
SPLITS = ("train", "test")


class Source:
    """A place that images come from. What has been found there is not looked for again while this object exists.

    Args:
        name: One of SOURCES.
        data_dir: Folder of the official images in a shape of official.py, or of train/ and test/, or of arrays; or
            the path of an archive or of a .npz file.
        mirror: The only place to get the archive from: an https address of it or of its folder, or a local
            file or folder. Default: the variable CIFAR_LIGHTNING_MIRROR, then the public mirrors.
        sha256: Digest of your own images that replace the official ones in an official shape: of the archive or the
            file of arrays, or of several files concatenated. Not checked for class folders and published test sets.
        synthetic_size: Training images that the synthetic source draws; it draws a fifth as many for the test.

    Raises:
        InputError: There is no such source, or `sha256` is not a SHA-256 digest.
    """

    def __init__(
        self,
        name: str,
        data_dir: str | Path = "data",
        *,
        mirror: str | None = None,
        sha256: str | None = None,
        synthetic_size: int = 10_000,
    ) -> None:
        if name not in SOURCES:
            raise InputError(f"unknown source {name!r}: choose from {', '.join(SOURCES)}")
        if sha256 is not None and not re.fullmatch("[0-9a-fA-F]{64}", sha256):
            raise InputError(f"sha256 {sha256!r} is not a SHA-256 digest: use the 64 hexadecimal digits of one")
        self.name, self.data_dir, self.mirror = name, data_dir, mirror
        self.sha256 = sha256 and sha256.lower()
        self.synthetic_size = synthetic_size
        self._found: dict[str, Found] = {}
        self._held: Held | None = None

    def prepare(self) -> None:
        """Does the work that `load` needs done once: downloads, decodes, caches. Processes may call it concurrently.

        Writes nothing and contacts no server if the data is in place.

        Raises:
            InputError: The data is not available, or is not what it should be.
        """
        if self.name == "synthetic":
            return
        with self._naming():
            if self.name in ARCHIVES and not self.held():
                if class_folders.has_classes(self._place):
                    raise InputError(
                        f"data_dir {self.data_dir} has class folders, not {TITLES[self.name]}: use --data.source "
                        f"folder to train on them, or another data_dir to download {TITLES[self.name]} into"
                    )
                if is_dir(self._target):  # `fetch` would take the folder for the archive
                    raise InputError(
                        f"{self._target} is a folder, not the archive of that name: move it away so that the archive "
                        "can be downloaded, or choose another --data.data_dir"
                    )
                download.fetch(
                    ARCHIVES[self.name],
                    self._target,
                    mirror=self.mirror,
                    sha256=self.sha256,
                    others=", ".join(official.looked_for(self.name)[1:]),
                )
            for split in self.splits:
                found = self.find(split)
                if found.key and not cache.has(found.home, f"{self.name}-{split}", found.key):
                    cache.cached(found.home, f"{self.name}-{split}", found.key, found.decode)

    def load(self, split: str, shared: bool = False) -> ImageSet:
        """Reads one split into memory, after `prepare`. Warns of anything that the user should know about the images.

        Args:
            split: "train" or "test".
            shared: Map the cache file, so that all processes of a machine that do this share one copy in memory. Nobody
                may write to that file meanwhile. (Replacing it by another file does no harm.)

        Raises:
            InputError: The data is missing, or is not what it should be.
        """
        if split not in SPLITS:
            use = "train or test"
            if str(split).startswith("val"):
                use = 'train, and select the validation images: Subset(data.dataset("train"), data.val_indices)'
            raise InputError(f"unknown split {split!r}: use {use}")
        if self.name == "synthetic":
            return synthetic(split, self.synthetic_size if split == "train" else max(10, self.synthetic_size // 5))
        with self._naming():
            found = self.find(split)
            if found.key:
                decoded = cache.cached(found.home, f"{self.name}-{split}", found.key, found.decode, shared)
            else:
                decoded = found.decode()
        if (twice := named_twice(decoded.classes)) is not None:
            raise InputError(
                f"data_dir {self.data_dir} has more than one class named {quoted(twice)}, so results could not tell "
                "them apart: use a different name for each"
            )
        for note in filter(None, (*found.notes, *decoded.notes)):
            warnings.warn(note, ImageWarning, stacklevel=2)
        return image_set_of(decoded)

    def find(self, split: str) -> "Found":
        """Finds the files of a split without decoding them. Not for the synthetic source, which has no files.

        Raises:
            InputError: The split is not there.
        """
        if split not in self._found:
            with self._naming():
                if held := self.held():
                    self._found[split] = self._found_in(held, split)
                elif self.name == "folder":
                    self._found[split] = self._class_folders(split)
                else:
                    there = f"data_dir {self.data_dir} has none of {', '.join(official.looked_for(self.name))}"
                    raise InputError(f"{there}: run fit, which downloads the first")
        return self._found[split]

    def _found_in(self, held: Held, split: str) -> "Found":
        if not held.decodes:
            decode, notes = partial(held.decode, split, False), (self._unchecked(held.shape),)
            return Found(held.home, "", decode, held.shape, held.files, notes)
        # The digest is checked inside `decode`, so files that have not changed since then are not hashed again.
        decode = partial(_decode, held, self.sha256, split, self.name)
        return Found(held.home, f"{self.sha256} {_identity(held.files)}", decode, held.shape, held.files)

    def _class_folders(self, split: str) -> "Found":
        listing = class_folders.scan(self._place, split)
        decode, notes = partial(class_folders.read, listing), (listing.note, self._unchecked(class_folders.SHAPE))
        return Found(self._place, listing.fingerprint, decode, class_folders.SHAPE, listing.paths, notes)

    def _unchecked(self, shape: str) -> str:
        """Returns a note that the digest is not checked for this shape; empty if no digest was given."""
        return f"sha256 {self.sha256} is not checked, because {self.data_dir} has {shape}" if self.sha256 else ""

    def held(self) -> Held | None:
        """Returns the images that the place holds in any layout but class folders; None if there are none.

        Raises:
            InputError: Images are there, but cannot be used.
        """
        if self._held is None:
            with self._naming():
                if self.name in ARCHIVES:
                    self._held = official.find(self._place, self.name)
                elif self.name == "folder" and not exists(self._place / "train"):
                    found = (layout.find(self._place, self.name) for layout in (arrays, parquet, test_sets))
                    self._held = next(filter(None, found), None)
        return self._held

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names if they are known before the images are read; empty if the files may have others."""
        if self.name == "synthetic":
            return CLASSES
        if self.name not in CLASSES_OF or self.sha256:
            return ()
        held = self.held()
        return () if held and held.shape in (arrays.SHAPE, parquet.SHAPE) else CLASSES_OF[self.name]

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that the source has, as far as is known before they are read."""
        held = self.held()
        return held.splits if held else SPLITS

    @property
    def parts(self) -> tuple[Path, ...]:
        """If `data_dir` is a folder of corrupted test sets, its files, one test set each; otherwise empty."""
        held = self.held()
        return held.parts if held else ()

    @property
    def _place(self) -> Path:
        return user_path(self.data_dir)

    @property
    def _target(self) -> Path:
        """The path to which an archive is fetched."""
        named = self._place.name.endswith((".tar.gz", ".tgz"))
        return self._place if named else self._place / ARCHIVES[self.name].name

    @contextmanager
    def _naming(self) -> Iterator[None]:
        """A context in which an OSError becomes an InputError that names the file or folder that cannot be read."""
        check_reachable(self._place)
        try:
            yield
        except OSError as error:
            where = quoted(os.fspath(error.filename)) if error.filename else "it"
            raise InputError(
                f"data_dir {self.data_dir}: {where} cannot be read ({error.strerror or error}): "
                "make it readable, or choose another --data.data_dir"
            ) from error


def _decode(held: Held, sha256: str | None, split: str, source: str) -> Decoded:
    if sha256:
        instead = archive.FETCHED if source in ARCHIVES else "replace it with the expected file"
        archive.check_digest(held.files, sha256, instead=instead)
        return held.decode(split, True)
    decoded = held.decode(split, False)
    if source not in ARCHIVES or not (departure := official.departure(decoded.labels, split, source)):
        return decoded
    where = held.files[0] if len(held.files) == 1 else held.home
    return decoded._replace(notes=(*decoded.notes, f"{where} has {departure}: training or testing uses what is there"))


def _identity(files: Sequence[Path]) -> str:
    """Returns a digest that changes when one of the files or Pillow's version does: see cache.py."""
    import PIL

    found = hashlib.sha256(PIL.__version__.encode())
    for path in files:
        found.update(cache.identity(path.name, path.stat()))
    return found.hexdigest()


class Found(NamedTuple):
    """Where a split is, and how to read it.

    Attributes:
        home: The data folder in or for which the split is cached.
        key: Changes when the images do, which invalidates the cache; if empty, the split is not cached.
        decode: Reads the split.
        shape: The name of the layout in which the images are held.
        files: The files that are read. For class folders one per image, in order, as str: Paths would take too long.
        notes: Warnings for the user; empty strings are ignored.
    """

    home: Path
    key: str
    decode: Callable[[], Decoded]
    shape: str
    files: Sequence[str | Path]
    notes: tuple[str, ...] = ()


def synthetic(split: str, count: int) -> ImageSet:
    """Draws images; see `shapes` for what they show and how hard they are to learn.

    Args:
        split: "train" or "test", which are different images of the same kind.
        count: Number of images. A smaller number gives the first images of a larger one.
    """
    return image_set_of(Decoded(*shapes.draw(count, SPLITS.index(split)), CLASSES))
