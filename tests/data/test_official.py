"""The images in each layout ("shape") in which people keep them: archives, folders, MATLAB, parquet, Kaggle, arrays."""

import errno
import gzip
import hashlib
import io
import itertools
import json
import os
import pickle
import re
import shlex
import shutil
import sys
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from archives import (
    arrays,
    batches,
    binaries,
    coarse,
    images_of,
    matlab_files,
    pngs_of,
    write_archive,
    write_binary,
    write_corrupted,
    write_folder,
    write_kaggle,
    write_matlab,
    write_parquet,
    write_tar,
)
from conftest import PROJECT
from lightning.pytorch import Trainer
from PIL import Image
from pyarrow import parquet

from cifar_lightning import CIFAR10DataModule, LitNet, evaluate, fit
from cifar_lightning.data.cifar10 import (
    ARCHIVES,
    BINARIES,
    CIFAR100_CLASSES,
    CIFAR100_COARSE_CLASSES,
    CIFAR100_MEAN,
    CLASSES,
    CLASSES_OF,
    COARSE,
    COUNTS,
)
from cifar_lightning.data.layouts import archive, matlab, official
from cifar_lightning.data.layouts import parquet as parquet_files
from cifar_lightning.data.pictures.reading import read_each
from cifar_lightning.data.sources import Source
from cifar_lightning.errors import ImageWarning, InputError

NOWHERE = "https://127.0.0.1:1/"  # a download from here fails
pytestmark = [
    pytest.mark.filterwarnings("ignore:.* but CIFAR-10"),  # the tests' files have fewer images
    pytest.mark.usefixtures("own_cache"),
]


@pytest.fixture
def known(monkeypatch):
    """Makes the digests of the tests' files the official ones."""
    for source in ("cifar10", "cifar100"):
        content = {**batches(source=source, classes=len(CLASSES_OF[source]))}
        for name, batch in content.items():
            digest = hashlib.md5(pickle.dumps(batch, 2)).hexdigest()
            monkeypatch.setitem(ARCHIVES[source].digests, name, digest)
        for name in BINARIES[source].digests:
            digest = hashlib.sha256(binaries(source)[name]).hexdigest()
            monkeypatch.setitem(BINARIES[source].digests, name, digest)


def plain_tar(path, source):
    write_archive(path, source=source, classes=len(CLASSES_OF[source]))
    path.write_bytes(gzip.decompress(path.read_bytes()))


def packed_binary(path, source):
    return write_tar(path, {f"{BINARIES[source].folder}/{name}": data for name, data in binaries(source).items()})


def contents(home):
    """Returns the modification time and the bytes of every file in a folder, except our own cache."""
    files = [path for path in home.rglob("*") if path.is_file() and ".cifar_lightning" not in path.parts]
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def check(source, data_dir, home, **kwargs):
    """Checks that a source reads exactly the bytes of `images_of`, and that it changes no file in `home`."""
    before = contents(home)
    read = Source(source, data_dir, mirror=NOWHERE, **kwargs)
    read.prepare()
    for split in ("train", "test"):
        loaded, (pixels, labels) = read.load(split), images_of(split, source)
        assert np.array_equal(loaded.images.numpy(), pixels.reshape(-1, 3, 32, 32))
        assert loaded.labels.tolist() == labels.tolist()
        assert loaded.classes == CLASSES_OF[source]
        assert loaded.images.is_contiguous(memory_format=torch.channels_last)
    assert contents(home) == before


SHAPES = {
    "torchvision's folder": lambda home, source: write_folder(home / ARCHIVES[source].folder, source),
    "Keras' folder": lambda home, source: write_folder(
        home / f"{ARCHIVES[source].folder}_extracted" / ARCHIVES[source].folder, source
    ),
    "Keras' newer folder": lambda home, source: write_folder(
        home / f"{ARCHIVES[source].folder}-target" / ARCHIVES[source].folder, source
    ),
    "a browser's tar": lambda home, source: plain_tar(home / ARCHIVES[source].name.replace(".gz", ""), source),
    "a tar with the archive's name": lambda home, source: plain_tar(home / ARCHIVES[source].name, source),
    "Keras' tar": lambda home, source: plain_tar(home / f"{ARCHIVES[source].folder}.tar.gz", source),
    "the binary folder": lambda home, source: write_binary(home / BINARIES[source].folder, source),
    "parquet": lambda home, source: write_parquet(
        home / {"cifar10": "plain_text", "cifar100": "cifar100"}[source], source
    ),
    "npz": lambda home, source: np.savez_compressed(home / f"{source}.npz", **arrays(source)),
    "npy": lambda home, source: [np.save(home / name, array) for name, array in arrays(source).items()],
}


@pytest.mark.parametrize("source", ["cifar10", "cifar100"])
@pytest.mark.parametrize("shape", SHAPES)
def test_each_layout_is_read_in_place(tmp_path, known, source, shape):
    home = tmp_path / "data"
    home.mkdir()
    SHAPES[shape](home, source)
    check(source, home, home)


# --- CIFAR-100's coarse classes ---------------------------------------------------------------------------

# The coarse label of each fine one, from the files of CIFAR-100's python version.
OFFICIAL = """
    4 1 14 8 0 6 7 7 18 3 3 14 9 18 7 11 3 9 7 11 6 11 5 10 7 6 13 15 3 15 0 11 1 10 12 14 16 9 11 5 5 19 8 8 15 13 14
    17 18 10 16 4 17 4 2 0 17 4 18 17 10 3 2 12 12 16 12 1 9 19 2 10 0 1 16 12 9 13 15 13 16 19 2 4 6 19 5 5 8 19 18 1
    2 15 6 0 17 8 14 13
"""


def check_coarse(data_dir, expected, **kwargs):
    read = Source("cifar100-coarse", data_dir, mirror=NOWHERE, **kwargs)
    read.prepare()
    loaded = read.load("train")
    assert loaded.classes == CIFAR100_COARSE_CLASSES
    assert loaded.labels.tolist() == expected
    assert loaded.images.reshape(len(expected), -1).equal(torch.from_numpy(images_of("train", "cifar100")[0]))


def test_fine_labels_map_to_the_official_coarse_labels():
    assert tuple(map(int, OFFICIAL.split())) == COARSE
    assert list(CIFAR100_COARSE_CLASSES) == sorted(CIFAR100_COARSE_CLASSES)
    assert len(CIFAR100_COARSE_CLASSES) == 20
    data = CIFAR10DataModule("nowhere", source="cifar100-coarse", normalization="dataset")
    assert data.classes == CIFAR100_COARSE_CLASSES
    assert data.preprocessing.mean == CIFAR100_MEAN


@pytest.mark.parametrize("shape", [name for name in SHAPES if name not in ("npz", "npy")])
def test_coarse_labels_are_read_from_the_files(tmp_path, known, shape):
    """Coarse labels come from the files, not from the official map, and are cached separately from the fine ones."""
    SHAPES[shape](tmp_path, "cifar100")
    fine = images_of("train", "cifar100")[1]
    for _ in range(2):
        check_coarse(tmp_path, [coarse(label) for label in fine])
        assert Source("cifar100", tmp_path).load("train").labels.tolist() == fine.tolist()


def test_coarse_labels_are_read_from_an_archive(tmp_path):
    digest = write_archive(tmp_path / "mine.tar.gz", source="cifar100", classes=100)
    check_coarse(tmp_path / "mine.tar.gz", [coarse(x) for x in images_of("train", "cifar100")[1]], sha256=digest)
    digest = write_archive(tmp_path / "other.tar.gz")
    with pytest.raises(
        InputError, match=r"lacks cifar-100-python/meta, which the official cifar-100-python.tar.gz has: replace it"
    ):
        Source("cifar100-coarse", tmp_path / "other.tar.gz", sha256=digest).load("train")


