"""What `data` reports on images in each layout: flags, counts, statistics, repeated images."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pytest
from archives import arrays, images_of, write_archive, write_kaggle, write_parquet
from conftest import one_line
from PIL import Image
from pyarrow import parquet

from cifar_lightning import CIFAR10DataModule
from cifar_lightning.data.cifar10 import CIFAR100_CLASSES, CLASSES, COUNTS, MEAN
from cifar_lightning.data.survey import survey

pytestmark = [
    pytest.mark.filterwarnings("ignore:.* but CIFAR-10"),  # the tests' files have fewer images
    pytest.mark.usefixtures("own_cache"),
]


def write_pictures(home, **splits):
    """Writes class folders: `train={"cat": [pixels, …]}`, where pixels are a colour or an array."""
    for split, classes in splits.items():
        for name, pictures in classes.items():
            folder = home / split / name
            folder.mkdir(parents=True)
            for number, pixels in enumerate(pictures):
                picture = Image.new("RGB", (32, 32), pixels) if isinstance(pixels, str) else Image.fromarray(pixels)
                picture.save(folder / f"{number}.png")


def as_json(call, *arguments):
    code, out, err = call("data", *arguments, "--json")
    assert code == 0, err
    return json.loads(out)


SHAPES = {
    "parquet": (lambda home: write_parquet(home / "plain_text"), "cifar10", "parquet files", 2),
    "parquet of CIFAR-100": (lambda home: write_parquet(home, "cifar100"), "cifar100", "parquet files", 2),
    "Kaggle": (write_kaggle, "cifar10", "Kaggle's pictures", 122),
    "npz": (lambda home: np.savez(home / "cifar10.npz", **arrays()), "cifar10", "numpy arrays", 1),
    "npy": (lambda home: [np.save(home / n, a) for n, a in arrays().items()], "folder", "numpy arrays", 4),
    "folders": (
        lambda home: write_pictures(home, train={"a": ["red"] * 99, "b": ["blue"]}, test={"a": ["lime"], "b": []}),
        "folder",
        "class folders",
        101,
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_each_layout_is_recognised_and_its_flags_read_it(tmp_path, call, shape):
    write, source, said, files = SHAPES[shape]
    (tmp_path / "data").mkdir()
    write(tmp_path / "data")
    (found,) = as_json(call, "data")
    assert (found["source"], found["shape"], found["file_count"]) == (source, said, files)
    assert all((tmp_path / file).is_file() for file in found["files"])
    flags = found["flags"]
    given = {flag.removeprefix("--data."): value for flag, value in zip(flags[::2], flags[1::2], strict=True)}
    read = CIFAR10DataModule(**given)
    for split in ("train", "test"):
        labels = read.image_set(split).labels
        assert found["counts"][split] == len(labels)
        assert list(found["class_counts"][split].values()) == labels.bincount(minlength=read.num_classes).tolist()
    assert found["classes"] == list(read.classes)


def test_unnamed_files_count_as_cifar10_only_if_complete(tmp_path, monkeypatch):
    np.savez(tmp_path / "mine.npz", **arrays())
    assert [one.source for one in survey(tmp_path / "mine.npz")] == ["folder"]
    write_parquet(tmp_path / "p")
    assert [one.source for one in survey(tmp_path / "p")] == ["folder"]
    monkeypatch.setitem(COUNTS, "train", 100)
    assert [one.source for one in survey(tmp_path / "p")] == ["cifar10"]
    assert [one.source for one in survey(tmp_path / "mine.npz")] == ["cifar10"]


def test_a_folder_with_several_sets_of_images(tmp_path, call):
    """`data` reports every set of images in a folder, or with a digest only the one that it belongs to."""
    digest = write_archive(tmp_path / "cifar-10-python.tar.gz")
    error = one_line(*call("data", tmp_path))
    assert f"has SHA-256 {digest}, expected 6d958be0" in error
    (found,) = as_json(call, tmp_path, "--data.sha256", digest)
    assert (found["source"], found["shape"], found["flags"][-2:]) == (
        *("cifar10", "a packed archive"),
        ["--data.sha256", digest],
    )
    pictures = {"a": ["red"], "b": ["blue"]}
    write_pictures(tmp_path, train=pictures, test=pictures)
    (found,) = as_json(call, tmp_path, "--data.sha256", digest)
    assert found["source"] == "cifar10"  # class folders have no digest
    for split in ("train", "test"):
        shutil.rmtree(tmp_path / split)
    few = {"x": np.zeros((2, 32, 32, 3), np.uint8), "y": np.arange(2)}
    np.savez(tmp_path / "few.npz", **{f"{k}_{split}": few[k] for k in few for split in ("train", "test")})
    (found,) = as_json(call, tmp_path, "--data.sha256", digest)
    assert found["source"] == "cifar10"  # the arrays have another digest
    (tmp_path / "few.npz").unlink()
    (tmp_path / "cifar-10-python.tar.gz").unlink()
    write_kaggle(tmp_path)
    write_parquet(tmp_path / "cifar100", "cifar100")
    found = as_json(call, tmp_path)
    assert [one["source"] for one in found] == ["cifar10", "cifar100"]
    code, _, err = call("data", tmp_path, "--to", "parquet", "new")
    assert (code, err.splitlines()[-1]) == (
        2,
        f"error: {tmp_path} has images for cifar10 and cifar100: pass one of them as --data.source to write it",
    )
    (coarse,) = as_json(call, tmp_path, "--data.source", "cifar100-coarse")
    assert len(coarse["classes"]) == 20


def test_without_readable_images_data_says_why_and_downloads_nothing(tmp_path, call):
    assert one_line(*call("data", "nowhere")) == "error: nowhere does not exist: use a folder or a file of images\n"
    (tmp_path / "empty").mkdir()
    error = one_line(*call("data", "empty"))
    assert error.startswith("error: empty has no images in a known layout: use a folder with one of cifar-10-python")
    (tmp_path / "pictures" / "train" / "cat").mkdir(parents=True)
    assert "pictures has no folder test/" in one_line(*call("data", "pictures"))
    (tmp_path / "own").mkdir()
    for split in ("train", "test"):
        parquet.write_table(pa.table({"text": ["a"], "label": [0]}), tmp_path / "own" / f"{split}.parquet")
    assert "own/train.parquet has no column img, only text, label: rename one to img" in one_line(*call("data", "own"))
    assert list((tmp_path / "empty").iterdir()) == []


def test_statistics_are_exact_and_come_with_the_published_ones(tmp_path):
    write_parquet(tmp_path / "plain_text")
    (found,) = survey(tmp_path)
    pixels = images_of("train")[0].reshape(-1, 3, 1024) / 255
    assert np.allclose(found.statistics[0], pixels.mean((0, 2)), atol=1e-12)
    assert np.allclose(found.statistics[1], pixels.std((0, 2)), atol=1e-12)
    assert found.plain()["published"]["mean"] == list(MEAN)
    np.savez(tmp_path / "own.npz", **arrays())
    (found,) = survey(tmp_path / "own.npz", "folder")
    assert found.plain()["published"] is None


def test_repeated_images_are_found_by_their_pixels(tmp_path, call):
    """Images with the same pixels in two splits, or in train with two labels, are found, whatever the file format."""
    noise = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    write_pictures(
        tmp_path / "pictures",
        train={"a": [noise[0], noise[1], noise[0]], "b": [noise[1], noise[2]]},
        val={"a": [noise[3]], "b": [noise[2]]},
        test={"a": [noise[3], noise[0]], "b": [noise[0]]},
    )
    moved = tmp_path / "pictures" / "test" / "a"
    with Image.open(moved / "1.png") as picture:
        picture.save(moved / "1.bmp")
    (moved / "1.png").unlink()
    (found,) = as_json(call, "pictures")
    assert found["counts"] == {"train": 5, "validation": 2, "test": 3}
    assert found["repeated"] == [
        {"split": "validation", "in": "train", "count": 1, "examples": [["val/b/0.png", "train/b/1.png"]]},
        {
            **{"split": "test", "in": "train", "count": 2},
            "examples": [["test/a/1.bmp", "train/a/0.png"], ["test/b/0.png", "train/a/0.png"]],
        },
        {"split": "test", "in": "validation", "count": 1, "examples": [["test/a/0.png", "val/a/0.png"]]},
    ]
    assert found["contradictions"] == {"count": 1, "examples": [["train/b/0.png", "train/a/1.png"]]}
    _, out, _ = call("data", "pictures")
    assert "Test images that are also in train: 2, such as test/a/1.bmp = train/a/0.png, test/b/0.png = " in out
    assert "Training images that are also there with another label: 1, such as train/b/0.png = train/a/1.png" in out
    np.savez(tmp_path / "a.npz", x_train=noise, y_train=[0, 1, 0, 1], x_test=noise[2:], y_test=[1, 1])
    (found,) = as_json(call, "a.npz")
    assert found["repeated"][0]["examples"] == [["test[0]", "train[2]"], ["test[1]", "train[3]"]]
    thrice = {"x_train": noise[[0, 1, 0, 0]], "y_train": [0, 1, 1, 0], "x_test": noise[2:], "y_test": [1, 1]}
    np.savez(tmp_path / "a.npz", **thrice)
    (found,) = as_json(call, "a.npz")
    examples = [["train[2]", "train[0]"], ["train[3]", "train[2]"]]
    assert found["contradictions"] == {"count": 2, "examples": examples}


def test_the_table_of_classes_is_short(tmp_path, call):
    """The table has a row per class if there are few, one row if all counts are equal, or the extreme classes."""
    write_kaggle(tmp_path / "kaggle", tests=False)
    code, out, _ = call("data", "kaggle")
    assert code == 0
    for line in ("kaggle: Kaggle's pictures", "Flags for fit: --data.source cifar10 --data.data_dir kaggle"):
        assert f"{line}\n" in out
    table = [line.split() for line in out.splitlines()]
    assert all([name, "10"] in table for name in CLASSES)
    assert ["all", "100"] in table
    assert "There are no test images with labels, but fit ends with a test: add some, or train in Python\n" in out

    labels = np.arange(100)
    pixels = np.zeros((100, 32, 32, 3), np.uint8)
    np.savez(tmp_path / "a.npz", x_train=pixels, y_train=labels, x_test=pixels, y_test=labels)
    _, out, _ = call("data", "a.npz")
    assert ["each", "of", "100", "1", "1"] in [line.split() for line in out.splitlines()]

    labels = np.minimum(labels, np.arange(100)[::-1])  # 0, 1, … 49, 49, … 0
    labels[0] = 99
    np.savez(tmp_path / "b.npz", x_train=pixels, y_train=labels, x_test=pixels, y_test=labels, classes=CIFAR100_CLASSES)
    _, out, _ = call("data", "b.npz")
    rows = [line.split() for line in out.splitlines()]
    shown = [name for name in CIFAR100_CLASSES if any(row[:1] == [name] for row in rows)]
    assert len(shown) == 20
    assert ["…", "…", "…"] in rows
    assert "CIFAR-100, published: mean (0.5071," in out
