"""Writes images for other programs to read: as class folders of PNG files, or as Hugging Face's parquet files."""

import importlib.util
import io
import json
import os
import shutil
import unicodedata
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cifar_lightning import stop
from cifar_lightning.data.image_set import ImageSet
from cifar_lightning.data.layouts import parquet
from cifar_lightning.data.layouts.class_folders import in_order
from cifar_lightning.errors import ImageWarning, InputError, RunError, quoted
from cifar_lightning.files import exists, is_dir, part_of, user_path

FORMATS = ("folders", "parquet")
# Without this card, Hugging Face's `datasets` takes a class named test or train, such as CIFAR-100's train, for a split
# as well: see findings/datasets-class-named-train.sh.
CARD = """---
configs:
- config_name: default
  data_files:
{files}---
"""


def check_target(format: str, out: str | Path) -> None:
    """Checks that `write` can write to `out`.

    Raises:
        InputError: There is no such format, its package is missing, or `out` is neither new nor an empty folder.
    """
    if format not in FORMATS:
        raise InputError(f"unknown format {format}: choose from {', '.join(FORMATS)}")
    if format == "parquet" and importlib.util.find_spec("pyarrow") is None:
        raise InputError(f"format parquet needs pyarrow; {parquet.INSTALL}")
    path = _resolved(out)
    try:
        if is_dir(path):
            if any(path.iterdir()):
                raise InputError(f"{out} is not empty: choose a new folder, or an empty one")
            if path.samefile(os.getcwd()):
                raise InputError(f"{out} is the current folder: choose a new folder in it")
        elif exists(path):
            raise InputError(f"{out} is a file: choose a new folder")
    except OSError as error:
        raise InputError(f"{out} cannot be read ({error.strerror}): choose another folder") from error


def write(sets: Mapping[str, ImageSet], out: str | Path, format: str) -> Path:
    """Writes images into a new folder, which appears only when it is complete.

    Args:
        sets: The images of train, and optionally of validation and test.
        out: The folder, which does not exist yet or is empty.
        format: folders, `SPLIT/CLASS/00000.png`, numbered by the image's index in the split; or parquet, as `datasets`
            has it.

    Returns:
        The folder.

    Raises:
        InputError: See `check_target`; or a class name cannot be the name of a folder.
        RunError: The folder cannot be written. Nothing is left behind.
    """
    check_target(format, out)
    path = _resolved(out)
    if format == "folders":
        _check_names(sets["train"].classes)
    part = part_of(path)
    try:
        part.mkdir(parents=True)
        {"folders": _folders, "parquet": _parquet}[format](sets, part)
        os.replace(part, path)
    except OSError as error:
        raise RunError(
            f"could not write {out}: {error.strerror or error}; nothing was left behind: free some disk space, or "
            "choose another folder"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return path


def _resolved(out: str | Path) -> Path:
    return Path(os.path.realpath(user_path(out)))


def _check_names(classes: tuple[str, ...]) -> None:
    for name in classes:
        encoded = name.encode("utf-8", "surrogateescape")
        if "/" in name or "\0" in name or name.startswith(".") or not 0 < len(encoded) < 256:
            raise InputError(f"the class {quoted(name)} cannot be the name of a folder: rename it, or use parquet")
    if len({unicodedata.normalize("NFC", name) for name in classes}) < len(classes):
        raise InputError("two classes have the same name, and would be one folder: rename one, or use parquet")
    ordered = in_order(classes)
    if moved := [name for name, before in zip(ordered, classes, strict=True) if name != before]:
        first = moved[0]
        warnings.warn(
            f"class folders are numbered in the order of their names: {quoted(first)} gets the label "
            f"{ordered.index(first)}, not {classes.index(first)}; use parquet to keep the order",
            ImageWarning,
            stacklevel=3,
        )


def _folders(sets: Mapping[str, ImageSet], home: Path) -> None:
    for split, images in sets.items():
        folders = [home / split / name for name in images.classes]
        for folder in folders:  # even for a class without images: all splits need the same classes
            folder.mkdir(parents=True)
        for name, data, label in _pngs(images):
            (folders[label] / name).write_bytes(data)
    files = "".join(f"  - split: {split}\n    path: {split}/**\n" for split in sets)
    (home / "README.md").write_text(CARD.format(files=files))


def _parquet(sets: Mapping[str, ImageSet], home: Path) -> None:
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    for split, images in sets.items():
        label = {"names": list(images.classes), "_type": "ClassLabel"}
        features = {"img": {"_type": "Image"}, "label": label}
        picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        schema = pa.schema(
            [("img", picture), ("label", pa.int64())],
            metadata={"huggingface": json.dumps({"info": {"features": features}})},
        )
        with ParquetWriter(home / f"{split}-00000-of-00001.parquet", schema) as file:
            rows: list[dict[str, Any]] = []
            for name, data, number in _pngs(images):
                rows.append({"img": {"bytes": data, "path": name}, "label": number})
                if len(rows) == parquet.BATCH:
                    file.write_batch(pa.RecordBatch.from_pylist(rows, schema))
                    rows.clear()
            if rows:
                file.write_batch(pa.RecordBatch.from_pylist(rows, schema))


def _pngs(images: ImageSet) -> Iterator[tuple[str, bytes, int]]:
    """Yields the file name, the contents and the label of each image; raises if a signal has asked to stop."""
    from PIL import Image

    width = max(5, len(str(len(images.labels) - 1)))
    for index, (pixels, label) in enumerate(zip(images.pixels, images.labels.tolist(), strict=True)):
        stop.raise_if_requested()
        Image.fromarray(pixels).save(file := io.BytesIO(), "PNG")
        yield f"{index:0{width}}.png", file.getvalue(), label