def test_coarse_labels_are_mapped_from_fine_ones_if_necessary(tmp_path):
    """Fine labels are mapped to coarse ones if the files have only fine ones; Keras has arrays of either kind."""
    pixels, labels = images_of("train", "cifar100")
    fine = 5 * labels
    mapped = [COARSE[label] for label in fine]
    for name, y, expected in (("fine", fine, mapped), ("coarse", labels, labels.tolist())):
        np.savez(tmp_path / f"{name}.npz", x_train=pixels, y_train=y, x_test=pixels, y_test=y)
        check_coarse(tmp_path / f"{name}.npz", expected)

    def fine_only(table):
        return pa.table({"img": table.column("img"), "fine_label": fine})

    def named(table):
        features = {"label": {"names": list(CIFAR100_CLASSES), "_type": "ClassLabel"}}
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
        return pa.table({"img": table.column("img"), "label": fine}).replace_schema_metadata(metadata)

    for change in (fine_only, named):
        home = tmp_path / change.__name__
        write_parquet(home, "cifar100")
        rewritten(home / "train-00000-of-00001.parquet", change)
        check_coarse(home, mapped)


def test_kaggles_pictures_are_read(tmp_path):
    write_kaggle(tmp_path / "data")
    check("cifar10", tmp_path / "data", tmp_path / "data")


@pytest.mark.parametrize("source", ["cifar10", "cifar100"])
@pytest.mark.parametrize("name", ["the official", "another"])
def test_the_binary_version_is_read_packed(tmp_path, source, name):
    path = tmp_path / (BINARIES[source].name if name == "the official" else "mine.tgz")
    digest = packed_binary(path, source)
    check(source, tmp_path if name == "the official" else path, tmp_path, sha256=digest)
    with pytest.raises(InputError) as error:
        Source(source, path).prepare()
    expected = (BINARIES if name == "the official" else ARCHIVES)[source].sha256
    assert f"{path} has SHA-256 {digest}, expected {expected}: move it away" in str(error.value)


@pytest.mark.parametrize("name", ["cifar-10-batches-py.tar.gz", "cifar-10-batches-py-target_archive"])
def test_archives_with_keras_names_are_found(tmp_path, name):
    digest = write_archive(tmp_path / name, source="cifar10")
    check("cifar10", tmp_path, tmp_path, sha256=digest)


def test_data_dir_may_be_the_folder_or_the_file_itself(tmp_path, known):
    write_folder(tmp_path / "a")
    write_binary(tmp_path / "b")
    plain_tar(tmp_path / "mine.tar", "cifar10")
    np.savez(tmp_path / "mine.npz", **arrays())
    write_parquet(tmp_path / "c")
    for name in ("a", "b", "mine.tar", "mine.npz", "c", "c/test-00000-of-00001.parquet"):
        check("cifar10", tmp_path / name, tmp_path)
    (tmp_path / "c" / "train-00000-of-00001.parquet").unlink()
    for name, message in (
        ("c/test-00000-of-00001.parquet", r"is not in a folder with train-\*.parquet and test-\*.parquet"),
        ("cifar-10-matlab.tar.gz", r"cifar-10-matlab.tar.gz is damaged \(empty file\): replace it with an intact copy"),
        ("empty.tar", r"empty.tar is damaged \(empty file\): replace it with an intact copy"),
        ("cifar-10-batches-py-target_archive", r"-target_archive is damaged \(empty file\): replace it with an"),
        (
            "other.npz",
            "other.npz has no images and labels of train: arrays are named x_train, y_train, x_test and y_test",
        ),
    ):
        (tmp_path / name).touch()
        if name == "other.npz":
            np.savez(tmp_path / name, x=np.zeros(3))
        with pytest.raises(InputError, match=message):
            Source("cifar10", tmp_path / name, mirror=NOWHERE).prepare()
    for name in ("none.npz", "none.tar", "none.parquet"):
        with pytest.raises(InputError, match=f"{name} does not exist: use an existing file or folder"):
            Source("cifar10", tmp_path / name, mirror=NOWHERE).prepare()


def class_folders(home):
    for split in ("train", "test"):
        (home / split / "cat").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32)).save(home / split / "cat" / "1.png")


def new_test_set(home):
    for name, array in (("data", arrays()["x_test"]), ("labels", arrays()["y_test"])):
        np.save(home / f"cifar10.1_v6_{name}.npy", array)


# How to write each shape, under its name in data.md and in the order of that table.
WRITERS = {
    "`cifar-10-python.tar.gz`": lambda home: write_archive(home / "cifar-10-python.tar.gz"),
    "`cifar-10-binary.tar.gz`": lambda home: packed_binary(home / "cifar-10-binary.tar.gz", "cifar10"),
    "`cifar-10-batches-py.tar.gz`": lambda home: write_archive(home / "cifar-10-batches-py.tar.gz"),
    "`.tar`": lambda home: plain_tar(home / "cifar-10-python.tar", "cifar10"),
    "`cifar-10-batches-py/`": lambda home: write_folder(home / "cifar-10-batches-py"),
    "`cifar-10-batches-bin/`": lambda home: write_binary(home / "cifar-10-batches-bin"),
    "`cifar-10-matlab.tar.gz`": lambda home: write_tar(home / "cifar-10-matlab.tar.gz", {}),
    "`cifar-10-batches-mat/`": lambda home: write_matlab(home / "cifar-10-batches-mat"),
    "`plain_text/train-00000-of-00001.parquet`": lambda home: write_parquet(home / "plain_text"),
    "Kaggle's": write_kaggle,
    "`x_train.npy`": lambda home: [np.save(home / f"{name}.npy", array) for name, array in arrays().items()],
    "`cifar10.npz`": lambda home: np.savez(home / "cifar10.npz", **arrays()),
}
OWN_WRITERS = {
    "class folders": class_folders,
    "arrays of your own, in such `.npy` files": WRITERS["`x_train.npy`"],
    "or a `.npz`: images": WRITERS["`cifar10.npz`"],
    "parquet of your own": write_parquet,
}
TEST_SETS = {
    "CIFAR-10-C": lambda home: write_corrupted(
        home, {"fog": np.tile(arrays()["x_test"], (5, 1, 1, 1))}, np.arange(20) % 10
    ),
    "CIFAR-10.1": new_test_set,
}


@pytest.mark.parametrize("source", ["cifar10", "folder"])
def test_of_two_shapes_the_first_in_the_table_of_the_docs_is_used(tmp_path, source):
    """If a folder has any two shapes, the one that comes first in the table of docs/data.md is used."""

    def found(home):
        there = Source(source, home).find("test")
        return there.shape, [os.path.relpath(path, home) for path in there.files]

    text = (PROJECT / "docs" / "data.md").read_text().partition("| held as |")[2].partition("\n\n")[0]
    shapes = {**(WRITERS if source == "cifar10" else OWN_WRITERS), **TEST_SETS}
    places = [text.index(name) for name in shapes]
    assert places == sorted(places)
    alone = {}
    for number, (name, write) in enumerate(shapes.items()):
        (home := tmp_path / f"{number}").mkdir()
        write(home)
        alone[name] = found(home), home
    for (first, (expected, home)), (then, (_, other)) in itertools.combinations(alone.items(), 2):
        both = tmp_path / "both"
        for one in (other, home):
            shutil.copytree(one, both, dirs_exist_ok=True)
        assert found(both) == expected, (first, then)
        shutil.rmtree(both)


