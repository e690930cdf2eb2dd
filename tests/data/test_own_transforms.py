"""The user's own transforms: the same result for an image everywhere, and what a model knows of the normalisation."""

import itertools
import random

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from PIL import ImageOps
from torch.utils.data import DataLoader
from torchvision import transforms as v1
from torchvision.transforms import v2

from cifar_lightning import InputError, LitNet, Preprocessing, fake_data, load_model
from cifar_lightning.data.cifar10 import MEAN, STD
from cifar_lightning.data.loader import BatchLoader
from cifar_lightning.data.own_transforms import OwnTransform

FLOATS = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
EVALUATION = v2.Compose(FLOATS)
CLASSIC = v2.Compose([v2.RandomCrop(32, 4), v2.RandomHorizontalFlip(), *FLOATS])
OF_PICTURES = v1.Compose(
    [v1.RandomCrop(32, padding=4), v1.RandomHorizontalFlip(), v1.ToTensor(), v1.Normalize(MEAN, STD)]
)
AS_TRAINED = {"val_transforms": EVALUATION, "test_transforms": EVALUATION}


def drawing(image):
    """Adds random numbers from torch, numpy and Python."""
    return image.float() / 255 + torch.rand(1) + 2 * np.random.rand() + 4 * random.random()


def train_batches(epochs=1, **kwargs):
    data = fake_data(100, **{"val_split": 20, **kwargs})
    data.setup("fit")
    return [batch for _ in range(epochs) for batch in data.train_dataloader()]


def same(ours, theirs):
    ours, theirs = list(ours), list(theirs)
    return len(ours) == len(theirs) > 0 and all(
        torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in zip(ours, theirs, strict=True)
    )


@pytest.mark.parametrize(
    "transform", [CLASSIC, OF_PICTURES, v2.RandAugment(), v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10), drawing]
)
def test_transformed_images_depend_only_on_seed_and_position(transform, monkeypatch):
    first = train_batches(2, train_transforms=transform)
    assert {(x.shape, x.dtype) for x, _ in first} == {((20, 3, 32, 32), torch.float32)}
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    monkeypatch.setattr("cifar_lightning.data.loader.CHUNK", 20)
    again = train_batches(2, train_transforms=transform)
    assert same(first, again)
    assert not same(first[:4], first[4:])
    assert not same(first, train_batches(2, train_transforms=transform, seed=1))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == states[1:]


