"""Sources: archives from download to tensors, hostile archives, read-only folders, the cache, synthetic images."""

import importlib
import io
import os
import pickle
import random
import struct
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import jobs
import numpy as np
import pytest
import torch
from archives import batches, write_archive, write_tar
from conftest import NOBODY, becomes_another_user
from PIL import Image
from servers import serve

from cifar_lightning import evaluate, files, fit, locks
from cifar_lightning.data import cache, sources
from cifar_lightning.data.cifar10 import ARCHIVES, CIFAR100_CLASSES, CLASSES
from cifar_lightning.data.layouts import archive, class_folders, pickles
from cifar_lightning.data.sources import Source
from cifar_lightning.errors import InputError

NAME = "cifar-10-python.tar.gz"
FOLDER = "cifar-10-batches-py"

pytestmark = pytest.mark.usefixtures("own_cache")


def check_set(image_set, count, classes):
    assert image_set.images.shape == (count, 3, 32, 32)
    assert image_set.images.dtype == torch.uint8
    assert image_set.images.is_contiguous(memory_format=torch.channels_last)
    assert image_set.labels.shape == (count,)
    assert image_set.labels.dtype == torch.int64
    assert image_set.classes == classes


# --- archives ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "classes", "train", "test"),
    [("cifar10", CLASSES, 100, 20), ("cifar100", CIFAR100_CLASSES, 20, 20)],
)
def test_an_archive_is_downloaded_once_and_read(tmp_path, source, classes, train, test):
    data, stage = tmp_path / "data", tmp_path / ARCHIVES[source].name
    digest = write_archive(stage, seed=1, source=source, classes=len(classes))
    with serve(stage.read_bytes()) as server:
        Source(source, data, mirror=server.url, sha256=digest.upper()).prepare()
        Source(source, data, mirror=server.url, sha256=digest).prepare()
    assert len(server.requests) == 1

    content = batches(seed=1, source=source, classes=len(classes))
    for split, count, names in [
        ("train", train, ARCHIVES[source].train),
        ("test", test, ARCHIVES[source].test),
    ]:
        loaded = Source(source, data, sha256=digest).load(split)
        check_set(loaded, count, classes)
        pixels = np.concatenate([content[name]["data"] for name in names]).reshape(-1, 3, 32, 32)
        assert np.array_equal(loaded.images.numpy(), pixels)
        labels = [label for name in names for label in content[name][ARCHIVES[source].labels_key]]
        assert loaded.labels.tolist() == labels


def test_data_dir_may_be_the_archive_itself(tmp_path):
    path = tmp_path / "mine.tar.gz"
    digest = write_archive(path, classes=3)
    Source("cifar10", path, sha256=digest).prepare()
    check_set(Source("cifar10", path, sha256=digest).load("test"), 20, CLASSES[:3])


def test_a_run_reads_each_split_once(plain, tmp_path, monkeypatch):
    def noting(source, split, **kwargs):
        read.append(split)
        return load(source, split, **kwargs)

    read, load = [], Source.load
    monkeypatch.setattr(Source, "load", noting)
    fit(
        {"source": "synthetic", "synthetic_size": 100, "batch_size": 50},
        accelerator="cpu",
        max_epochs=1,
        default_root_dir=tmp_path,
    )
    assert sorted(read) == ["test", "train"]


def test_a_fit_and_an_evaluation_scan_each_split_once(tmp_path, monkeypatch):
    """A fit, from its checks to its figures, and an evaluation scan the folders of each split only once."""
    for split, count in (("train", 4), ("test", 2)):
        for name in ("cat", "dog"):
            (tmp_path / "pictures" / split / name).mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (8, 8), (40 * i, 9, 9)).save(tmp_path / "pictures" / split / name / f"{i}.png")

    scanned, scan = [], class_folders.scan
    monkeypatch.setattr(class_folders, "scan", lambda home, split: (scanned.append(split), scan(home, split))[1])
    data = {"source": "folder", "data_dir": tmp_path / "pictures"}
    fit(data, accelerator="cpu", max_epochs=1, default_root_dir=tmp_path)
    assert sorted(scanned) == ["test", "train"]
    scanned.clear()
    evaluate(tmp_path / "lightning_logs" / "version_0", accelerator="cpu")
    assert sorted(scanned) == ["test", "train"]