def test_a_folder_with_the_archives_name_is_refused(tmp_path):
    """A folder with the archive's name is refused; otherwise it would be taken for the downloaded archive."""
    (tmp_path / "cifar-10-python.tar.gz").mkdir()
    said = r"cifar-10-python.tar.gz is a folder, not the archive of that name: move it away so that the archive can be"
    with pytest.raises(InputError, match=said):
        Source("cifar10", tmp_path, mirror=NOWHERE).prepare()


def test_nothing_is_downloaded_beside_class_folders(tmp_path):
    """A folder with class folders gets no download: its owner forgot `source`, and would train on other images."""
    class_folders(tmp_path)
    there = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=r"has class folders, not CIFAR-10: use --data.source folder to train on"):
        Source("cifar10", tmp_path, mirror=NOWHERE).prepare()
    assert sorted(tmp_path.rglob("*")) == there
    write_archive(packed := tmp_path / "cifar-10-python.tar.gz")  # as if downloaded before
    Source("cifar10", tmp_path, sha256=hashlib.sha256(packed.read_bytes()).hexdigest()).prepare()


NO_ARCHIVES = {
    "pictures.zip": lambda path: path.write_bytes(b"PK\3\4" + bytes(600)),
    "cat.jpg": lambda path: Image.new("RGB", (32, 32)).save(path),
    "trainLabels.csv": lambda path: path.write_text("id,label\n1,cat\n"),
    "data_batch_1": lambda path: path.write_bytes(pickle.dumps(batches()["data_batch_1"], 2)),
    "train-images.gz": lambda path: path.write_bytes(gzip.compress(bytes(range(256)) * 9)),
    "empty": lambda path: path.touch(),
}


@pytest.mark.parametrize("name", NO_ARCHIVES)
def test_a_file_that_is_no_archive_is_not_called_damaged(tmp_path, call, name):
    NO_ARCHIVES[name](tmp_path / name)
    said = (
        f"data_dir {name} is not a .tar.gz, .tar, .npz, .npy or .parquet file: use one of these, or a folder of "
        "unpacked images"
    )
    assert call("data", name) == (2, "", f"error: {said}\n")
    with pytest.raises(InputError) as error:
        Source("cifar10", name, mirror=NOWHERE).prepare()
    assert str(error.value) == said


@pytest.mark.parametrize("packed", [True, False])
def test_an_archive_is_recognised_by_any_name_even_if_cut_short(tmp_path, packed):
    digest = write_archive(path := tmp_path / "mine.bin", source="cifar10")
    if not packed:
        path.write_bytes(gzip.decompress(path.read_bytes()))
        digest = archive.digest(path)
    assert len(Source("cifar10", path, sha256=digest).load("test").labels) == 20
    path.write_bytes(path.read_bytes()[: 300 if packed else 5_000])
    with pytest.raises(InputError, match=f"{path} is damaged"):
        Source("cifar10", path, sha256=archive.digest(path)).load("test")


def test_unofficial_files_are_refused_and_never_removed(tmp_path):
    """Files that are not the official ones are kept and not replaced; the message names the digest that allows them."""
    digests = {
        "folder": lambda home: write_folder(home / "cifar-10-batches-py"),
        "binary": lambda home: write_binary(home / "cifar-10-batches-bin"),
        "tar": lambda home: plain_tar(home / "cifar-10-python.tar", "cifar10"),
    }
    for name, write in digests.items():
        home = tmp_path / name
        home.mkdir()
        write(home)
        before = contents(home)
        with pytest.raises(InputError) as error:
            Source("cifar10", home, mirror=NOWHERE).prepare()
        message = str(error.value)
        assert "is not the official version: " in message
        assert "delete" not in message
        assert contents(home) == before
        own = message.partition("--data.sha256 ")[2].split()[0]
        check("cifar10", home, home, sha256=own)  # what the message says to do
        with pytest.raises(InputError, match=f"has SHA-256 {own}, expected {'0' * 64}"):
            Source("cifar10", home, mirror=NOWHERE, sha256="0" * 64).prepare()


