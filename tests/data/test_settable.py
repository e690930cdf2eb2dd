"""The data module's arguments as attributes that can be set, and arguments that it does not have."""

import os
import re
import sys

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import BatchSizeFinder
from lightning.pytorch.tuner import Tuner
from torch import nn
from torch.utils.data import DataLoader, SequentialSampler, Subset
from torchvision.transforms import v2

from cifar_lightning import CIFAR10DataModule, InputError, LitNet, fake_data
from cifar_lightning.data.absent import TRANSFORMS, WHY

OTHER = {
    "batch_size": 10, "val_split": 50, "augment": True, "normalization": "cifar10", "eval_batch_size": 3, "seed": 3,
    "split_seed": 4, "synthetic_size": 120, "train_transforms": v2.RandomInvert(1),
    "val_transforms": v2.RandomInvert(1), "test_transforms": v2.RandomInvert(1),
}  # fmt: skip


def contents(data):
    loaders = data.train_dataloader(), data.val_dataloader(), data.test_dataloader()
    return [[(x[..., :16].double().sum().item(), y.tolist()) for x, y in loader] for loader in loaders]


def drawn(**changes):
    arguments = {"source": "synthetic", "synthetic_size": 200, "batch_size": 20, "val_split": 20}
    return CIFAR10DataModule(**{**arguments, **changes})


@pytest.mark.parametrize(
    ("name", "through"),
    [(name, "attributes") for name in OTHER] + [(name, "hparams") for name in OTHER if "transforms" not in name],
)
def test_an_argument_that_is_set_later_takes_effect(name, through):
    data, expected = drawn(), drawn(**{name: OTHER[name]})
    assert contents(data) != contents(expected)
    setattr(data if through == "attributes" else data.hparams, name, OTHER[name])
    assert contents(data) == contents(expected)  # the second epoch of both
    assert getattr(data, name) == OTHER[name]
    assert data.hparams == expected.hparams
    assert data.preprocessing == expected.preprocessing


@pytest.mark.parametrize("name", ["crop_padding", "flip", "cutout"])
def test_augmentation_that_is_set_later_takes_effect(name):
    value = {"crop_padding": 2, "flip": "alternating", "cutout": 8}[name]
    data, expected = fake_data(100, augment=True), fake_data(100, augment=True, **{name: value})
    assert contents(data) != contents(expected)
    setattr(data, name, value)
    assert contents(data) == contents(expected)


def test_a_data_dir_and_source_that_are_set_later_take_effect(tmp_path):
    data = CIFAR10DataModule(tmp_path / "no")
    data.data_dir, data.source, data.sha256 = tmp_path, "folder", None
    assert (data.data_dir, data.hparams["data_dir"]) == (str(tmp_path), str(tmp_path))
    with pytest.raises(InputError, match=f"data_dir {tmp_path} has no folder train/"):
        data.prepare_data()
    data.source = "synthetic"
    data.prepare_data()
    assert len(data.image_set("train").labels) == 10_000


def test_all_arguments_are_attributes():
    data = fake_data(50)
    assert {name: getattr(data, name) for name in data.hparams} == data.hparams
    assert (data.train_transforms, data.val_transforms, data.test_transforms) == (None, None, None)


def test_the_error_on_a_misspelt_attribute_suggests_the_right_name(capsys):
    """The error names a misspelt attribute, not a property that uses it, and Python suggests the right name."""

    class Own(CIFAR10DataModule):
        @property
        def batches(self):
            return self.batchsize

    data = Own(source="synthetic")
    for name in ("batchsize", "batches"):
        with pytest.raises(AttributeError, match="'Own' object has no attribute 'batchsize'") as error:
            getattr(data, name)
        sys.__excepthook__(error.type, error.value, None)
        assert re.search(r"Did you mean(: '|\s'\.)batch_size'", capsys.readouterr().err)  # before and since Python 3.15
    assert data._images.sets == {}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("batch_size", 0, "batch_size 0: must be at least 1"),
        ("flip", "alternating", "flip alternating: requires augment true; otherwise use random"),
        ("val_split", 1.5, "val_split 1.5: must be a count, a fraction of at least 0 and below 1, or a fold"),
        ("sha256", "zz", "sha256 'zz' is not a SHA-256 digest"),
        ("batch_size", 20.0, "batch_size 20.0: must be a whole number"),  # although 20.0 equals 20
        ("train_transforms", "RandAugment", "train_transforms 'RandAugment': must be a callable"),
    ],
)
def test_an_invalid_value_is_refused_and_the_old_one_kept(name, value, message):
    data = fake_data(50, val_split=10)
    before, batches = getattr(data, name), contents(data)
    with pytest.raises(InputError, match=message):
        setattr(data, name, value)
    assert getattr(data, name) == before
    data.setup("fit")
    assert contents(data) == batches
    if name in data.hparams:  # a plain dictionary: checked on the next use
        data.hparams[name] = value
        with pytest.raises(InputError, match=message):
            data.train_dataloader()


@pytest.mark.parametrize("name", WHY)
def test_arguments_of_other_data_modules_are_refused_with_a_reason(name):
    data = fake_data(50)
    said = f"{name} is not an argument of CIFAR10DataModule: {WHY[name]}"
    for attempt in (lambda: CIFAR10DataModule(**{name: 4}), lambda: setattr(data, name, 4)):
        with pytest.raises(InputError, match=f"^{re.escape(said)}$"):
            attempt()


