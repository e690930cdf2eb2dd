"""Tests that a model knows its images' preprocessing, and classifies no images that were prepared differently."""

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from cifar_lightning import CIFAR10DataModule, InputError, LitNet, Preprocessing, fake_data, load_model
from cifar_lightning.data.cifar10 import CIFAR100_MEAN, CIFAR100_STD, MEAN, STD
from cifar_lightning.errors import ImageWarning

HALF = {"mean": [0.5] * 3, "std": [0.5] * 3, "size": 32}
OTHER = "was trained on images with mean .0.4914.* these have mean .0.5.*normalization='cifar10'"


def new_trainer(path, **kwargs):
    options = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return Trainer(**{**options, "max_epochs": 1, "default_root_dir": path, "num_sanity_val_steps": 0, **kwargs})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Trains with a stock Trainer and CIFAR-10's own mean and std; returns the path of the checkpoint."""
    path = tmp_path_factory.mktemp("trained")
    data = fake_data(200, normalization="dataset", val_split=40)
    trainer = new_trainer(path, limit_train_batches=2)
    trainer.fit(LitNet(net="speed54", width=4), data)
    trainer.save_checkpoint(path / "it.ckpt")
    return path / "it.ckpt"


def test_a_checkpoint_holds_the_preprocessing(trained):
    kept = torch.load(trained, weights_only=True)["hyper_parameters"]["preprocessing"]
    assert kept == {"mean": list(MEAN), "std": list(STD), "size": 32}
    for model in (load_model(trained), LitNet.load_from_checkpoint(trained)):
        assert model.preprocessing == Preprocessing(MEAN, STD)
        assert model.classes == list(fake_data().classes)


def test_uint8_images_are_normalised_as_in_the_training(trained):
    model, data = load_model(trained), fake_data(200, normalization="dataset")
    images = data.image_set("test").images
    labels, probabilities = model.predict(images)
    expected = model.predict(data.normalize(images))
    assert torch.equal(labels, expected[0])
    assert torch.equal(probabilities, expected[1])
    assert not torch.allclose(probabilities, model.predict(fake_data().normalize(images))[1])  # it makes a difference
    for image in (images[3], images[3].contiguous(), images[3][None]):
        torch.testing.assert_close(model.predict(image)[1], probabilities[3:4])
    batches = DataLoader(TensorDataset(images, data.image_set("test").labels), batch_size=25)
    in_a_trainer = new_trainer(None).predict(model, batches)
    torch.testing.assert_close(torch.cat([p for _, p in in_a_trainer]), probabilities)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_predict_warns_of_floats_that_are_bytes(trained, dtype):
    model, images = load_model(trained), fake_data(200).image_set("test").images
    said = f"^images are {dtype} with values up to 255, but normalised ones end at 2.13: floats are used as they are; "
    with pytest.warns(ImageWarning, match=said) as found:
        labels = model.predict(images.to(dtype))[0]
    assert [warning.filename for warning in found] == [__file__]
    assert not torch.equal(labels, model.predict(images)[0])


@pytest.mark.filterwarnings("error::cifar_lightning.errors.ImageWarning")
def test_predict_does_not_warn_of_floats_that_may_be_normalised(trained):
    model, images = load_model(trained), fake_data(200).image_set("test").images
    for given in (images, images / 255, model.preprocessing.normalize(images), images[:0].float()):
        model.predict(given)
    for step in (model.predict_step, model.logits):  # no check in a Trainer's steps
        step(images.float())
    model.preprocessing = None
    model.predict(images.float())


@pytest.mark.parametrize(("precision", "dtype"), [("bf16-true", torch.bfloat16), ("64-true", torch.float64)])
def test_uint8_images_are_normalised_in_the_precision_of_the_network(trained, precision, dtype):
    model, images = load_model(trained).to(dtype), fake_data(200).image_set("test").images
    expected = model.predict(images)[1]
    torch.testing.assert_close(model.logits(images).softmax(1), expected, rtol=0, atol=0.01)
    ((_, probabilities),) = new_trainer(None, precision=precision).predict(
        model, DataLoader(images, batch_size=len(images))
    )
    torch.testing.assert_close(probabilities, expected, rtol=0, atol=0.01)


