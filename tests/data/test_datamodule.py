"""CIFAR10DataModule: stages, split, sources, hyperparameters, wrong values, and images shared by several runs."""

import shutil
import sys

import numpy as np
import pytest
import torch
from archives import batches, write_archive
from lightning import LightningModule, Trainer
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from torch import nn

from cifar_lightning import CIFAR10DataModule, InputError, LitNet, fake_data, load_model
from cifar_lightning.data.cifar10 import CIFAR100_CLASSES, CIFAR100_MEAN, CIFAR100_STD, CLASSES, MEAN, STD

STAGES = ["fit", "validate", "test", "predict", None]


class TheirModule(LightningModule):
    """A user's module, without any code of this package; counts the images that it gets."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
        self.seen = {"train": 0, "val": 0, "test": 0}

    def _loss(self, batch, stage):
        images, labels = batch
        self.seen[stage] += len(labels)
        loss = nn.functional.cross_entropy(self.net(images), labels)
        self.log(f"{stage}_loss", loss, prog_bar=True)
        return loss

    def training_step(self, batch, batch_idx):
        return self._loss(batch, "train")

    def validation_step(self, batch, batch_idx):
        self._loss(batch, "val")

    def test_step(self, batch, batch_idx):
        self._loss(batch, "test")

    def predict_step(self, batch, batch_idx):
        return self.net(batch[0]).argmax(1)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


def quiet_trainer(**kwargs):
    return Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **kwargs,
    )


# --- with and without a Trainer --------------------------------------------------------------------------


@pytest.mark.parametrize("val_split", [0, 40])
def test_an_unrelated_module_gets_the_images(val_split):
    module, data = TheirModule(), fake_data(200, val_split=val_split)
    trainer = quiet_trainer(max_epochs=2)
    trainer.fit(module, data)
    assert module.seen["train"] == 2 * (200 - val_split)
    if val_split:
        assert module.seen["val"] >= 2 * val_split  # more, because of the sanity check
        trainer.validate(module, data, verbose=False)
    trainer.test(module, data, verbose=False)
    assert module.seen["test"] == 40
    predicted = torch.cat(trainer.predict(module, data))
    assert predicted.shape == (40,)


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_works_twice_without_a_trainer(stage):
    data = fake_data(100, val_split=20)
    for _ in range(2):
        data.prepare_data()
        data.setup(stage)
        loaders = {
            "fit": [data.train_dataloader, data.val_dataloader],
            "validate": [data.val_dataloader],
            "test": [data.test_dataloader],
            "predict": [data.predict_dataloader],
            None: [data.train_dataloader, data.val_dataloader, data.test_dataloader],
        }[stage]
        for loader in loaders:
            x, y = next(iter(loader()))
            assert (x.shape[1:], x.dtype, y.dtype) == (data.dims, torch.float32, torch.int64)
            assert -1 <= x.min() < x.max() <= 1
        data.teardown(stage or "fit")
    assert data.classes == CLASSES
    assert data.num_classes == 10


def test_fake_data_is_the_same_each_time():
    first, second = fake_data(), fake_data()
    for data in (first, second):
        data.setup()
    assert len(first.train_dataloader()) == 10
    assert sum(len(y) for _, y in first.test_dataloader()) == 40
    for (x, y), (u, v) in zip(first.train_dataloader(), second.train_dataloader(), strict=True):
        assert torch.equal(x, u)
        assert torch.equal(y, v)


# --- the validation split --------------------------------------------------------------------------------


@pytest.mark.parametrize(("val_split", "count"), [(50, 50), (0.25, 50), (7, 7), (0, 0), (0.0, 0)])
def test_val_split_is_a_count_or_a_fraction_and_stratified(val_split, count):
    data = fake_data(200, val_split=val_split)
    data.setup("fit")
    train, val = data.train_indices, data.val_indices
    assert len(val) == count
    assert sorted([*train.tolist(), *val.tolist()]) == list(range(200))
    per_class = torch.bincount(data.image_set("train").labels[val], minlength=10)
    assert per_class.max() - per_class.min() <= 1
    assert sum(len(y) for _, y in data.val_dataloader()) == count


def test_folds_hold_out_every_image_once_and_are_stratified():
    """Folds hold out every image once, with every class's share to within an image; `split_seed` changes them."""
    parts = [fake_data(207, val_split=f"{number}of5") for number in range(1, 6)]
    held_out = [data.val_indices for data in parts]
    assert sorted(torch.cat(held_out).tolist()) == list(range(207))
    for data, fold in zip(parts, held_out, strict=True):
        assert sorted([*data.train_indices.tolist(), *fold.tolist()]) == list(range(207))
        counts = torch.bincount(data.image_set("train").labels)
        shares = torch.bincount(data.image_set("train").labels[fold], minlength=10)
        assert ((shares - counts / 5).abs() < 1).all()
    assert not torch.equal(held_out[0], fake_data(207, val_split="1of5", split_seed=1).val_indices)
    for wrong in ("0of5", "6of5", "1of1", "1/5", "one"):
        with pytest.raises(InputError, match=f"val_split {wrong}: must be a count, a fraction"):
            CIFAR10DataModule(source="synthetic", val_split=wrong)