@pytest.mark.parametrize(
    ("kind", "name", "said"),
    [
        (CIFAR10DataModule, "batchsize", "did you mean batch_size?"),
        (CIFAR10DataModule, "train_transform", "did you mean train_transforms?"),
        (CIFAR10DataModule, "test_transform", "did you mean test_transforms?"),
        (CIFAR10DataModule, "test_batch_size", "did you mean eval_batch_size?"),
        (CIFAR10DataModule, "root", "did you mean data_dir?"),
        (CIFAR10DataModule, "beyond", "choose from data_dir, batch_size, source, "),
        (LitNet, "learning_rate", "did you mean lr?"),
        (LitNet, "num_classes", "did you mean classes?"),
        (LitNet, "network", "did you mean net?"),
        (LitNet, "weightdecay", "did you mean weight_decay?"),
        (LitNet, "beyond", "choose from net, width, lr, "),
    ],
)
def test_the_error_on_an_unknown_argument_suggests_the_nearest(kind, name, said):
    class Own(kind):
        def __init__(self, batch_size=4, **others):
            super().__init__(**others)

    for make in (kind, Own):
        with pytest.raises(InputError, match=f"^{name} is not an argument of {kind.__name__}: {re.escape(said)}"):
            make(**{name: 4})


def test_other_sizes_and_loaders_work_as_the_messages_say():
    """Other image sizes and other loaders work in the way that the messages on absent arguments recommend."""
    larger = v2.Compose([v2.Resize(64), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.5] * 3)])
    data = fake_data(100, val_split=20, **dict.fromkeys(TRANSFORMS, larger))
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        assert next(iter(loader))[0].shape[1:] == (3, 64, 64)
    floats = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    chosen = DataLoader(data.dataset("train", floats), batch_size=5, sampler=SequentialSampler(range(10)))
    assert torch.cat([y for _, y in chosen]).tolist() == data.image_set("train").labels[:10].tolist()


def test_the_error_on_split_val_says_how_to_get_the_held_out_images():
    data = fake_data(100, val_split=20)
    for ask in (data.image_set, data.dataset):
        with pytest.raises(
            InputError, match=r"unknown split 'val': use train, .*: Subset\(data\.dataset\(\"train\"\), data\.v"
        ):
            ask("val")
        with pytest.raises(InputError, match=r"unknown split 'all': use train or test$"):
            ask("all")
    held_out = Subset(data.dataset("train"), data.val_indices)
    assert [label for _, label in held_out] == torch.cat([y for _, y in data.val_dataloader()]).tolist()


def test_a_subclass_may_have_its_own_attributes_and_arguments():
    class Own(CIFAR10DataModule):
        def __init__(self, num_workers=2, batch_size=40):
            self.batch_size = batch_size * 2
            super().__init__(source="synthetic", synthetic_size=200, batch_size=batch_size)
            self.num_workers = num_workers

    own = Own()
    assert (own.num_workers, own.batch_size, len(own.train_dataloader())) == (2, 40, 5)
    own.batch_size = 20
    assert (own.batch_size, own.hparams["batch_size"], len(own.train_dataloader())) == (20, 20, 10)


class Theirs(LightningModule):
    """A module that does not ask for the number of steps, so a search begins before there is a loader."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3072, 10)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.layer(batch[0].flatten(1)), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


def searcher(folder, **kwargs):
    switches = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    return Trainer(max_epochs=1, accelerator="cpu", default_root_dir=folder, **dict.fromkeys(switches, False), **kwargs)


@pytest.mark.filterwarnings("ignore")  # Lightning warns about small fits
@pytest.mark.parametrize("options", [{}, {"mode": "binsearch"}, {"max_val": 32}])
def test_scale_batch_size_ends_with_one_that_fits(tmp_path, options):
    data, trainer = fake_data(20, batch_size=4), searcher(tmp_path)
    Tuner(trainer).scale_batch_size(Theirs(), datamodule=data, init_val=8, **options)
    assert data.batch_size == data.hparams["batch_size"] == (19 if options.get("mode") else 20)
    trainer.fit(Theirs(), data)
    assert os.listdir(tmp_path) == []


@pytest.mark.filterwarnings("ignore")
def test_batchsizefinder_ends_with_a_batch_size_that_fits(tmp_path):
    data = fake_data(20, batch_size=4)
    searcher(tmp_path, callbacks=[BatchSizeFinder(init_val=8)]).fit(Theirs(), data)
    assert data.batch_size == 20
    assert os.listdir(tmp_path) == []
    data.batch_size = 128  # outside a search it is not reduced
    with pytest.raises(InputError, match="batch_size 128 is more than the 20 training images: use at most 20"):
        searcher(tmp_path).fit(Theirs(), data)


def test_seed_everything_sets_the_default_seed(monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")  # so that monkeypatch restores it
    seed_everything(7, verbose=False)
    assert (fake_data().seed, fake_data().hparams["seed"], fake_data(seed=0).seed) == (7, 7, 0)
    assert contents(fake_data(60)) == contents(fake_data(60, seed=7)) != contents(fake_data(60, seed=0))
    monkeypatch.setenv("PL_GLOBAL_SEED", "seven")
    with pytest.raises(InputError, match="PL_GLOBAL_SEED 'seven' is not a whole number: set it to one, or pass seed"):
        fake_data()
    monkeypatch.delenv("PL_GLOBAL_SEED")
    assert fake_data().seed == 0
