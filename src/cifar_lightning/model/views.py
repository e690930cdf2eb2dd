"""The views of its images that an evaluation averages over, by name: see LitNet's `test_views`."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


def _one_view(images: Tensor) -> list[tuple[float, Tensor]]:
    return [(1.0, images)]


def _mirror_views(images: Tensor) -> list[tuple[float, Tensor]]:
    return [(0.5, images), (0.5, images.flip(3))]


def _six_views(images: Tensor) -> list[tuple[float, Tensor]]:
    padded = F.pad(images, (1, 1, 1, 1), mode="reflect")
    # In the others' memory format, so that one compiled network serves all.
    shifted = [x.contiguous(memory_format=torch.channels_last) for x in (padded[:, :, 2:, 2:], padded[:, :, :-2, :-2])]
    return [
        *((0.25, view) for view in (images, images.flip(3))),
        *((0.125, view) for shift in shifted for view in (shift, shift.flip(3))),
    ]


VIEWS: dict[str, Callable[[Tensor], list[tuple[float, Tensor]]]] = {
    "one": _one_view,
    "mirror": _mirror_views,
    "six": _six_views,
}
