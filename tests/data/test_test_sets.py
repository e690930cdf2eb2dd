"""CIFAR-10.1, CIFAR-10-C and CIFAR-100-C, in the layouts in which they are published."""

import numpy as np
import pytest
from archives import write_archive, write_corrupted
from PIL import Image

from cifar_lightning import CIFAR10DataModule
from cifar_lightning.data.cifar10 import CIFAR100_CLASSES, CLASSES
from cifar_lightning.data.sources import Source
from cifar_lightning.errors import ImageWarning, InputError

NOWHERE = "https://127.0.0.1:1/"  # a download from here fails
RNG = np.random.default_rng(0)


def pictures(count):
    return RNG.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def write_new(home, version, count):
    home.mkdir(exist_ok=True)
    images, labels = pictures(count), np.arange(count, dtype=np.int32) % 10
    np.save(home / f"cifar10.1_{version}_data.npy", images)
    np.save(home / f"cifar10.1_{version}_labels.npy", labels)
    return images, labels


def same(loaded, images, labels):
    assert np.array_equal(loaded.images.permute(0, 2, 3, 1).numpy(), images)
    assert loaded.labels.tolist() == labels.tolist()


@pytest.mark.parametrize("source", ["cifar10", "folder"])
@pytest.mark.parametrize(("version", "count"), [("v4", 2_021), ("v6", 2_000)])
def test_cifar10_1_is_read_as_a_test_set_without_training_images(tmp_path, source, version, count):
    written = write_new(tmp_path / "new", version, count)
    for place in (tmp_path / "new", tmp_path / "new" / f"cifar10.1_{version}_data.npy"):
        data = CIFAR10DataModule(place, source=source, mirror=NOWHERE)
        data.prepare_data()
        data.setup("test")
        assert data.classes == data.image_set("test").classes == CLASSES
        assert data.splits == ("test",)
        same(data.image_set("test"), *written)
        with pytest.raises(
            InputError, match=r"_data.npy is a test set, without training images: choose another --data"
        ):
            data.setup("fit")
    assert len(list((tmp_path / "new").iterdir())) == 2  # no cache: decoding takes no time


@pytest.mark.parametrize("source", ["cifar10", "folder"])
@pytest.mark.parametrize("kind", ["a test set", "corrupted test sets", "class folders"])
def test_a_digest_for_images_without_one_is_ignored_with_a_note(tmp_path, source, kind):
    """A note says that `sha256` is not checked for test sets or folders; it may be that of a run's training images."""
    if kind == "a test set":
        write_new(tmp_path, "v6", 30)
    elif kind == "corrupted test sets":
        write_corrupted(tmp_path, {"fog": pictures(50)}, np.arange(10))
    else:
        source = "folder"
        for split in ("train", "test"):
            (tmp_path / split / "cat").mkdir(parents=True)
            Image.new("RGB", (32, 32)).save(tmp_path / split / "cat" / "1.png")
    said = f"sha256 {'0' * 64} is not checked, because {tmp_path} has {kind}"
    images = Source(source, tmp_path, sha256="0" * 64)
    assert said in images.find("test").notes
    if kind != "corrupted test sets":  # these are loaded one by one
        with pytest.warns(ImageWarning, match=f"^{said}$"):
            images.load("test")


def test_of_two_versions_one_file_must_be_chosen(tmp_path):
    write_new(tmp_path, "v4", 20)
    written = write_new(tmp_path, "v6", 30)
    with pytest.raises(InputError) as error:
        Source("cifar10", tmp_path).load("test")
    expected = "has cifar10.1_v4_data.npy and cifar10.1_v6_data.npy: use one of them as --data.data_dir"
    assert str(error.value) == f"data_dir {tmp_path} {expected}"
    same(Source("cifar10", tmp_path / "cifar10.1_v6_data.npy").load("test"), *written)