def test_the_digest_of_a_folder_is_that_of_its_concatenated_files(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    write_folder(folder)
    names = (*ARCHIVES["cifar10"].train, *ARCHIVES["cifar10"].test, ARCHIVES["cifar10"].meta)
    digest = hashlib.sha256(b"".join((folder / name).read_bytes() for name in names)).hexdigest()
    check("cifar10", tmp_path, tmp_path, sha256=digest)


UNDIGESTED = {name: SHAPES[name] for name in ("parquet", "npz", "npy")}
UNDIGESTED["Kaggle"] = lambda home, source: write_kaggle(home)


def test_the_departure_from_what_is_published_is_counted_in_english():
    labels = np.arange(10)
    assert official.departure(labels, "train", "cifar10").startswith("10 training images (1 per class), but CIFAR-10")
    assert official.departure(labels[:1], "train", "cifar10").startswith("1 training image (0 to 1 per class), but")
    assert official.departure(labels[:1], "test", "cifar10").startswith("1 test image (0 to 1 per class), but")


@pytest.mark.parametrize("shape", UNDIGESTED)
def test_an_incomplete_set_is_used_with_a_warning(tmp_path, monkeypatch, shape):
    """A warning says if a set is incomplete, from the cache too, unless `sha256` declares it as the user's own."""
    home = tmp_path / "data"
    home.mkdir()
    UNDIGESTED[shape](home, "cifar10")
    where = home / "cifar10.npz" if shape == "npz" else home
    for _ in range(2):
        with pytest.warns(ImageWarning) as said:
            assert len(Source("cifar10", home).load("train").labels) == 100
        assert [str(note.message) for note in said] == [
            f"{where} has 100 training images (10 per class), but CIFAR-10 has 50,000 (5,000 per class): training or "
            "testing uses what is there"
        ]
    monkeypatch.setitem(COUNTS, "train", 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Source("cifar10", official_copy(home, tmp_path / "other")).load("train")
        monkeypatch.setitem(COUNTS, "train", 50_000)
        files = official.find(home, "cifar10").files
        Source("cifar10", home, sha256=archive.digest(*files)).load("train")


def official_copy(home, other):
    return shutil.copytree(home, other, ignore=shutil.ignore_patterns(".cifar_lightning"))


def test_the_right_number_of_images_with_other_labels_gets_a_warning(tmp_path, monkeypatch):
    """A warning says if classes have other numbers of images than published, such as with Keras' coarse labels."""
    monkeypatch.setitem(COUNTS, "test", 100)
    pixels, labels = images_of("train")
    np.savez(tmp_path / "cifar100.npz", x_train=pixels, y_train=labels, x_test=pixels, y_test=labels)
    with pytest.warns(
        ImageWarning, match=r"has 100 test images \(0 to 10 per class\), but CIFAR-100 has 100 \(1 per class\)"
    ):
        Source("cifar100", tmp_path).load("test")


def test_a_folder_that_lacks_a_file_is_refused(tmp_path, known):
    folder = tmp_path / "cifar-10-batches-py"
    write_folder(folder)
    (folder / "data_batch_3").unlink()
    with pytest.raises(InputError) as error:
        Source("cifar10", tmp_path, mirror=NOWHERE).prepare()
    assert str(error.value) == (f"{folder} lacks data_batch_3: unpack cifar-10-python.tar.gz again, or use it packed")


def test_a_folder_is_checked_again_when_a_file_has_changed(tmp_path, known):
    folder = tmp_path / "cifar-10-batches-py"
    write_folder(folder)
    check("cifar10", tmp_path, tmp_path)
    (folder / "test_batch").write_bytes((folder / "data_batch_1").read_bytes())
    with pytest.raises(InputError, match=f"{folder} is not the official version: test_batch has MD5"):
        Source("cifar10", tmp_path).load("test")


def test_a_damaged_binary_version_is_refused(tmp_path):
    write_binary(tmp_path / "cifar-10-batches-bin")
    path = tmp_path / "cifar-10-batches-bin" / "test_batch.bin"
    whole = path.read_bytes()
    for data, reason in (
        (whole[:-1], f"test_batch.bin has {len(whole) - 1:,} bytes, not a multiple of 3,073"),
        (b"", "test_batch.bin has 0 bytes, not a multiple of 3,073"),
        (b"\x0a" + whole[1:], "test_batch.bin has labels outside 0..9"),
    ):
        path.write_bytes(data)
        with pytest.raises(InputError) as error:
            Source("cifar10", tmp_path).prepare()
        own = str(error.value).partition("--data.sha256 ")[2].split()[0]
        with pytest.raises(InputError) as error:
            Source("cifar10", tmp_path, sha256=own).load("test")
        assert f"{path.parent} is refused: {reason}" in str(error.value)


@pytest.mark.parametrize("source", ["cifar10", "cifar100"])
def test_the_matlab_version_is_read(tmp_path, source, monkeypatch):
    """The MATLAB version is read unpacked, from its folder or the one above, and packed, with gzip or without."""
    version = matlab.VERSIONS[source]
    write_matlab(tmp_path / "a" / version.folder, source)
    check(source, tmp_path / "a", tmp_path)
    check(source, tmp_path / "a" / version.folder, tmp_path)
    members = {f"{version.folder}/{name}": data for name, data in matlab_files(source).items()}
    for place in ("b", "c"):
        (tmp_path / place).mkdir()
    packed = tmp_path / "b" / version.name
    write_tar(packed, members)
    (tmp_path / "c" / version.name.removesuffix(".gz")).write_bytes(gzip.decompress(packed.read_bytes()))
    check(source, tmp_path / "c", tmp_path)
    with pytest.raises(InputError, match=f"has MD5 .*, expected {version.md5}: replace it with the official archive"):
        Source(source, packed, mirror=NOWHERE).prepare()
    assert packed.exists()
    digest = hashlib.sha256(packed.read_bytes()).hexdigest()
    assert len(Source(source, packed, sha256=digest, mirror=NOWHERE).load("test").labels) > 0
    other = hashlib.md5(packed.read_bytes()).hexdigest()
    monkeypatch.setitem(matlab.VERSIONS, source, version._replace(md5=other))
    check(source, packed, tmp_path)


def test_reading_the_matlab_version_takes_no_third_copy_of_the_images(tmp_path):
    from scipy.io import savemat

    pixels = np.random.default_rng(0).integers(0, 256, (400, 3072), np.uint8)
    paths = [tmp_path / name for name in matlab.VERSIONS["cifar10"].files["train"]]
    for path in paths:
        savemat(path, {"data": pixels, "labels": np.zeros((400, 1), np.uint8)})
    tracemalloc.start()
    try:
        decoded = matlab.read(paths, "cifar10", "train")
        assert tracemalloc.get_traced_memory()[1] < 2.5 * decoded.images.nbytes
    finally:
        tracemalloc.stop()


def test_coarse_labels_are_read_from_the_matlab_version(tmp_path):
    write_matlab(tmp_path / "cifar-100-matlab", "cifar100")
    fine, found = (Source(source, tmp_path, mirror=NOWHERE).load("train") for source in ("cifar100", "cifar100-coarse"))
    assert found.labels.tolist() == [coarse(label) for label in fine.labels.tolist()]
    assert len(found.classes) == 20


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "lacks test_batch.mat: unpack cifar-10-matlab.tar.gz again, or use it packed"),
        (b"no arrays", "test_batch.mat cannot be read"),
        (
            {"labels": np.zeros((2, 1), np.uint8)},
            r"test_batch.mat has no array 'data' of uint8 \(n, 3072\): replace it",
        ),
        (
            {"data": np.zeros((2, 3072), np.uint8)},
            "test_batch.mat has no array 'labels' with one integer per image: replace it",
        ),
        (
            {"data": np.zeros((2, 3072), np.uint8), "labels": np.full((2, 1), 10, np.uint8)},
            r"test_batch.mat has labels outside 0\.\.9: replace it",
        ),
    ],
)
def test_a_damaged_matlab_version_is_refused(tmp_path, content, message):
    from scipy.io import savemat

    write_matlab(tmp_path / "cifar-10-batches-mat")
    path = tmp_path / "cifar-10-batches-mat" / "test_batch.mat"
    path.unlink()
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        savemat(path, content)
    with pytest.raises(InputError, match=message):
        Source("cifar10", tmp_path, mirror=NOWHERE).load("test")


def test_the_matlab_version_without_scipy_says_how_to_install_it(tmp_path, monkeypatch):
    write_matlab(tmp_path / "cifar-10-batches-mat")
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(InputError, match=r"needs scipy; install it with: pip install 'cifar-lightning\[matlab\]'"):
        Source("cifar10", tmp_path, mirror=NOWHERE).load("test")


def test_without_images_and_network_the_message_lists_what_to_provide(tmp_path):
    with pytest.raises(InputError) as error:
        Source("cifar100", tmp_path, mirror=NOWHERE).prepare()
    assert "cannot download cifar-100-python.tar.gz" in str(error.value)
    assert (
        "(or one of cifar-100-binary.tar.gz, cifar-100-python/, cifar-100-binary/, "
        "cifar100/train-*.parquet, cifar100.npz, x_train.npy in its folder)"
    ) in str(error.value)


def test_unrelated_arrays_are_not_taken_for_cifar(tmp_path):
    np.savez(tmp_path / "mnist.npz", x_train=np.zeros((3, 28, 28)), y_train=np.zeros(3))
    with pytest.raises(InputError, match="has none of"):
        Source("cifar10", tmp_path).load("train")


# --- parquet ----------------------------------------------------------------------------------------------


def rewritten(path, change):
    parquet.write_table(change(parquet.read_table(path)), path, row_group_size=7)


def test_parquet_written_by_other_programs_is_read(tmp_path):
    """Parquet is read without class names, with large or bare binary columns, labels of other types or odd metadata."""
    types = pa.struct([("bytes", pa.large_binary()), ("path", pa.large_string())])
    names = pa.array(CLASSES)

    def column(name, change):
        return lambda table: table.set_column(table.schema.get_field_index(name), name, change(table.column(name)))

    for name, change in {
        "pandas": lambda table: table.replace_schema_metadata({}),
        "polars": column("img", lambda img: img.cast(types)),
        "bytes": column("img", lambda img: pa.chunked_array([chunk.field("bytes") for chunk in img.chunks])),
        "int8": column("label", lambda label: label.cast(pa.int8())),
        "names": column("label", lambda label: pa.array([CLASSES[x] for x in label.to_pylist()])),
        "dictionary": column(
            "label", lambda label: pa.DictionaryArray.from_arrays(label.combine_chunks().cast(pa.int32()), names)
        ),
        "image": lambda table: table.rename_columns(["image", "label"]),
        "odd metadata": lambda table: table.replace_schema_metadata({"huggingface": "[1]"}),
    }.items():
        write_parquet(tmp_path / name)
        for split in ("train", "test"):
            rewritten(tmp_path / name / f"{split}-00000-of-00001.parquet", change)
        check("cifar10", tmp_path / name, tmp_path / name)


