"""Files of labels without images: CIFAR-10N's to train on, and CIFAR-10H's to test against."""

import math
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch

from cifar_lightning import fake_data
from cifar_lightning.data import labels
from cifar_lightning.data.cifar10 import CLASSES
from cifar_lightning.data.labels import distributions
from cifar_lightning.errors import InputError
from cifar_lightning.model.evaluation import against_people

COUNT = 200
CLEAN = fake_data(COUNT).image_set("train").labels.numpy()


def noisy(seed, share=0.4):
    rng = np.random.default_rng(seed)
    return np.where(rng.random(COUNT) < share, rng.integers(0, 10, COUNT), CLEAN)


def content():
    return {"clean_label": CLEAN, "worse_label": noisy(0), "random_label1": noisy(1, 0.17)}


def other_numpy(path):
    """Changes the name of numpy's function in the file to the one in numpy's other major version."""
    with zipfile.ZipFile(path) as file:
        members = {info: file.read(info) for info in file.infolist()}
    with zipfile.ZipFile(path, "w") as file:  # not compressed, as torch.save does it
        for info, data in members.items():
            mine, theirs = b"numpy._core.multiarray", b"numpy.core.multiarray"
            if mine not in data:
                mine, theirs = theirs, mine
            assert mine in data or not info.filename.endswith("data.pkl")
            file.writestr(info.filename, data.replace(mine, theirs))


def save_pt(path):
    torch.save(content(), path)


def save_pt_of_other_numpy(path):
    save_pt(path)
    other_numpy(path)


def save_pt_of_lists_and_tensors(path):
    """Writes labels as a tensor, an array and a list: CIFAR-100_human.pt has lists for the coarse labels."""
    values = content()
    torch.save({**values, "clean_label": torch.tensor(CLEAN), "worse_label": values["worse_label"].tolist()}, path)


def save_old_pt(path):
    torch.save(content(), path, _use_new_zipfile_serialization=False)


def save_npy(path):
    """Writes labels as CIFAR-100_human_ordered.npy does: a dict, in an array of objects, of lists of numpy numbers."""
    np.save(path, {name: list(values) for name, values in content().items()}, allow_pickle=True)


@pytest.mark.parametrize(
    ("name", "save"),
    [
        ("CIFAR-10_human.pt", save_pt),
        ("CIFAR-10_human.pt", save_pt_of_other_numpy),
        ("CIFAR-10_human.pt", save_pt_of_lists_and_tensors),
        ("CIFAR-10_human.pt", save_old_pt),
        ("CIFAR-10_human.npy", save_npy),
    ],
)
def test_train_labels_replace_the_labels_of_the_training_images(tmp_path, name, save):
    save(tmp_path / name)
    plain, data = fake_data(COUNT), fake_data(COUNT, val_split=40, train_labels=f"{tmp_path / name}:worse_label")
    data.prepare_data()
    data.setup()
    worse = noisy(0)
    assert (worse != CLEAN).sum() > 40
    assert data.image_set("train").labels.tolist() == data.dataset("train").targets == worse.tolist()
    assert torch.equal(data.image_set("train").images, plain.image_set("train").images)
    assert torch.equal(data.image_set("test").labels, plain.image_set("test").labels)
    # Also for the held-out images: the split is stratified by the new labels.
    held_out = torch.cat([labels for _, labels in data.val_dataloader()])
    assert held_out.tolist() == worse[data.val_indices.numpy()].tolist()
    assert np.abs(np.bincount(held_out, minlength=10) - np.bincount(worse, minlength=10) / 5).max() <= 1
    learnt = torch.cat([labels for _, labels in data.train_dataloader()])
    assert np.array_equal(np.bincount(learnt) + np.bincount(held_out), np.bincount(worse))
    assert data.hparams["train_labels"] == f"{tmp_path / name}:worse_label"


@pytest.mark.parametrize("suffix", ["npy", "pt"])
def test_a_file_with_one_list_of_labels_needs_no_name(tmp_path, suffix):
    path = tmp_path / f"mine.{suffix}"
    np.save(path, noisy(0)[:, None].astype(np.uint8)) if suffix == "npy" else torch.save(noisy(0), path)
    assert fake_data(COUNT, train_labels=str(path)).image_set("train").labels.tolist() == noisy(0).tolist()
    with pytest.raises(InputError, match=f"mine.{suffix} contains one list of labels, not several; use {path}"):
        fake_data(COUNT, train_labels=f"{path}:worse_label").setup("fit")


