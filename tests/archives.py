"""Writes small archives in the official layout, hostile archives, and the same images in other formats."""

import csv
import hashlib
import io
import json
import pickle
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from cifar_lightning.data.cifar10 import ARCHIVES, BINARIES, CIFAR100_CLASSES, CIFAR100_COARSE_CLASSES, CLASSES
from cifar_lightning.data.layouts import matlab


def batches(images_per_batch=20, seed=0, classes=10, source="cifar10"):
    """Returns the contents of an archive, {name: dict}: random pixels, and labels that cycle through the classes."""
    archive = ARCHIVES[source]
    names = (CLASSES if source == "cifar10" else CIFAR100_CLASSES)[:classes]
    rng = np.random.default_rng(seed)
    content = {archive.meta: {archive.names_key: list(names), "num_vis": 3072}}
    if source == "cifar100":
        content[archive.meta]["coarse_label_names"] = list(CIFAR100_COARSE_CLASSES)
    for name in archive.train + archive.test:
        content[name] = {
            "batch_label": name,
            archive.labels_key: [i % len(names) for i in range(images_per_batch)],
            "data": rng.integers(0, 256, (images_per_batch, 3072), dtype=np.uint8),
        }
        if source == "cifar100":
            content[name]["coarse_labels"] = [coarse(label) for label in content[name][archive.labels_key]]
    return content


def coarse(label):
    """Returns a coarse label for a fine one, not the official one, to tell labels that were read from mapped ones."""
    return label // 5


def write_archive(path, images_per_batch=20, seed=0, classes=10, source="cifar10"):
    """Writes an archive to `path` and returns its SHA-256. CIFAR-10 has five batches to train, one to test."""
    folder = ARCHIVES[source].folder
    content = batches(images_per_batch, seed, classes, source)
    # The official archive lists its members out of order.
    members = {f"{folder}/{name}": pickle.dumps(content[name], 2) for name in sorted(content, reverse=True)}
    return write_tar(path, {f"{folder}/readme.html": b"<html></html>", **members})


def images_of(split, source="cifar10"):
    """Returns the images of a split of `batches()`, uint8 (N, 3072), and their labels."""
    archive, content = ARCHIVES[source], batches(source=source, classes=10 if source == "cifar10" else 100)
    chosen = [content[name] for name in (archive.train if split == "train" else archive.test)]
    labels = [label for batch in chosen for label in batch[archive.labels_key]]
    return np.concatenate([batch["data"] for batch in chosen]), np.array(labels)


def pngs_of(split, source="cifar10"):
    """Returns the same images as PNG files, and their labels."""
    files = []
    for pixels in images_of(split, source)[0].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1):
        Image.fromarray(pixels).save(file := io.BytesIO(), "PNG")
        files.append(file.getvalue())
    return files, images_of(split, source)[1]


def write_folder(folder, source="cifar10"):
    """Writes the folder that torchvision unpacks."""
    folder.mkdir(parents=True)
    for name, batch in batches(source=source, classes=10 if source == "cifar10" else 100).items():
        (folder / name).write_bytes(pickle.dumps(batch, 2))


def binaries(source="cifar10"):
    """Returns the files of the binary version, {name: bytes}."""
    binary, classes = BINARIES[source], CLASSES if source == "cifar10" else CIFAR100_CLASSES
    content = {binary.meta: ("\n".join(classes) + "\n\n").encode()}
    for split, names in (("train", binary.train), ("test", binary.test)):
        pixels, labels = images_of(split, source)
        before = coarse(labels[:, None]) if binary.label_bytes == 2 else np.empty((len(labels), 0))
        records = np.concatenate([before, labels[:, None], pixels], axis=1).astype(np.uint8)
        content.update(zip(names, (part.tobytes() for part in np.split(records, len(names))), strict=True))
    return content