def test_parquet_in_several_files_needs_all_of_them(tmp_path):
    write_parquet(tmp_path / "plain_text")
    path = tmp_path / "plain_text" / "train-00000-of-00001.parquet"
    table = parquet.read_table(path)
    path.unlink()
    parquet.write_table(table.slice(0, 30), tmp_path / "plain_text" / "train-00000-of-00002-0a1b2c.parquet")
    with pytest.raises(InputError, match=r"plain_text has 1 of 2 files train-\*.parquet: download the others"):
        Source("cifar10", tmp_path, mirror=NOWHERE).prepare()
    parquet.write_table(table.slice(30), tmp_path / "plain_text" / "train-00001-of-00002-0a1b2c.parquet")
    check("cifar10", tmp_path, tmp_path)


def named(*names):
    """Returns a function that sets a table's class names as `datasets` does, or without names removes the metadata."""
    features = {"label": {"names": names, "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})} if names else {}
    return lambda table: table.replace_schema_metadata(metadata)


def test_class_names_in_one_parquet_file_are_used_for_all(tmp_path):
    own = tuple(f"n{i}" for i in range(10))
    for train, test in ((own, own), (own, ()), ((), own)):
        write_parquet(tmp_path)
        for split, names in (("train", train), ("test", test)):
            rewritten(tmp_path / f"{split}-00000-of-00001.parquet", named(*names))
        for split in ("train", "test"):
            loaded = Source("cifar10", tmp_path).load(split)
            assert (loaded.classes, loaded.labels.tolist()) == (own, images_of(split)[1].tolist())


@pytest.mark.parametrize("names", [CLASSES[::-1], [*CLASSES[:9], "lorry"]], ids=["another order", "another name"])
def test_parquet_whose_splits_have_different_classes_is_refused(tmp_path, names):
    """Files with different class names are refused: a network would be tested by other names than in training."""
    write_parquet(tmp_path)
    path = tmp_path / "test-00000-of-00001.parquet"
    rewritten(path, named(*names))
    with pytest.raises(InputError, match=f"{path} has other classes than the files before it: all files need the same"):
        Source("cifar10", tmp_path).load("test")


@pytest.mark.parametrize("source", ["cifar10", "cifar100", "cifar100-coarse"])
@pytest.mark.parametrize("shape", ["npz", "npy", "parquet"])
@pytest.mark.parametrize("own", [True, False])
def test_class_names_are_those_of_the_files_before_the_images_are_read(tmp_path, source, shape, own):
    """`data.classes` is right before `prepare_data`, as `evaluate` and LitNet(classes=data.classes) need it."""
    write = SHAPES[shape]
    write(tmp_path, source.removesuffix("-coarse"))
    count = len(CLASSES_OF[source])
    names = tuple(f"n{i}" for i in range(count)) if own else CLASSES_OF[source]
    if shape == "npy":
        np.save(tmp_path / "classes.npy", names)
    elif shape == "npz":
        write_named(tmp_path / f"{source.removesuffix('-coarse')}.npz", names)
    elif own:
        column = {"cifar10": "label", "cifar100": "fine_label", "cifar100-coarse": "coarse_label"}[source]
        metadata = {"huggingface": json.dumps({"info": {"features": {column: {"names": names}}}})}
        for path in tmp_path.rglob("*.parquet"):
            rewritten(path, lambda table: table.replace_schema_metadata(metadata))
    data, read = (CIFAR10DataModule(tmp_path, source=source, mirror=NOWHERE) for _ in range(2))
    read.prepare_data()
    read.setup()
    assert data.classes == read.classes == names


def test_a_run_on_images_with_their_own_class_names_can_be_evaluated(plain, tmp_path):
    names = [f"n{i}" for i in range(10)]
    np.savez(tmp_path / "cifar10.npz", **arrays(), classes=names)
    data = {"data_dir": tmp_path, "batch_size": 50}
    fit(data, accelerator="cpu", max_epochs=1, default_root_dir=tmp_path)
    results = evaluate(tmp_path / "lightning_logs" / "version_0", accelerator="cpu")
    assert [*results["per_class_acc"]] == names


def write_named(path, names):
    with np.load(path) as held:
        content = dict(held)
    for split in ("train", "test"):
        content[f"y_{split}"] = content[f"y_{split}"] % len(names)
    np.savez(path, **content, classes=names)


def test_the_users_own_parquet_is_read_with_its_validation_split(tmp_path):
    """The user's own parquet may have class names in its metadata, its column or nowhere; all files need the same."""
    files, labels = pngs_of("test")
    pixels = images_of("test")[0].reshape(-1, 3, 32, 32)
    for name, classes, values in (
        ("metadata", ("cra", "b"), [x % 2 for x in labels.tolist()]),
        ("texts", ("cra", "cub"), [("cra", "cub")[x % 2] for x in labels.tolist()]),
        ("numbers", tuple("0123456789"), labels.tolist()),
    ):
        home = tmp_path / name / "data"
        home.mkdir(parents=True)
        table = pa.table({"image": files, "label": values})
        if name == "metadata":
            features = {"label": {"names": classes, "_type": "ClassLabel"}}
            table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        parts = {"train": table.slice(0, 12), "validation": table.slice(12), "test": table}
        for split, part in parts.items():
            parquet.write_table(part, home / f"{split}-00000-of-00001.parquet")
        train, test = (Source("folder", home.parent).load(split) for split in ("train", "test"))
        assert train.held_out == 8
        for loaded in (train, test):
            assert loaded.classes == classes
            assert np.array_equal(loaded.images.numpy(), pixels)
            assert [classes[x] for x in loaded.labels.tolist()] == [classes[x] if type(x) is int else x for x in values]
    path = tmp_path / "metadata" / "data" / "test-00000-of-00001.parquet"
    features = {"label": {"names": ["b", "cra"], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    rewritten(path, lambda table: table.replace_schema_metadata(metadata))
    with pytest.raises(InputError, match=f"{path} has other classes than the files before it: all files need the same"):
        Source("folder", path).load("test")


def test_a_parquet_file_that_does_not_make_a_data_set_is_named(tmp_path):
    """A missing parquet file is not taken for its folder, nor one file for a whole data set."""
    path = tmp_path / "data" / "x.parquet"
    with pytest.raises(InputError, match=f"^data_dir {path} does not exist: pass your images"):
        Source("folder", path).prepare()
    path.parent.mkdir()
    parquet.write_table(pa.table({"label": [0]}), path)
    for source in ("folder", "cifar10"):
        with pytest.raises(InputError, match=rf"^data_dir {path} is not in a folder with train-\*.parquet and test-"):
            Source(source, path).prepare()
    for name in ("train.parquet", "test.parquet"):
        path.with_name(name).write_bytes(path.read_bytes())
    path.unlink()
    with pytest.raises(InputError, match=f"^data_dir {path} does not exist: pass your images"):
        Source("folder", path).prepare()


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("cifar10", "cifar-10-python.tar.gz"),
        ("cifar10", "cifar-10-batches-bin/test_batch.bin"),
        ("cifar10", "cifar-10-batches-mat/data_batch_1.mat"),
        ("cifar10", "trainLabels.csv"),
        ("cifar10", "labels.npy"),
        ("folder", "train"),
        ("folder", "test"),
        ("folder", "val"),
    ],
)
def test_a_failing_disk_is_not_taken_for_a_layout_that_is_not_there(tmp_path, call, monkeypatch, source, name):
    """Since Python 3.14 Path.is_file and its like return False on an input/output error."""
    if name in ("test", "val"):
        (tmp_path / "train" / "a").mkdir(parents=True)
    failing, stat = str(tmp_path / name), os.stat

    def fail(path, *args, **kwargs):
        if os.path.abspath(os.fspath(path)) == failing:
            raise OSError(errno.EIO, os.strerror(errno.EIO), failing)
        return stat(path, *args, **kwargs)

    monkeypatch.setattr(os, "stat", fail)
    said = rf"{re.escape(failing)} cannot be read \(Input/output error\): make it readable"
    with pytest.raises(InputError, match=said):
        Source(source, tmp_path, mirror=NOWHERE).prepare()
    assert re.search(said, call("data", str(tmp_path))[2])


def flipped(png):
    """Returns a PNG with one bit of its pixels flipped."""
    at = png.index(b"IDAT") + 40
    return png[:at] + bytes([png[at] ^ 1]) + png[at + 1 :]


def test_reading_parquet_takes_no_second_copy_of_the_images(tmp_path):
    Image.new("RGB", (32, 32), "red").save(picture := io.BytesIO(), "PNG")
    for name, count in (("train", 1_000), ("val", 500), ("test", 1)):
        content = {"img": [{"bytes": picture.getvalue()}] * count, "label": [0] * count}
        parquet.write_table(pa.table(content), tmp_path / f"{name}.parquet")
    found = Source("folder", tmp_path).find("train")
    tracemalloc.start()
    try:
        decoded = found.decode()
        assert tracemalloc.get_traced_memory()[1] < 1.5 * decoded.images.nbytes
    finally:
        tracemalloc.stop()
    assert (len(decoded.images), decoded.held_out) == (1_500, 500)
    assert (decoded.images == (255, 0, 0)).all()


def test_pictures_in_parquet_are_decoded_as_in_folders(tmp_path):
    """Pictures in parquet with 16 bits, transparency or an orientation are decoded, and remarked on, as in folders."""
    slope = np.linspace(0, 255, 32 * 32).reshape(32, 32).astype(np.uint8)
    clear = np.zeros_like(slope)
    sideways = Image.Exif()
    sideways[0x0112] = 6  # the orientation
    pictures = [
        (Image.fromarray(slope.astype(np.uint16) * 256), "PNG", {}),
        (Image.fromarray(slope.astype(np.uint16) * 9), "PNG", {}),  # 12 bits of 16
        (Image.fromarray(np.dstack([slope] * 3 + [clear])), "PNG", {}),
        (Image.fromarray(np.dstack([slope, clear])), "PNG", {}),
        (Image.fromarray(np.dstack([slope] * 3)), "JPEG", {"exif": sideways}),
    ]
    files, wanted = [], []
    for number, (picture, kind, options) in enumerate(pictures):
        picture.save(path := tmp_path / f"{number}.{kind.lower()}", kind, **options)
        files.append(path.read_bytes())
        wanted.extend(pixels for pixels, _ in read_each([path]))
    table = pa.table({"image": files, "label": [0, 1, 0, 1, 0]})
    for split in ("train", "test"):
        parquet.write_table(table.slice(0, 5 if split == "train" else 1), tmp_path / f"{split}.parquet")
    train = Source("folder", tmp_path).load("train")
    assert np.array_equal(train.images.permute(0, 2, 3, 1).numpy(), np.stack(wanted))
    parquet.write_table(table.slice(1, 1), tmp_path / "test.parquet")
    with pytest.warns(ImageWarning, match="row 0 has 16 bits per value, but no value above 2,295 of 65,535"):
        Source("folder", tmp_path).load("test")


def test_damaged_or_wrong_parquet_is_refused(tmp_path):
    png = pngs_of("test")[0][0]
    Image.new("RGB", (64, 48)).save(large := io.BytesIO(), "PNG")
    write_parquet(tmp_path)
    path = tmp_path / "test-00000-of-00001.parquet"
    for columns, reason in (
        ({"img": [{"bytes": png}], "label": [10]}, "row 0 has the label 10, not one of 0..9"),
        ({"img": [{"bytes": png}], "label": [-1]}, "row 0 has the label -1, not one of 0..9"),
        ({"img": [{"bytes": png}], "label": [None]}, "row 0 has the label None"),
        ({"img": [{"bytes": png}], "label": [0.5]}, "row 0 has the label 0.5"),
        ({"img": [{"bytes": png}], "label": ["cow"]}, "row 0 has the label 'cow'"),
        ({"img": [{"path": "1.png"}], "label": [1]}, "row 0 has no bytes of a picture"),
        ({"img": [{"bytes": png[:60]}], "label": [1]}, "the picture of row 0 cannot be read"),
        ({"img": [{"bytes": b"hello"}], "label": [1]}, "row 0 cannot be read (it is not a PNG or JPEG image): replace"),
        ({"img": [{"bytes": flipped(png)}], "label": [1]}, "its pixels do not match its checksum"),
        ({"img": [{"bytes": large.getvalue()}], "label": [1]}, "the picture of row 0 has 64×48 pixels"),
        ({"img": [{"bytes": png}], "fine_label": [1]}, "has no column label, only img, fine_label: it is not cifar10"),
        ({"text": ["a"], "label": [1]}, "has no column img, only text, label"),
    ):
        parquet.write_table(pa.table(columns), path)
        with pytest.raises(InputError) as error:
            Source("cifar10", tmp_path).load("test")
        assert str(error.value).startswith(f"{path}")
        assert reason in str(error.value)
    parquet.write_table(pa.table({"img": pa.array([], pa.binary()), "label": pa.array([], pa.int64())}), path)
    with pytest.raises(InputError, match="has no images"):
        Source("cifar10", tmp_path).load("test")
    train = (tmp_path / "train-00000-of-00001.parquet").read_bytes()
    for damaged in (b"PAR1 nonsense", train[:4] + b"\xff" * 8 + train[12:]):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"^.* is damaged, or cannot be read .*: replace it$"):  # in one line
            Source("cifar10", tmp_path).load("test")


@pytest.mark.parametrize(
    ("label", "said"),
    [(1.0, "1.0"), ([1], "[1]"), ({"id": 1}, "{'id': 1}"), (None, "None"), ([1] * 99, "of type list")],
)
def test_parquet_with_invalid_labels_is_refused(tmp_path, label, said):
    png = pngs_of("test")[0][0]
    for split in ("train", "test"):
        table = pa.table({"image": [{"bytes": png}] * 2, "label": pa.array([label, label])})
        parquet.write_table(table, tmp_path / f"{split}.parquet")
    with pytest.raises(InputError) as error:
        Source("folder", tmp_path).load("test")
    assert str(error.value) == (
        f"{tmp_path / 'test.parquet'}: row 0 has the label {said}: must be a whole number or the name of a class"
    )


def test_wrong_row_counts_in_parquet_never_give_wrong_labels(tmp_path):
    Image.new("RGB", (32, 32), "red").save(picture := io.BytesIO(), "PNG")
    content = {"img": [{"bytes": picture.getvalue()}] * 37, "label": list(range(10)) * 3 + [0] * 7}
    parquet.write_table(pa.table(content), path := tmp_path / "train.parquet")
    whole, refused = path.read_bytes(), []
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    for at in (at for at in range(footer, len(whole)) if whole[at] == 2 * 37):  # Thrift doubles small numbers
        for number in (36, 38):
            path.write_bytes(whole[:at] + bytes([2 * number]) + whole[at + 1 :])
            try:
                assert parquet_files.read([path], "cifar10", {}).labels.tolist() == content["label"]
            except InputError as error:
                refused.append(str(error))
    assert any("(its two counts of rows differ): replace it" in message for message in refused)


def test_parquet_without_training_images_is_refused(tmp_path):
    """Parquet without training images is refused, although there are validation images to load."""
    for name, count in (("train", 0), ("val", 2), ("test", 2)):
        pictures = pa.array([b"any"] * count, pa.binary())
        table = pa.table({"img": pictures, "label": pa.array([0] * count, pa.int64())})
        parquet.write_table(table, tmp_path / f"{name}.parquet")
    with pytest.raises(InputError, match=r"train\.parquet has no images: replace it"):
        Source("folder", tmp_path).load("train")


def test_parquet_without_pyarrow_says_how_to_install_it(tmp_path, monkeypatch):
    write_parquet(tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"needs pyarrow; install it with: pip install 'cifar-lightning\[parquet\]'"):
        Source("cifar10", tmp_path).load("test")


# --- Kaggle -----------------------------------------------------------------------------------------------


def test_kaggle_without_test_labels_can_train_and_predict_but_not_test(tmp_path, call):
    write_kaggle(tmp_path / "kaggle", tests=False)
    data = CIFAR10DataModule(tmp_path / "kaggle", batch_size=20)
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(LitNet(), data)
    assert trainer.global_step == 5
    code, out, err = call("fit", "--data.data_dir", "kaggle", "--accelerator", "cpu")
    assert (code, out) == (2, "")
    assert "has Kaggle's pictures, which come without test labels: to test, put the official archive there" in err
    assert not (tmp_path / "lightning_logs").exists()
    with pytest.raises(InputError, match="; to predict, which needs no labels, use predict RUN ") as caught:
        trainer.predict(LitNet(), data)
    code, out, _ = call("predict", "quick", *shlex.split(str(caught.value).rpartition("RUN ")[2]), "--json")
    assert code == 0
    assert {Path(row["file"]).stem for row in json.loads(out)} == {*map(str, range(1, 21)), "300000"}


def test_wrong_lines_in_kaggles_table_are_refused(tmp_path):
    write_kaggle(tmp_path)
    table = tmp_path / "trainLabels.csv"
    for text, reason in (
        ("id,label\n1,cow\n", "has the line {'id': '1', 'label': 'cow'}: a line needs its own id"),
        ("id,label\n1,cat\n1,dog\n", "has the line {'id': '1', 'label': 'dog'}"),
        ("id,label\none,cat\n", "has the line {'id': 'one', 'label': 'cat'}"),
        ("number,name\n1,cat\n", "has the line {'number': '1', 'name': 'cat'}"),
        ("id,label\n101,cat\n", f"lists 101, but {tmp_path / 'train' / '101'}.png does not exist"),
        ("id,label\n", "lists no pictures"),
        ("id,label\n\udcff", "is not a table of id,label"),
    ):
        table.write_bytes(text.encode("utf-8", "surrogateescape"))
        with pytest.raises(InputError) as error:
            Source("cifar10", tmp_path).prepare()
        assert str(error.value).startswith(f"{table} {reason}"), error.value
    table.write_bytes(b"\xef\xbb\xbfid,label\r\n2,cat\r\n1,dog\r\n")  # as Excel saves it, and in any order
    assert Source("cifar10", tmp_path).load("train").labels.tolist() == [5, 3]


# --- the user's own arrays --------------------------------------------------------------------------------


def own_arrays(**changes):
    content = {f"x_{split}": arrays()[f"x_{split}"] for split in ("train", "test")}
    content.update({f"y_{split}": arrays()[f"y_{split}"][:, 0] for split in ("train", "test")})
    return {**content, **changes}


def test_the_users_own_arrays_are_read(tmp_path):
    """Arrays are read in any common layout, type and naming; the classes are numbers if they have no names."""
    x, y = arrays()["x_train"], arrays()["y_train"]
    for name, content in {
        "planes": own_arrays(x_train=x.transpose(0, 3, 1, 2)),
        "flat": own_arrays(x_train=x.transpose(0, 3, 1, 2).reshape(-1, 3072)),
        "int64": own_arrays(x_train=x.astype(np.int64), y_train=y.astype(np.int64)),
        "fortran": own_arrays(x_train=np.asfortranarray(x)),
        "MedMNIST": {
            f"{split}_{long}": own_arrays()[f"{short}_{split}"]
            for split in ("train", "test")
            for short, long in (("x", "images"), ("y", "labels"))
        },
        "capitals": {name.replace("x_", "X_"): array for name, array in own_arrays().items()},
    }.items():
        np.savez(tmp_path / f"{name}.npz", **content)
        for split in ("train", "test"):
            loaded, (pixels, labels) = Source("folder", tmp_path / f"{name}.npz").load(split), images_of(split)
            assert np.array_equal(loaded.images.numpy(), pixels.reshape(-1, 3, 32, 32))
            assert loaded.labels.tolist() == labels.tolist()
            assert loaded.classes == tuple("0123456789")
    with pytest.raises(InputError, match=r"has MedMNIST.npz and capitals.npz: pass one of them as --data.data_dir"):
        Source("folder", tmp_path).prepare()


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        *(("plain", size) for size in ((32, 32, 3), (3, 32, 32), (3072,))),
        *(("by columns", size) for size in ((32, 32, 3), (3, 32, 32), (3072,))),
        ("int16", (32, 32, 3)),
        ("with x_val", (3072,)),
    ],
)
@pytest.mark.parametrize("packed", [True, False])
def test_reading_arrays_takes_no_second_copy_of_the_images(tmp_path, packed, size, kind):
    images = np.random.default_rng(0).integers(0, 256, (2000, *size), np.uint8)
    labels, held_out = np.arange(2000) % 10, 900 if kind == "with x_val" else 0
    content = {"x_train": images[held_out:], "y_train": labels[held_out:], "x_test": images[:10], "y_test": labels[:10]}
    if kind == "by columns":
        content["x_train"] = np.asfortranarray(images)
    elif kind == "int16":
        content["x_train"] = images.astype(np.int16)
    elif held_out:
        content |= {"x_val": images[:held_out], "y_val": labels[:held_out]}
        images = np.roll(images, -held_out, axis=0)
    if packed:
        np.savez(tmp_path / "a.npz", **content)
    else:
        for name, array in content.items():
            np.save(tmp_path / f"{name}.npy", array)
    found = Source("folder", tmp_path).find("train")
    tracemalloc.start()
    try:
        decoded = found.decode()
        assert tracemalloc.get_traced_memory()[1] < 1.5 * images.nbytes
    finally:
        tracemalloc.stop()
    expected = images if size == (32, 32, 3) else images.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    assert np.array_equal(decoded.images, expected)


