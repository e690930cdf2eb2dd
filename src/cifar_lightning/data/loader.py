"""BatchLoader: makes batches from images that are in memory as one tensor."""

import copy
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from cifar_lightning.data import transforms
from cifar_lightning.data.dataset import ImageDataset
from cifar_lightning.data.image_set import ImageSet
from cifar_lightning.data.own_transforms import OwnTransform
from cifar_lightning.data.preprocessing import Preprocessing
from cifar_lightning.data.progress import Place, Progress, epoch_generator
from cifar_lightning.data.sharing import check_batch_size, check_evaluation, connected, evaluation_batches
from cifar_lightning.errors import InputError

CHUNK = 512  # images prepared at once: enough to hide the cost of a call, few enough to stay in a core's cache
GPU_CHUNK = 10_000  # on an NVIDIA GPU, where a call costs more and there is no such cache
# Up to this many images have their borders mirrored once, in a padded copy that takes 1.6 times their memory for 4
# pixels a side; on a CPU the originals stay in memory as well. For more images, the borders of each chunk are mirrored
# anew, which takes 4 µs an image.
BORDERED = 100_000

SEEDS = 2**31  # numpy accepts any seed below this

Batch = tuple[Tensor, Tensor]


class BatchLoader:
    """Iterates `(images, labels)` batches: float32 `(B, 3, 32, 32)`, int64 `(B,)`.

    It takes the place of a `torch.utils.data.DataLoader`, without workers: the images are already on the device, and
    cropping, flipping and normalising some 500 at a time costs microseconds an image.

    What it yields depends only on (seed, epoch, position in the epoch). Random numbers are drawn on the CPU, whatever
    the device and the number of ranks. In training each rank takes its slice of every global batch, so 1, 2 or 8 ranks
    see the same sequence of global batches; images that do not fill a last global batch are left out of that epoch. In
    evaluation every image comes once, in fixed batches, which the ranks take in turn.

    Each iteration is the next epoch until somebody calls `set_epoch`, as Lightning does. From then on every iteration
    is of that epoch, so a callback can look at some batches without taking them from the fit. An iteration that begins
    after a complete one has an order of its own: a loader that Lightning combines with a longer one makes several laps
    in an epoch.

    `state_dict` and `load_state_dict` hold the position; Lightning uses them to resume in the middle of an epoch.

    Args:
        images: uint8 `(N, 3, H, W)` in channels_last, on the device of the batches.
        labels: int64 `(N,)`, same device.
        batch_size: Images per batch over all ranks (the global batch).
        mean: Per-channel mean, for images scaled to 0..1.
        std: Per-channel standard deviation, for the same.
        train: Shuffle, augment and drop the last partial batch; otherwise every image once, in order.
        seed: Seed of the order and the augmentation.
        crop_padding: In training, pixels that a random crop may shift by; 0 for no crops.
        flip: In training: `"random"` mirrors each image with probability 1/2; `"alternating"` does so in the first
            epoch, and from then on shows each image mirrored in every other epoch (https://arxiv.org/abs/2404.00498,
            section 3.6).
        cutout: In training, side of a square that is blanked in each image, with its centre anywhere in it; 0 for none.
        rank: Index of this process; by default its rank in torch's process group, if there is one when it iterates.
        world_size: Number of processes; by default that group's.
        repeat: In training, make every epoch like the first: the same batches, augmented alike.
        own: The user's transform of uint8 images, in training cropped and flipped ones. If it returns bytes, they are
            normalised; floats stay as they are.
        classes: Names of the classes, for `dataset`.
        channels_last: Yield images in torch.channels_last, as they are gathered and as convolutions like them.
            Otherwise a copy is contiguous, so that other people's `x.view(len(x), -1)` works.
        bordered: `images` of another loader with the same images and `crop_padding`, to share: mirroring the borders of
            50,000 images takes 0.3 s.

    Raises:
        InputError: `batch_size` is less than 1, more than the images, or not a multiple of `world_size`; or, in
            evaluation, there are fewer images than ranks. Without a `world_size` this is raised on iteration.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        batch_size: int,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        train: bool = False,
        seed: int = 0,
        crop_padding: int = 0,
        flip: Literal["none", "random", "alternating"] = "none",
        cutout: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
        repeat: bool = False,
        own: OwnTransform | None = None,
        classes: Sequence[str] = (),
        channels_last: bool = True,
        bordered: Tensor | None = None,
    ) -> None:
        self.images = images.permute(0, 2, 3, 1).contiguous()
        self.size = self.images.shape[1]
        self.labels = labels
        self._normalization, self.own, self.classes = Preprocessing(mean, std, self.size), own, tuple(classes)
        self.preprocessing = self._preprocessing(train)
        self.mean = torch.tensor(mean, device=images.device)
        self.std = torch.tensor(std, device=images.device)
        self.train, self.seed, self.flip = train, seed, flip
        self.crop_padding = crop_padding if train else 0
        self.cutout = cutout if train else 0
        self._rank, self._world_size, self.repeat, self.channels_last = rank, world_size, repeat, channels_last
        self.given_batch_size = batch_size
        self.batch_size  # noqa: B018  # raises if the ranks cannot share it
        self._bordered = self.crop_padding > 0 and len(images) <= BORDERED
        if self._bordered:
            self.images = transforms.reflect_pad(self.images, crop_padding) if bordered is None else bordered
        self._progress = Progress()
        self._ahead: tuple[Any, list[Tensor]] | None = None  # draws made in advance, with the `_part` of their epoch

    def _preprocessing(self, train: bool) -> Preprocessing | None:
        """How the images have been normalised, for a model to keep; None if that is not known."""
        if self.own is None:
            return self._normalization
        return self.own.in_training(self._normalization) if train else self.own.preprocessing(self._normalization)

    @property
    def dataset(self) -> ImageDataset:
        """The images one by one, in their own order and not augmented, each a tensor as in a batch.

        Raises:
            AttributeError: With a Trainer's `overfit_batches`: Lightning would rebuild a loader that has a `dataset`.
        """
        if self.repeat:
            raise AttributeError("a loader whose epochs repeat has no dataset")
        border = self.crop_padding if self._bordered else 0
        inside = slice(border, border + self.size)
        images = ImageSet(self.images[:, inside, inside].permute(0, 3, 1, 2), self.labels, self.classes)
        return ImageDataset(images, self._alone)

    def _alone(self, picture: Any) -> Tensor:
        """Converts a picture of `dataset` to a tensor as in a batch.

        The seed of the user's transform comes from torch's generator, as the random numbers of torchvision's do.
        """
        images = torch.from_numpy(np.array(picture))[None]
        seeds = torch.randint(SEEDS, (1,)) if self.own else None
        return self._finished(images, seeds, torch.device("cpu"))[0]

    @property
    def rank(self) -> int:
        """The rank of this process."""
        return (dist.get_rank() if connected() else 0) if self._rank is None else self._rank

    @property
    def world_size(self) -> int:
        """Number of processes that share the batches."""
        return (dist.get_world_size() if connected() else 1) if self._world_size is None else self._world_size

    @property
    def batch_size(self) -> int:
        """Images per batch: in training over all ranks, in evaluation on one rank."""
        images, world_size = len(self.labels), self.world_size
        if self.train:
            check_batch_size(self.given_batch_size, images, world_size)
            return self.given_batch_size
        return -(-images // max(1, self._eval_count))

    @property
    def _eval_count(self) -> int:
        """Number of evaluation batches over all ranks."""
        check_evaluation(len(self.labels), self.world_size)
        return evaluation_batches(len(self.labels), self.given_batch_size, self.world_size)

    @property
    def batch_indices(self) -> list[Tensor]:
        """Indices, in `dataset`, of the images in each batch that this rank evaluates, int64 `(n,)`.

        Raises:
            AttributeError: In training, where every epoch has other batches.
        """
        if self.train:
            raise AttributeError("a training loader has no batch_indices: every epoch has other batches")
        batches = torch.arange(len(self.labels)).tensor_split(max(1, self._eval_count))
        return list(batches[self.rank : self._eval_count : self.world_size])

    @property
    def batch_sampler(self) -> SimpleNamespace:
        """Where Lightning looks for `set_epoch`; for a `sampler` it would warn if `overfit_batches` is set."""
        return SimpleNamespace(sampler=self)

    def repeating(self) -> "BatchLoader":
        """Returns a loader of the same images that makes every epoch like the first. This loader is unaffected."""
        other = copy.copy(self)
        other.repeat, other._ahead, other._progress = True, None, self._progress.copy()
        return other

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch of all iterations from now on. Lightning calls this; a plain loop need not."""
        self._progress.set_epoch(epoch)

    def follow(self, other: "BatchLoader") -> None:
        """Makes each iteration a new epoch, after the last epoch that `other` (possibly this loader) has begun."""
        self._progress.follow(other._progress)

    def state_dict(self) -> dict[str, Any]:
        """Returns the place of the unfinished iteration that is farthest on, or if there is none, of the last one."""
        return self._progress.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Makes the next iteration continue from the place in `state_dict`."""
        self._progress.load_state_dict(state_dict, len(self))

    def __len__(self) -> int:
        if self.train:
            return len(self.labels) // self.batch_size
        return len(range(self.rank, self._eval_count, self.world_size))

    def __iter__(self) -> Iterator[Batch]:
        return self._progress.iterate(self._train_batches if self.train else self._eval_batches)

    def _train_batches(self, begin: Place) -> Iterator[Batch]:
        """Yields this rank's slices of an epoch's global batches, starting at a place in the epoch."""
        ahead, self._ahead = self._ahead, None
        draws = ahead[1] if ahead and ahead[0] == self._part(*begin[:2]) else self._draw_epoch(*begin[:2])
        batches, share = len(self), self.batch_size // self.world_size
        per_chunk = max(1, (GPU_CHUNK if self.labels.is_cuda and self.own is None else CHUNK) // share)
        start = begin.position
        while start < batches:
            stop = min(start + per_chunk, batches)
            chunk = self._prepare(*(x[start:stop].reshape(-1) for x in draws))
            if stop == batches:  # now, while a GPU still has steps queued: between two epochs it would wait for this
                self._ahead = self._part(begin.epoch + 1), self._draw_epoch(begin.epoch + 1)
            yield from zip(*(_apart(x, share) for x in chunk), strict=True)
            start = stop

    def _part(self, epoch: int, lap: int = 0) -> tuple[int, ...]:
        """Identifies this rank's part of an epoch's draws: ranks or batch size may change after it was drawn ahead."""
        return epoch, lap, self.rank, self.world_size, self.batch_size

    def _draw_epoch(self, epoch: int, lap: int = 0) -> list[Tensor]:
        """Draws an epoch's random numbers and keeps this rank's: one row per global batch, this rank's columns."""
        batches, batch_size = len(self), self.batch_size
        share = batch_size // self.world_size
        columns = slice(self.rank * share, (self.rank + 1) * share)
        # `_draws` is lazy, so that only one array for all ranks exists at a time: all of them would take 41 bytes an
        # image on every rank.
        drawn = self._draws(*((0, 0) if self.repeat else (epoch, lap)))
        return [x[: batches * batch_size].view(batches, batch_size)[:, columns].contiguous() for x in drawn]

    def _draws(self, epoch: int, lap: int) -> Iterator[Tensor]:
        """Yields for all positions: image index, crop's top, crop's left, mirrored or not, hole's top, left, seed."""
        generator = epoch_generator(self.seed, epoch, lap)
        count = len(self.labels)
        order = torch.randperm(count, generator=generator)
        yield order
        yield from torch.randint(0, 2 * self.crop_padding + 1, (2, count), generator=generator)
        if self.flip == "random":
            yield torch.rand(count, generator=generator) < 0.5
        elif self.flip == "alternating":
            first = torch.rand(count, generator=epoch_generator(self.seed, 0)) < 0.5
            yield (first ^ bool((epoch + lap) % 2))[order]
        else:
            yield torch.zeros(count, dtype=torch.bool)
        yield from torch.randint(0, self.size, (2, count), generator=generator) - self.cutout // 2
        if self.own:
            yield torch.randint(SEEDS, (count,), generator=generator)

    @torch.inference_mode(False)  # even if the first batch of a chunk is only evaluated, the next may be trained on
    def _prepare(
        self,
        index: Tensor,
        top: Tensor,
        left: Tensor,
        mirrored: Tensor,
        hole_top: Tensor,
        hole_left: Tensor,
        seeds: Tensor | None = None,
    ) -> Batch:
        device = self.labels.device
        index, top, left = (transforms.to_device(x, device) for x in (index, top, left))
        if self._bordered:
            images = transforms.crop(self.images, index, top, left, self.size)
        else:
            images = self.images.index_select(0, index)
            if self.crop_padding:
                padded = transforms.reflect_pad(images, self.crop_padding)
                images = transforms.crop(padded, torch.arange(len(padded), device=device), top, left, self.size)
        if self.flip != "none":
            images = transforms.flip(images, mirrored)
        images = self._finished(images, seeds, device)
        if self.cutout:
            if images.shape[2:] != (self.size, self.size):
                raise InputError(
                    f"{self.own} makes images of {tuple(images.shape[2:])} pixels, but cutout is for "
                    f"{(self.size, self.size)}: use cutout 0"
                )
            hole_top, hole_left = (transforms.to_device(x, device) for x in (hole_top, hole_left))
            images = transforms.cutout(images, hole_top, hole_left, self.cutout)
        return images, self.labels[index]

    def _eval_batches(self, begin: Place) -> Iterator[Batch]:
        count = self._eval_count
        seeds = torch.randint(SEEDS, (len(self.labels),), generator=epoch_generator(self.seed, 0))
        parts = (torch.tensor_split(x, max(1, count)) for x in (self.images, self.labels, seeds))
        batches = list(zip(*parts, strict=True))
        for i in range(self.rank + begin.position * self.world_size, count, self.world_size):
            images, labels, own_seeds = batches[i]
            yield self._finished(images, own_seeds, self.labels.device), labels.clone()

    def _finished(self, images: Tensor, seeds: Tensor | None, device: torch.device) -> Tensor:
        """Applies the user's transform, if there is one, to uint8 `(N, H, W, 3)` and normalises bytes for a network."""
        if self.own is not None and seeds is not None:
            made = self.own(images.permute(0, 3, 1, 2), seeds.tolist())
            if made.is_floating_point():
                return made.contiguous(memory_format=self._layout)
            images = made.permute(0, 2, 3, 1)
        images = transforms.normalize(images, self.mean.to(device), self.std.to(device))
        return images.contiguous(memory_format=self._layout)

    @property
    def _layout(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format


def _apart(chunk: Tensor, size: int) -> Iterator[Tensor]:
    """Splits a chunk into batches that autograd treats as separate tensors: changing one in place affects no other."""
    return (batch.data for batch in torch.split(chunk, size))