def test_official_images_are_preferred_to_a_test_set(tmp_path):
    digest = write_archive(tmp_path / "cifar-10-python.tar.gz")
    write_new(tmp_path, "v6", 30)
    assert len(Source("cifar10", tmp_path, sha256=digest).load("test").labels) == 20


@pytest.mark.parametrize("source", ["cifar10", "cifar100", "folder"])
def test_a_corrupted_test_set_is_one_file_of_its_folder(tmp_path, source):
    """Each file is a test set, whose labels tell which one; the folder lists its files, but cannot be loaded itself."""
    classes = CIFAR100_CLASSES if source == "cifar100" else CLASSES
    labels = np.arange(100) % len(classes)
    images = {"snow": pictures(500), "saturate": pictures(500)}
    write_corrupted(tmp_path, images, labels)
    data = CIFAR10DataModule(tmp_path / "snow.npy", source=source, mirror=NOWHERE)
    assert data.parts == []
    assert data.image_set("test").classes == classes
    same(data.image_set("test"), images["snow"], np.tile(labels, 5))
    whole = CIFAR10DataModule(tmp_path, source=source, mirror=NOWHERE)
    assert whole.parts == [tmp_path / "snow.npy", tmp_path / "saturate.npy"]
    given = f"use one of them, such as {tmp_path / 'snow.npy'}, or test on"  # a file that exists
    with pytest.raises(InputError, match=f"has corrupted test sets, one per file: {given}"):
        whole.setup("test")


def truncated(path):
    path.write_bytes(path.read_bytes()[:-1])


def of_objects(path):
    np.save(path, np.array([None] * 50), allow_pickle=True)


def of_48(labels):
    np.save(labels, np.arange(48) % 4)
    np.save(labels.with_name("fog.npy"), pictures(48))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("fog", lambda path: np.save(path, pictures(45)), "fog is uint8 (45, 32, 32, 3), but labels has 50 labels"),
        ("fog", lambda path: np.save(path, np.zeros((50, 32, 32, 3))), "fog is float64 (50, 32, 32, 3): use uint8"),
        ("fog", truncated, "fog is damaged"),
        ("fog", of_objects, "fog contains Python objects, which are not read"),
        ("labels", lambda path: np.save(path, np.arange(50) % 7), "50 labels that are not the same 5 times, once"),
        ("labels", of_48, "48 labels that are not the same 5 times, once"),
        (
            "labels",
            lambda path: np.save(path, np.full(50, 99)),
            "labels from 0 to 99, so it belongs to cifar100, not cifar10",
        ),
        ("labels", lambda path: np.save(path, np.full(50, 100)), "has a label 100, which is not a class of CIFAR"),
    ],
)  # fmt: skip
def test_wrong_corrupted_test_sets_are_refused_before_an_evaluation(tmp_path, name, change, message):
    write_corrupted(tmp_path, {"brightness": pictures(50), "fog": pictures(50)}, np.arange(10))
    change(tmp_path / f"{name}.npy")
    with pytest.raises(InputError) as error:
        CIFAR10DataModule(tmp_path).parts  # noqa: B018
    assert message in str(error.value)


def test_images_without_their_labels_are_refused(tmp_path):
    write_new(tmp_path / "new", "v6", 10)
    (tmp_path / "new" / "cifar10.1_v6_labels.npy").unlink()
    np.save(tmp_path / "fog.npy", pictures(5))
    for place, name in ((tmp_path / "new", "cifar10.1_v6_labels.npy"), (tmp_path / "fog.npy", "labels.npy")):
        with pytest.raises(InputError, match=f"has no {name} beside it: put it there"):
            Source("cifar10", place).prepare()
    (tmp_path / "mine.npy").write_bytes(b"any")
    with pytest.raises(InputError, match=r"mine.npy is not the images of a known test set: use its folder"):
        Source("cifar10", tmp_path / "mine.npy").prepare()
    with pytest.raises(InputError, match=r"none.npy does not exist: use an existing file or folder"):
        Source("cifar10", tmp_path / "none.npy", mirror=NOWHERE).prepare()
