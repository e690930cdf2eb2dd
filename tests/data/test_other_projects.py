"""The data module in other people's projects: their modules, their loops, their datasets."""

import itertools

import numpy as np
import pytest
import pytorch_lightning  # lightning brings it
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader, Subset
from torchvision.transforms import v2

from cifar_lightning import CIFAR10DataModule, InputError, LitNet, fake_data
from cifar_lightning.errors import ImageWarning


class Flat(LightningModule):
    """A user's module whose `view` needs contiguous batches."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3 * 32 * 32, 10)

    def training_step(self, batch, batch_idx):
        images, labels = batch
        return nn.functional.cross_entropy(self.layer(images.view(images.size(0), -1)), labels)

    validation_step = test_step = training_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


class Laid(Flat):
    """A user's module that prefers channels_last, in which the images are stored."""

    channels_last = True

    def training_step(self, batch, batch_idx):
        assert batch[0].is_contiguous(memory_format=torch.channels_last)
        return nn.functional.cross_entropy(self.layer(batch[0].flatten(1)), batch[1])

    validation_step = test_step = training_step


@pytest.mark.parametrize("kind", [Flat, Laid])
def test_batches_have_the_memory_format_that_the_module_needs(tmp_path, kind):
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = Trainer(max_epochs=1, accelerator="cpu", log_every_n_steps=1, default_root_dir=tmp_path, **quiet)
    images = fake_data(100, val_split=20, augment=True, cutout=4)
    module = kind()
    trainer.fit(module, images)
    trainer.test(module, images, verbose=False)


def test_batches_are_equal_in_both_memory_formats():
    contiguous, laid = (fake_data(100, augment=True) for _ in range(2))
    laid.channels_last = True
    for (x, y), (u, v) in zip(contiguous.train_dataloader(), laid.train_dataloader(), strict=True):
        assert x.is_contiguous()
        assert u.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(x, u)
        assert torch.equal(y, v)


@pytest.mark.parametrize(("source", "count"), [("cifar10", 10), ("cifar100", 100), ("synthetic", 10)])
def test_classes_and_dims_are_known_without_the_images(tmp_path, source, count):
    images = CIFAR10DataModule(tmp_path / "none", source=source)
    assert (images.num_classes, len(images.classes), images.dims) == (count, count, (3, 32, 32))
    assert not (tmp_path / "none").exists()


def test_dataset_works_like_torchvisions(tmp_path):
    images = fake_data(100)
    train, test = images.dataset("train"), images.dataset("test", transform=v2.PILToTensor())
    assert (len(train), len(test), train.classes) == (100, 20, list(images.classes))
    picture, label = train[7]
    assert np.array_equal(np.asarray(picture), images.image_set("train").images[7].permute(1, 2, 0))
    assert (type(label), label) == (int, train.targets[7])
    assert train.class_to_idx["frog"] == 6
    loader = DataLoader(Subset(test, range(5, 15)), batch_size=10)
    (batch, labels) = next(iter(loader))
    assert torch.equal(batch, images.image_set("test").images[5:15])
    assert labels.tolist() == test.targets[5:15]
    picture.putpixel((0, 0), (1, 2, 3))  # only a copy is changed
    assert np.array_equal(np.asarray(train[7][0]), images.image_set("train").images[7].permute(1, 2, 0))


@pytest.mark.parametrize("alone", [True, False])
def test_loaders_have_a_dataset(tmp_path, alone):
    images = fake_data(100, val_split=20, augment=True, seed=3)
    images.setup()
    if not alone:
        images.trainer = Trainer(accelerator="cpu", default_root_dir=tmp_path, logger=False)
        images.trainer.strategy.connect(Flat())
    for name, index in (("train", images.train_indices), ("val", images.val_indices), ("test", images.test_indices)):
        loader = getattr(images, f"{name}_dataloader")()
        image_set = images.image_set("test" if name == "test" else "train")
        dataset = loader.dataset
        assert (len(dataset), dataset.targets) == (len(index), image_set.labels[index].tolist())
        assert dataset.classes == list(images.classes)
        image, label = dataset[5]
        assert torch.equal(image, images.normalize(image_set.images[index[5]])[0])
        assert label == dataset.targets[5]
        assert np.array_equal(dataset.data[5], image_set.images[index[5]].permute(1, 2, 0))