def test_arrays_may_have_class_names_and_a_validation_split(tmp_path):
    names = np.array([f"class {i}" for i in range(10)])
    np.savez(tmp_path / "a.npz", **own_arrays(classes=names, x_val=arrays()["x_test"], y_val=arrays()["y_test"]))
    data = CIFAR10DataModule(tmp_path, source="folder", batch_size=20)
    data.prepare_data()
    data.check()
    assert data.classes == tuple(names)
    assert len(data.train_indices) == 100
    assert len(data.val_indices) == 20


@pytest.mark.parametrize("shape", ["arrays", "parquet"])
def test_two_classes_with_the_same_name_are_refused(tmp_path, shape):
    """Two classes with one name, such as ImageNet's cranes, are refused: results by name would mix their figures."""
    names = ["crane", *(f"class {i}" for i in range(8)), "crane"]
    if shape == "arrays":
        np.savez(tmp_path / "a.npz", **own_arrays(classes=np.array(names)))
    else:
        metadata = {"huggingface": json.dumps({"info": {"features": {"label": {"names": names}}}})}
        write_parquet(tmp_path)
        for path in tmp_path.glob("*.parquet"):
            rewritten(path, lambda table: table.replace_schema_metadata(metadata))
    with pytest.raises(InputError, match=f"{tmp_path} has more than one class named crane, so results could not tell"):
        CIFAR10DataModule(tmp_path, source="folder").check()