def loader(**kwargs):
    images = torch.randint(0, 256, (60, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return BatchLoader(images, torch.arange(60), 20, mean=MEAN, std=STD, own=OwnTransform("t", drawing), **kwargs)


@pytest.mark.parametrize("train", [True, False])
def test_ranks_and_a_resumed_epoch_get_the_same_images(train):
    whole = list(loader(train=train))
    shares = [loader(train=train, rank=rank, world_size=2) for rank in (0, 1)]
    if train:
        joined = [tuple(torch.cat(parts) for parts in zip(a, b, strict=True)) for a, b in zip(*shares, strict=True)]
    else:
        joined = itertools.chain.from_iterable(zip(*shares, strict=True))
    assert same(joined, whole)
    rest = loader(train=train)
    rest.load_state_dict({"epoch": 0, "lap": 0, "position": 2})
    assert same(rest, whole[2:])


def test_a_random_transform_draws_anew_for_each_image():
    plain, batches = train_batches(), train_batches(train_transforms=v2.RandomHorizontalFlip())
    mirrored = [
        bool(torch.equal(image, before.flip(2)))
        for (x, y), (u, v) in zip(plain, batches, strict=True)
        for before, image in zip(x, u, strict=True)
        if torch.equal(y, v)
    ]
    assert 20 < sum(mirrored) < 60
    for i in range(0, 80, 20):
        assert 0 < sum(mirrored[i : i + 20]) < 20


@pytest.mark.parametrize("augment", [True, False])
def test_transforms_come_between_augmentation_and_normalisation(augment):
    plain = train_batches(augment=augment)
    flipped = train_batches(augment=augment, train_transforms=v2.RandomVerticalFlip(1))
    assert same(flipped, [(x.flip(2), y) for x, y in plain])


def test_floats_from_a_transform_are_not_normalised():
    data = fake_data(100, val_split=20, **AS_TRAINED, train_transforms=EVALUATION)
    theirs = fake_data(100, val_split=20, normalization="cifar10")
    for images in (data, theirs):
        images.setup()
    for ours, expected in (
        (data.train_dataloader(), theirs.train_dataloader()),
        (data.val_dataloader(), theirs.val_dataloader()),
        (data.test_dataloader(), theirs.test_dataloader()),
    ):
        for (x, y), (u, v) in zip(ours, expected, strict=True):
            torch.testing.assert_close(x, u, rtol=0, atol=1e-5)
            assert torch.equal(y, v)
    torch.testing.assert_close(data.sample(10), theirs.sample(10), rtol=0, atol=1e-5)
    item, label = data.test_dataloader().dataset[3]
    torch.testing.assert_close(item, data.normalize(data.image_set("test").images[3])[0])
    assert label == int(data.image_set("test").labels[3])


def test_transforms_may_change_the_image_size():
    batches = train_batches(train_transforms=v2.Resize(48), augment=True)
    assert batches[0][0].shape == (20, 3, 48, 48)
    said = r"Resize.* makes images of \(48, 48\) pixels, but cutout is for \(32, 32\): use cutout 0"
    with pytest.raises(InputError, match=said):
        train_batches(train_transforms=v2.Resize(48), augment=True, cutout=8)


def test_a_transform_that_works_in_place_changes_no_stored_image():
    data = fake_data(40, val_split=20, **dict.fromkeys(["train_transforms", "val_transforms"], lambda x: x.fill_(0)))
    before = data.image_set("train").images.clone()
    for x, _ in [*data.train_dataloader(), *data.val_dataloader()]:
        assert (x == -1).all()
    assert torch.equal(data.image_set("train").images, before)


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (
            v2.Normalize(MEAN, STD),
            r"train_transforms Normalize\(.*\) fails on an image, uint8 \(1, 3, 32, 32\): .*; fix it",
        ),
        (lambda x: 3, "train_transforms <lambda> returns int for an image: make it return uint8 or float"),
        (v2.Grayscale(), r"train_transforms Grayscale.* returns torch.uint8 \(1, 1, 32, 32\) for an image: "),
        (lambda x: x.long(), r"<lambda> returns torch.int64 \(1, 3, 32, 32\) for an image"),
        (v2.RandomResize(20, 40), r"returns torch.uint8 \(1, 3, \d+, \d+\) for one image and .* for another: make it"),
        (v1.Compose([v1.ToTensor(), v1.Resize(3, 4)]), "fails on an image, a PIL image: .*; fix it"),
        (
            v2.RandomApply([v2.Normalize(MEAN, STD)], p=0.5),  # not tried with other draws, with which it does nothing
            r"fails on an image, uint8 \(1, 3, 32, 32\): .* float tensor.*; fix it",
        ),
        (lambda x: [x, x], r"returns list for an image: make it .*; for several views of an image, use DataLoader\("),
    ],
)
def test_wrong_transforms_are_refused(transform, message):
    with pytest.raises(InputError, match=message) as caught:
        train_batches(train_transforms=transform)
    assert "\n" not in str(caught.value)


class MaybeToTensor(v1.ToTensor):
    """A subclass, as timm's transforms contain it."""


class OfPictures:
    """A callable whose parts cannot be seen from outside."""

    def __init__(self, transform, views=1):
        self._transform, self._views = transform, views

    def __call__(self, image):
        made = [self._transform(image) for _ in range(self._views)]
        return made if self._views > 1 else made[0]


def test_a_subclass_of_to_tensor_gets_pictures_as_to_tensor_does():
    both = [v1.Compose([ImageOps.invert, kind(), v1.Normalize(MEAN, STD)]) for kind in (v1.ToTensor, MaybeToTensor)]
    theirs, ours = (train_batches(train_transforms=transform) for transform in both)
    assert same(ours, theirs)


@pytest.mark.parametrize(
    ("transform", "same_as"),
    [
        (OfPictures(OF_PICTURES), OF_PICTURES),  # returns floats
        (ImageOps.invert, v2.RandomInvert(1)),  # a picture
    ],
)
def test_a_transform_of_pictures_that_does_not_look_like_one_is_told_what_works(transform, same_as):
    said = r"train_transforms .* fails on an image, uint8 \(1, 3, 32, 32\): .*; it takes PIL images: use v2\.Compose"
    with pytest.raises(InputError, match=said) as caught:
        train_batches(train_transforms=transform)
    advised = eval(str(caught.value).rpartition("use ")[2], {"v2": v2, "transform": transform})
    assert same(train_batches(train_transforms=advised), train_batches(train_transforms=same_as))