def test_load_works_without_prepare_if_the_images_are_there(tmp_path):
    with pytest.raises(InputError) as error:
        Source("cifar10", tmp_path).load("train")
    assert str(error.value).startswith(f"data_dir {tmp_path} has none of {NAME}, cifar-10-binary.tar.gz, {FOLDER}/, ")
    assert str(error.value).endswith("trainLabels.csv, cifar10.npz, x_train.npy: run fit, which downloads the first")
    digest = write_archive(tmp_path / NAME)
    check_set(Source("cifar10", tmp_path, sha256=digest).load("train"), 100, CLASSES)


def test_an_archive_with_another_digest_is_refused_and_kept(tmp_path):
    found = write_archive(tmp_path / NAME)
    with pytest.raises(InputError) as error:
        Source("cifar10", tmp_path).prepare()
    assert str(error.value) == (
        f"{tmp_path / NAME} has SHA-256 {found}, expected {ARCHIVES['cifar10'].sha256}: move it away to "
        f"download the official archive, or pass --data.sha256 {found} if the images are your own"
    )
    assert (tmp_path / NAME).exists()


def test_pickles_written_by_python_2_are_read(tmp_path):
    """The official batches are read: they have byte strings for keys and pixels, and the old name of numpy's module."""
    pixels = bytes(range(256)) * 24
    python_2 = (
        b"\x80\x02}(U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01"
        b"K\x02M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff"
        b"K\x00tb\x89T" + struct.pack("<i", len(pixels)) + pixels + b"tbU\x06labels](K\x03K\x07eu."
    )
    digest = write_with(tmp_path / NAME, test_batch=python_2)
    loaded = Source("cifar10", tmp_path, sha256=digest).load("test")
    assert loaded.labels.tolist() == [3, 7]
    assert loaded.images.reshape(-1).numpy().tobytes() == pixels


WORDS = np.array(["cat", "doggy"])
PLANES = np.arange(24, dtype=">i2").reshape(2, 3, 4)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "array",
    [
        *(PLANES, np.asfortranarray(PLANES), PLANES.transpose(1, 0, 2), PLANES[:, ::2], np.array(3.5)),
        *(WORDS, WORDS.astype(bytes), WORDS.astype(object), np.array([[1, "a"], [None, 2.5]], object, order="F")),
    ],
    ids=lambda array: f"{array.dtype.str} {array.strides}",
)
def test_arrays_are_unpickled_from_any_protocol_and_memory_order(array, protocol):
    """Arrays of any type and memory order are unpickled unchanged; numpy pickles objects in row order in any case."""
    found = pickles.load(io.BytesIO(pickle.dumps({"data": [array]}, protocol)))["data"][0]
    assert (found.dtype, found.shape, found.tolist()) == (array.dtype, array.shape, array.tolist())


def test_an_object_that_a_pickle_has_twice_is_read_once():
    """A repeated object is read once: some dozens of lists, each twice in the next, would otherwise fill any memory."""
    within = [np.arange(3)]
    found = pickles.load(io.BytesIO(pickle.dumps({"a": (within, within), "b": within})))
    assert found["a"][0] is found["a"][1] is found["b"]
    assert found["b"][0].tolist() == [0, 1, 2]


def write_with(path, **changed):
    """Writes an archive in which some batches are replaced, by bytes or by objects to pickle; returns its SHA-256."""
    members = {f"{FOLDER}/{name}": pickle.dumps(batch, 2) for name, batch in batches().items()}
    for name, batch in changed.items():
        members[f"{FOLDER}/{name}"] = batch if isinstance(batch, bytes) else pickle.dumps(batch, 2)
    return write_tar(path, members)


class Gadget:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def batch(**changes):
    return {**batches()["test_batch"], **changes}


def test_hostile_pickles_are_refused_and_run_nothing(tmp_path):
    marker = tmp_path / "marker"
    zip_bomb = b"\x80\x02c_codecs\nencode\n(U\x01xU\x03zipt\x85R."
    for content, reason in [
        ({"data": Gadget(marker)}, "it asks for posix.mkdir"),
        (b"\x80\x02cbuiltins\neval\n(U\x011t\x85R.", "it asks for builtins.eval"),
        (b"\x80\x02cnumpy\nload\n(U\x011t\x85R.", "it asks for numpy.load"),
        (zip_bomb, "is not a pickle of plain arrays"),
        (b"no pickle", "is not a pickle of plain arrays"),
        (b"", "is not a pickle of plain arrays"),
        ([1], "holds a list, not a dict"),
    ]:
        digest = write_with(tmp_path / NAME, test_batch=content)
        with pytest.raises(InputError) as error:
            Source("cifar10", tmp_path, sha256=digest).load("test")
        assert f"{tmp_path / NAME} is refused: {FOLDER}/test_batch" in str(error.value)
        assert reason in str(error.value)
        assert not marker.exists()


