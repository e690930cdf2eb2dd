"""Transforms of a user's own, torchvision's or any other: what they are given, and what they may make of it."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cifar_lightning.data.preprocessing import Preprocessing, bytes_as_batch
from cifar_lightning.errors import InputError
from cifar_lightning.generators import random_states, restore_random_states

STAGES = ("train", "val", "test")
MORE_THAN_SCALE = ("Normalize", "LinearTransformation", "Lambda")  # torchvision's: what they make of 0..1 is not 0..1
OF_PICTURES = ("ToTensor", "PILToTensor")  # torchvision's, which take no tensor: it has two of each


@dataclass(frozen=True)
class OwnTransform:
    """A callable of one image at a time, as a batch of one; on the CPU, so that all devices and ranks have the same.

    Whatever it draws from torch, numpy or Python's `random` is a function of the image's seed, and these are left as
    they were.

    Args:
        name: Of the argument, for messages.
        function: The callable: of uint8 `(1, 3, H, W)`; or of a picture of PIL's, where one of OF_PICTURES is in it.
    """

    name: str
    function: Callable[[Any], Any]

    def __call__(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        """What it makes of images, uint8 or float32 `(N, 3, height, width)`, on their device.

        Args:
            images: uint8 `(N, 3, H, W)`.
            seeds: An image's own, each.

        Raises:
            InputError: It fails, or gives something else.
        """
        given = images.cpu().clone(memory_format=torch.contiguous_format)  # to be changed in place, if he likes
        pictures = bool(self._parts(*OF_PICTURES))
        with _as_they_were():
            made = [self._one(given[i : i + 1], seed, pictures) for i, seed in enumerate(seeds)]
        kinds = sorted({f"{image.dtype} {tuple(image.shape)}" for image in made})
        if len(kinds) > 1:
            raise InputError(f"{self} gives {kinds[0]} of one image and {kinds[1]} of another: make them alike")
        return torch.cat(made).to(images.device) if made else images

    def _one(self, image: Tensor, seed: int, as_picture: bool) -> Tensor:
        for generator in (torch.default_generator.manual_seed, np.random.seed, random.seed):
            generator(seed)
        try:
            made = self.function(_picture(image) if as_picture else image)
        except Exception as error:  # whatever somebody's code raises
            kind = "a PIL image" if as_picture else f"uint8 {tuple(image.shape)}"
            raise InputError(
                f"{self} fails on an image, {kind}: {' '.join(str(error).split()) or type(error).__name__}; mend it "
                "(v2.ToDtype(torch.float32, scale=True) makes floats of bytes)"
            ) from error
        found = type(made).__name__
        if isinstance(made, Tensor):
            found = f"{made.dtype} {tuple(made.shape)}"
            made = made.as_subclass(Tensor)
            made = made[None] if made.dim() == 3 else made
            if made.dim() == 4 and made.shape[:2] == (1, 3) and (made.is_floating_point() or made.dtype == torch.uint8):
                return made if made.dtype == torch.uint8 else made.float()
        raise InputError(f"{self} makes {found} of an image: make it uint8 or float (1, 3, height, width)")

    @property
    def stated(self) -> Preprocessing | None:
        """The normalisation that the one Normalize of torchvision's in it says; None where there is none, or two."""
        found = self._parts("Normalize")
        if len(found) != 1:
            return None
        mean, std = (torch.as_tensor(x, dtype=torch.float64).flatten().tolist() for x in (found[0].mean, found[0].std))
        mean, std = (3 * x if len(x) == 1 else x for x in (mean, std))  # one number stands for three there
        return Preprocessing(mean, std)

    def in_training(self, after_bytes: Preprocessing) -> Preprocessing | None:
        """What images have undergone besides an augmentation; None where nothing tells, or they have another size.

        Args:
            after_bytes: How those are normalised that it leaves as bytes.
        """
        size = after_bytes.size
        images = torch.stack([torch.full((3, size, size), value, dtype=torch.uint8) for value in (0, 255)])
        made = self(images, range(2))
        if made.shape != images.shape:  # a network of such images takes none of the others, normalised as they may be
            return None
        if made.dtype == torch.uint8:
            return after_bytes
        if self._knows_of_no_normalisation and made.min() >= 0 and made.max() <= 1:
            return Preprocessing((0, 0, 0), (1, 1, 1), size)
        return self.stated

    @property
    def _knows_of_no_normalisation(self) -> bool:
        """Whether all of it is torchvision's, and none of MORE_THAN_SCALE."""
        known, parts = ("torchvision.", "torch.nn.modules.container"), self._all_parts()
        return all(type(x).__module__.startswith(known) and type(x).__name__ not in MORE_THAN_SCALE for x in parts)

    def preprocessing(self, after_bytes: Preprocessing) -> Preprocessing | None:
        """What images have undergone, if that is a normalisation and no more; None otherwise, or if nothing tells.

        Args:
            after_bytes: How those are normalised that it leaves as bytes.
        """
        size = after_bytes.size
        black, white = torch.zeros(1, 3, size, size, dtype=torch.uint8), torch.full((1, 3, size, size), 255).byte()
        noise = torch.randint(0, 256, black.shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        images = torch.cat([black, white, noise])
        made = self(images, range(3))
        if made.shape != images.shape:
            return None
        if made.dtype == torch.uint8:
            return after_bytes if torch.equal(made, images) else None
        guess = self.stated or Preprocessing((0, 0, 0), (1, 1, 1), size)
        return guess if torch.allclose(made, guess.normalize(images), atol=1e-4) else None

    def _parts(self, *names: str) -> list[Any]:
        """Those of these classes of torchvision's that it is composed of."""
        parts = self._all_parts()
        return [x for x in parts if type(x).__name__ in names and type(x).__module__.startswith("torchvision.")]

    def _all_parts(self) -> list[Any]:
        """All that it is composed of, itself among them."""
        found: list[Any] = [self.function]
        for part in found:  # which grows
            found += part.children() if isinstance(part, nn.Module) else ()
            found += inner if isinstance(inner := getattr(part, "transforms", ()), list | tuple) else ()
        return found

    def __str__(self) -> str:
        text = " ".join(str(getattr(self.function, "__name__", self.function)).split())
        return f"{self.name} {text if len(text) <= 100 else text[:99] + '…'}"


@dataclass(frozen=True)
class Stages:
    """What is done to the images of each stage.

    Args:
        after_bytes: How bytes are normalised.
        own: A user's transform by its stage, one of STAGES.
    """

    after_bytes: Preprocessing
    own: Mapping[str, OwnTransform]

    def preprocessing(self, stage: str) -> Preprocessing | None:
        """What the images of an evaluation have undergone, if that is a normalisation and no more; None otherwise.

        Raises:
            InputError: It is another than that of the training images, as far as both are known.
        """
        own, train = self.own.get(stage), self.own.get("train")
        found = own.preprocessing(self.after_bytes) if own else self.after_bytes
        trained = train.in_training(self.after_bytes) if train else self.after_bytes
        if found and trained and found != trained:
            raise InputError(
                f"the training images come with {trained}, those of {stage} with {found}: give train_transforms and "
                f"{stage}_transforms that normalise alike, or another normalization"
            )
        return found

    def applied(self, stage: str, images: Tensor) -> Tensor:
        """What a network takes of images, uint8 `(N, 3, H, W)` or one of `(3, H, W)`, in an evaluation."""
        if own := self.own.get(stage):
            images = bytes_as_batch(images, None)
            if (images := own(images, range(len(images)))).is_floating_point():
                return images
        return self.after_bytes.normalize(images)


@contextmanager
def _as_they_were() -> Iterator[None]:
    """Leaves the generators of torch (the CPU's), numpy and Python as they are before."""
    cpu = torch.device("cpu")
    states = random_states(cpu)
    try:
        yield
    finally:
        restore_random_states(states, cpu)


def _picture(image: Tensor) -> Any:
    from PIL import Image

    return Image.fromarray(image[0].permute(1, 2, 0).numpy())