def test_several_views_of_a_picture_need_a_data_loader():
    transform, data = OfPictures(OF_PICTURES, views=2), fake_data(200)
    data.train_transforms = transform
    with pytest.raises(
        InputError, match="it takes PIL images: for several views of an image, use DataLoader"
    ) as caught:
        list(data.train_dataloader())
    advised = eval(
        str(caught.value).rpartition("use ")[2], {"DataLoader": DataLoader, "data": data, "transform": transform}
    )
    views, labels = next(iter(advised))
    assert ([view.shape for view in views], labels.shape) == ([(128, 3, 32, 32)] * 2, (128,))


def test_a_loader_works_again_after_a_transform_has_failed():
    broken = []

    def sometimes(image):
        if broken:
            raise RuntimeError("no disk")
        return image

    data = fake_data(80, train_transforms=sometimes)
    loader, state = data.train_dataloader(), torch.get_rng_state()
    broken.append(True)
    with pytest.raises(InputError, match=r"train_transforms sometimes fails on an image, .*: no disk; fix it"):
        list(loader)
    assert torch.equal(torch.get_rng_state(), state)
    broken.clear()
    assert len(list(loader)) == len(list(data.train_dataloader())) == 4


# --- the preprocessing that a model keeps ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("transforms", "expected"),
    [
        ({}, Preprocessing((0.5,) * 3, (0.5,) * 3)),
        ({"train_transforms": v2.RandAugment()}, Preprocessing((0.5,) * 3, (0.5,) * 3)),
        ({"train_transforms": CLASSIC, **AS_TRAINED}, Preprocessing(MEAN, STD)),
        (
            dict.fromkeys(["train_transforms", "test_transforms"], OF_PICTURES.transforms[2]),
            Preprocessing((0,) * 3, (1,) * 3),
        ),
        ({"train_transforms": CLASSIC, "test_transforms": v2.Compose([v2.Resize(40), *FLOATS])}, None),
        ({"test_transforms": v2.Grayscale(3)}, None),
        ({"test_transforms": lambda x: (x / 255 - 0.3) / 0.1, "train_transforms": CLASSIC}, None),
    ],
)
def test_preprocessing_is_read_from_known_transforms(transforms, expected):
    data = fake_data(50, **transforms)
    assert data.preprocessing == expected
    assert data.test_dataloader().preprocessing == expected


@pytest.mark.parametrize(
    "transforms",
    [
        {"train_transforms": CLASSIC},
        {"test_transforms": EVALUATION},
        {"train_transforms": v2.RandAugment(), "test_transforms": EVALUATION},
    ],
)
def test_different_normalisation_in_training_and_test_is_refused(transforms):
    data = fake_data(50, **transforms)
    said = "the training images are normalised with .*, the test images with .*: use train_tr"
    with pytest.raises(InputError, match=said):
        data.test_dataloader()
    assert fake_data(50, **transforms, normalization="cifar10").preprocessing == Preprocessing(MEAN, STD)


@pytest.mark.parametrize(
    "scaling", [FLOATS[0], v1.Compose(OF_PICTURES.transforms[:3]), v2.Compose([v2.RandAugment(), FLOATS[0]])]
)
def test_scaling_alone_counts_as_a_normalisation(scaling):
    said = r"normalised with mean \(0, 0, 0\), std \(1, 1, 1\), 32 pixels, the test images with mean \(0.5, "
    with pytest.raises(InputError, match=said):
        fake_data(50, train_transforms=scaling).test_dataloader()
    scaled = {"train_transforms": scaling, "test_transforms": FLOATS[0]}
    assert fake_data(50, **scaled).train_dataloader().preprocessing == Preprocessing((0,) * 3, (1,) * 3)


@pytest.mark.parametrize(
    "unknown",
    [
        v2.ToDtype(torch.float32),  # not scaled: 0 to 255
        v2.Compose([FLOATS[0], v2.Lambda(lambda x: x - 0.5)]),
        v2.Compose([FLOATS[0], *2 * [v2.Normalize((0.5,) * 3, (0.5,) * 3)]]),
        lambda x: x / 255,
    ],
)
def test_training_transforms_that_are_unknown_are_not_compared(unknown):
    data = fake_data(50, train_transforms=unknown)
    assert data.train_dataloader().preprocessing is None
    assert data.test_dataloader().preprocessing == Preprocessing((0.5,) * 3, (0.5,) * 3)


def test_a_model_of_another_image_size_keeps_no_preprocessing(tmp_path):
    """A model of 48 pixels keeps no preprocessing; one for 32 would have its export take images of the wrong size."""
    larger = dict.fromkeys(["train_transforms", "test_transforms"], v2.Compose([v2.Resize(48), *FLOATS]))
    data, model = fake_data(40, **larger), LitNet("resnet18", width=1)
    assert (data.preprocessing, data.train_dataloader().preprocessing) == (None, None)
    quiet(tmp_path).fit(model, data)
    assert model.preprocessing is None


