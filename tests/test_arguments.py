"""Tests that the public constructors check the types of their arguments and store plain values."""

import inspect
import io
import os
from collections import Counter, OrderedDict, UserList
from enum import IntEnum
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning import Trainer
from torch import nn
from torch.nn import functional as F
from torchvision.transforms import v2

from cifar_lightning import CIFAR10DataModule, InputError, LitNet, Preprocessing, TutorialNet, load_model

ALL = [(kind, name) for kind in (CIFAR10DataModule, LitNet) for name in inspect.signature(kind).parameters]


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_every_argument_refuses_an_object_of_another_type(kind, name):
    with pytest.raises(InputError, match=f"^(unknown {name} <object .*>: choose from|{name} <object .*>: must be) \\w"):
        kind(**{name: object()})


@pytest.mark.parametrize(
    ("kind", "name", "value", "give"),
    [
        (CIFAR10DataModule, "batch_size", "128", "must be a whole number"),
        (CIFAR10DataModule, "batch_size", True, "must be a whole number"),
        (CIFAR10DataModule, "eval_batch_size", 2.5, "must be a whole number"),
        (CIFAR10DataModule, "augment", "false", "must be true or false"),
        (CIFAR10DataModule, "val_split", True, "must be a number or text"),
        (CIFAR10DataModule, "data_dir", 5, r"must be text \(in quotes\) or a path$"),
        (LitNet, "lr", "1e-3", "must be a number"),
        (LitNet, "nesterov", "false", "must be true or false"),
        (LitNet, "schedule", [], "choose from constant, one-cycle, cosine, linear"),
        (LitNet, "sizes", [16.5], "must be a list of whole numbers, such as"),
        (LitNet, "classes", "ab", "must be a list of names"),
        (LitNet, "classes", {"dog": 1, "cat": 0}, "must be a list of names"),
        (LitNet, "net", TutorialNet, "must be text .* or a torch.nn.Module"),
        (LitNet, "preprocessing", "cifar10", "must be a Preprocessing or a dictionary"),
    ],
)
def test_values_of_a_similar_type_are_refused(kind, name, value, give):
    with pytest.raises(InputError, match=f"^{'unknown ' * give.startswith('choose')}{name} .*: {give}"):
        kind(**{name: value})


@pytest.mark.parametrize("labels", [np.zeros(100, int), torch.zeros(100), [0] * 100], ids=lambda x: type(x).__name__)
def test_an_array_where_a_file_is_needed_is_told_to_be_saved(labels):
    kind = type(labels).__name__
    said = rf"^train_labels of type {kind}: must be text .* or a path; save an array in a file \(np\.save\) and pass"
    with pytest.raises(InputError, match=said):
        CIFAR10DataModule(train_labels=labels)


def test_numpy_values_are_accepted_and_stored_as_plain_values():
    """Numpy values become Python's in hparams, because weights_only refuses a checkpoint with numpy's own."""
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


def test_sequences_and_paths_are_accepted_and_stored_as_plain_values(tmp_path):
    """Any sequence, such as OmegaConf's, is stored as a list, and any path, such as pytest's, as text."""
    with os.scandir(tmp_path.parent) as places:
        place = next(one for one in places if one.name == tmp_path.name)  # an os.DirEntry: path-like, but not a Path
    data = CIFAR10DataModule(place, mirror=place)
    assert data.hparams["data_dir"] == data.hparams["mirror"] == str(tmp_path)
    model = LitNet(sizes=range(16, 32, 8), classes=UserList(["cat", "dog"]))
    assert (model.hparams["sizes"], model.hparams["classes"]) == ([16, 24], ["cat", "dog"])


class Side(IntEnum):
    LEFT = 1


class OwnData(CIFAR10DataModule):
    def __init__(self, view, times=1, **kwargs):
        super().__init__(**{"source": "synthetic", "synthetic_size": 100, "batch_size": 20, **kwargs})
        self.view, self.times = view, times


class OwnNet(LitNet):
    def __init__(self, view, times=1, **kwargs):
        super().__init__(**{"lr": 0.02, **kwargs})
        self.view, self.times = view, times


def fitted(folder, model, data, epochs, path=None):
    switches = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    trainer = Trainer(max_epochs=epochs, accelerator="cpu", default_root_dir=folder, **switches)
    trainer.fit(model, data, ckpt_path=path)
    return trainer.checkpoint_callback.best_model_path


