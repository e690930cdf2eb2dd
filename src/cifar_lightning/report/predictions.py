"""predictions.npz: the predicted class of each test image, so that two networks can be compared image by image."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cifar_lightning.errors import InputError
from cifar_lightning.files import write_atomically

if TYPE_CHECKING:
    from hashlib import _Hash

    from torch import Tensor

    from cifar_lightning.data.image_set import ImageSet

NAME = "predictions.npz"


@dataclass(frozen=True)
class Predictions:
    """A test, image by image.

    Attributes:
        predicted: uint16 `(N,)`, the class that each image was counted as, in the order of the test images.
        labels: uint16 `(N,)`, the true class of each image.
        images: Digest of the images and their labels, in that order: equal if two tests had the same images.
    """

    predicted: NDArray[np.uint16]
    labels: NDArray[np.uint16]
    images: str

    def confusion(self, classes: int) -> list[list[int]]:
        """Returns counts `(classes, classes)`, rows = true class; larger if there are labels of more classes."""
        size = max(classes, 1 + int(max(self.labels.max(), self.predicted.max())))
        counts = np.zeros((size, size), np.int64)
        np.add.at(counts, (self.labels, self.predicted), 1)
        rows: list[list[int]] = counts.tolist()
        return rows

    @property
    def right(self) -> NDArray[np.bool_]:
        """Whether each image was predicted correctly."""
        return np.equal(self.predicted, self.labels)


def write_predictions(folder: Path, predicted: "Tensor", tested: "ImageSet") -> None:
    """Writes the predicted classes `(N,)` of N tested images to predictions.npz in a run's or evaluation's folder."""
    arrays: dict[str, Any] = {
        "predicted": predicted.numpy().astype(np.uint16),
        "labels": tested.labels.numpy().astype(np.uint16),
        "images": digest_of(tested),
    }
    write_atomically(folder / NAME, lambda file: np.savez_compressed(file, **arrays))


def digest_of(tested: "ImageSet") -> str:
    """Computes the `Predictions.images` of these images."""
    digest = hashlib.sha256()
    add_images(digest, tested)
    return digest.hexdigest()


def add_images(digest: "_Hash", tested: "ImageSet") -> None:
    """Adds images to a digest: the digest of a test on several sets covers them one after another."""
    digest.update(tested.pixels.data)
    digest.update(tested.labels.numpy().astype(np.uint16).data)


def read_predictions(folder: Path) -> Predictions | None:
    """Reads what `write_predictions` has written; None if there is no file, as in a run of an earlier version.

    Raises:
        InputError: The file cannot be read.
    """
    path = folder / NAME
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            found = Predictions(arrays["predicted"], arrays["labels"], str(arrays["images"]))
            if not found.predicted.shape == found.labels.shape == (len(found.labels),):
                raise ValueError("the lengths differ")
            return found
    except FileNotFoundError:
        return None
    except Exception as error:  # zipfile, zlib and numpy raise many types for a damaged file
        raise InputError(f"{path} is damaged: evaluate the run, and compare its evaluation/ instead") from error