def test_the_split_depends_on_split_seed_not_on_seed():
    def held_out(**kwargs):
        data = fake_data(200, val_split=50, **kwargs)
        data.setup("fit")
        return data.val_indices.tolist()

    assert held_out(seed=1) == held_out(seed=2)
    assert held_out(split_seed=1) != held_out(split_seed=2)


def test_the_split_is_stratified_for_unequal_classes(tmp_path):
    write_folders(tmp_path, {"a": 40, "b": 20, "c": 4})
    data = CIFAR10DataModule(tmp_path, source="folder", val_split=0.25)
    data.prepare_data()
    data.setup("fit")
    assert torch.bincount(data.image_set("train").labels[data.val_indices]).tolist() == [10, 5, 1]
    half = data.image_set("train").labels[data.val_indices[:8]]  # for a validation on some of them
    assert torch.bincount(half, minlength=3).tolist() in ([5, 3, 0], [5, 2, 1])


def test_normalize_takes_only_uint8():
    data, images = fake_data(20), torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    for wrong in (images / 255, images.long()):
        with pytest.raises(InputError, match="pass uint8"):
            data.normalize(wrong)
    assert torch.equal(data.normalize(images[0]), data.normalize(images[:1]))


def test_validation_images_are_not_augmented():
    plain, augmented = (fake_data(200, val_split=50, augment=augment) for augment in (False, True))
    for data in (plain, augmented):
        data.setup("fit")
    for (x, y), (u, v) in zip(plain.val_dataloader(), augmented.val_dataloader(), strict=True):
        assert torch.equal(x, u)
        assert torch.equal(y, v)
    x, u = next(iter(plain.train_dataloader()))[0], next(iter(augmented.train_dataloader()))[0]
    assert not torch.equal(x, u)


# --- the sources -----------------------------------------------------------------------------------------


def write_folders(root, counts, size=32):
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name, count in counts.items():
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i:04}.png")


@pytest.mark.parametrize(("source", "classes"), [("cifar10", CLASSES), ("cifar100", CIFAR100_CLASSES)])
def test_official_archives_are_read_and_normalised(tmp_path, source, classes):
    digest = write_archive(tmp_path / "archive.tar.gz", source=source, classes=len(classes))
    data = CIFAR10DataModule(tmp_path / "archive.tar.gz", source=source, sha256=digest, normalization="dataset")
    data.prepare_data()
    data.setup()
    assert data.classes == classes
    assert data.num_classes == len(classes)
    name = {"cifar10": "test_batch", "cifar100": "test"}[source]
    pixels = batches(source=source, classes=len(classes))[name]["data"].reshape(-1, 3, 32, 32) / 255
    mean, std = {"cifar10": (MEAN, STD), "cifar100": (CIFAR100_MEAN, CIFAR100_STD)}[source]
    expected = (pixels - np.array(mean).reshape(3, 1, 1)) / np.array(std).reshape(3, 1, 1)
    ours = torch.cat([x for x, _ in data.test_dataloader()])
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-5)


