"""Tests predictions.npz, and the error for a damaged one."""

import numpy as np
import pytest
import torch

from cifar_lightning.data.image_set import ImageSet
from cifar_lightning.errors import InputError
from cifar_lightning.report.predictions import NAME, read_predictions, write_predictions


@pytest.fixture
def kept(tmp_path):
    """Writes the predictions of 600 images into `tmp_path`, and returns them as read."""
    rng = np.random.default_rng(0)
    labels, predicted = (torch.from_numpy(rng.integers(0, 10, 600)) for _ in range(2))
    tested = ImageSet(torch.zeros(600, 3, 32, 32, dtype=torch.uint8), labels, tuple("abcdefghij"))
    write_predictions(tmp_path, predicted, tested)
    return read_predictions(tmp_path)


def test_a_flipped_bit_is_an_error_or_changes_nothing(kept, tmp_path):
    path = tmp_path / NAME
    whole, damaged, said = path.read_bytes(), 0, set()
    for place in range(0, len(whole), 7):
        contents = bytearray(whole)
        contents[place] ^= 1 << place % 8
        path.write_bytes(contents)
        try:
            found = read_predictions(tmp_path)
        except InputError as error:
            said.add(str(error))
            damaged += 1
        else:
            assert np.array_equal(found.predicted, kept.predicted)
            assert np.array_equal(found.labels, kept.labels)
    assert said == {f"{path} is damaged: evaluate the run, and compare its evaluation/ instead"}
    assert damaged > len(whole) / 7 / 2


@pytest.mark.parametrize("labels", [np.zeros(599, np.uint16), np.zeros((600, 1), np.uint16), np.uint16(0)])
def test_arrays_of_wrong_shapes_are_damage(kept, tmp_path, labels):
    np.savez(tmp_path / NAME, predicted=kept.predicted, labels=labels, images=kept.images)
    with pytest.raises(InputError, match="is damaged: evaluate"):
        read_predictions(tmp_path)


def test_a_run_of_an_earlier_version_has_no_predictions(tmp_path):
    assert read_predictions(tmp_path) is None
