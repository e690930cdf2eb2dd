"""likeness.py: finds pictures that do not look like CIFAR's images."""

import numpy as np
import pytest

from cifar_lightning import fake_data
from cifar_lightning.data.likeness import look, unlike

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (32, 32, 1), dtype=np.uint8).repeat(3, 2)
RAMP = np.linspace(0, 255, 32).astype(np.uint8)[:, None, None].repeat(32, 1).repeat(3, 2)
BOARD = 255 * (np.indices((32, 32)).sum(0) % 2).astype(np.uint8)[:, :, None].repeat(3, 2)
DRAWN = fake_data(40).image_set("test").images.permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.full((32, 32, 3), 128, np.uint8), "less contrast, smoother, more even"),
        (GREY, "grainier"),
        (RAMP, "smoother, more even"),
        (BOARD, "more contrast, grainier"),
        (DRAWN[0] // 16, "darker, less contrast, more even"),
        (DRAWN[0] // 16 + 239, "brighter, less contrast, more even"),
    ],
)
def test_unlike_names_what_is_unusual_about_a_picture(image, words):
    assert unlike([DRAWN[0], image]) == ["", words]


def test_unlike_finds_nothing_unusual_about_synthetic_images():
    assert unlike(list(DRAWN)) == [""] * len(DRAWN)
    assert unlike([]) == []


def test_look_computes_brightness_contrast_grain_and_evenness():
    numbers = look(np.stack([RAMP, BOARD]))
    grey = RAMP[:, :, 0] / 255
    assert numbers["brightness"] == pytest.approx([grey.mean(), 0.5], abs=1e-6)
    assert numbers["contrast"] == pytest.approx([grey.std(), 0.5], abs=1e-6)
    assert numbers["grain"] == pytest.approx([1 / 31 / 2 / grey.std(), 2], abs=1e-6)
    assert numbers["evenness"].tolist() == [1, 0]
