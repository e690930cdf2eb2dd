"""CIFAR10DataModule: the images of a source in ready-made batches, for any LightningModule or a plain loop."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from cifar_lightning.arguments import arguments_of, explained
from cifar_lightning.data import cifar10
from cifar_lightning.data.absent import NAMED, WHY
from cifar_lightning.data.dataset import ImageDataset
from cifar_lightning.data.image_set import ImageSet
from cifar_lightning.data.loaded import LoadedImages
from cifar_lightning.data.loader import BatchLoader
from cifar_lightning.data.own_transforms import STAGES, OwnTransform, Stages
from cifar_lightning.data.preprocessing import Preprocessing, preprocessing_of
from cifar_lightning.data.ranges import check_classes
from cifar_lightning.data.settable import SettableDataModule, settable
from cifar_lightning.data.sharing import check_batch_size, check_evaluation
from cifar_lightning.data.sources import Source
from cifar_lightning.data.split import stratified_order
from cifar_lightning.data.torch_loader import TorchLoader
from cifar_lightning.errors import ImageWarning, InputError

OF_IMAGES = {"source", "data_dir", "mirror", "sha256", "train_labels", "synthetic_size"}  # what they depend on


@settable
class CIFAR10DataModule(SettableDataModule):
    """CIFAR-10, or images like it: downloads, splits, augments, normalises and batches them.

    In a Trainer the batches are on the Trainer's device and are shared by its ranks; each new Trainer's fit begins with
    epoch 0. Without a Trainer, call `dm.prepare_data(); dm.setup("fit")` once, and in every epoch loop `for images,
    labels in dm.train_dataloader(): ...`; if torch.distributed is initialised, its ranks share the batches too.

    A folder source with a `val/`, `valid/` or `validation/` beside its `train/` and `test/` is validated on that folder
    and takes no `val_split`. `train_labels` replace the labels of all training images, including those held out for
    validation (the split depends on them); the test labels stay.

    Args:
        data_dir: Folder of the images, or their one file, in a layout of docs/data.md; if it has none, CIFAR is
            downloaded there.
        batch_size: Images per training step over all devices (the global batch).
        source: cifar10; cifar100, or cifar100-coarse with its 20 classes; folder: your images in `data_dir`, in
            `train/<class>/*`, `test/<class>/*`, or as arrays or parquet; synthetic: drawn images.
        val_split: Training images to hold out: a number, a fraction, or 2of5, the second of five folds; the same
            share of every class.
        augment: Shift and mirror the training images at random.
        crop_padding: Largest shift, in pixels; reflection fills the gap.
        flip: How `augment` mirrors: random, each time with probability 1/2; alternating, every other epoch; none.
        cutout: Side of the square that `augment` blanks in each image; 0: none.
        normalization: half: to -1..1, as in the tutorial; cifar10, cifar100: by that set's mean and std; dataset:
            cifar100 for its sources, else cifar10.
        eval_batch_size: Images per validation or test batch, at most an eighth of all.
        seed: Seed of the order and the augmentation; by default that given to `lightning.seed_everything` before, or 0.
        split_seed: Seed of the validation split, the same for runs of all seeds.
        mirror: Where to get the archive: an https address, a file or a folder.
        sha256: SHA-256 of your own file of images, or of several, concatenated.
        train_labels: Other labels to train on, such as CIFAR-10_human.pt:worse_label
        synthetic_size: Training images to draw, and a fifth as many for the test.
        device: Where to put the batches if there is no Trainer, e.g. "cuda".
        train_transforms: Your own transform, from torchvision.transforms.v2 or any callable. It gets one image at a
            time, uint8 `(1, 3, 32, 32)`, or a PIL image if it contains torchvision's ToTensor or a subclass, as timm's
            do. It runs after `augment`, or alone if that is false. If it returns bytes, they are normalised; floats are
            used as they are, so a transform that ends in `v2.Normalize` replaces `normalization`. Its random numbers
            depend only on the seed, the epoch and the position. It takes at least ten times as long as `augment`, on
            one core, and is not saved in checkpoints.
        val_transforms: The same for the images held out.
        test_transforms: The same for the test images.

    Each argument is also an attribute: setting it checks the value, and the next loader uses it.

    Attributes:
        dims: `(3, 32, 32)`, the shape of an image.
        preprocessing: Mean, std and size of the images, for a model to keep; None if `test_transforms` do more than
            normalise.
        classes: Names of the classes, in the order of the labels.
        num_classes: Number of classes.
        channels_last: Whether batches are in torch.channels_last, which saves our networks a copy. If the
            LightningModule has an attribute of this name, it decides.

    Raises:
        InputError: A value is out of range, or the images are not available.

    Example:
        >>> data = CIFAR10DataModule(source="synthetic", batch_size=100, val_split=0.1)
        >>> data.prepare_data()
        >>> data.setup("fit")
        >>> images, labels = next(iter(data.train_dataloader()))
        >>> images.shape, images.dtype, labels.shape
        (torch.Size([100, 3, 32, 32]), torch.float32, torch.Size([100]))
        >>> data.classes[labels[0]] in CLASSES
        True
    """

    dims = cifar10.IMAGE_SHAPE
    channels_last = False

    @explained(WHY, NAMED)
    def __init__(
        self,
        data_dir: str | Path = "data",
        batch_size: int = 4,
        source: Literal["cifar10", "cifar100", "cifar100-coarse", "folder", "synthetic"] = "cifar10",
        val_split: int | float | str = 0,
        augment: bool = False,
        crop_padding: int = 4,
        flip: Literal["none", "random", "alternating"] = "random",
        cutout: int = 0,
        normalization: Literal["half", "dataset", "cifar10", "cifar100"] = "half",
        eval_batch_size: int = 500,
        seed: int | None = None,
        split_seed: int = 0,
        mirror: str | Path | None = None,
        sha256: str | None = None,
        train_labels: str | Path | None = None,
        synthetic_size: int = 10_000,
        device: str | torch.device = "cpu",
        train_transforms: Callable[[Any], Any] | None = None,
        val_transforms: Callable[[Any], Any] | None = None,
        test_transforms: Callable[[Any], Any] | None = None,
    ) -> None:
        arguments = arguments_of(self)
        super().__init__()
        self._train_loader: BatchLoader | None = None
        self._made_with: dict[str, Any] = {}  # what _train_loader depends on
        self.nothing_else = type(self) is CIFAR10DataModule  # a subclass may set num_workers for its own loader
        self._keep(arguments)

    def _take_up(self, arguments: Mapping[str, Any], changed: set[str]) -> None:
        """Begins with other images if the arguments mean others."""
        if changed & OF_IMAGES:
            where = {name: arguments[name] for name in ("mirror", "sha256", "synthetic_size")}
            source = Source(arguments["source"], arguments["data_dir"], **where)
            self._loaded = LoadedImages(source, arguments["train_labels"])

    @property
    def _images(self) -> LoadedImages:
        """The images that the arguments mean now."""
        self._follow()
        return self._loaded

    def prepare_data(self) -> None:
        """Downloads the images if they are missing. Safe to call from several processes at once.

        Raises:
            InputError: The images are not available.
        """
        self._images.prepare()

    def setup(self, stage: str | None = None) -> None:
        """Loads the images that a stage needs.

        Args:
            stage: fit, validate, test, predict, or None for all.

        Raises:
            InputError: The images are not available.
        """
        if stage == "fit":  # the loader is left over from an earlier fit
            self._train_loader = None
        splits = {"fit": ["train"], "validate": ["train"], "test": ["test"], "predict": ["test"]}
        for split in splits.get(stage or "", ["train", "test"]):
            self.image_set(split)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the labels.

        Loads images if none are loaded yet and the source may have its own class names. The names of synthetic images
        and of the official archives are known without loading.
        """
        return self._images.classes

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    def train_indices(self) -> Tensor:
        """Indices of the training images that are not held out, int64 `(n,)`."""
        return self._split[0]

    @property
    def val_indices(self) -> Tensor:
        """Indices of the held-out training images, int64 `(n,)`; any part of their order is stratified by class."""
        return self._split[1]

    @property
    def test_indices(self) -> Tensor:
        """Indices of the test images in the order in which they are tested, int64 `(n,)`.

        This is the images' own order. But if a Trainer tests only some of the batches, it is an order any part of which
        is stratified by class; it stays so after the Trainer has finished, to match the model's `last_evaluation`.
        """
        labels = self.image_set("test").labels
        if self._tests_a_part:
            return stratified_order(labels, self.hparams["split_seed"])
        return torch.arange(len(labels))

    @property
    def _tests_a_part(self) -> bool:
        limit = getattr(self.trainer, "limit_test_batches", 1.0)  # 1.0 means all batches, 1 means one
        return not (isinstance(limit, float) and limit == 1)

    def image_set(self, split: str) -> ImageSet:
        """Returns all images of a split, neither augmented nor normalised.

        Args:
            split: `train`, including the images held out for validation, or `test`.

        Returns:
            uint8 images `(N, 3, 32, 32)` and int64 labels `(N,)`, on the CPU.

        Raises:
            InputError: The images are not available.

        Example:
            >>> test = CIFAR10DataModule(source="synthetic").image_set("test")
            >>> test.images.shape, test.images.dtype, test.labels.shape
            (torch.Size([2000, 3, 32, 32]), torch.uint8, torch.Size([2000]))
        """
        return self._images.image_set(split)

    def share(self, other: "CIFAR10DataModule") -> None:
        """Takes over the images that another data module has loaded, if both use the same: for many runs in a process.

        Args:
            other: The other data module.
        """
        mine, theirs = self._follow(), other._follow()
        if all(mine[name] == theirs[name] for name in OF_IMAGES):
            self._loaded = other._loaded

    def keep_bordered(self) -> None:
        """Mirrors the borders of the training images once, for all modules that `share` them with the same split."""
        self._images.bordered = {self._borders: self._training_loader().images}

    @property
    def _borders(self) -> tuple[Any, ...]:
        """Everything but the images on which the padded images of a training loader depend."""
        h = self._follow()
        return h["val_split"], h["split_seed"], h["crop_padding"] if h["augment"] else 0, self._place["device"]

    def count_as(self, classes: Sequence[str]) -> None:
        """Renumbers the classes in the order used by a network that was trained on other images.

        Args:
            classes: The class names in the network's order.

        Raises:
            InputError: The names are not those of the images' classes.
        """
        self._loaded = self._images.counted_as(classes)

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that the source has, of `train` and `test`: a published test set has only `test`."""
        return self._images.source.splits

    @property
    def parts(self) -> list[Path]:
        """If `data_dir` is a folder of CIFAR-10-C, its files, each of which works as a `data_dir` with one test set."""
        return list(self._images.source.parts)

    def dataset(self, split: str, transform: Callable[[Any], Any] | None = None) -> ImageDataset:
        """Returns the images of `image_set` one by one, for a `torch.utils.data.DataLoader`, a `Subset` or k-fold.

        Args:
            split: `train`, including the images held out for validation, or `test`.
            transform: Called with each PIL image, as in `torchvision.datasets.CIFAR10`.

        Returns:
            Pairs of an image, or the result of `transform`, and its label, an int.

        Raises:
            InputError: The images are not available.

        Example:
            >>> images = CIFAR10DataModule(source="synthetic").dataset("train")
            >>> fold = torch.utils.data.Subset(images, range(0, len(images), 5))
            >>> image, label = fold[0]
            >>> len(fold), image.size, image.mode
            (2000, (32, 32), 'RGB')
        """
        return ImageDataset(self.image_set(split), transform)

    def check(self, ranks: int = 1) -> None:
        """Checks for problems that would appear only during a fit, or never: empty classes, too few images per rank.

        Args:
            ranks: Number of ranks that share the images.

        Raises:
            InputError: There is such a problem.
        """
        h = self.hparams
        if h["source"] == "folder":
            check_classes(self.image_set("train"), self.train_indices, h["data_dir"], h["val_split"])
        check_batch_size(h["batch_size"], len(self.train_indices), ranks)
        check_evaluation(len(self.val_indices), ranks)
        tested = len(self.image_set("test").labels)  # even for one rank: raises if there are none
        if ranks > 1:
            check_evaluation(tested, ranks)

    def normalize(self, images: Tensor) -> Tensor:
        """Normalises images for a network as in a test: by `test_transforms` if given; see `Preprocessing`.

        Args:
            images: uint8 `(N, 3, 32, 32)`, or `(3, 32, 32)` for one.

        Returns:
            float32 `(N, 3, 32, 32)`, on the device of `images`.

        Raises:
            InputError: `images` have another dtype or shape.
        """
        return self._stages.applied("test", images)

    def sample(self, count: int, device: torch.device | str = "cpu") -> Tensor:
        """Returns some of the training images that are not held out, evenly spaced: the same for any `seed`.

        Args:
            count: Maximum number of images.
            device: Device on which to return them.

        Returns:
            float32 `(n, 3, 32, 32)`, normalised.
        """
        images, index = self.image_set("train").images, self.train_indices
        index = index[torch.linspace(0, len(index) - 1, min(count, len(index))).long()]
        return self.normalize(images[index].to(device))

    def train_dataloader(self) -> BatchLoader | TorchLoader:
        """Returns a loader of shuffled, augmented batches of the training images that are not held out.

        The loader is the same until `setup("fit")` is called or its settings change. A Trainer sets its epoch. Without
        a Trainer each iteration is the next epoch, so a loop may call this method once or in every epoch. With Fabric,
        call it once: the wrapper that `setup_dataloaders` returns begins at epoch 0.
        """
        before = self._train_loader
        loader = self._training_loader()
        if not self._active_trainer:
            loader.follow(loader if before is None else before)
        return self._handed_out(loader)

    def val_dataloader(self) -> BatchLoader | TorchLoader:
        """Returns a loader of the held-out training images, once each, unaugmented; empty if none are held out."""
        if not len(self.val_indices):
            trainer = self._active_trainer
            if trainer and trainer.state.fn == "validate" and trainer.is_global_zero:  # a fit needs none
                said = "there are no images to validate on: pass val_split, for example 0.1"
                warnings.warn(said, ImageWarning, stacklevel=2)
            # An empty loader is the only way to tell Lightning that there is nothing to validate on, but Lightning
            # warns about that even in a fit.
            warnings.filterwarnings("ignore", "Total length of `(Batch|Torch)Loader` across ranks is zero")
        return self._handed_out(self._evaluation_loader("val", self.val_indices))

    def test_dataloader(self) -> BatchLoader | TorchLoader:
        """Returns a loader of the test images, once each, in their own order; in a Trainer, in `test_indices` order."""
        index = self.test_indices if self._active_trainer and self._tests_a_part else None
        return self._handed_out(self._evaluation_loader("test", index))

    def predict_dataloader(self) -> BatchLoader | TorchLoader:
        """Returns a loader of the test images, once each, in their own order."""
        return self._handed_out(self._evaluation_loader("test", None))

    def state_dict(self) -> dict[str, Any]:
        """Returns a checksum of the training images and the position in the epoch, for a resumed run.

        Lightning saves the position too, but does not restore it to a loader that was made before the checkpoint is
        read, for example because a schedule needs its length: that loader stays at the start of the epoch. The state is
        empty if the training images were never loaded, as in a test.
        """
        if "train" not in self._images.sets:
            return {}
        position = self._train_loader.state_dict() if self._train_loader is not None else None
        return {"fingerprint": self.fingerprint, "position": position}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Makes a fit continue where it was, after checking that the images are the same; see `check_images`."""
        # A test may use other images. Without a Trainer, as in load_from_checkpoint, there may be no images yet.
        if self.trainer is not None and self.trainer.state.fn == "fit":
            self.check_images(state_dict)
            if (position := state_dict.get("position")) is not None:
                self._training_loader().load_state_dict(position)

    def check_images(self, state_dict: dict[str, Any]) -> None:
        """Checks that the training images are the ones with which a state was saved.

        Args:
            state_dict: The result of `state_dict` at that time.

        Raises:
            InputError: The training images differ.
        """
        if state_dict["fingerprint"] != self.fingerprint:
            raise InputError(
                f"the training images in {self.hparams['data_dir']} are not the ones that the run began with: "
                "pass the folder of the original ones as --data.data_dir, or start a new run"
            )

    @property
    def fingerprint(self) -> int:
        """A checksum of the training images and their labels; computing it takes a tenth of a second."""
        return self._images.fingerprint

    @property
    def _split(self) -> tuple[Tensor, Tensor]:
        h = self._follow()
        return self._loaded.split(h["val_split"], h["split_seed"])

    @property
    def preprocessing(self) -> Preprocessing | None:
        """Preprocessing of the test images, for a model to keep; None if `test_transforms` do more, or unknown things.

        Raises:
            InputError: The training images are normalised differently.
        """
        return self._stages.preprocessing("test")

    @property
    def _stages(self) -> Stages:
        h = self._follow()
        own = {stage: OwnTransform(n, h[n]) for stage in STAGES if h[n := f"{stage}_transforms"] is not None}
        return Stages(preprocessing_of(h["normalization"], h["source"]), own)

    @property
    def _active_trainer(self) -> Trainer | None:
        """The Trainer that uses this module now: a finished one stays attached."""
        return None if self.trainer is None or self.trainer.state.status.stopped else self.trainer

    def _handed_out(self, loader: BatchLoader) -> BatchLoader | TorchLoader:
        """Wraps the loader as a DataLoader, which some callers insist on; not in a Trainer, which would rebuild it."""
        return loader if self._active_trainer else TorchLoader(loader)

    def _training_loader(self) -> BatchLoader:
        """Returns the one loader of this fit to every caller, so a callback that asks for it changes no position."""
        self._end_search()
        h = self._follow()
        augmentation = {name: h[name] for name in ("crop_padding", "flip", "cutout")} if h["augment"] else {}
        # A Trainer with `overfit_batches` trains on the same few batches in every epoch.
        overfit = getattr(self._active_trainer, "overfit_batches", 0)
        settings = {"batch_size": h["batch_size"], "seed": h["seed"], "repeat": overfit > 0, **augmentation}
        others = {name: h[name] for name in ("val_split", "split_seed", "normalization", "train_transforms")}
        made_with = {**settings, **others, **self._place, "images": self._loaded}
        if self._train_loader is None or self._made_with != made_with:
            index = self.train_indices if len(self.val_indices) else None
            bordered = self._loaded.bordered.get(self._borders)
            self._train_loader = self._loader("train", "train", index, train=True, bordered=bordered, **settings)
            self._made_with = made_with
        return self._train_loader

    def _end_search(self) -> None:
        """Caps `batch_size` at the number of training images: within a fit Lightning's BatchSizeFinder exceeds it."""
        if self._train_loader is not None and (trainer := self._active_trainer):
            count, ranks = len(self.train_indices), trainer.world_size
            self.hparams["batch_size"] = min(self.hparams["batch_size"], count // ranks * ranks)

    def _evaluation_loader(self, stage: str, index: Tensor | None) -> BatchLoader:
        h = self._follow()
        split = "train" if stage == "val" else stage
        loader = self._loader(stage, split, index, batch_size=h["eval_batch_size"], seed=h["seed"])
        if index is None or len(index):  # without images there is nothing to compare
            self._stages.preprocessing(stage)  # raises if the training images are normalised differently
        return loader

    @property
    def _place(self) -> dict[str, Any]:
        """The device of the batches, and whether they are in channels_last."""
        trainer = self._active_trainer
        return {
            "device": trainer.strategy.root_device if trainer else torch.device(self.hparams["device"]),
            "channels_last": getattr(trainer and trainer.lightning_module, "channels_last", self.channels_last),
        }

    def _loader(self, stage: str, split: str, index: Tensor | None, **settings: Any) -> BatchLoader:
        trainer = self._active_trainer
        image_set, place, stages = self.image_set(split), self._place, self._stages
        images, labels = image_set.images, image_set.labels
        if index is not None:
            images, labels = images[index], labels[index]
        return BatchLoader(
            images.to(place["device"]),
            labels.to(place["device"]),
            mean=stages.after_bytes.mean,
            std=stages.after_bytes.std,
            own=stages.own.get(stage),
            classes=image_set.classes,
            rank=trainer.global_rank if trainer else None,
            world_size=trainer.world_size if trainer else None,
            channels_last=place["channels_last"],
            **settings,
        )


def fake_data(size: int = 200, **kwargs: Any) -> CIFAR10DataModule:
    """Makes a data module of `size` drawn training images and a fifth as many test images, for unit tests.

    It has CIFAR-10's classes, shapes and dtypes. If a network learns on it, its parts are in the right order.

    Args:
        size: Training images, 10 or more.
        **kwargs: Arguments of CIFAR10DataModule; `batch_size` is 20 by default.

    Returns:
        The data module.

    Raises:
        InputError: A value is out of range.

    Example:
        >>> data = fake_data(size=100)
        >>> len(data.train_dataloader()), len(data.image_set("test").labels)
        (5, 20)
    """
    return CIFAR10DataModule(source="synthetic", synthetic_size=size, **{"batch_size": 20, **kwargs})
