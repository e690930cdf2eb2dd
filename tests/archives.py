"""Small archives in the official layout, and hostile ones."""

import hashlib
import io
import pickle
import tarfile
from pathlib import Path

import numpy as np

from cifar_lightning.data.cifar10 import ARCHIVES, CIFAR100_CLASSES, CLASSES


def batches(images_per_batch=20, seed=0, classes=10, source="cifar10"):
    """What the archive holds: {name: dict}, with random pixels and labels that go round the classes."""
    archive = ARCHIVES[source]
    names = (CLASSES if source == "cifar10" else CIFAR100_CLASSES)[:classes]
    rng = np.random.default_rng(seed)
    content = {archive.meta: {archive.names_key: list(names), "num_vis": 3072}}
    for name in archive.train + archive.test:
        content[name] = {
            "batch_label": name,
            archive.labels_key: [i % len(names) for i in range(images_per_batch)],
            "data": rng.integers(0, 256, (images_per_batch, 3072), dtype=np.uint8),
        }
    return content


def write_archive(path, images_per_batch=20, seed=0, classes=10, source="cifar10"):
    """Writes a real archive to `path` and gives its SHA-256. Five batches train, one tests."""
    folder = ARCHIVES[source].folder
    content = batches(images_per_batch, seed, classes, source)
    # The official archive lists its members out of order.
    members = {f"{folder}/{name}": pickle.dumps(content[name], 2) for name in sorted(content, reverse=True)}
    return write_tar(path, {f"{folder}/readme.html": b"<html></html>", **members})


def write_tar(path, members):
    """Writes {name: bytes, or a TarInfo for anything but a plain file} and gives the SHA-256."""
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        for name, data in members.items():
            info = data if isinstance(data, tarfile.TarInfo) else tarfile.TarInfo(name)
            if isinstance(data, bytes):
                info.size = len(data)
            tar.addfile(info, io.BytesIO(data) if isinstance(data, bytes) else None)
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