def test_batches_with_wrong_contents_are_refused(tmp_path):
    for content, reason in [
        ({}, "has no array 'data' of uint8 (n, 3072)"),
        (batch(data=np.zeros((20, 3072))), "has no array 'data' of uint8 (n, 3072)"),
        (batch(data=np.zeros((20, 3071), np.uint8)), "has no array 'data' of uint8 (n, 3072)"),
        (batch(data=np.array(7, np.uint8)), "has no array 'data' of uint8 (n, 3072)"),
        (batch(labels=[0] * 19), "has no list 'labels' with one integer per image"),
        (batch(labels=[0.5] * 20), "has no list 'labels' with one integer per image"),
        (batch(labels=[10] * 20), "has labels outside 0..9"),
        (batch(labels=[-1] * 20), "has labels outside 0..9"),
    ]:
        digest = write_with(tmp_path / NAME, test_batch=content)
        with pytest.raises(InputError) as error:
            Source("cifar10", tmp_path, sha256=digest).load("test")
        assert str(error.value) == f"{tmp_path / NAME} is refused: test_batch {reason}"
    digest = write_with(tmp_path / NAME, **{"batches.meta": {"label_names": "abc"}})
    with pytest.raises(InputError, match="it does not name its classes"):
        Source("cifar10", tmp_path, sha256=digest).load("test")


def member(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("../outside", b"x", "points outside the archive"),
        (f"{FOLDER}/../../outside", b"x", "points outside the archive"),
        ("/tmp/outside", b"x", "points outside the archive"),
        ("link", member("link", tarfile.SYMTYPE, "/etc/passwd"), "is neither a file nor a folder"),
        ("hard", member("hard", tarfile.LNKTYPE, "/etc/passwd"), "is neither a file nor a folder"),
        ("device", member("device", tarfile.CHRTYPE), "is neither a file nor a folder"),
        ("pipe", member("pipe", tarfile.FIFOTYPE), "is neither a file nor a folder"),
        ("large", bytes(101), "more than any CIFAR archive holds"),
    ],
)
def test_archives_with_hostile_members_are_refused(tmp_path, monkeypatch, name, content, reason):
    if name == "large":
        monkeypatch.setattr(archive, "MAX_MEMBER_SIZE", 100)
    members = {name: content, **{f"{FOLDER}/{k}": pickle.dumps(v, 2) for k, v in batches().items()}}
    digest = write_tar(tmp_path / NAME, members)
    before = sorted(tmp_path.parent.iterdir())
    with pytest.raises(InputError, match=reason):
        Source("cifar10", tmp_path, sha256=digest).load("test")
    assert sorted(tmp_path.parent.iterdir()) == before


