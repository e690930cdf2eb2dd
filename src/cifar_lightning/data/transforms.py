"""Batched image transforms: pure functions of tensors, on any device.

They take and return images stored as `(N, H, W, 3)`, with the three colours of a pixel side by side. PyTorch calls this
layout channels_last once the dimensions are permuted to `(N, 3, H, W)`. With it a crop is a copy of whole rows, and
convolutions on the result need no re-ordering.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """Copies `x` from the CPU to `device`, without waiting if that is an NVIDIA GPU.

    CUDA has read the bytes when the call returns. An Apple GPU reads them later, when their memory may already belong
    to another tensor (https://github.com/pytorch/pytorch/issues/83015).
    """
    return x.to(device, non_blocking=device.type == "cuda")


def reflect_pad(images: Tensor, padding: int) -> Tensor:
    """Mirrors the border of `images` outwards, without repeating the edge pixels.

    Args:
        images: `(N, H, W, 3)`, any dtype (torch's own reflection padding does not support uint8).
        padding: Pixels added on each side, less than H and W.

    Returns:
        `(N, H + 2 * padding, W + 2 * padding, 3)`.
    """
    n, height, width, channels = images.shape
    bottom, right = padding + height, padding + width
    padded = images.new_empty(n, height + 2 * padding, width + 2 * padding, channels)
    padded[:, padding:bottom, padding:right] = images
    # The sides come first, so that the rows copied next are complete. Copying slices takes half as long as indexing.
    padded[:, padding:bottom, :padding] = images[:, :, 1 : padding + 1].flip(2)
    padded[:, padding:bottom, right:] = images[:, :, width - 1 - padding : width - 1].flip(2)
    padded[:, :padding] = padded[:, padding + 1 : 2 * padding + 1].flip(1)
    padded[:, bottom:] = padded[:, bottom - 1 - padding : bottom - 1].flip(1)
    return padded


def crop(padded: Tensor, index: Tensor, top: Tensor, left: Tensor, size: int) -> Tensor:
    """Cuts one window out of each image selected by `index`.

    Args:
        padded: All images, `(M, H, W, 3)`, contiguous.
        index: `(N,)` int64: indices of the images.
        top: `(N,)` int64: first row of each window, 0 to H - size.
        left: `(N,)` int64: first column of each window, 0 to W - size.
        size: Height and width of the windows.

    Returns:
        `(N, size, size, 3)`.
    """
    # A view of all windows of all images, (M, rows, columns, size, size, 3): indexing it copies whole rows.
    windows = padded.unfold(1, size, 1).unfold(2, size, 1).permute(0, 1, 2, 4, 5, 3)
    return windows[index, top, left]


def flip(images: Tensor, mirrored: Tensor) -> Tensor:
    """Mirrors, left to right and in place, those `images` `(N, H, W, 3)` for which `mirrored` `(N,)` (CPU) is true."""
    chosen = to_device(mirrored.nonzero().squeeze(1), images.device)  # nonzero on a GPU would wait for the GPU
    images[chosen] = images[chosen].flip(2)
    return images


def normalize(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Normalises bytes for a network: `(x / 255 - mean) / std`.

    Args:
        images: uint8 `(N, H, W, 3)`, contiguous.
        mean: Per channel, `(3,)` float, for images scaled to 0..1.
        std: Per channel, `(3,)` float.

    Returns:
        float32 `(N, 3, H, W)`, channels_last.
    """
    n, height, width, channels = images.shape
    # Each image is one long row, with the constants repeated along it: a broadcast over 3 values is 5 times slower.
    scale, shift = (factor.repeat(height * width) for factor in scale_and_shift(mean, std))
    flat = images.reshape(n, height * width * channels).float().mul_(scale).add_(shift)
    return flat.view(n, height, width, channels).permute(0, 3, 1, 2)


def scale_and_shift(mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Returns per-channel `scale` and `shift`, such that `x * scale + shift` equals `(x / 255 - mean) / std`."""
    return 1 / (255 * std), -mean / std


def cutout(images: Tensor, top: Tensor, left: Tensor, size: int) -> Tensor:
    """Sets a square of each image to 0, the mean colour of normalised images, in place.

    Source: https://arxiv.org/abs/1708.04552

    Args:
        images: Float `(N, C, H, W)`.
        top: `(N,)` int64: first row of each square; the part of a square outside the image is ignored.
        left: `(N,)` int64: first column of each square, in the same way.
        size: Height and width of the squares.
    """
    rows, columns = (torch.arange(n, device=images.device) for n in images.shape[2:])
    in_rows = (rows >= top[:, None]) & (rows < top[:, None] + size)
    in_columns = (columns >= left[:, None]) & (columns < left[:, None] + size)
    return images.masked_fill_((in_rows[:, :, None] & in_columns[:, None, :])[:, None], 0)


def shrink(images: Tensor, size: int | None) -> Tensor:
    """Scales float images `(N, C, H, W)` down to `(N, C, size, size)`, channels_last, by averaging areas of pixels.

    If `size` is None, returns the images unchanged.
    """
    if size is None:
        return images
    if images.device.type == "mps":
        images = _by_products(images, size)
    else:
        images = F.interpolate(images, size=(size, size), mode="area")
    return images.contiguous(memory_format=torch.channels_last)


def _by_products(images: Tensor, size: int) -> Tensor:
    """Does the same by matrix products, for MPS, where torch can only shrink to a divisor of the side.

    Source: https://github.com/pytorch/pytorch/issues/96056
    """
    with torch.autocast(images.device.type, enabled=False):  # autocast would round
        rows, columns = (_means(side, size).to(images) for side in images.shape[2:])
        return rows @ images @ columns.T


def _means(side: int, size: int) -> Tensor:
    """Returns the matrix `(size, side)` that averages a row of `side` pixels into a row of `size` pixels."""
    i, pixels = torch.arange(size)[:, None], torch.arange(side)
    inside = (i * side // size <= pixels) & (pixels * size < (i + 1) * side)
    return inside / inside.sum(1, keepdim=True)