def test_class_folders_are_read_and_scaled(tmp_path):
    write_folders(tmp_path, {"dog": 3, "cat": 5}, size=20)
    data = CIFAR10DataModule(tmp_path, source="folder", batch_size=4)
    data.prepare_data()
    data.setup()
    assert data.classes == ("cat", "dog")
    assert sum(len(y) for _, y in data.test_dataloader()) == 8
    x, _ = next(iter(data.train_dataloader()))
    assert x.shape == (4, 3, 32, 32)


@pytest.mark.parametrize("normalization", ["half", "dataset"])
def test_normalize_gives_the_images_of_the_loaders(normalization):
    data = fake_data(50, normalization=normalization)
    data.setup("test")
    ours = data.normalize(data.image_set("test").images)
    assert torch.equal(ours, torch.cat([x for x, _ in data.test_dataloader()]))


def test_a_resumed_run_refuses_other_images():
    data = fake_data(200)
    data.setup("fit")
    state = data.state_dict()
    fake_data(200).check_images(state)
    with pytest.raises(InputError, match="are not the ones that the run began with"):
        fake_data(210).check_images(state)


def test_a_checkpoint_saved_after_a_test_needs_no_training_images(tmp_path):
    write_folders(tmp_path, {"dog": 8, "cat": 8}, size=32)
    data, trainer = CIFAR10DataModule(tmp_path, source="folder", batch_size=4), quiet_trainer()
    trainer.test(LitNet(classes=["cat", "dog"]), data, verbose=False)
    shutil.rmtree(tmp_path / "train")
    trainer.save_checkpoint(tmp_path / "it.ckpt")
    assert "CIFAR10DataModule" not in torch.load(tmp_path / "it.ckpt", weights_only=True)


def test_load_from_checkpoint_needs_no_images(tmp_path):
    write_folders(tmp_path / "here", {"dog": 8, "cat": 8}, size=32)
    data = CIFAR10DataModule(tmp_path / "here", source="folder", batch_size=4)
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(LitNet(classes=["cat", "dog"]), data)
    trainer.save_checkpoint(tmp_path / "it.ckpt")
    (tmp_path / "here").rename(tmp_path / "elsewhere")
    assert CIFAR10DataModule.load_from_checkpoint(tmp_path / "it.ckpt").hparams["batch_size"] == 4


def test_hparams_are_the_modules_own_arguments(tmp_path):
    """`hparams` have no arguments of a constructor that calls this one, although Lightning would add them."""

    class Own(CIFAR10DataModule):
        def __init__(self, folder, batch_size=32, val_split="none"):
            super().__init__(folder, batch_size=batch_size * 2, val_split=0.1, source="synthetic")

    class Module(LightningModule):
        def __init__(self, batch_size=7, seed=99, flip="no such"):
            super().__init__()
            self.data = fake_data(100, batch_size=10, val_split=20)
            self.net = LitNet(momentum=0.5)

    class Net(LitNet):
        def __init__(self, depth, lr=1.0, temperature=1.0, **kwargs):
            super().__init__(lr=lr / 2, **kwargs)

    own, module, net = Own(tmp_path), Module(), Net(3, temperature=5.0, momentum=0.5)
    assert own.hparams["batch_size"] == 64
    assert own.hparams["val_split"] == 0.1
    assert own.hparams["data_dir"] == str(tmp_path)
    assert (module.data.hparams["seed"], module.data.hparams["flip"]) == (0, "random")
    assert set(module.data.hparams) == set(fake_data().hparams)
    assert set(module.net.hparams) == set(LitNet().hparams)
    assert net.hparams["lr"] == 0.5
    # A checkpoint also has a subclass's own arguments, or the subclass could not be loaded.
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(net, fake_data(40))
    trainer.save_checkpoint(tmp_path / "it.ckpt")
    loaded = Net.load_from_checkpoint(tmp_path / "it.ckpt")
    assert [loaded.hparams[name] for name in ("depth", "temperature", "momentum")] == [3, 5.0, 0.5]
    assert "kwargs" not in loaded.hparams