def test_a_resumed_run_refuses_other_labels(tmp_path):
    save_pt(tmp_path / "a.pt")
    data = fake_data(COUNT, train_labels=f"{tmp_path / 'a.pt'}:worse_label")
    data.setup("fit")
    state = data.state_dict()
    fake_data(COUNT, train_labels=f"{tmp_path / 'a.pt'}:worse_label").check_images(state)
    for other in (None, f"{tmp_path / 'a.pt'}:random_label1"):
        with pytest.raises(InputError, match="are not the ones that the run began with"):
            fake_data(COUNT, train_labels=other).check_images(state)


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


class Told:
    """An array whose pickle lies about its dtype."""

    def __init__(self, code="u1", flags=16):
        self.dtype = (np.dtype, (code, False, True), (3, "|", None, None, None, -1, -1, flags))

    def __reduce__(self):
        dtype = type("Dtype", (), {"__reduce__": lambda _: self.dtype})()
        return np.zeros(0).__reduce__()[0], (np.ndarray, (0,), b"b"), (1, (4,), dtype, False, bytes(4))


@pytest.mark.parametrize("suffix", ["pt", "npy"])
def test_a_file_of_labels_that_lies_about_its_dtype_is_harmless(tmp_path, suffix):
    """Flags that a file claims for a dtype are ignored, and types that are not plain numbers are refused."""
    path = tmp_path / f"labels.{suffix}"
    save = torch.save if suffix == "pt" else lambda content, path: np.save(path, content, allow_pickle=True)
    save({"told": Told()}, path)
    found = labels._read(path)["told"]
    assert found.tolist() == [0] * 4
    assert found.dtype.flags == np.dtype("u1").flags == 0
    save({"told": Told("V1")}, path)
    with pytest.raises(InputError, match=r"or is damaged \(.*it asks for numbers of type V1"):
        labels._read(path)


def test_no_code_in_a_file_of_labels_is_run(tmp_path):
    before = set(torch.serialization.get_safe_globals())
    torch.save({"clean_label": Hostile(tmp_path / "run")}, tmp_path / "a.pt")
    np.save(tmp_path / "a.npy", {"clean_label": Hostile(tmp_path / "run")}, allow_pickle=True)
    objects = np.array([Hostile(tmp_path / "run"), 1], dtype=object)
    torch.save({"clean_label": objects}, tmp_path / "b.pt")
    for name in ("a.pt", "a.npy", "b.pt"):
        refused = "is refused: it would run code when loaded; use another file"
        reason = refused if name.endswith(".pt") else "is not a file of labels, or is damaged"
        with pytest.raises(InputError, match=f"{name} {reason}") as error:
            fake_data(COUNT, train_labels=f"{tmp_path / name}:clean_label").setup("fit")
        assert "\n" not in str(error.value)
        assert "weights_only" not in str(error.value)  # torch's advice is to load the file all the same
    assert not (tmp_path / "run").exists()
    assert set(torch.serialization.get_safe_globals()) == before  # torch.load allows no more than before


@pytest.mark.parametrize(
    ("change", "name", "message"),
    [
        ({}, "", "a.pt contains clean_label, worse_label, random_label1; use FILE:NAME, for example "),
        ({}, ":worst_label", "a.pt contains clean_label, worse_label, random_label1; use FILE:NAME, for example "),
        ({"clean_label": CLEAN[::-1]}, ":worse_label", "or for these in another order: its clean_label differs"),
        ({"clean_label": CLEAN[:-1]}, ":worse_label", "its clean_label has 199 labels for 200 images; use both"),
        ({"worse_label": CLEAN[:-1]}, ":worse_label", "has 199 labels, but there are 200 training images: use one"),
        ({"worse_label": CLEAN[:1]}, ":worse_label", "has 1 label, but there are 200 training images: use one"),
        ({"worse_label": CLEAN + 1}, ":worse_label", "has the label 10, outside 0..9: fix the file"),
        ({"worse_label": CLEAN - 1}, ":worse_label", "has the label -1, outside 0..9: fix the file"),
        ({"worse_label": torch.rand(COUNT)}, ":worse_label",
         "worse_label is float32 (200,): use one integer per image"),
        ({"worse_label": [[1], [1, 2]]}, ":worse_label", "worse_label is not a list of labels ("),
    ],
)  # fmt: skip
def test_labels_that_do_not_belong_to_the_images_are_refused(tmp_path, change, name, message):
    torch.save({**content(), **change}, tmp_path / "a.pt")
    with pytest.raises(InputError) as error:
        fake_data(COUNT, train_labels=f"{tmp_path / 'a.pt'}{name}").setup("fit")
    assert message in str(error.value)


