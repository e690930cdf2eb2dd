"""predictions.npz: what each image of a test was counted as, so that two networks can be compared image by image."""

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
        labels: uint16 `(N,)`, its own.
        images: Digest of the images and their labels, in that order: equal where two tests were of the same.
    """

    predicted: NDArray[np.uint16]
    labels: NDArray[np.uint16]
    images: str

    def confusion(self, classes: int) -> list[list[int]]:
        """Counts `(classes, classes)`, rows = true class; of more classes, where there are more."""
        size = max(classes, 1 + int(max(self.labels.max(), self.predicted.max())))
        counts = np.zeros((size, size), np.int64)
        np.add.at(counts, (self.labels, self.predicted), 1)
        rows: list[list[int]] = counts.tolist()
        return rows

    @property
    def right(self) -> NDArray[np.bool_]:
        """Which of the images were counted as what they are."""
        return np.equal(self.predicted, self.labels)


def write_predictions(folder: Path, predicted: "Tensor", tested: "ImageSet") -> None:
    """Writes predictions.npz, of the classes `(N,)` of N tested images, into the folder of a run or an evaluation."""
    arrays: dict[str, Any] = {
        "predicted": predicted.numpy().astype(np.uint16),
        "labels": tested.labels.numpy().astype(np.uint16),
        "images": digest_of(tested),
    }
    write_atomically(folder / NAME, lambda file: np.savez_compressed(file, **arrays))


def digest_of(tested: "ImageSet") -> str:
    """What `Predictions.images` is of these."""
    digest = hashlib.sha256()
    add_images(digest, tested)
    return digest.hexdigest()


def add_images(digest: "_Hash", tested: "ImageSet") -> None:
    """Goes on with a digest: that of a test of several sets, one after another, is of all of them."""
    digest.update(tested.pixels.data)
    digest.update(tested.labels.numpy().astype(np.uint16).data)


def read_predictions(folder: Path) -> Predictions | None:
    """What `write_predictions` has written; None where there is none, as in an earlier version's run.

    Raises:
        InputError: It cannot be read.
    """
    path = folder / NAME
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            found = Predictions(arrays["predicted"], arrays["labels"], str(arrays["images"]))
            if not found.predicted.shape == found.labels.shape == (len(found.labels),):
                raise ValueError("of other lengths")
            return found
    except FileNotFoundError:
        return None
    except Exception as error:  # of a damaged file zipfile, zlib and numpy raise what they like
        raise InputError(f"{path} cannot be read: it is damaged; evaluate the run, and give its evaluation/") from error