@pytest.mark.filterwarnings("ignore")  # Lightning's warnings of small fits
@pytest.mark.parametrize(
    "view",
    [
        lambda image: image,
        F.cross_entropy,
        nn.GELU,
        nn.CrossEntropyLoss(label_smoothing=0.1),
        v2.Compose([v2.RandomHorizontalFlip()]),
        Preprocessing((0.5,) * 3, (0.5,) * 3),
        [1, {"of": max}],
        np.array([max]),
        Side.LEFT,
    ],
)
def test_checkpoints_leave_out_code_that_a_subclass_is_given(tmp_path, view):
    """A checkpoint with code could not be written, or `weights_only` would refuse it to a resume, a test or a load."""
    path = fitted(tmp_path, OwnNet(view, times=2), OwnData(view, times=3), 1)
    fitted(tmp_path, OwnNet(view), OwnData(view), 2, path)
    for kind, times in ((OwnNet, 2), (OwnData, 3)):
        loaded = kind.load_from_checkpoint(path, view=view)
        assert (loaded.view, loaded.times, loaded.hparams["times"], "view" in loaded.hparams) == (view, times, times, 0)


PLAIN = [None, True, 2, 0.5, 1j, "text", [1, (2, {3})], {"a": [1]}, OrderedDict(a=1), torch.device("cpu"), torch.int8]
PLAIN += [torch.Size([2, 3]), b"bytes", bytearray(b"bytes"), Counter("abb")]
CONVERTED = [
    (Path("a"), "a"),
    ([np.float32(0.5)], [0.5]),
    (np.array(["a"]), ["a"]),
    (np.arange(3, dtype=">f4"), [0.0, 1.0, 2.0]),  # big-endian, which torch does not have
    ({np.int64(1): Path()}, {1: "."}),
]


@pytest.mark.parametrize("kind", [OwnNet, OwnData])
@pytest.mark.parametrize(("view", "kept"), [*((value, value) for value in PLAIN), *CONVERTED])
def test_checkpoints_keep_plain_values_that_a_subclass_is_given(kind, view, kept):
    torch.save(dict(kind(view).hparams), file := io.BytesIO())
    file.seek(0)
    found = torch.load(file, weights_only=True)["view"]
    assert (found, type(found)) == (kept, type(kept))


@pytest.mark.parametrize("kind", [OwnNet, OwnData])
def test_checkpoints_keep_tensors_and_arrays_that_a_subclass_is_given(kind):
    for view in (torch.ones(3), nn.Parameter(torch.ones(3))):
        assert kind(view).hparams["view"] is view
    for view in (np.eye(3, dtype=np.uint8), np.arange(4.0)[::-1], np.array(True)):
        kept = kind(view).hparams["view"]
        assert isinstance(kept, torch.Tensor)
        assert kept.shape == view.shape
        assert (kept.numpy() == view).all()


class Activated(LitNet):
    def __init__(self, activation=nn.ReLU, **kwargs):
        kind = nn.Tanh if activation == "tanh" else activation
        layers = nn.Flatten(), nn.Linear(3072, 8), kind(), nn.Linear(8, 10)
        super().__init__(nn.Sequential(*layers), **kwargs)


@pytest.mark.filterwarnings("ignore::UserWarning:lightning")
def test_loading_warns_if_a_default_replaces_an_argument_that_was_code(tmp_path):
    path = fitted(tmp_path, Activated(nn.Tanh), OwnData(None), 1)
    with pytest.warns(UserWarning, match="made with its own activation, which a checkpoint cannot store, and this"):
        Activated.load_from_checkpoint(path)
    model = load_model(path, net=Activated(nn.Tanh).net)  # a LitNet with the given network
    assert torch.equal(model.net[1].weight, torch.load(path, weights_only=True)["state_dict"]["net.1.weight"])
    for again in (nn.Tanh, "tanh"):
        Activated.load_from_checkpoint(path, activation=again)  # without a warning
    Activated.load_from_checkpoint(fitted(tmp_path, Activated(), OwnData(None), 1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.5, 0.5), "mean 0.5 and std 0.5: must be three numbers each"),
        (("half", None), "mean half and std None: must be three numbers each"),
        (((0.5,) * 3, (0.5,) * 3, 32.0), "size 32.0: must be a whole number of at least 1"),
    ],
)
def test_preprocessing_refuses_values_of_other_types(arguments, message):
    with pytest.raises(InputError, match=message):
        Preprocessing(*arguments)