def test_the_module_may_have_hyperparameters_of_the_same_names(tmp_path):
    class Theirs(LitNet):
        def __init__(self, batch_size=64, seed=None):
            super().__init__()
            self.save_hyperparameters()

    data = fake_data(60)
    trainer = Trainer(
        max_epochs=1, logger=CSVLogger(tmp_path), accelerator="cpu", enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1,
    )  # fmt: skip
    trainer.fit(Theirs(), data)
    assert trainer.global_step == 3


def test_a_sample_has_no_held_out_image():
    data = fake_data(100, val_split=0.5)
    train = data.normalize(data.image_set("train").images[data.train_indices])
    sample = data.sample(1_000)
    assert torch.equal(sample, train)


def test_repr_is_an_expression_that_makes_the_same_module():
    data = fake_data(50, val_split=0.2)
    again = eval(str(data))
    assert again.hparams == data.hparams
    data.setup()
    assert repr(data) == str(data) == str(again)


# --- wrong values ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("batch_size", 0, "batch_size 0: must be at least 1"),
        ("data_dir", "s3://mine/cifar", "data_dir s3://mine/cifar: must be a folder or file on this machine; pass"),
        ("eval_batch_size", 0, "eval_batch_size 0: must be at least 1"),
        ("val_split", -1, "val_split -1: must be a count, a fraction of at least 0 and below 1, or a fold"),
        ("val_split", 1.0, "val_split 1.0: must be a count, a fraction of at least 0 and below 1, or a fold"),
        ("val_split", float("nan"), "val_split nan: must be a count, a fraction"),
        ("crop_padding", 32, "crop_padding 32: must be from 0 to 31"),
        ("device", "gpu", "device gpu: must be a torch device, such as cpu or cuda"),
        ("synthetic_size", 5, "synthetic_size 5: must be at least 10"),
        (
            "source",
            "imagenet",
            "unknown source 'imagenet': choose from cifar10, cifar100, cifar100-coarse, folder, synthetic",
        ),
        ("flip", "upwards", "unknown flip 'upwards': choose from none, random, alternating"),
        ("normalization", "whole", "unknown normalization 'whole': choose from half, dataset, cifar10"),
    ],
)
def test_values_out_of_range_are_refused(name, value, message):
    with pytest.raises(InputError, match=message):
        CIFAR10DataModule(**{"source": "synthetic", name: value})


@pytest.mark.parametrize(
    ("val_split", "message"),
    [
        (100, "val_split 100 leaves none of the 100 training images: use a smaller val_split"),
        (0.004, "val_split 0.004 holds out none of the 100 training images: use a larger val_split, or 0"),
    ],
)
def test_a_split_that_leaves_or_holds_out_nothing_is_refused(val_split, message):
    data = fake_data(100, val_split=val_split)
    data.setup("fit")
    with pytest.raises(InputError, match=message):
        data.train_dataloader()


# --- LightningCLI ----------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")  # Lightning warns about its own defaults
def test_a_plain_lightningcli_trains(tmp_path, monkeypatch):
    flags = ["fit", "--data.source", "synthetic", "--data.synthetic_size", "200", "--data.val_split", "50"]
    flags += [
        "--model.net",
        "tutorial",
        "--model.lr",
        "0.01",
        "--trainer.max_epochs",
        "1",
        "--trainer.accelerator",
        "cpu",
    ]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["program.py", *flags])
    LightningCLI(LitNet, CIFAR10DataModule, save_config_callback=None)
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    assert load_model(checkpoint).hparams["lr"] == 0.01