@pytest.mark.parametrize("stage", ["fit", "validate", "test", "predict"])
def test_every_stage_refuses_images_of_another_preprocessing(trained, tmp_path, stage):
    wrong, right = fake_data(200, val_split=40), fake_data(200, val_split=40, normalization="cifar10")
    with pytest.raises(InputError, match=OTHER):
        getattr(new_trainer(tmp_path), stage)(load_model(trained), wrong)
    wrong.setup()
    loaders = {"fit": (wrong.train_dataloader(), wrong.val_dataloader()), "validate": (wrong.val_dataloader(),)}
    with pytest.raises(InputError, match=OTHER):  # the loaders without the data module
        getattr(new_trainer(tmp_path), stage)(
            load_model(trained).train(), *loaders.get(stage, (wrong.test_dataloader(),))
        )
    if stage != "fit":  # a fit would combine a list into batches that are lists
        with pytest.raises(InputError, match=OTHER):
            getattr(new_trainer(tmp_path), stage)(load_model(trained), [*loaders.get(stage, [wrong.test_dataloader()])])
    getattr(new_trainer(tmp_path, limit_train_batches=2), stage)(load_model(trained).train(), right)


@pytest.mark.parametrize("stage", ["fit", "test"])
def test_a_ckpt_path_of_another_preprocessing_is_refused(trained, tmp_path, stage):
    model = LitNet(net="speed54", width=4)
    with pytest.raises(InputError, match=OTHER if stage == "test" else "0.4914"):
        getattr(new_trainer(tmp_path), stage)(model, fake_data(200, val_split=40), ckpt_path=trained, weights_only=True)


def test_a_test_does_not_set_the_preprocessing_of_an_untrained_model(tmp_path):
    model, trainer = LitNet(), new_trainer(tmp_path)
    trainer.test(model, fake_data(40), verbose=False)
    assert model.preprocessing is None
    trainer.test(model, fake_data(40, normalization="dataset"), verbose=False)


def test_a_fit_on_loaders_adopts_their_preprocessing(tmp_path):
    data, model = fake_data(80, normalization="cifar100", val_split=40), LitNet()
    data.setup("fit")
    new_trainer(tmp_path).fit(model, data.train_dataloader(), data.val_dataloader())
    assert model.preprocessing == Preprocessing(CIFAR100_MEAN, CIFAR100_STD)


@pytest.mark.filterwarnings("ignore")  # Lightning's warnings of small fits
def test_a_fit_on_uint8_images_equals_a_fit_on_normalised_ones(tmp_path):
    """A user's loader may give uint8 images, which were once normalised in evaluations only."""
    images, weights = fake_data(40).image_set("train"), []
    mine = Preprocessing(MEAN, STD)
    for given in (images.images, mine.normalize(images.images)):
        torch.manual_seed(0)
        model = LitNet(preprocessing=mine)
        new_trainer(tmp_path).fit(model, DataLoader(TensorDataset(given, images.labels), 20))
        weights.append(model.state_dict()["net.fc3.weight"])
    assert torch.equal(*weights)