@pytest.mark.parametrize("shape", ["npz", "npy", "parquet"])
def test_the_digest_of_the_users_own_images_is_checked(tmp_path, shape):
    """The user's files must have the given SHA-256, concatenated if there are several, even if they are cached."""
    if shape == "npz":
        np.savez(tmp_path / "own.npz", **own_arrays())
    elif shape == "npy":
        for name, array in own_arrays().items():
            np.save(tmp_path / f"{name}.npy", array)
    else:
        write_parquet(tmp_path)
    files = Source("folder", tmp_path).find("train").files
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
    for sha256 in (digest, None, digest):
        assert len(Source("folder", tmp_path, sha256=sha256).load("train").labels) == 100
    with pytest.raises(InputError) as error:
        Source("folder", tmp_path, sha256="0" * 64).prepare()
    name = f"{files[0]} with the files after it, {len(files)} in all," if files[1:] else str(files[0])
    assert str(error.value) == (
        f"{name} has SHA-256 {digest}, expected {'0' * 64}: replace it with the expected file, or pass "
        f"--data.sha256 {digest} if the images are your own"
    )


@pytest.mark.parametrize("source", ["folder", "cifar10"])
@pytest.mark.parametrize("content", ["cut short", "no zip", "another user's"])
def test_arrays_that_cannot_be_read_are_reported(tmp_path, call, monkeypatch, source, content):
    """Unreadable arrays, which may be the user's images, are reported; nothing else is looked for or downloaded."""
    np.savez(path := tmp_path / "cifar10.npz", **own_arrays())
    path.write_bytes({"cut short": path.read_bytes()[:-99], "no zip": b"none"}.get(content, path.read_bytes()))
    why = r"cifar10.npz is not a .npz file, or is damaged \(File is not a zip file\): replace it"
    if content == "another user's":
        why = r"cifar10.npz cannot be read \(Permission denied\): make it readable"
        monkeypatch.setattr("zipfile.ZipFile", refuse)
    with pytest.raises(InputError, match=why):
        Source(source, tmp_path, mirror=NOWHERE).prepare()
    code, _, err = call("data", ".", "--data.source", source)
    assert (code, bool(re.search(why, err))) == (2, True)
    assert re.search(why, call("data", ".")[2])


