"""The user's own transforms, torchvision's or any other: what they are given, and what they may return."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cifar_lightning.data.preprocessing import Preprocessing, bytes_as_batch
from cifar_lightning.errors import InputError
from cifar_lightning.generators import random_states, restore_random_states

STAGES = ("train", "val", "test")
MORE_THAN_SCALE = ("Normalize", "LinearTransformation", "Lambda")  # torchvision's that may change the range 0..1
OF_PICTURES = ("ToTensor", "PILToTensor")  # torchvision's that take no tensor; v1 and v2 each have both
VIEWS = 'for several views of an image, use DataLoader(data.dataset("train", transform), batch_size=128, shuffle=True)'


@dataclass(frozen=True)
class OwnTransform:
    """A callable applied to one image at a time, as a batch of one; on the CPU, so that all devices and ranks agree.

    The random numbers that it draws from torch, numpy or Python's `random` depend only on the image's seed. The states
    of these generators are restored afterwards.

    Args:
        name: Name of the argument, for messages.
        function: The callable. It gets uint8 `(1, 3, H, W)`, or a PIL image if one of OF_PICTURES, or of a subclass, is
            part of it.
    """

    name: str
    function: Callable[[Any], Any]

    def __call__(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        """Returns the transformed images, uint8 or float32 `(N, 3, height, width)`, on the device of `images`.

        Args:
            images: uint8 `(N, 3, H, W)`.
            seeds: One seed per image.

        Raises:
            InputError: The callable fails, or returns something else.
        """
        given = images.cpu().clone(memory_format=torch.contiguous_format)  # the callable may change it in place
        pictures = bool(self._parts(*OF_PICTURES))
        with _as_they_were():
            made = [self._one(given[i : i + 1], seed, pictures) for i, seed in enumerate(seeds)]
        kinds = sorted({f"{image.dtype} {tuple(image.shape)}" for image in made})
        if len(kinds) > 1:
            raise InputError(
                f"{self} returns {kinds[0]} for one image and {kinds[1]} for another: "
                "make it return one dtype and shape for all"
            )
        return torch.cat(made).to(images.device) if made else images

    def _one(self, image: Tensor, seed: int, as_picture: bool) -> Tensor:
        try:
            made = self._called(image, seed, as_picture)
        except Exception as error:  # the user's code may raise anything
            kind = "a PIL image" if as_picture else f"uint8 {tuple(image.shape)}"
            reason = " ".join(str(error).split()) or type(error).__name__
            remedy = self._remedy(image, seed, as_picture)
            raise InputError(f"{self} fails on an image, {kind}: {reason}; {remedy}") from error
        found = type(made).__name__
        if isinstance(made, Tensor):
            found = f"{made.dtype} {tuple(made.shape)}"
            made = made.as_subclass(Tensor)
            made = made[None] if made.dim() == 3 else made
            if made.dim() == 4 and made.shape[:2] == (1, 3) and (made.is_floating_point() or made.dtype == torch.uint8):
                return made if made.dtype == torch.uint8 else made.float()
        views = f"; {VIEWS}" if isinstance(made, list | tuple) else ""
        raise InputError(
            f"{self} returns {found} for an image: make it return uint8 or float (1, 3, height, width){views}"
        )

    def _called(self, image: Tensor, seed: int, as_picture: bool) -> Any:
        for generator in (torch.default_generator.manual_seed, np.random.seed, random.seed):
            generator(seed)
        return self.function(_picture(image) if as_picture else image)

    def _remedy(self, image: Tensor, seed: int, as_picture: bool) -> str:
        """Says what to do about a failure, after a try whether the callable works with a PIL image instead."""
        made = None
        if not as_picture:
            with suppress(Exception):
                made = self._called(image, seed, True)
        if isinstance(made, list | tuple):
            return f"it takes PIL images: {VIEWS}"
        if made is not None:  # in this Compose it gets them, and PILToTensor leaves tensors as they are
            return "it takes PIL images: use v2.Compose([transform, v2.PILToTensor()])"
        return "fix it (v2.ToDtype(torch.float32, scale=True) converts bytes to floats)"

    @property
    def stated(self) -> Preprocessing | None:
        """The normalisation stated by torchvision's Normalize in the transform; None unless there is exactly one."""
        found = self._parts("Normalize")
        if len(found) != 1:
            return None
        mean, std = (torch.as_tensor(x, dtype=torch.float64).flatten().tolist() for x in (found[0].mean, found[0].std))
        mean, std = (3 * x if len(x) == 1 else x for x in (mean, std))  # one number there stands for three
        return Preprocessing(mean, std)

    def in_training(self, after_bytes: Preprocessing) -> Preprocessing | None:
        """Returns how images are normalised, apart from augmentation; None if that is unclear, or their size changes.

        Args:
            after_bytes: How images that the callable leaves as bytes are normalised.
        """
        size = after_bytes.size
        images = torch.stack([torch.full((3, size, size), value, dtype=torch.uint8) for value in (0, 255)])
        made = self(images, range(2))
        if made.shape != images.shape:  # a network for the new size does not take the old one, however normalised
            return None
        if made.dtype == torch.uint8:
            return after_bytes
        if self._knows_of_no_normalisation and made.min() >= 0 and made.max() <= 1:
            return Preprocessing((0, 0, 0), (1, 1, 1), size)
        return self.stated

    @property
    def _knows_of_no_normalisation(self) -> bool:
        """Whether all parts are torchvision's, and none is one of MORE_THAN_SCALE."""
        known, parts = ("torchvision.", "torch.nn.modules.container"), self._all_parts()
        return all(type(x).__module__.startswith(known) and type(x).__name__ not in MORE_THAN_SCALE for x in parts)

    def preprocessing(self, after_bytes: Preprocessing) -> Preprocessing | None:
        """Returns how images are normalised, if nothing else is done to them; None otherwise, or if it is unclear.

        Args:
            after_bytes: How images that the callable leaves as bytes are normalised.
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
        """Returns the parts of the transform that are of torchvision's classes with these names, or of subclasses."""

        def is_one(kind: type) -> bool:
            return kind.__name__ in names and kind.__module__.startswith("torchvision.")

        return [part for part in self._all_parts() if any(map(is_one, type(part).__mro__))]

    def _all_parts(self) -> list[Any]:
        """Returns all parts of the transform, including itself."""
        found: list[Any] = [self.function]
        for part in found:  # which grows in the loop
            found += part.children() if isinstance(part, nn.Module) else ()
            found += inner if isinstance(inner := getattr(part, "transforms", ()), list | tuple) else ()
        return found

    def __str__(self) -> str:
        text = " ".join(str(getattr(self.function, "__name__", self.function)).split())
        return f"{self.name} {text if len(text) <= 100 else text[:99] + '…'}"