def write_binary(folder, source="cifar10"):
    """Writes the folder that the binary version unpacks to."""
    folder.mkdir(parents=True)
    for name, data in binaries(source).items():
        (folder / name).write_bytes(data)


def matlab_files(source="cifar10"):
    """Returns the files of the MATLAB version, {name: bytes}; for CIFAR-100 with fine and coarse labels."""
    from scipy.io import savemat

    content = {}
    for split, names in matlab.VERSIONS[source].files.items():
        pixels, labels = images_of(split, source)
        for name, some, theirs in zip(names, np.split(pixels, len(names)), np.split(labels, len(names)), strict=True):
            column = theirs[:, None].astype(np.uint8)
            held = (
                {"labels": column} if source == "cifar10" else {"fine_labels": column, "coarse_labels": coarse(column)}
            )
            file = io.BytesIO()
            savemat(file, {"data": some, "batch_label": "a batch", **held}, do_compression=True)
            content[name] = file.getvalue()
    return content


def write_matlab(folder, source="cifar10"):
    """Writes the folder that the MATLAB version unpacks to."""
    folder.mkdir(parents=True)
    for name, data in matlab_files(source).items():
        (folder / name).write_bytes(data)


def write_parquet(folder, source="cifar10"):
    """Writes Hugging Face's files as `datasets` does: images as {bytes, path}, and the features in the metadata."""
    import pyarrow as pa
    from pyarrow import parquet

    label = "label" if source == "cifar10" else "fine_label"
    names = list(CLASSES) if source == "cifar10" else [*CIFAR100_CLASSES]
    if source == "cifar100":
        names[names.index("crab")] = "cra"
    features = {"img": {"_type": "Image"}, label: {"names": names, "_type": "ClassLabel"}}
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        files, labels = pngs_of(split, source)
        columns = {"img": [{"bytes": data, "path": f"{i}.png"} for i, data in enumerate(files)], label: labels}
        if source == "cifar100":
            columns["coarse_label"] = coarse(labels)
            features["coarse_label"] = {"names": list(CIFAR100_COARSE_CLASSES), "_type": "ClassLabel"}
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
        table = pa.table(columns).replace_schema_metadata(metadata)
        parquet.write_table(table, folder / f"{split}-00000-of-00001.parquet")


def write_kaggle(home, tests=True):
    """Writes Kaggle's pictures, with an unlabelled test picture; if `tests`, also test labels, which Kaggle keeps."""
    for split in ("train", "test"):
        (home / split).mkdir(parents=True)
        files, labels = pngs_of(split)
        for number, data in enumerate(files, start=1):
            (home / split / f"{number}.png").write_bytes(data)
        if split == "train" or tests:
            with open(home / f"{split}Labels.csv", "w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(("id", "label"))
                writer.writerows((i, CLASSES[label]) for i, label in enumerate(labels, start=1))
    (home / "test" / "300000.png").write_bytes(files[0])


def arrays(source="cifar10"):
    """Returns the images as Keras' arrays, {name: array}."""
    content = {}
    for split in ("train", "test"):
        pixels, labels = images_of(split, source)
        content[f"x_{split}"] = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        content[f"y_{split}"] = labels[:, None].astype(np.uint8)
    return content


def write_corrupted(folder, images, labels):
    """Writes CIFAR-10-C's folder: for each corruption a file of images, in five blocks, and the labels five times."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "labels.npy", np.tile(labels, 5).astype(np.uint8))
    for name, blocks in images.items():
        np.save(folder / f"{name}.npy", blocks)


def write_tar(path, members):
    """Writes an archive of {name: bytes, or a TarInfo for anything but a plain file}; returns its SHA-256."""
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        for name, data in members.items():
            info = data if isinstance(data, tarfile.TarInfo) else tarfile.TarInfo(name)
            if isinstance(data, bytes):
                info.size = len(data)
            tar.addfile(info, io.BytesIO(data) if isinstance(data, bytes) else None)
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