def refuse(*args, **kwargs):
    raise PermissionError(13, "Permission denied")


def test_other_files_beside_the_users_own_images_are_ignored(tmp_path, call):
    """Arrays without images, hidden files, such as macOS makes, and folders beside the user's images are ignored."""
    np.savez(tmp_path / "own.npz", **own_arrays())
    np.savez(tmp_path / "features.npz", features=np.zeros(3))
    (tmp_path / "._own.npz").write_bytes(b"Mac OS X")
    np.savez(tmp_path / ".before.npz", **own_arrays())
    (tmp_path / "folder.npz").mkdir()
    for _ in range(2):
        Source("folder", tmp_path).prepare()
        assert len(Source("folder", tmp_path).load("train").labels) == 100
    assert "arrays" in call("data", ".")[1]
    (tmp_path / "own.npz").unlink()
    for split in ("train", "test"):
        (tmp_path / "data" / split).mkdir(parents=True)
        (tmp_path / "data" / split / "._a.parquet").write_bytes(b"Mac OS X")
        parquet.write_table(
            pa.table({"img": pngs_of(split)[0], "label": pngs_of(split)[1]}), tmp_path / f"{split}.parquet"
        )
        (tmp_path / f"{split}.parquet").rename(tmp_path / "data" / split / "a.parquet")
    assert len(Source("folder", tmp_path).load("train").labels) == 100


def test_damaged_or_wrong_arrays_are_refused(tmp_path):
    x, y = own_arrays()["x_train"], own_arrays()["y_train"]
    for changes, reason in (
        ({"x_train": x / 255}, "x_train is float64 (100, 32, 32, 3): use uint8"),
        ({"x_train": x > 7}, "x_train is bool"),
        ({"x_train": x.astype(np.int16) - 1}, "with values from -1 to 254: use values from 0 to 255"),
        ({"x_train": x[:, :28, :28]}, "x_train is uint8 (100, 28, 28, 3): use uint8"),
        ({"x_train": x[..., 0]}, "x_train is uint8 (100, 32, 32): use uint8"),
        ({"x_train": np.full_like(x, 300, np.int16)}, "with values from 300 to 300: use values from 0 to 255"),
        ({"y_train": y[:1]}, "but y_train has 1 label: use one label per image"),
        ({"x_train": x[:99]}, "x_train is uint8 (99, 32, 32, 3), but y_train has 100 labels: use one label per image"),
        ({"x_train": x[:0], "y_train": y[:0]}, "with at least one image"),
        ({"x_train": x.astype(object)}, "x_train contains Python objects, which are not read"),
        ({"y_train": y.astype(float)}, "y_train is float64 (100,): use one integer per image"),
        ({"y_train": np.eye(10, dtype=int)[y]}, "y_train is int64 (100, 10): use one integer per image"),
        ({"y_train": y.astype(np.int8) - 1}, "y_train has the label -1: number the classes from 0"),
        ({"y_train": y.astype(int) + 10**6}, "has the label 1000009, but fewer images: number"),
        ({"classes": np.array(["a", "b"])}, "has the label 9, but its classes are 0..1"),
        ({"classes": np.array(["a", 1], dtype=object)}, "classes contains Python objects, which are not read"),
        ({"classes": np.arange(10)}, "classes is int64 (10,), not a list of names"),
    ):
        path = tmp_path / "own.npz"
        np.savez(path, **own_arrays(**changes))
        with pytest.raises(InputError) as error:
            Source("folder", path).load("train")
        assert str(error.value).startswith(str(path))
        assert reason in str(error.value)
    np.savez(path, x_train=x, y_train=y)
    with pytest.raises(InputError, match="has no images and labels of test: arrays are named x_train, y_train, x_test"):
        Source("folder", path).load("train")
    whole = path.read_bytes()
    at = whole.rindex(b"PK\1\2") + 6  # the version of zip that is needed to extract
    for damaged in (whole[: len(whole) // 2], b"nonsense", b"", whole[:at] + b"\x99" + whole[at + 1 :]):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"is not a \.npz file, or is damaged"):
            Source("folder", path).load("train")
    np.savez(path, **own_arrays())
    with open(path, "r+b") as file:
        file.seek(5_000)
        file.write(b"x" * 100)
    with pytest.raises(InputError, match="x_train is damaged"):
        Source("folder", path).load("train")
    (folder := tmp_path / "own").mkdir()
    for name, array in own_arrays().items():
        np.save(folder / f"{name}.npy", array)
    os.truncate(folder / "x_train.npy", 5_000)
    with pytest.raises(InputError, match=r"x_train is damaged \(it is cut short\): replace it"):
        Source("folder", folder).load("train")