def test_a_trainer_that_is_given_our_loaders_does_not_warn_about_workers(tmp_path, monkeypatch):
    """A Trainer does not advise more workers for our loaders, not even for one that it re-creates to predict."""
    # Warnings are errors in these tests. Lightning gives this one only if there are more than two cores; it re-creates
    # loaders for ranks, too.
    monkeypatch.setattr("lightning.fabric.utilities.data._num_cpus_available", lambda: 8)
    images, module = fake_data(100, val_split=20), Flat()
    images.setup()
    quiet = dict.fromkeys(["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False)
    trainer = Trainer(max_epochs=1, accelerator="cpu", default_root_dir=tmp_path, log_every_n_steps=1, **quiet)
    trainer.fit(module, images.train_dataloader(), images.val_dataloader())
    trainer.test(module, images.test_dataloader(), verbose=False)
    module.predict_step = lambda batch, batch_idx: batch[1]
    labels = torch.cat(trainer.predict(module, images.predict_dataloader()))
    assert labels.tolist() == images.test_dataloader().dataset.targets


@pytest.mark.parametrize("evaluation", [False, True])
def test_a_rebuilt_training_loader_is_refused(evaluation):
    """A DataLoader rebuilt from ours, as accelerate's `prepare` does, evaluates, but refuses to train unshuffled."""
    images = fake_data(100, augment=True)
    loader = images.test_dataloader() if evaluation else images.train_dataloader()
    anew = DataLoader(loader.dataset, batch_sampler=loader.batch_sampler)
    if evaluation:
        assert torch.equal(torch.cat([y for _, y in anew]), torch.cat([y for _, y in loader]))
    else:
        said = r"would neither shuffle nor augment: iterate over train_dataloader\(\) itself, or use DataLoader\("
        with pytest.raises(InputError, match=said):
            next(iter(anew))


def test_without_val_split_the_validation_loader_is_empty(tmp_path):
    """Without `val_split` the validation loader is empty; a fit does not mention it, but `Trainer.validate` warns."""
    images = fake_data(40)
    assert list(images.val_dataloader()) == []
    assert (len(images.val_dataloader()), len(images.val_dataloader().dataset)) == (0, 0)
    quiet = dict.fromkeys(["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False)
    trainer = Trainer(max_epochs=1, accelerator="cpu", default_root_dir=tmp_path, log_every_n_steps=1, **quiet)
    trainer.fit(Flat(), images)
    line = r"^there are no images to validate on: pass val_split, for example 0.1$"
    with pytest.warns(ImageWarning, match=line) as said:
        assert trainer.validate(Flat(), images, verbose=False) == []
    assert [warning.category for warning in said if "validate on" in str(warning.message)] == [ImageWarning]
    trainer.fit(Flat(), images)  # again
    images.val_split = 0.1
    assert len(trainer.validate(Flat(), images, verbose=False)) == 1


def test_the_users_own_network_may_view_its_images(tmp_path):
    class Viewing(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3 * 32 * 32, 10)

        def forward(self, images):
            return self.layer(images.view(images.size(0), -1))

    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = Trainer(max_epochs=1, accelerator="cpu", default_root_dir=tmp_path, **quiet)
    model, images = LitNet(Viewing(), test_views="mirror"), fake_data(1_000, val_split=100)
    trainer.fit(model, images)
    trainer.test(model, images, verbose=False)
    labels, _ = model.predict(images.image_set("test").images)
    assert labels.tolist() == model.last_evaluation["predicted"].tolist()


class Theirs(pytorch_lightning.LightningModule):
    """A user's module of the package that has lightning.pytorch's code under its older name."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3 * 32 * 32, 10)
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append(batch)
        return nn.functional.cross_entropy(self.layer(batch[0].flatten(1)), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_acc", (self.layer(batch[0].flatten(1)).argmax(1) == batch[1]).float().mean())

    test_step = validation_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.fixture
def their_trainer(tmp_path):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return pytorch_lightning.Trainer(
        max_epochs=5, accelerator="cpu", default_root_dir=tmp_path, enable_model_summary=False, **quiet
    )


def test_pytorch_lightnings_trainer_takes_the_loaders(their_trainer):
    """Every epoch has the batches that a plain loop gets, in a new order, and the validation is of all images."""
    images, module = fake_data(500, val_split=100, augment=True), Theirs()
    their_trainer.fit(module, images.train_dataloader(), images.val_dataloader())
    loader = fake_data(500, val_split=100, augment=True).train_dataloader()
    expected = [batch for _ in range(5) for batch in loader]
    assert all(
        torch.equal(x, y) for x, y in zip(itertools.chain(*module.seen), itertools.chain(*expected), strict=True)
    )
    held_out = images.image_set("train")
    found = module.layer(images.normalize(held_out.images[images.val_indices]).flatten(1)).argmax(1)
    accuracy = (found == held_out.labels[images.val_indices]).float().mean()
    assert their_trainer.callback_metrics["val_acc"] == accuracy


@pytest.mark.parametrize(
    "use",
    [
        lambda trainer, images: trainer.fit(Theirs(), datamodule=images),
        lambda trainer, images: trainer.fit(Theirs(), images),
        lambda trainer, images: trainer.test(Theirs(), images),
    ],
)
@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")
def test_pytorch_lightnings_trainer_is_refused_in_plain_words(their_trainer, use):
    with pytest.raises(InputError, match=r"from lightning\.pytorch.* pass .*data\.train_dataloader\(\)"):
        use(their_trainer, fake_data(100, val_split=20))


def test_a_data_module_in_place_of_its_loader_is_refused():
    with pytest.raises(InputError, match="not a loader: iterate over data"):
        next(iter(fake_data(100)))