def test_runs_share_one_bordered_copy_of_the_images():
    """Modules with the same images, split and padding share one bordered copy; it does not change any batch."""
    arguments = {"size": 100, "augment": True, "crop_padding": 2}
    first = fake_data(**arguments)
    first.keep_bordered()
    kept = first.train_dataloader().images
    for changes, shares in (({"seed": 1}, True), ({"crop_padding": 3}, False), ({"val_split": 0.2}, False)):
        alone, other = (fake_data(**{**arguments, **changes}) for _ in range(2))
        other.share(first)
        loader = other.train_dataloader()
        assert (loader.images.data_ptr() == kept.data_ptr()) is shares
        assert torch.equal(next(iter(loader))[0], next(iter(alone.train_dataloader()))[0])


def test_count_as_renumbers_labels_and_changes_the_fingerprint():
    """`count_as` changes labels and fingerprint in the same way before and after the images have been used."""
    order = CLASSES[::-1]
    first, then = fake_data(100), fake_data(100)
    labels = torch.cat([labels for _, labels in first.train_dataloader()])
    before = first.fingerprint
    first.setup("fit")
    for data in (first, then):
        data.count_as(order)
    anew = torch.cat([labels for _, labels in first.train_dataloader()])
    assert torch.equal(anew, 9 - labels)
    assert first.fingerprint == then.fingerprint != before


@pytest.mark.parametrize("val_split", [30, "2of5"])
def test_count_as_changes_the_split(val_split):
    """After `count_as` the split is by the new class numbers, even if it or the bordered images were made before."""
    first, then, shared = (fake_data(100, val_split=val_split, augment=True) for _ in range(3))
    before = first.val_indices
    first.keep_bordered()
    assert len(shared.val_indices) == len(before)
    for data in (first, then):
        data.count_as(CLASSES[::-1])
    shared.share(first)
    assert not torch.equal(then.val_indices, before)
    expected = list(then.train_dataloader())
    for data in (first, shared):
        assert torch.equal(data.val_indices, then.val_indices)
        assert torch.equal(data.train_indices, then.train_indices)
        for ours, theirs in zip(data.train_dataloader(), expected, strict=True):
            assert torch.equal(ours[0], theirs[0])
            assert torch.equal(ours[1], theirs[1])


@pytest.mark.parametrize("layout", ["folders", "arrays", "val_split"])
def test_a_class_without_training_images_is_refused(tmp_path, layout):
    counts = {"cat": 4, "dog": 4} if layout == "folders" else {"cat": 4, "dog": 1}
    if layout == "arrays":
        pixels = np.zeros((6, 32, 32, 3), np.uint8)
        parts = {"train": [0] * 6, "val": [0, 1] * 3, "test": [0, 1] * 3}
        content = {f"{x}_{split}": value for split, y in parts.items() for x, value in (("x", pixels), ("y", y))}
        np.savez(tmp_path / "a.npz", **content, classes=["cat", "dog"])
    else:
        write_folders(tmp_path, counts)
    if layout == "folders":
        (tmp_path / "train" / "dog").rename(tmp_path / "dog")
        (tmp_path / "train" / "dog").mkdir()
        shutil.copytree(tmp_path / "train" / "cat", tmp_path / "val" / "cat")
        (tmp_path / "dog").rename(tmp_path / "val" / "dog")
    val_split = 0.8 if layout == "val_split" else 0
    data = CIFAR10DataModule(tmp_path, source="folder", val_split=val_split, batch_size=1)
    message = f"data_dir {tmp_path} has no training images of the class dog: add some, or remove the class"
    if layout == "val_split":
        message = "val_split 0.8 holds out all training images of the class dog: use a smaller val_split"
    with pytest.raises(InputError, match=f"^{message}$"):
        data.check()


def test_a_batch_size_for_more_ranks_replaces_one_that_is_too_small(monkeypatch):
    data = fake_data(100, batch_size=4)
    data.train_dataloader()
    monkeypatch.setattr("cifar_lightning.data.loader.BatchLoader.world_size", 8)
    data.batch_size = 8
    assert len(data.train_dataloader()) > 0
