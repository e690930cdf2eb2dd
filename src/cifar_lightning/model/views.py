"""The views of an image whose logits are averaged in an evaluation: see LitNet's `test_views`."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


def _six_views(images: Tensor) -> list[tuple[float, Tensor]]:
    padded = F.pad(images, (1, 1, 1, 1), mode="reflect")
    # The same memory format as the other views, so that one compiled network serves all.
    shifted = [x.contiguous(memory_format=torch.channels_last) for x in (padded[:, :, 2:, 2:], padded[:, :, :-2, :-2])]
    return [
        *((0.25, view) for view in (images, images.flip(3))),
        *((0.125, view) for shift in shifted for view in (shift, shift.flip(3))),
    ]


# By name; each view has a weight.
VIEWS: dict[str, Callable[[Tensor], list[tuple[float, Tensor]]]] = {
    "one": lambda images: [(1.0, images)],
    "mirror": lambda images: [(0.5, images), (0.5, images.flip(3))],
    "six": _six_views,
}


def mean_logits(net: Callable[[Tensor], Tensor], images: Tensor, views: str) -> Tensor:
    """Returns the logits of `net`, averaged over views of the images, in float32 or wider.

    In bfloat16, which has eight binary digits, the mean would create ties between classes. The logits of each view are
    converted before the next view is computed, because a CUDA graph gives the logits of all views the same memory.
    """
    logits = [weight * _float32(net(view)) for weight, view in VIEWS[views](images)]
    return torch.stack(logits).sum(0)


def _float32(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