def test_damaged_and_foreign_archives_are_refused(tmp_path):
    write_archive(tmp_path / "whole.tar.gz")
    whole = (tmp_path / "whole.tar.gz").read_bytes()
    twice = io.BytesIO()
    with tarfile.open(fileobj=twice, mode="w:gz") as tar:
        for _ in range(2):
            tar.addfile(tarfile.TarInfo(f"{FOLDER}/test_batch"))
    for content, reason in [
        (whole[: len(whole) // 2], "is damaged"),
        (b"\x1f\x8bnonsense", "is damaged"),
        (b"", "is damaged"),
        (twice.getvalue(), f"has {FOLDER}/test_batch twice, unlike the official {NAME}"),
    ]:
        path = tmp_path / "bad.tar.gz"
        path.write_bytes(content)
        with pytest.raises(InputError, match=reason):
            Source("cifar10", path, sha256=archive.digest(path)).load("test")
    digest = write_tar(tmp_path / NAME, {"readme.html": b"x"})
    with pytest.raises(InputError, match=rf"lacks {FOLDER}/batches.meta, which the official {NAME} has: replace it"):
        Source("cifar10", tmp_path, sha256=digest).load("test")


# --- folders that may not be written to -------------------------------------------------------------------


def times_read(said, data, home, digest):
    """Sends the number of times that a user without write access to `data` decodes a split of it in two runs."""
    for name in ("numpy.random", "PIL.Image", "platformdirs"):  # first: the user may have no access to them
        importlib.import_module(name)
    b"x".decode("cp437")  # loads the codec, which zipfile needs
    if os.getuid() == 0:
        os.setuid(NOBODY)
    os.environ["XDG_CACHE_HOME"] = str(home)
    reads, read = [], archive.read
    archive.read = lambda *args: reads.append(1) or read(*args)
    for _ in range(2):
        Source("cifar10", data, mirror="https://127.0.0.1:1/", sha256=digest).prepare()
        assert len(Source("cifar10", data, sha256=digest).load("train").labels) == 100
    said.send(len(reads))


@pytest.mark.skipif(os.getuid() == 0 and not becomes_another_user(), reason="to root no folder is read-only")
@pytest.mark.parametrize(("home_mode", "decodes"), [(0o777, 2), (0o555, 6)])
def test_images_in_a_read_only_folder_are_cached_elsewhere_if_possible(home_mode, decodes):
    with tempfile.TemporaryDirectory(dir="/tmp") as top:  # not tmp_path, which only its owner may enter
        data, home = Path(top) / "data", Path(top) / "home"
        os.chmod(top, 0o755)
        data.mkdir()
        home.mkdir()
        digest = write_archive(data / NAME)
        data.chmod(0o555)
        home.chmod(home_mode)
        heard, said = jobs.context.Pipe()
        user = jobs.context.Process(target=times_read, args=(said, data, home, digest), daemon=True)
        user.start()
        user.join(60)
        assert user.exitcode == 0
        assert heard.recv() == decodes  # each split once; or without a cache 2 in `prepare` and 1 in `load`, twice
        assert [entry.name for entry in data.iterdir()] == [NAME]
        data.chmod(0o755)
        home.chmod(0o755)


@pytest.mark.parametrize("cache", ["raises", "~/.cache/cifar_lightning"])  # depends on platformdirs' version
def test_a_user_without_a_home_has_no_cache_folder(tmp_path, monkeypatch, cache):
    def user_cache_dir(project):
        if cache == "raises":
            raise RuntimeError("could not determine the home directory")
        return cache

    monkeypatch.setattr("platformdirs.user_cache_dir", user_cache_dir)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    digest = write_archive(tmp_path / NAME)
    Source("cifar10", tmp_path, sha256=digest).prepare()
    assert {path.name for path in tmp_path.iterdir()} <= {NAME, ".cifar_lightning"}


def test_nothing_is_written_if_everything_is_cached(tmp_path):
    digest = write_archive(tmp_path / NAME)
    Source("cifar10", tmp_path, sha256=digest).prepare()
    (tmp_path / ".cifar_lightning" / "lock").unlink(missing_ok=True)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    Source("cifar10", tmp_path, sha256=digest).prepare()
    Source("cifar10", tmp_path, sha256=digest).load("train")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


# --- the cache --------------------------------------------------------------------------------------------


@pytest.fixture
def counted(monkeypatch):
    """Returns a list that gets an entry for each split of an archive that is decoded."""
    decodings = []
    real = archive.read
    monkeypatch.setattr(archive, "read", lambda *args: decodings.append(args) or real(*args))
    return decodings


def test_the_cache_saves_decoding_and_hashing(tmp_path, counted, monkeypatch):
    digest = write_archive(tmp_path / NAME)
    Source("cifar10", tmp_path, sha256=digest).prepare()
    assert len(counted) == 2
    monkeypatch.setattr(archive, "digest", None)
    Source("cifar10", tmp_path, sha256=digest).prepare()
    check_set(Source("cifar10", tmp_path, sha256=digest).load("train"), 100, CLASSES)
    assert len(counted) == 2
    names = sorted(path.name for path in (tmp_path / ".cifar_lightning").iterdir())
    assert [name for name in names if name != "lock"] == ["cifar10-test.npz", "cifar10-train.npz"]


def test_shared_images_are_mapped_from_the_cache_file(tmp_path):
    """Shared images are mapped from the cache file; changing one copy, or replacing the file, changes no other copy."""
    source = Source("cifar10", tmp_path, sha256=write_archive(tmp_path / NAME))
    source.prepare()
    path = tmp_path / ".cifar_lightning" / "cifar10-train.npz"
    whole, read = path.read_bytes(), source.load("train")
    one, two = (source.load("train", shared=True) for _ in range(2))
    for images in (one, two):
        check_set(images, 100, CLASSES)
        assert torch.equal(images.images, read.images)
        assert torch.equal(images.labels, read.labels)
    maps = Path("/proc/self/maps")
    if maps.exists():
        assert maps.read_text().count(path.name) == 2
    one.images.zero_()
    assert torch.equal(two.images, read.images)
    assert path.read_bytes() == whole
    cache._write(
        path, tmp_path, "another", cache.Decoded(np.zeros((1, 32, 32, 3), np.uint8), np.zeros(1, int), CLASSES)
    )
    assert torch.equal(two.images, read.images)


def test_the_cache_stores_images_in_c_order(tmp_path):
    """The cache stores images in C order, in which they are mapped, even if np.save has stored them by columns."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), np.uint8)
    for split in ("train", "test"):
        np.save(tmp_path / f"x_{split}.npy", np.asfortranarray(pixels))
        np.save(tmp_path / f"y_{split}.npy", np.arange(6))
    source = Source("folder", tmp_path)
    source.prepare()
    with np.load(tmp_path / ".cifar_lightning" / "folder-train.npz") as kept:
        assert kept["images"].flags.c_contiguous
    for shared in (False, True):
        assert (source.load("train", shared).images.permute(0, 2, 3, 1).numpy() == pixels).all()


@pytest.mark.parametrize("can_lock", [True, False])
def test_partial_files_of_dead_processes_are_removed_only_under_a_lock(tmp_path, monkeypatch, can_lock):
    if not can_lock:
        monkeypatch.setattr(locks, "fcntl", None)
    digest = write_archive(tmp_path / NAME)
    part = tmp_path / ".cifar_lightning" / ".cifar10-train.npz.0123456789ab.part"
    part.parent.mkdir()
    part.touch()
    Source("cifar10", tmp_path, sha256=digest).prepare()
    assert part.exists() is not can_lock
    names = {path.name for path in part.parent.iterdir()} - {part.name, "lock"}
    assert names == {"cifar10-test.npz", "cifar10-train.npz"}


def test_another_archive_invalidates_the_cache(tmp_path):
    first = write_archive(tmp_path / NAME, seed=0)
    old = Source("cifar10", tmp_path, sha256=first).load("test")
    second = write_archive(tmp_path / NAME, seed=1)
    new = Source("cifar10", tmp_path, sha256=second).load("test")
    assert not torch.equal(old.images, new.images)
    with pytest.raises(InputError, match="has SHA-256"):  # the digest is part of the key
        Source("cifar10", tmp_path, sha256=first).load("test")


@pytest.mark.parametrize("apart", [5, pytest.param(1, marks=pytest.mark.soak)])
def test_a_damaged_cache_file_is_noticed_and_rebuilt(tmp_path, counted, apart):
    digest = write_archive(tmp_path / NAME)
    good = Source("cifar10", tmp_path, sha256=digest).load("test")
    path = tmp_path / ".cifar_lightning" / "cifar10-test.npz"
    whole = path.read_bytes()
    rng = random.Random(0)
    flips = []
    for _ in range(150):
        at = rng.randrange(len(whole))
        flips.append(whole[:at] + bytes([whole[at] ^ 1 << rng.randrange(8)]) + whole[at + 1 :])
    # Also in the headers of zip and numpy, at the beginning and the end: of every byte, or of one in `apart`.
    member = whole.index(b"images.npy")
    for at in (*range(200), *range(member - 40, member + 200), *range(len(whole) - 300, len(whole))):
        flips.append(whole[:at] + bytes([whole[at] ^ 1 << rng.randrange(8)]) + whole[at + 1 :])
    cuts = [whole[: rng.randrange(len(whole))] for _ in range(10)]
    for i, damaged in enumerate([*flips[::apart], *cuts, b"", b"x" * len(whole)]):
        path.unlink()  # not overwritten: it may still be mapped
        path.write_bytes(damaged)
        again = Source("cifar10", tmp_path, sha256=digest).load("test", shared=i % 2 == 0)
        assert torch.equal(again.images, good.images)
        assert torch.equal(again.labels, good.labels)
        assert again.classes == good.classes
    assert len(counted) > 100 / apart  # a flip in the zip's unused fields does no harm
    path.write_bytes(whole[:-1])
    Source("cifar10", tmp_path, sha256=digest).load("test")
    assert path.read_bytes() == whole


def test_pickles_in_the_cache_are_never_loaded(tmp_path):
    marker = tmp_path / "marker"
    digest = write_archive(tmp_path / NAME)
    Source("cifar10", tmp_path, sha256=digest).prepare()
    path = tmp_path / ".cifar_lightning" / "cifar10-test.npz"
    with np.load(path) as file:
        content = {**file, "images": np.array([Gadget(marker)], dtype=object)}
    np.savez(path, **content)
    check_set(Source("cifar10", tmp_path, sha256=digest).load("test"), 20, CLASSES)
    assert not marker.exists()


def test_images_are_read_without_a_cache_if_the_disk_is_full(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "publish", full)
    digest = write_archive(tmp_path / NAME)
    Source("cifar10", tmp_path, sha256=digest).prepare()
    check_set(Source("cifar10", tmp_path, sha256=digest).load("test"), 20, CLASSES)
    assert not list(tmp_path.rglob("*.npz"))
    assert not list(tmp_path.rglob("*.part"))


def test_another_version_of_our_decoders_invalidates_the_cache(tmp_path, counted, monkeypatch):
    digest = write_archive(tmp_path / NAME)
    Source("cifar10", tmp_path, sha256=digest).prepare()
    Source("cifar10", tmp_path, sha256=digest).prepare()
    assert len(counted) == 2
    monkeypatch.setattr(cache, "VERSION", cache.VERSION + 1)
    Source("cifar10", tmp_path, sha256=digest).prepare()
    assert len(counted) == 4


# --- synthetic --------------------------------------------------------------------------------------------


def test_synthetic_images_depend_only_on_the_split():
    one = sources.synthetic("train", 450)
    check_set(one, 450, CLASSES)
    assert one.labels.bincount().tolist() == [45] * 10
    assert torch.equal(one.images, sources.synthetic("train", 450).images)
    assert torch.equal(one.images[:123], sources.synthetic("train", 123).images)
    assert not torch.equal(one.images, sources.synthetic("test", 450).images)
    assert one.images[:3, :, 10, 10].tolist() == PINNED


PINNED = [[152, 164, 179], [92, 29, 69], [53, 92, 64]]  # the same on every machine


def test_the_synthetic_test_set_has_2000_images_by_default():
    check_set(Source("synthetic", "unused").load("test"), 2_000, CLASSES)


def test_synthetic_images_cannot_be_told_apart_by_their_means():
    """A linear model learns little from synthetic images: the nearest class mean is right for less than 30 %."""
    train, test = sources.synthetic("train", 4_000), sources.synthetic("test", 1_000)
    pixels = train.images.flatten(1).float()
    means = torch.stack([pixels[train.labels == label].mean(0) for label in range(10)])
    nearest = torch.cdist(test.images.flatten(1).float(), means).argmin(1)
    assert (nearest == test.labels).float().mean() < 0.3


# --- arguments --------------------------------------------------------------------------------------------


def test_wrong_arguments_are_refused(tmp_path):
    for call, message in [
        (
            lambda: Source("cifar", tmp_path).prepare(),
            "unknown source 'cifar': choose from cifar10, cifar100, cifar100-coarse, folder",
        ),
        (lambda: Source("cifar10", tmp_path).load("val"), "unknown split 'val': use train, and select"),
        (lambda: Source("cifar10", tmp_path).load("dev"), "unknown split 'dev': use train or test"),
        (lambda: Source("cifar10", tmp_path, sha256="12").prepare(), "sha256 '12' is not a SHA-256 digest"),
    ]:
        with pytest.raises(InputError) as error:
            call()
        assert str(error.value).startswith(message)


def test_importing_sources_imports_no_slow_packages():
    heavy = ["requests", "platformdirs", "PIL", "torchvision", "rich"]
    code = "import sys, torch; before = set(sys.modules); import cifar_lightning.data.sources;"
    code += f"print(sorted(set({heavy}) & (set(sys.modules) - before)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