def quiet(folder):
    switches = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    return Trainer(max_epochs=1, accelerator="cpu", default_root_dir=folder, **dict.fromkeys(switches, False))


@pytest.mark.parametrize("transform", [EVALUATION, v2.ToDtype(torch.float32, scale=True)])
def test_a_fit_without_validation_needs_no_val_transforms(tmp_path, transform):
    transforms = {"train_transforms": transform, "test_transforms": transform}
    model, data = LitNet(), fake_data(60, **transforms)
    quiet(tmp_path).fit(model, data)
    assert model.preprocessing == data.preprocessing is not None
    with pytest.raises(InputError, match="the val images with mean"):
        quiet(tmp_path).fit(LitNet(), fake_data(60, val_split=20, **transforms))


def test_a_model_keeps_no_preprocessing_if_test_transforms_do_more(tmp_path):
    """A model keeps no preprocessing if `test_transforms` do more than normalise, even if the training's is known."""
    more = v2.Compose([v2.Grayscale(3), EVALUATION])
    model, data = LitNet(), fake_data(60, train_transforms=CLASSIC, test_transforms=more)
    quiet(tmp_path).fit(model, data)
    assert model.preprocessing is data.preprocessing is None


@pytest.mark.parametrize(("evaluation", "known"), [(EVALUATION, True), (lambda x: EVALUATION(x).clamp(-1, 1), False)])
def test_a_checkpoint_has_the_preprocessing_if_known_but_no_transforms(tmp_path, evaluation, known):
    data = fake_data(60, train_transforms=CLASSIC, val_split=20, val_transforms=evaluation, test_transforms=evaluation)
    model, trainer = LitNet(), quiet(tmp_path)
    if not known:
        data.train_transforms = v2.Lambda(lambda x: x / 255)  # unknown, too
    trainer.fit(model, data)
    trainer.save_checkpoint(tmp_path / "it.ckpt")
    trainer.test(model, data, verbose=False)
    expected = Preprocessing(MEAN, STD) if known else None
    assert model.preprocessing == load_model(tmp_path / "it.ckpt").preprocessing == expected
    kept = torch.load(tmp_path / "it.ckpt", weights_only=True)["datamodule_hyper_parameters"]
    assert not {name for name in kept if "transforms" in name}
    images = data.image_set("test").images
    if known:
        assert model.predict(images)[0].tolist() == model.last_evaluation["predicted"].tolist()
    else:
        with pytest.raises(InputError, match="this model does not know how"):
            model.predict(images)


@pytest.mark.parametrize(
    "normalize",
    [
        v1.Normalize((0.5,), (0.25,)),
        v2.Normalize([0.5], [0.25]),
        v1.Normalize(0.5, 0.25),
        v1.Normalize(torch.full((3, 1, 1), 0.5), torch.full((3, 1, 1), 0.25)),
    ],
)
def test_a_mean_is_read_in_any_form_that_torchvision_takes(normalize):
    stages = dict.fromkeys(("train_transforms", "test_transforms"), v2.Compose([FLOATS[0], normalize]))
    assert fake_data(100, **stages).preprocessing == Preprocessing((0.5,) * 3, (0.25,) * 3)


def test_a_mean_in_a_tensor_is_read_as_the_same_number():
    """A mean of 0.4914 in a float32 tensor is read as 0.4914, although the tensor has 0.49140000343."""
    normalize = v2.Normalize(torch.tensor(MEAN), torch.tensor(STD))
    data = fake_data(100, test_transforms=v2.Compose([FLOATS[0], normalize]), normalization="cifar10")
    assert data.preprocessing == Preprocessing(MEAN, STD) == Preprocessing(np.float32(MEAN), torch.tensor(STD))


def test_normalize_takes_another_size_if_test_transforms_resize():
    data = fake_data(100, train_transforms=EVALUATION, test_transforms=v2.Compose([v2.Resize(32), *FLOATS]))
    assert data.normalize(torch.zeros(2, 3, 64, 64, dtype=torch.uint8)).shape == (2, 3, 32, 32)


def test_images_that_are_already_normalised_are_refused():
    """`normalize` refuses floats: ToDtype would not scale them, and they would be normalised twice."""
    data = fake_data(100, train_transforms=EVALUATION, test_transforms=EVALUATION)
    images = data.normalize(data.image_set("test").images)
    with pytest.raises(InputError, match=r"images are torch\.float32: pass uint8, bytes from 0 to 255"):
        data.normalize(images)