def test_an_older_checkpoint_has_the_preprocessing_of_its_data_module(trained, tmp_path):
    old = torch.load(trained, weights_only=True)
    del old["hyper_parameters"]["preprocessing"]
    torch.save(old, tmp_path / "old.ckpt")
    for model in (load_model(tmp_path / "old.ckpt"), LitNet.load_from_checkpoint(tmp_path / "old.ckpt")):
        assert model.preprocessing == Preprocessing(MEAN, STD)
    del old["datamodule_hyper_parameters"]  # as after a fit on a user's own data: nothing is known
    torch.save(old, tmp_path / "old.ckpt")
    model = load_model(tmp_path / "old.ckpt")
    assert model.preprocessing is None
    with pytest.raises(InputError, match="does not know how to normalise them: use LitNet"):
        model.predict(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
    assert model.predict(torch.zeros(2, 3, 32, 32))[0].shape == (2,)


def test_a_users_own_preprocessing():
    own = Preprocessing([0.1, 0.2, 0.3], (1, 1, 2), size=8)
    model = LitNet(nn.Sequential(nn.Flatten(), nn.Linear(192, 10)), preprocessing=own)
    assert model.preprocessing == own == Preprocessing(**model.hparams["preprocessing"])
    images = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
    x = (images / 255 - torch.tensor(own.mean)[:, None, None]) / torch.tensor(own.std)[:, None, None]
    torch.testing.assert_close(model.predict(images)[1], model(x).softmax(1))
    model.preprocessing = CIFAR10DataModule("data").preprocessing
    assert model.hparams["preprocessing"] == HALF


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(5, 32, 32, 3, dtype=torch.uint8), r"\(5, 32, 32, 3\), .* last; pass images.movedim\(-1, -3\)"),
        (torch.zeros(32, 32, 3, dtype=torch.uint8), r"\(32, 32, 3\), .* last; pass images.movedim\(-1, -3\)"),
        (torch.zeros(32, 32, 4, dtype=torch.uint8), "channels come last"),
        (torch.zeros(5, 1, 32, 32, dtype=torch.uint8), r"grey; pass images.expand\(\*images.shape\[:-3\], 3, -1, -1\)"),
        (torch.zeros(5, 4, 32, 32, dtype=torch.uint8), "four channels; pass RGB"),
        (torch.zeros(5, 2, 32, 32, dtype=torch.uint8), "they do not have three channels"),
        (torch.zeros(32, 32, dtype=torch.uint8), r"shape \(32, 32\): pass \(N, 3, 32, 32\)"),
        (torch.zeros(1, 5, 3, 32, 32, dtype=torch.uint8), "shape .1, 5, 3, 32, 32.: pass"),
        (torch.zeros(5, 3, 224, 224, dtype=torch.uint8), r"resize\(images, \[32, 32\]\)"),
        (torch.zeros(5, 3, 224, 224), r"resize\(images, \[32, 32\]\)"),
        (torch.zeros(5, 3, 32, 31), "resize"),
        (torch.zeros(5, 3, 32, 32, dtype=torch.int64), "images are torch.int64: pass uint8"),
        (torch.zeros(5, 3, 32, 32, dtype=torch.bool), "images are torch.bool: pass uint8"),
        (np.zeros((5, 3, 32, 32), np.uint8), r"numpy array \(5, 3, 32, 32\): pass a tensor, torch.from_numpy"),
        ([0, 1], "of type list: pass a tensor"),
    ],
)
def test_images_of_another_shape_or_type_are_refused_with_advice(images, message):
    with pytest.raises(InputError, match=message):
        LitNet(preprocessing=HALF).predict(images)


@pytest.mark.parametrize("shape", [(5, 1, 32, 32), (1, 1, 32, 32), (1, 32, 32)])
def test_the_advice_for_grey_images_works(shape):
    images, model = torch.zeros(*shape, dtype=torch.uint8), LitNet(preprocessing=HALF)
    with pytest.raises(InputError) as error:
        model.predict(images)
    advice = str(error.value).rpartition("pass ")[2]
    assert len(model.predict(eval(advice, {"images": images}))[0]) == (shape[0] if len(shape) == 4 else 1)


@pytest.mark.parametrize(
    ("mean", "std", "size"),
    [
        ([0.5], [0.5], 32),
        ([1e40] * 3, [0.5] * 3, 32),
        ([0] * 3, [1e-50] * 3, 32),
        ([0.5] * 3, [0.5, 0, 0.5], 32),
        ([0.5] * 3, [0.5] * 3, 0),
    ],
)
def test_preprocessing_refuses_unusable_values(mean, std, size):
    with pytest.raises(InputError, match=r"must be (three numbers each|a whole number)"):
        Preprocessing(mean, std, size)
