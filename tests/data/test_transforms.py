"""transforms.py: padding, cropping, flipping, normalising and cutting out, compared with numpy and Pillow."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from cifar_lightning.data import transforms


@pytest.fixture
def images():
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3), dtype=np.uint8))


@pytest.mark.parametrize("padding", [0, 1, 4, 31])
def test_reflect_pad_equals_numpys(images, padding):
    padded = transforms.reflect_pad(images, padding)
    for image, ours in zip(images.numpy(), padded.numpy(), strict=True):
        assert np.array_equal(ours, np.pad(image, ((padding, padding), (padding, padding), (0, 0)), "reflect"))


def test_crop_equals_pillows(images):
    index = torch.tensor([3, 3, 0, 6])
    top, left = torch.tensor([0, 8, 3, 5]), torch.tensor([8, 0, 4, 5])
    padded = transforms.reflect_pad(images, 4)
    ours = transforms.crop(padded, index, top, left, 32)
    for i, crop in enumerate(ours.numpy()):
        box = (int(left[i]), int(top[i]), int(left[i]) + 32, int(top[i]) + 32)
        assert np.array_equal(crop, np.asarray(Image.fromarray(padded[index[i]].numpy()).crop(box)))
    assert torch.equal(transforms.crop(padded, torch.arange(7), torch.full((7,), 4), torch.full((7,), 4), 32), images)


def test_flip_equals_pillows(images):
    mirrored = torch.tensor([True, False, False, True, True, False, True])
    before = images.clone()
    ours = transforms.flip(images, mirrored)
    for image, yes, flipped in zip(before.numpy(), mirrored, ours.numpy(), strict=True):
        picture = Image.fromarray(image)
        assert np.array_equal(flipped, np.asarray(ImageOps.mirror(picture) if yes else picture))


@pytest.mark.parametrize("count", [0, 1, 7])
def test_normalize_equals_a_reference_in_numpy(images, count):
    mean, std = (0.1, 0.5, 0.9), (0.2, 0.3, 0.4)
    ours = transforms.normalize(images[:count], torch.tensor(mean), torch.tensor(std))
    reference = (images[:count].numpy() / 255 - np.array(mean)) / np.array(std)
    assert ours.shape == (count, 3, 32, 32)
    assert ours.dtype == torch.float32
    assert ours.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_allclose(ours.permute(0, 2, 3, 1).numpy(), reference, atol=2e-6)


def test_cutout_blanks_one_square():
    images = torch.ones(3, 2, 8, 8)
    top, left = torch.tensor([0, 5, -2]), torch.tensor([1, 6, -2])
    transforms.cutout(images, top, left, 4)
    for image, row, column in zip(images, top.tolist(), left.tolist(), strict=True):
        expected = torch.ones(8, 8)
        expected[max(row, 0) : row + 4, max(column, 0) : column + 4] = 0
        assert torch.equal(image, expected.expand(2, 8, 8))
