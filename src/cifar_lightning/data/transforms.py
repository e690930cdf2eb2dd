"""Batched image transforms: pure functions of tensors, on any device.

They take and give images whose bytes lie as `(N, H, W, 3)`: one pixel's colours side by side. That is what
PyTorch calls channels_last once the dimensions are permuted to `(N, 3, H, W)`; it makes a crop a copy of whole
rows, and convolutions on the result need no re-ordering.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """`x`, which lies on the CPU, on `device`; without waiting for a GPU of NVIDIA's.

    An Apple GPU reads the bytes later, when they may be another tensor's
    (https://github.com/pytorch/pytorch/issues/83015); CUDA has read them when the call returns.
    """
    return x.to(device, non_blocking=device.type == "cuda")


def reflect_pad(images: Tensor, padding: int) -> Tensor:
    """Mirrors the border of `images` outwards, without repeating the edge pixels.

    Args:
        images: `(N, H, W, 3)`, any dtype (torch's own reflection padding has none for uint8).
        padding: Pixels added on each side, less than H and W.

    Returns:
        `(N, H + 2 * padding, W + 2 * padding, 3)`.
    """
    n, height, width, channels = images.shape
    bottom, right = padding + height, padding + width
    padded = images.new_empty(n, height + 2 * padding, width + 2 * padding, channels)
    padded[:, padding:bottom, padding:right] = images
    # first the sides, then whole rows, whose ends are there by then; copies of rows take half the time of an index
    padded[:, padding:bottom, :padding] = images[:, :, 1 : padding + 1].flip(2)
    padded[:, padding:bottom, right:] = images[:, :, width - 1 - padding : width - 1].flip(2)
    padded[:, :padding] = padded[:, padding + 1 : 2 * padding + 1].flip(1)
    padded[:, bottom:] = padded[:, bottom - 1 - padding : bottom - 1].flip(1)
    return padded


def crop(padded: Tensor, index: Tensor, top: Tensor, left: Tensor, size: int) -> Tensor:
    """Cuts one window out of each of the images chosen by `index`.

    Args:
        padded: `(M, H, W, 3)`, contiguous: all images.
        index: `(N,)` int64: which images.
        top: `(N,)` int64: first row of each window, 0 to H - size.
        left: `(N,)` int64: first column of each window, 0 to W - size.
        size: Height and width of the windows.

    Returns:
        `(N, size, size, 3)`.
    """
    # A view of every window of every image, (M, rows, columns, size, size, 3): indexing it copies whole rows.
    windows = padded.unfold(1, size, 1).unfold(2, size, 1).permute(0, 1, 2, 4, 5, 3)
    return windows[index, top, left]


def flip(images: Tensor, mirrored: Tensor) -> Tensor:
    """Mirrors left and right, in place, the images `(N, H, W, 3)` where `mirrored` `(N,)`, on the CPU, is true."""
    chosen = to_device(mirrored.nonzero().squeeze(1), images.device)  # on a GPU, nonzero would wait for it
    images[chosen] = images[chosen].flip(2)
    return images


def normalize(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Turns bytes into what a network takes: `(x / 255 - mean) / std`.

    Args:
        images: uint8 `(N, H, W, 3)`, contiguous.
        mean: Per channel, `(3,)` float, for images scaled to 0..1.
        std: Per channel, `(3,)` float.

    Returns:
        float32 `(N, 3, H, W)`, channels_last.
    """
    n, height, width, channels = images.shape
    # One long row per image and the constants repeated along it: a broadcast over 3 values runs 5 times slower.
    scale, shift = (factor.repeat(height * width) for factor in scale_and_shift(mean, std))
    flat = images.reshape(n, height * width * channels).float().mul_(scale).add_(shift)
    return flat.view(n, height, width, channels).permute(0, 3, 1, 2)


def scale_and_shift(mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """What a byte is multiplied by, and what is added then, to give `(x / 255 - mean) / std`; per channel."""
    return 1 / (255 * std), -mean / std


def cutout(images: Tensor, top: Tensor, left: Tensor, size: int) -> Tensor:
    """Sets a square of each image to 0, the mean colour of normalised images, in place.

    Source: https://arxiv.org/abs/1708.04552

    Args:
        images: Float `(N, C, H, W)`.
        top: `(N,)` int64: first row of each square; what lies outside the image is not there.
        left: `(N,)` int64: first column, likewise.
        size: Height and width of the squares.
    """
    rows, columns = (torch.arange(n, device=images.device) for n in images.shape[2:])
    in_rows = (rows >= top[:, None]) & (rows < top[:, None] + size)
    in_columns = (columns >= left[:, None]) & (columns < left[:, None] + size)
    return images.masked_fill_((in_rows[:, :, None] & in_columns[:, None, :])[:, None], 0)


def shrink(images: Tensor, size: int | None) -> Tensor:
    """Float images `(N, C, H, W)` as `(N, C, size, size)`, channels_last, each pixel the mean of those it stands for.

    With None they are as they were.
    """
    if size is None:
        return images
    if images.device.type == "mps":
        images = _by_products(images, size)
    else:
        images = F.interpolate(images, size=(size, size), mode="area")
    return images.contiguous(memory_format=torch.channels_last)


def _by_products(images: Tensor, size: int) -> Tensor:
    """The same, for where torch has it of divisors of the side only.

    Source: https://github.com/pytorch/pytorch/issues/96056
    """
    with torch.autocast(images.device.type, enabled=False):  # which would round
        rows, columns = (_means(side, size).to(images) for side in images.shape[2:])
        return rows @ images @ columns.T


def _means(side: int, size: int) -> Tensor:
    """What a row of `side` pixels is multiplied by, to become one of `size`; `(size, side)`."""
    i, pixels = torch.arange(size)[:, None], torch.arange(side)
    inside = (i * side // size <= pixels) & (pixels * size < (i + 1) * side)
    return inside / inside.sum(1, keepdim=True)
