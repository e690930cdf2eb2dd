"""Arguments of the public constructors that are of other types than these say."""

import inspect
import io
import os
from collections import UserList

import numpy as np
import pytest
import torch

from cifar_lightning import CIFAR10DataModule, InputError, LitNet, Preprocessing, TutorialNet

ALL = [(kind, name) for kind in (CIFAR10DataModule, LitNet) for name in inspect.signature(kind).parameters]


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_none_of_them_may_be_anything(kind, name):
    with pytest.raises(InputError, match=f"^{name} <object .*> is out of range: give \\w"):
        kind(**{name: object()})


@pytest.mark.parametrize(
    ("kind", "name", "value", "give"),
    [
        (CIFAR10DataModule, "batch_size", "128", "a whole number"),
        (CIFAR10DataModule, "batch_size", True, "a whole number"),
        (CIFAR10DataModule, "eval_batch_size", 2.5, "a whole number"),
        (CIFAR10DataModule, "augment", "false", "true or false"),
        (CIFAR10DataModule, "val_split", True, "a whole number or a number or text"),
        (LitNet, "lr", "1e-3", "a number"),
        (LitNet, "nesterov", "false", "true or false"),
        (LitNet, "schedule", [], "constant or one-cycle or cosine or linear"),
        (LitNet, "sizes", [16.5], "a list such as"),
        (LitNet, "classes", "ab", "a list of names"),
        (LitNet, "classes", {"dog": 1, "cat": 0}, "a list of names"),
        (LitNet, "net", TutorialNet, "text .* or a torch.nn.Module"),
        (LitNet, "preprocessing", "cifar10", "a Preprocessing or a dictionary"),
    ],
)
def test_nor_what_python_takes_for_another(kind, name, value, give):
    with pytest.raises(InputError, match=f"^{name} .* is out of range: give {give}"):
        kind(**{name: value})


def test_numbers_of_numpy_are_as_good_and_are_kept_as_plain_ones():
    """A checkpoint with numpy's own is one that weights_only refuses."""
    rates, sizes, classes = np.logspace(-3, -1, 3), np.array([16, 24]), np.array(["cat", "dog"])
    mine = Preprocessing([np.float64(0.5)] * 3, np.ones(3), np.int64(32))
    model = LitNet(lr=rates[1], width=np.int64(8), sizes=sizes, nesterov=np.True_, classes=classes, preprocessing=mine)
    data = CIFAR10DataModule("data", np.int64(128), device=torch.device("cpu"), val_split=np.float32(0.5))
    for module in (model, data):
        torch.save(dict(module.hparams), file := io.BytesIO())
        file.seek(0)
        assert torch.load(file, weights_only=True) == module.hparams
    assert (model.hparams["lr"], model.hparams["sizes"], model.classes) == (0.01, [16, 24], ["cat", "dog"])
    assert (data.batch_size, data.device, data.val_split) == (128, "cpu", 0.5)


def test_any_sequence_and_any_path_is_taken_and_kept_as_a_plain_one(tmp_path):
    """As those of OmegaConf, and of pytest."""
    with os.scandir(tmp_path.parent) as places:
        place = next(one for one in places if one.name == tmp_path.name)  # which is a path, and no Path
    data = CIFAR10DataModule(place, mirror=place)
    assert data.hparams["data_dir"] == data.hparams["mirror"] == str(tmp_path)
    model = LitNet(sizes=range(16, 32, 8), classes=UserList(["cat", "dog"]))
    assert (model.hparams["sizes"], model.hparams["classes"]) == ([16, 24], ["cat", "dog"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.5, 0.5), "mean 0.5 and std 0.5: give three numbers each"),
        (("half", None), "mean half and std None: give three numbers each"),
        (((0.5,) * 3, (0.5,) * 3, 32.0), "size 32.0 is no whole number from 1 on"),
    ],
)
def test_a_preprocessing_of_other_things(arguments, message):
    with pytest.raises(InputError, match=message):
        Preprocessing(*arguments)