@dataclass(frozen=True)
class Stages:
    """What is done to the images in each stage.

    Args:
        after_bytes: How bytes are normalised.
        own: The user's transforms, by stage, which is one of STAGES.
    """

    after_bytes: Preprocessing
    own: Mapping[str, OwnTransform]

    def preprocessing(self, stage: str) -> Preprocessing | None:
        """Returns how the images of an evaluation are normalised, if nothing else is done to them; None otherwise.

        Raises:
            InputError: The training images are normalised differently, as far as both are known.
        """
        own, train = self.own.get(stage), self.own.get("train")
        found = own.preprocessing(self.after_bytes) if own else self.after_bytes
        trained = train.in_training(self.after_bytes) if train else self.after_bytes
        if found and trained and found != trained:
            raise InputError(
                f"the training images are normalised with {trained}, the {stage} images with {found}: "
                f"use train_transforms and {stage}_transforms that normalise in the same way, or another normalization"
            )
        return found

    def applied(self, stage: str, images: Tensor) -> Tensor:
        """Converts images, uint8 `(N, 3, H, W)` or one `(3, H, W)`, to a network's input, as in an evaluation."""
        if own := self.own.get(stage):
            images = bytes_as_batch(images, None)
            if (images := own(images, range(len(images)))).is_floating_point():
                return images
        return self.after_bytes.normalize(images)


@contextmanager
def _as_they_were() -> Iterator[None]:
    """A context that at its end restores the states of torch's CPU generator, numpy's and Python's."""
    cpu = torch.device("cpu")
    states = random_states(cpu)
    try:
        yield
    finally:
        restore_random_states(states, cpu)


def _picture(image: Tensor) -> Any:
    from PIL import Image

    return Image.fromarray(image[0].permute(1, 2, 0).numpy())