def test_damaged_and_missing_files_of_labels_are_refused(tmp_path):
    (tmp_path / "a.pt").write_bytes(b"any bytes")
    (tmp_path / "a.npy").write_bytes(pickle.dumps([1]))
    (tmp_path / "c.pt").write_bytes(b"\x80\x02\x95")
    (tmp_path / "d.pt").touch()
    np.save(tmp_path / "e.npy", {}, allow_pickle=True)
    save_pt(tmp_path / "b.pt")
    (tmp_path / "b.pt").write_bytes((tmp_path / "b.pt").read_bytes()[:-500])
    for name in ("a.pt", "a.npy", "b.pt"):
        with pytest.raises(InputError, match=f"{name} is not a file of labels, or is damaged"):
            fake_data(COUNT, train_labels=f"{tmp_path / name}:x").setup("fit")
    for name, reason in (("c.pt", "Unsupported operand [0-9]+"), ("d.pt", "EOFError")):
        with pytest.raises(
            InputError, match=rf"{name} is not a file of labels, or is damaged \({reason}\): use another"
        ):
            fake_data(COUNT, train_labels=f"{tmp_path / name}:x").setup("fit")
    with pytest.raises(InputError, match=r"worse_label: e.npy contains no labels: use another file$"):
        fake_data(COUNT, train_labels=f"{tmp_path / 'e.npy'}:worse_label").setup("fit")
    with pytest.raises(InputError, match=r"f.pt cannot be read \(No such file or directory\): use a file that can"):
        fake_data(COUNT, train_labels=f"{tmp_path / 'f.pt'}:worse_label").setup("fit")


# --- people's answers to test against --------------------------------------------------------------------


def test_shares_and_numbers_of_people_give_the_same_distributions(tmp_path):
    images = fake_data(COUNT).image_set("test")
    numbers = np.random.default_rng(0).multinomial(11, [0.1] * 10, len(images.labels))
    numbers[np.arange(len(numbers)), images.labels] += 40
    shares = numbers / numbers.sum(1, keepdims=True)
    np.save(tmp_path / "counts.npy", numbers)
    np.save(tmp_path / "probs.npy", shares)
    for name in ("counts.npy", "probs.npy"):
        assert np.allclose(distributions(tmp_path / name, images, CLASSES).numpy(), shares, rtol=1e-12)
    # for a network with another order of classes
    backwards = images.counted_as(CLASSES[::-1])
    assert np.allclose(distributions(tmp_path / "probs.npy", backwards, CLASSES).numpy(), shares[:, ::-1])


def test_a_class_that_people_and_network_both_rule_out_adds_nothing():
    """A class of share 0 and logit -inf adds nothing to the cross-entropy; with another share it is infinite."""
    people, ruled_out = torch.tensor([[0.5, 0.5, 0.0]]), torch.tensor([[1.0, 0.0, -torch.inf]])
    found = against_people(people, ruled_out)
    assert found["cross_entropy"] == pytest.approx(math.log1p(math.e) - 0.5)  # 0.8133
    assert against_people(people, ruled_out.flip(1))["cross_entropy"] == math.inf


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[:-1], "a.npy is float64 (39, 10), not numbers (40, 10): use one row per test image"),
        (lambda rows: {"a": rows}, "a.npy is a dict, not numbers (40, 10)"),
        (lambda rows: rows - 0.5, "has rows that are not shares or numbers of people"),
        (lambda rows: rows * 0, "has rows that are not shares or numbers of people"),
        (lambda rows: rows * np.nan, "has rows that are not shares or numbers of people"),
        (lambda rows: rows[:, ::-1], "most people agree with the labels of only 0 % of the test images; use a file in"),
    ],
)  # fmt: skip
def test_answers_that_do_not_belong_to_the_images_are_refused(tmp_path, change, message):
    images = fake_data(COUNT).image_set("test")
    np.save(tmp_path / "a.npy", change(np.eye(10)[images.labels]), allow_pickle=True)
    with pytest.raises(InputError) as error:
        distributions(tmp_path / "a.npy", images, CLASSES)
    assert message in str(error.value)
