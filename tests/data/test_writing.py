"""Writing images as class folders and as parquet, and reading them again."""

import importlib.util
import os
import signal
import time

import numpy as np
import pytest
import torch
from archives import pngs_of, write_parquet
from conftest import one_line
from jobs import end, start
from PIL import Image

from cifar_lightning.data import writing
from cifar_lightning.data.image_set import ImageSet
from cifar_lightning.data.sources import Source
from cifar_lightning.data.survey import survey
from cifar_lightning.errors import ImageWarning, InputError, RunError

pytestmark = pytest.mark.filterwarnings("ignore:.* but CIFAR-10")  # the tests' files have fewer images
CLASSES = ("apple", "my val", "test", "train")


def sets(classes=CLASSES, **counts):
    """Makes sets of noise, whose labels cycle through the classes."""
    rng = np.random.default_rng(0)
    made = {}
    for split, count in (counts or {"train": 41, "validation": 3, "test": 21}).items():
        pixels = torch.from_numpy(rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8))
        made[split] = ImageSet(pixels.permute(0, 3, 1, 2), torch.arange(count) % len(classes), classes)
    return made


@pytest.mark.parametrize("format", writing.FORMATS)
def test_written_images_are_read_again(tmp_path, format):
    """Images are read as written, with classes named like splits or empty in one, and with several row groups."""
    given = sets(train=1_003, validation=3, test=21)
    (tmp_path / "new").mkdir()  # an empty folder is no obstacle
    writing.write(given, tmp_path / "new", format)
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    (found,) = survey(tmp_path / "new")
    assert (found.source, found.classes, [*found.sets]) == ("folder", CLASSES, ["train", "validation", "test"])
    for split, images in given.items():
        # Folders are read class by class, and each class in its order.
        order = images.labels.sort(stable=True).indices if format == "folders" else torch.arange(len(images.labels))
        read = found.sets[split]
        assert read.labels.equal(images.labels[order])
        assert read.images.equal(images.images[order])
        name = found.name(split, 0)
        assert name == (f"{split}/apple/00000.png" if format == "folders" else f"{split}[0]")


def test_written_folders_have_a_readme_that_lists_the_splits(tmp_path):
    """README.md lists the splits for `datasets`, which would otherwise guess them from names, even a class's."""
    writing.write(sets(), tmp_path / "new", "folders")
    card = (tmp_path / "new" / "README.md").read_text()
    for split in ("train", "validation", "test"):
        assert f"  - split: {split}\n    path: {split}/**\n" in card


def test_written_parquet_has_the_schema_of_datasets(tmp_path):
    from pyarrow import parquet

    writing.write(sets(), tmp_path / "new", "parquet")
    write_parquet(tmp_path)
    ours, theirs = (
        parquet.read_schema(folder / "test-00000-of-00001.parquet") for folder in (tmp_path / "new", tmp_path)
    )
    assert ours.equals(theirs)
    assert ours.metadata[b"huggingface"] == theirs.metadata[b"huggingface"].replace(
        theirs.metadata[b"huggingface"].split(b'"names": ')[1].split(b"]")[0] + b"]",
        b'["apple", "my val", "test", "train"]',
    )


def test_the_command_converts_parquet_to_folders(tmp_path, call):
    write_parquet(tmp_path / "hf")
    code, out, err = call("data", "hf", "--to", "folders", "new/pictures")
    assert code == 0, err
    assert "Flags for fit: --data.source folder --data.data_dir hf\n" in out
    assert err.endswith("new/pictures: 120 images written\n")
    files, labels = pngs_of("test")
    read = Source("folder", "new/pictures").load("test")
    assert read.labels.tolist() == sorted(labels.tolist())
    for number, (data, label) in enumerate(zip(files, labels, strict=True)):
        path = tmp_path / "new" / "pictures" / "test" / read.classes[label] / f"{number:05}.png"
        (tmp_path / "one.png").write_bytes(data)
        with Image.open(path) as written, Image.open(tmp_path / "one.png") as given:
            assert written.tobytes() == given.tobytes()


def test_wrong_targets_and_formats_are_refused_and_nothing_written(tmp_path, call, monkeypatch):
    write_parquet(tmp_path / "hf")
    (tmp_path / "file").touch()
    for arguments, said in (
        (("folders", "hf"), "hf is not empty: choose a new folder, or an empty one"),
        (("folders", "file"), "file is a file: choose a new folder"),
        (("zip", "new"), "unknown format zip: choose from folders, parquet"),
        (("folders",), "argument --to: expected 2 arguments; see --help"),
    ):
        assert one_line(*call("data", "hf", "--to", *arguments)) == f"error: {said}\n"
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(InputError, match="is the current folder: choose a new folder in it"):
        writing.write(sets(), ".", "folders")
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pyarrow" else found(name))
    with pytest.raises(
        InputError, match=r"format parquet needs pyarrow; install it with: pip install 'cifar-lightning\[parquet\]'"
    ):
        writing.write(sets(), "new", "parquet")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "here", "hf"]


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (("a/b", "c"), "the class a/b cannot be the name of a folder: rename it, or use parquet"),
        ((".a", "c"), "the class .a cannot be the name of a folder"),
        (("", "c"), "the class '' cannot be the name of a folder"),
        (("c" * 256, "d"), "cannot be the name of a folder"),
        (("\u00e9", "e\u0301"), "two classes have the same name, and would be one folder: rename one"),
    ],
)
def test_class_names_that_no_folder_can_have_need_parquet(tmp_path, classes, said):
    with pytest.raises(InputError, match=said):
        writing.write(sets(classes), tmp_path / "new", "folders")
    writing.write(sets(classes), tmp_path / "new", "parquet")
    assert survey(tmp_path / "new")[0].classes == classes


def test_folders_warn_if_they_do_not_keep_the_order_of_the_classes(tmp_path):
    with pytest.warns(ImageWarning, match="of their names: ant gets the label 1, not 2; use parquet"):
        writing.write(sets(("Bee", "cat", "ant")), tmp_path / "new", "folders")
    assert survey(tmp_path / "new")[0].classes == ("Bee", "ant", "cat")


@pytest.mark.parametrize("format", writing.FORMATS)
def test_a_full_disk_leaves_no_files(tmp_path, monkeypatch, format):
    saved = []

    def save(image, file, kind):
        saved.append(file)
        if len(saved) == 30:
            raise OSError(28, os.strerror(28))
        file.write(b"png")

    monkeypatch.setattr(Image.Image, "save", save)
    with pytest.raises(RunError) as error:
        writing.write(sets(), tmp_path / "new" / "er", format)
    assert str(error.value) == (
        f"could not write {tmp_path / 'new' / 'er'}: No space left on device; nothing was left behind: free some disk "
        "space, or choose another folder"
    )
    assert list((tmp_path / "new").iterdir()) == []


def test_a_signal_leaves_no_files(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (4_000, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(len(pixels)) % 10
    np.savez(tmp_path / "own.npz", x_train=pixels, y_train=labels, x_test=pixels[:10], y_test=labels[:10])
    (tmp_path / "out").mkdir()
    process = start("data", "own.npz", "--to", "folders", "out/new", cwd=tmp_path)
    while not list((tmp_path / "out").glob(".new.*.part/train/*/*.png")) and process.is_alive():
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGTERM)
    done = end(process)
    assert done.code == 143, done.text
    assert done.lines[-1] == "stopped by SIGTERM"
    assert list((tmp_path / "out").iterdir()) == []
