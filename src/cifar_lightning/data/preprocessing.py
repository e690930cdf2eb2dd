"""Preprocessing: turns the bytes of images into a network's input. A data module applies it, and a model keeps it."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cifar_lightning.data import cifar10, transforms
from cifar_lightning.errors import ImageWarning, InputError

NORMALIZATIONS = ("half", "dataset", "cifar10", "cifar100")


@dataclass(frozen=True)
class Preprocessing:
    """How images are normalised; two that do the same are equal.

    Args:
        mean: Mean of each channel, for images scaled to 0..1.
        std: Standard deviation of each channel, for the same.
        size: Height and width of the images, in pixels.

    Raises:
        InputError: `mean` and `std` are not three numbers each, with `std` positive, or `size` is less than 1.

    Example:
        >>> black = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
        >>> Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)).normalize(black)[0, :, 0, 0]
        tensor([-1., -1., -1.])
        >>> print(Preprocessing(MEAN, STD))
        mean (0.4914, 0.4822, 0.4465), std (0.247, 0.2435, 0.2616), 32 pixels
    """

    mean: Sequence[float]
    std: Sequence[float]
    size: int = 32

    def __post_init__(self) -> None:
        try:
            mean, std = (tuple(map(_as_float32, x)) for x in (self.mean, self.std))
        except (TypeError, ValueError):  # no numbers
            mean = std = ()
        if not len(mean) == len(std) == 3 or not all(map(math.isfinite, mean + std)) or min(std) <= 0:
            raise InputError(f"mean {self.mean} and std {self.std}: must be three numbers each, with std above 0")
        size = self.size.tolist() if isinstance(self.size, np.generic) else self.size
        if type(size) is not int or size < 1:
            raise InputError(f"size {size!r}: must be a whole number of at least 1, the images' side in pixels")
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "std", std)
        object.__setattr__(self, "size", size)

    def __str__(self) -> str:
        mean, std = (", ".join(f"{x:g}" for x in values) for values in (self.mean, self.std))
        return f"mean ({mean}), std ({std}), {self.size} pixels"

    def plain(self) -> dict[str, Any]:
        """Returns the arguments as lists and numbers, which a checkpoint can hold.

        Returns:
            Arguments with which `Preprocessing(**plain)` equals this one.
        """
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def normalize(self, images: Tensor) -> Tensor:
        """Normalises images for a network: `(x / 255 - mean) / std`.

        Args:
            images: uint8 `(N, 3, size, size)`, or `(3, size, size)` for one.

        Returns:
            float32 `(N, 3, size, size)`, channels_last, on the device of `images`.

        Raises:
            InputError: `images` have another dtype or shape.
        """
        images = bytes_as_batch(images, self.size)
        mean, std = (torch.tensor(x, device=images.device) for x in (self.mean, self.std))
        return transforms.normalize(images.permute(0, 2, 3, 1), mean, std)


def _as_float32(value: Any) -> float:
    """Returns the shortest decimal that is the same float32: 0.4914 for the 0.49140000343 that a tensor gives."""
    with np.errstate(over="ignore"):
        return float(str(np.float32(float(value))))


def as_batch(images: Tensor, size: int | None) -> Tensor:
    """Returns `images` as `(N, 3, H, W)`; a single image `(3, H, W)` becomes a batch of one.

    Args:
        images: uint8 or floats.
        size: What H and W should be; None if that is not known.

    Raises:
        InputError: `images` have another type, dtype or shape.
    """
    if isinstance(images, np.ndarray):
        raise InputError(f"images are a numpy array {images.shape}: pass a tensor, torch.from_numpy(images)")
    if not isinstance(images, Tensor):
        raise InputError(f"images are of type {type(images).__name__}: pass a tensor (N, 3, height, width)")
    shape = tuple(images.shape)
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise InputError(f"images are {images.dtype}: pass uint8, bytes from 0 to 255, or normalised floats")
    if images.dim() == 3:
        images = images[None]
    wanted = f"(N, 3, {size or 'height'}, {size or 'width'})"
    if images.dim() != 4:
        raise InputError(f"images have shape {shape}: pass {wanted}")
    channels, *sides = images.shape[1:]
    if channels != 3:
        if images.shape[3] in (1, 3, 4):
            hint = "their channels come last; pass images.movedim(-1, -3)"
        else:
            hint = {
                1: "they are grey; pass images.expand(*images.shape[:-3], 3, -1, -1)",  # a single image, too
                4: "they have four channels; pass RGB",
            }.get(channels, "they do not have three channels")
        raise InputError(f"images have shape {shape}, not {wanted}: {hint}")
    if size is not None and sides != [size, size]:
        raise InputError(
            f"images have shape {shape}, not {wanted}: "
            f"pass torchvision.transforms.v2.functional.resize(images, [{size}, {size}])"
        )
    return images


def warn_of_bytes(images: Tensor, preprocessing: Preprocessing | None) -> None:
    """Warns if floats have values far above those of any normalised pixel: they are probably bytes, from 0 to 255."""
    if preprocessing is None or images.dtype == torch.uint8 or not images.numel():
        return
    highest = max((1 - mean) / std for mean, std in zip(preprocessing.mean, preprocessing.std, strict=True))
    if (found := images.max().item()) > 2 * highest:
        warnings.warn(
            f"images are {images.dtype} with values up to {found:g}, but normalised ones end at {highest:.3g}: floats "
            "are used as they are; pass uint8, or images normalised as model.preprocessing says",
            ImageWarning,
            stacklevel=4,  # the caller of LitNet.predict, which torch.inference_mode wraps
        )


def bytes_as_batch(images: Tensor, size: int | None) -> Tensor:
    """Does the same as `as_batch`, but refuses floats: nothing tells whether they are already normalised."""
    images = as_batch(images, size)
    if images.dtype != torch.uint8:
        raise InputError(f"images are {images.dtype}: pass uint8, bytes from 0 to 255")
    return images


def data_set_of(normalization: str, source: str) -> str:
    """Resolves `normalization` for images from `source`: the set whose mean and std it means, or half for neither."""
    if normalization == "dataset":
        return "cifar100" if source.startswith("cifar100") else "cifar10"
    return normalization


def preprocessing_of(normalization: str, source: str) -> Preprocessing:
    """Returns the Preprocessing that CIFAR10DataModule's arguments `normalization` and `source` mean."""
    constants = {
        "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        "cifar10": (cifar10.MEAN, cifar10.STD),
        "cifar100": (cifar10.CIFAR100_MEAN, cifar10.CIFAR100_STD),
    }
    return Preprocessing(*constants[data_set_of(normalization, source)])


def name_of(preprocessing: Preprocessing) -> str | None:
    """Returns the value of CIFAR10DataModule's `normalization` that means this preprocessing, if there is one."""
    names = ("half", "cifar10", "cifar100")
    return next((name for name in names if preprocessing_of(name, name) == preprocessing), None)
