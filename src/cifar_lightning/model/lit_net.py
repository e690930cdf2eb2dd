"""LitNet: a network with its loss, optimiser, learning rate schedule and metrics."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F

from cifar_lightning.arguments import arguments_of, code_in, explained, typed, warn_of_defaults
from cifar_lightning.compiler import eager
from cifar_lightning.data.cifar10 import CLASSES
from cifar_lightning.data.preprocessing import Preprocessing, as_batch, warn_of_bytes
from cifar_lightning.data.transforms import shrink
from cifar_lightning.errors import InputError
from cifar_lightning.generators import random_states, restore_random_states
from cifar_lightning.model.absent import NAMED
from cifar_lightning.model.checkpoint import check_network, preprocessing_in, renamed
from cifar_lightning.model.compilation import Compilation
from cifar_lightning.model.evaluation import Evaluation
from cifar_lightning.model.images import agreed, begin_from_images, check_classes
from cifar_lightning.model.modes import evaluating
from cifar_lightning.model.networks import build
from cifar_lightning.model.networks.norm import same_on_all_ranks
from cifar_lightning.model.optimizer import build_optimizer
from cifar_lightning.model.ranges import check_ranges
from cifar_lightning.model.running_loss import RunningLoss, of_every_rank
from cifar_lightning.model.schedules import Schedule, check_length, size_at, steps_of
from cifar_lightning.model.views import mean_logits

Batch = tuple[Tensor, Tensor]


class LitNet(LightningModule):
    """An image classifier: cross-entropy, SGD with momentum, overall and per-class accuracy.

    Every `log_every_n_steps` steps of the Trainer it logs `train_loss` (the mean since the last log point) and `lr`
    (the next step's). At the end of a validation or test it logs `{val,test}_loss`, `{val,test}_acc` and, for each
    class that has images, `{val,test}_acc/<class>`; the tensors stay in `last_evaluation`. Checkpoints hold the weights
    of a module given as `net`, but not the module itself.

    Args:
        net: tutorial, normed, resnet18, speed, speed54 or speed96; or your own: my.nets:Net for fit, in Python any
            module giving logits.
        width: Channels of the first convolution; by default the network's own.
        lr: Learning rate; with a schedule, its peak.
        momentum: Momentum of SGD, 0 to 1.
        weight_decay: L2 penalty on all weights but Muon's, scaled so that all groups decay equally, whatever their
            rates.
        nesterov: Use Nesterov momentum.
        label_smoothing: Part of each label spread over all classes in training, 0 to 1.
        schedule: Learning rate per step over the whole fit: constant; one-cycle (linear from lr / 25 to lr in the
            first 30 %, then a half cosine to zero); cosine (a half cosine from lr to zero); linear (straight from lr
            to zero).
        muon_lr: Muon's rate for the filters, relative to their size; none: use SGD.
        muon_momentum: Momentum of Muon, 0 to 1.
        bias_lr: Learning rate of biases and norms, if not lr.
        head_lr: Learning rate of linear layers' weights, if not lr.
        sizes: Progressive resizing: train on images shrunk to these sides, one after another, for equal shares of the
            first 60 % of the fit. They teach nearly as much for less (https://arxiv.org/abs/2104.00298).
        compile: Mode of torch.compile for the network; auto: reduce-overhead on a GPU if there is a C compiler, none
            in tests; with several devices or accumulation, no CUDA graphs.
        test_views: Test-time augmentation, the mean logits of several views: one, the image alone; mirror, with its
            mirror image; six, these two and their shifts by a pixel up-left and down-right at half the weight
            (https://arxiv.org/abs/2404.00498, section 3.5).
        classes: Names of the classes, in the order of the labels. They cannot change later; checkpoints store them.
        preprocessing: How the training images were normalised. A fit with a CIFAR10DataModule sets it, and checkpoints
            store it. A Trainer with such a module, or its loader, refuses images that were prepared differently.

    Raises:
        InputError: A value is out of range, or the network's name is unknown.

    Example:
        >>> model = LitNet(net="resnet18", lr=0.1, schedule="one-cycle")
        >>> model(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 2))
        >>> LitNet(net, classes=["cat", "dog"]).classes
        ['cat', 'dog']
    """

    @explained({}, NAMED)
    def __init__(
        self,
        net: str | nn.Module = "tutorial",
        width: int | None = None,
        lr: float = 0.001,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        label_smoothing: float = 0.0,
        schedule: Literal["constant", "one-cycle", "cosine", "linear"] = "constant",
        muon_lr: float | None = None,
        muon_momentum: float = 0.6,
        bias_lr: float | None = None,
        head_lr: float | None = None,
        sizes: list[int] | None = None,
        compile: Literal["none", "auto", "default", "reduce-overhead", "max-autotune"] = "none",
        test_views: Literal["one", "mirror", "six"] = "one",
        classes: Sequence[str] = CLASSES,
        preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    ) -> None:
        # Plain values only: torch.load with weights_only refuses a checkpoint that holds anything else.
        given = arguments_of(self)
        arguments = typed(given, inspect.signature(LitNet))
        code = code_in(given, arguments, type(self))
        classes, sizes = arguments["classes"], arguments["sizes"]  # lists: Lightning's == fails on arrays
        if isinstance(preprocessing, Mapping):
            preprocessing = Preprocessing(**preprocessing)
        arguments["preprocessing"] = preprocessing and preprocessing.plain()
        if isinstance(net, nn.Module):
            del arguments["net"]
        super().__init__()
        self.save_hyperparameters(arguments)
        check_ranges(arguments)
        self.net = build(net, len(classes), width) if isinstance(net, str) else net
        self.classes = classes  # the same list as in hparams and the metrics
        # torch's DDP reads here which buffers it need not send from the first rank to the others before every step.
        self._ddp_params_and_buffers_to_ignore = same_on_all_ranks(self)
        # The memory format of CIFAR10DataModule's batches: channels_last for our networks, but not for a user's, which
        # may call `view`.
        self.channels_last = isinstance(net, str)
        self.last_evaluation: dict[str, Tensor] = {}
        self.val_metrics, self.test_metrics = Evaluation(classes), Evaluation(classes, keeps_logits=True)
        self._running_loss, self._compilation = RunningLoss(), Compilation(compile, sizes or ())
        self._total_steps = 0.0
        self._made_for: tuple[float, float] | None = None  # the lr and number of steps the optimiser was built for
        self._random_states: dict[str, Any] | None = None  # a checkpoint's, until training resumes
        self._code = code

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "classes" and name in self.__dict__:
            # The network's outputs and the metrics depend on their number, and a checkpoint rebuilds both from hparams.
            raise InputError(
                "classes cannot change after a LitNet is made: use LitNet(..., classes=data.classes), or "
                "LitNet(model.net, classes=...) to keep the network"
            )
        super().__setattr__(name, value)

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits `(N, len(classes))` of normalised images `(N, 3, 32, 32)`."""
        logits: Tensor = self.net(images)
        if logits.shape[1] != len(self.classes):
            raise InputError(
                f"the network returns {logits.shape[1]} logits per image, but there are {len(self.classes)} classes: "
                "change its number of outputs, or pass LitNet(classes=...)"
            )
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Returns the mean cross-entropy of a batch. Images may be uint8, as in an evaluation; see `logits`."""
        images, labels = self._normalized(batch[0]), batch[1]
        if self.hparams["sizes"]:
            images = shrink(images, size_at(self.trainer.global_step / self._total_steps, self.hparams["sizes"]))
        loss = F.cross_entropy(self(images), labels, label_smoothing=self.hparams["label_smoothing"])
        self._running_loss.add(loss)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Adds a batch to the validation metrics."""
        self.val_metrics.count(self.logits(batch[0]), batch[1], self._number(batch_idx))

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Adds a batch to the test metrics."""
        with self._compilation.in_test():
            self.test_metrics.count(self.logits(batch[0]), batch[1], self._number(batch_idx))

    def _number(self, batch_idx: int) -> int:
        """The index of a batch among the batches of all ranks, which take whole batches in turn."""
        return batch_idx * self.trainer.world_size + self.global_rank

    def predict_step(self, batch: Tensor | Batch, batch_idx: int = 0) -> tuple[Tensor, Tensor]:
        """Returns classes `(N,)` and probabilities `(N, len(classes))` of a batch, which need not have labels."""
        probabilities = self.logits(batch if isinstance(batch, Tensor) else batch[0]).softmax(1)
        return probabilities.argmax(1), probabilities

    def logits(self, images: Tensor) -> Tensor:
        """Returns the mean logits over the views of an evaluation (see `test_views`), in float32 or wider.

        Args:
            images: Normalised floats `(N, 3, 32, 32)`; or uint8, which this method normalises.

        Returns:
            `(N, len(classes))`.

        Raises:
            InputError: The images are uint8, and `preprocessing` is not known.
        """
        return mean_logits(self, self._normalized(images), self.hparams["test_views"])

    @torch.inference_mode()
    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Predicts without a Trainer, in evaluation mode; afterwards the model is in the mode it was in before.

        Args:
            images: uint8 `(N, 3, 32, 32)` from 0 to 255, or `(3, 32, 32)` for one image. Floats must already be
                normalised as in the training: they are used as they are. An ImageWarning tells of values that no
                normalised pixel has, such as 255.

        Returns:
            The class of each image, int64 `(N,)`, and the probabilities `(N, len(classes))`, which sum to 1.

        Raises:
            InputError: The images have another dtype or shape; or they are uint8, and `preprocessing` is not known.

        Example:
            >>> model = LitNet(preprocessing=Preprocessing(MEAN, STD))
            >>> black = torch.zeros(5, 3, 32, 32, dtype=torch.uint8)
            >>> labels, probabilities = model.predict(black)
            >>> labels.shape, probabilities.shape
            (torch.Size([5]), torch.Size([5, 10]))
        """
        images = as_batch(images, self.preprocessing.size if self.preprocessing else None)
        warn_of_bytes(images, self.preprocessing)
        with evaluating(self), eager():  # the code that a fit compiled is for the fit's device
            images = images.to(self.device)
            return self.predict_step(images if images.dtype == torch.uint8 else images.to(self.dtype))

    @property
    def preprocessing(self) -> Preprocessing | None:
        """How the training images were normalised; None if that is not known."""
        kept = self.hparams["preprocessing"]
        return kept and Preprocessing(**kept)

    @preprocessing.setter
    def preprocessing(self, preprocessing: Preprocessing | None) -> None:
        self.hparams["preprocessing"] = preprocessing and preprocessing.plain()

    def _normalized(self, images: Tensor) -> Tensor:
        if images.dtype != torch.uint8:
            return images
        if self.preprocessing is None:
            raise InputError(
                f"images of {images.dtype} are not normalised, and this model does not know how to normalise them: "
                "use LitNet(preprocessing=data.preprocessing), or pass data.normalize(images)"
            )
        images = self.preprocessing.normalize(images).to(self.dtype)
        return images if self.channels_last else images.contiguous()

    def configure_optimizers(self) -> Any:
        """Builds the optimiser, and a schedule as long as the Trainer's fit."""
        learnt = (p for p in self.parameters() if p.requires_grad)
        optimizer = build_optimizer(learnt, self.hparams, self.trainer.precision)
        steps = steps_of(self.trainer)
        self._made_for = self.hparams["lr"], steps
        if self.hparams["sizes"]:
            check_length(steps, f"sizes {self.hparams['sizes']}")
        if self.hparams["schedule"] == "constant":
            return optimizer
        schedule = Schedule(optimizer, self.hparams["schedule"], steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def setup(self, stage: str) -> None:
        """Checks the data's classes and preprocessing; for a fit, prepares the network, if need be from images."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]  # set by a connector
        self._agree_with(data)
        if stage == "fit":
            # Discards what an earlier fit left, perhaps on another device. A checkpoint restores its own later.
            self._running_loss, self._random_states = RunningLoss(), None
            self._compilation.prepare(self)
            begin_from_images(self.net, data, self.trainer.strategy.root_device, self.hparams.get("net"))

    def _agree_with(self, source: Any) -> None:
        """Refuses a data module or loader with other classes or preprocessing; a fit adopts its preprocessing.

        If the data module has a preprocessing, a fit does not adopt that of its loaders: the transforms of training
        images may do less than those of test images. A loader whose preprocessing differs is refused all the same.
        """
        data = self.trainer.datamodule  # type: ignore[attr-defined]  # set by a connector
        for one in source if isinstance(source, list | tuple) else [source]:  # an evaluation may have a list
            check_classes(one, self.classes)
            found = agreed(self.preprocessing, one)
            if self.trainer.state.fn == "fit" and (one is data or not hasattr(data, "preprocessing")):
                self.preprocessing = found

    def on_fit_start(self) -> None:
        """Compiles the network before the first step."""
        self._compilation.warm_up(self, self.hparams["test_views"])

    def compilation_in_words(self) -> str:
        """Says whether and how the network is compiled in this fit, or why not."""
        return self._compilation.in_words(self)

    def on_train_start(self) -> None:
        """Notes the length of the fit, on which the image size depends; restores a checkpoint's random generators."""
        self._agree_with(self.trainer.train_dataloader)
        self._total_steps = steps_of(self.trainer)
        self._follow_search()
        # Lightning makes the loader when it is first asked for the number of steps. If that is before it has read a
        # checkpoint, it leaves the loader at the start of the epoch. CIFAR10DataModule restores its loader itself.
        self.trainer.fit_loop._load_combined_loader_states()
        if self._random_states is not None:  # only now: the start of a fit draws too, e.g. to compile
            restore_random_states(self._random_states, self.trainer.strategy.root_device)
            self._random_states = None

    def _follow_search(self) -> None:
        """Rebuilds the optimiser at the start of a fit if Lightning's tuner has changed the lr or the number of steps.

        While the learning rate search itself trains, the schedule is not ours, and the optimiser stays as it is.
        """
        changed = self._made_for not in (None, (self.hparams["lr"], self._total_steps))
        ours = all(isinstance(config.scheduler, Schedule) for config in self.trainer.lr_scheduler_configs)
        if changed and ours and self.trainer.global_step == 0:
            self.trainer.strategy.setup_optimizers(self.trainer)

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Logs the training loss and the learning rate if this is a log point."""
        self._running_loss.log_if_due(self)

    def on_train_epoch_end(self) -> None:
        """Logs the training loss of the steps since the last log point."""
        self._running_loss.log_rest(self)

    def on_validation_start(self) -> None:
        """Checks the data, and resets the validation metrics."""
        self._agree_with(self.trainer.val_dataloaders)
        self.val_metrics.start()

    def on_test_start(self) -> None:
        """Checks the data, resets the test metrics, and compiles the network for a test."""
        self._agree_with(self.trainer.test_dataloaders)
        self.test_metrics.start()
        self._compilation.warm_up_test(self, self.hparams["test_views"])

    def on_predict_start(self) -> None:
        """Checks the data, as a test does."""
        self._agree_with(self.trainer.predict_dataloaders)

    def on_validation_epoch_end(self) -> None:
        """Logs the validation metrics."""
        self.last_evaluation = self.val_metrics.finish(self, "val")

    def on_test_epoch_end(self) -> None:
        """Logs the test metrics."""
        self.last_evaluation = self.test_metrics.finish(self, "test")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Saves the running loss and the random generator states of every rank, and the precision."""
        if self._code:
            checkpoint["code"] = self._code
        trainer = self._trainer
        if trainer is None:  # the fit was in other processes (ddp_spawn), whose sums and generators are gone
            return
        checkpoint["train_loss_window"] = self._running_loss.state(trainer)
        states = of_every_rank(random_states(trainer.strategy.root_device), trainer.world_size)
        checkpoint["random_states"] = states if any(state != states[0] for state in states) else states[:1]
        checkpoint["precision"] = trainer.precision

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores the preprocessing and, if a fit resumes, the running loss and the random generators.

        Raises:
            InputError: The checkpoint is of a user's own network, which it does not hold, but this LitNet's was built
                by name; or its preprocessing is not that of the Trainer's data module.
        """
        check_network(self.hparams, checkpoint)
        warn_of_defaults(type(self), self._code, self.hparams, checkpoint.get("code", ()))
        self.preprocessing = preprocessing_in(checkpoint) or self.preprocessing
        trainer = self._trainer
        if trainer is None:
            return
        agreed(self.preprocessing, trainer.datamodule)  # type: ignore[attr-defined]  # set by a connector
        # Lightning converts the module only after it has loaded the weights: into float32, which rounds float64.
        trainer.precision_plugin.convert_module(self)
        if trainer.state.fn != "fit":
            return
        if (kept := checkpoint.get("train_loss_window")) is not None:
            assert isinstance(self.dtype, torch.dtype)
            self._running_loss.restore(kept, self.global_rank, trainer.world_size, self.dtype)
        if states := checkpoint.get("random_states"):  # earlier versions saved none
            # There is only one if all ranks have drawn the same numbers, as they do at first. If the number of ranks
            # has changed, all continue from the first rank's.
            self._random_states = states[self.global_rank if len(states) == trainer.world_size else 0]

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Loads weights, no matter whether `net` was wrapped by torch.compile, which renames them, then or now."""
        return super().load_state_dict(renamed(state_dict, self.state_dict()), strict=strict, assign=assign)

    def diverged(self, what: str) -> str:
        """Words an error for a training that has met NaN or infinity.

        Args:
            what: What was met, such as "the loss is nan".

        Returns:
            The message, with the learning rate and the last loss.
        """
        return self._running_loss.diverged(self.trainer, what)

    @property
    def example_input_array(self) -> Tensor | tuple[Any, ...] | dict[Any, Any] | None:
        """Images in the network's precision, for Lightning's summary; None if their size is not known."""
        images = self._example_input_array
        if not isinstance(images, Tensor):
            of_ours = 32 if "net" in self.hparams else None
            size = self.preprocessing.size if self.preprocessing else of_ours
            images = None if size is None else torch.zeros(2, 3, size, size)
        return None if images is None else images.type(self.dtype)

    @example_input_array.setter
    def example_input_array(self, images: Any) -> None:
        self._example_input_array = images
