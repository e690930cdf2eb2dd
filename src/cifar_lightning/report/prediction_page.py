"""The page of predictions: each picture as the network saw it, and its prediction. The template: prediction.html."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from cifar_lightning.report.template import png, write_html

PICTURES = 500  # at most, on one page: it stays under 3 MB


class Seen(NamedTuple):
    """A picture that a network has classified.

    Attributes:
        file: The name of its file.
        pixels: uint8 `(32, 32, 3)`.
        top: The most probable classes, `{"class": str, "probability": 0..1}` each.
        unlike: How it differs from the training images; empty if it does not, None if it was not judged.
    """

    file: str
    pixels: npt.NDArray[np.uint8]
    top: Sequence[Mapping[str, Any]]
    unlike: str | None


def write_predictions_page(seen: Sequence[Seen], total: int, network: str, page: Path) -> None:
    """Writes a page of pictures, at most `PICTURES` of the `total` that the network of this name has classified."""
    pictures = [{"image": png(Image.fromarray(one.pixels)), "seen": one} for one in seen]
    judged = any(one.unlike is not None for one in seen)
    write_html("prediction.html", {"pictures": pictures, "total": total, "network": network, "judged": judged}, page)
