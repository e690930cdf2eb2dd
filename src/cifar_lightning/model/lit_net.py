"""LitNet: the loss, the optimiser, its schedule and the metrics around a network."""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from cifar_lightning.data.cifar10 import CLASSES
from cifar_lightning.data.transforms import shrink
from cifar_lightning.errors import InputError, NonFiniteError
from cifar_lightning.model.compilation import (
    MODES,
    can_sample,
    compile_network,
    keep_addresses,
    resolve_mode,
    warm_up,
    warm_up_test,
)
from cifar_lightning.model.muon import SGDWithMuon
from cifar_lightning.model.networks import build
from cifar_lightning.model.schedules import SCHEDULES, size_at
from cifar_lightning.model.views import VIEWS
from cifar_lightning.signatures import arguments_of

Batch = tuple[Tensor, Tensor]


class LitNet(LightningModule):
    """An image classifier: cross-entropy, SGD with momentum, overall and per-class accuracy.

    It logs `train_loss` (the mean since the last log point) and `lr` (that of the next step) every `log_every_n_steps`
    steps of the Trainer, and `{val,test}_loss`, `{val,test}_acc` and, of classes with images, `{val,test}_acc/<class>`
    at the end of an evaluation. The tensors of the last evaluation stay in `last_evaluation`.

    Args:
        net: tutorial, resnet18, speed, speed54 or speed96; or any module from images to logits, kept in no checkpoint.
        width: Channels of the network's first convolution, where not its default.
        lr: Learning rate; with a schedule, its highest.
        momentum: Of SGD, 0 to 1.
        weight_decay: L2 penalty, on all weights but Muon's; where groups have other rates, scaled so that it takes the
            same share of every weight a step.
        nesterov: Whether the momentum is Nesterov's.
        label_smoothing: Part of each label spread over all classes, 0 to 1. Evaluation losses are without it.
        schedule: Of the learning rate, per step over the whole fit: constant; one-cycle (linear from lr / 25 to lr in
            the first 30 %, then a half cosine to zero); cosine (a half cosine from lr to zero); linear (straight from
            lr to zero).
        muon_lr: That of the filters, relative to their size, by Muon; none: by SGD.
        muon_momentum: Muon's momentum, 0 to 1.
        bias_lr: Learning rate of biases and norms, where it is not lr.
        head_lr: Learning rate of linear layers' weights, where it is not lr.
        sizes: Progressive resizing: sides that training images are shrunk to, smaller ones first, for equal shares of
            the first 60 % of the fit. They teach nearly as much (https://arxiv.org/abs/2104.00298).
        compile: The network, in this mode of torch.compile; auto: reduce-overhead on a GPU if there is a C compiler,
            not for tests; several devices or accumulation go without CUDA graphs.
        test_views: Test-time augmentation, the mean logits of views: one, the image as it is; mirror, also its mirror
            image; six, these two and their shifts by a pixel up-left and down-right, with half the weight
            (https://arxiv.org/abs/2404.00498, section 3.5).
        classes: Names of the classes, in the order of the labels. Stored in checkpoints.

    Raises:
        InputError: A value is out of its range, or the network's name is not known.
    """

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
    ) -> None:
        classes = list(classes)  # plain values only: anything else makes a checkpoint that weights_only refuses
        arguments = arguments_of(self)
        if isinstance(net, nn.Module):
            del arguments["net"]
        super().__init__()
        self.save_hyperparameters(arguments)
        for name, value, ok, range_ in (
            ("lr", lr, lr > 0, "more than 0"),
            ("momentum", momentum, 0 <= momentum < 1, "0 to 1, without 1"),
            ("weight_decay", weight_decay, weight_decay >= 0, "0 or more"),
            ("label_smoothing", label_smoothing, 0 <= label_smoothing < 1, "0 to 1, without 1"),
            ("nesterov", nesterov, momentum > 0 or not nesterov, "false where momentum is 0"),
            ("schedule", schedule, schedule in SCHEDULES, " or ".join(SCHEDULES)),
            ("muon_lr", muon_lr, muon_lr is None or muon_lr > 0, "more than 0"),
            ("muon_momentum", muon_momentum, 0 <= muon_momentum < 1, "0 to 1, without 1"),
            ("bias_lr", bias_lr, bias_lr is None or bias_lr > 0, "more than 0"),
            ("head_lr", head_lr, head_lr is None or head_lr > 0, "more than 0"),
            ("sizes", sizes, all(size > 0 for size in sizes or []), "sides of 1 pixel or more"),
            ("compile", compile, compile in MODES, " or ".join(MODES)),
            ("test_views", test_views, test_views in VIEWS, " or ".join(VIEWS)),
            ("classes", classes, len(classes) >= 2, "two or more"),
        ):
            if not ok:
                raise InputError(f"{name} {value} is out of range: give {range_}")
        self.net = build(net, len(classes), width) if isinstance(net, str) else net
        self.classes = classes
        self.last_evaluation: dict[str, Tensor] = {}
        self._loss_sum, self._loss_count = torch.zeros(()), 0  # since the last log point
        self._last_train_loss: float | None = None
        self._total_steps = 0.0
        self._compiled = False
        metrics = MetricCollection(
            {
                # "micro" counts images; torchmetrics' default, "macro", is the mean over the classes
                "acc": MulticlassAccuracy(len(classes), average="micro", validate_args=False),
                "acc_per_class": MulticlassAccuracy(len(classes), average=None, validate_args=False),
                "confusion": MulticlassConfusionMatrix(len(classes), validate_args=False),
                "loss": MeanMetric(nan_strategy="disable"),
            }
        )
        self.val_metrics, self.test_metrics = metrics.clone(prefix="val_"), metrics.clone(prefix="test_")

    @property
    def example_input_array(self) -> Tensor:
        """Images in the network's precision: for Lightning's summary, and to count a step's operations."""
        images = (
            self._example_input_array if isinstance(self._example_input_array, Tensor) else torch.zeros(2, 3, 32, 32)
        )
        return images.type(self.dtype)

    @example_input_array.setter
    def example_input_array(self, images: Any) -> None:
        self._example_input_array = images

    def forward(self, images: Tensor) -> Tensor:
        """Logits `(N, len(classes))` of normalised images `(N, 3, 32, 32)`."""
        logits: Tensor = self.net(images)
        if logits.shape[1] != len(self.classes):
            raise InputError(
                f"the network gives {logits.shape[1]} logits for an image, and there are {len(self.classes)} classes: "
                "give it as many outputs, or LitNet(classes=...)"
            )
        return logits

    def logits(self, images: Tensor) -> Tensor:
        """Logits over the views that an evaluation takes of each image, at least float32; see `test_views`."""
        views = VIEWS[self.hparams["test_views"]](images)
        return torch.stack([weight * _float32(self(view)) for weight, view in views]).sum(0)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The mean cross-entropy of a batch."""
        images, labels = batch
        if self.hparams["sizes"]:
            images = shrink(images, size_at(self.trainer.global_step / self._total_steps, self.hparams["sizes"]))
        loss = F.cross_entropy(self(images), labels, label_smoothing=self.hparams["label_smoothing"])
        # It stays on the device: to read it here, or to copy it there, would make the host wait for a GPU.
        if self._loss_sum.device == loss.device:
            self._loss_sum.add_(loss.detach())
        else:
            self._loss_sum = self._loss_sum + loss.detach()  # in the first step: a number from the host
        self._loss_count += 1
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Counts a batch into the validation metrics."""
        self._evaluate(self.val_metrics, batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Counts a batch into the test metrics."""
        with torch.compiler.set_stance("force_eager") if self.hparams["compile"] == "auto" else nullcontext():
            self._evaluate(self.test_metrics, batch)

    def predict_step(self, batch: Tensor | Batch, batch_idx: int = 0) -> tuple[Tensor, Tensor]:
        """The predicted class `(N,)` and the probabilities `(N, len(classes))` of a batch, with or without labels."""
        images = batch if isinstance(batch, Tensor) else batch[0]
        probabilities = self.logits(images).softmax(1)
        return probabilities.argmax(1), probabilities

    @torch.inference_mode()
    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """`predict_step` without a Trainer, in evaluation mode.

        Raises:
            InputError: The images are bytes, which no network here has learnt from.
        """
        if not images.is_floating_point():
            raise InputError(f"images of {images.dtype} are not normalised: give CIFAR10DataModule.normalize(images)")
        self.eval()
        with torch.compiler.set_stance("force_eager"):  # what a fit has compiled is for its device
            return self.predict_step(images.to(self.dtype))

    @property
    def current_lr(self) -> float:
        """The learning rate, where the schedule is, of the weights that have no rate of their own."""
        groups = self.trainer.optimizers[0].param_groups
        own = (g for g in groups if g.get("initial_lr", g["lr"]) == self.hparams["lr"])
        return float(next(own, groups[0])["lr"])

    def diverged(self, what: str) -> str:
        """The message that `what` is so, with the learning rate, the last loss and the flags of the rates."""
        last = "never logged" if self._last_train_loss is None else f"{self._last_train_loss:.4f}"
        rates = ["lr", *(name for name in ("muon_lr", "bias_lr", "head_lr") if self.hparams[name] is not None)]
        return (
            f"{what} at step {self.trainer.global_step}, with lr {self.current_lr:g}; the last finite loss was {last}: "
            f"lower {', '.join(f'--model.{name}' for name in rates)}"
        )

    def setup(self, stage: str) -> None:
        """Gives a network that begins from the data some of it: the same images whatever the seed and the rank."""
        if stage == "fit":
            # Not what a fit before has left, perhaps on another device. A checkpoint brings its own, later.
            self._loss_sum, self._loss_count = torch.zeros(()), 0
        mode = resolve_mode(
            self.hparams["compile"],
            on_gpu=self.trainer.strategy.root_device.type == "cuda",
            graphs=self.trainer.accumulate_grad_batches == 1 and self.trainer.world_size == 1,
        )
        if stage == "fit" and mode != "none" and not self._compiled:
            compile_network(self.net, mode)  # that alone: this class logs while it computes
            self._compiled = True
        data = self.trainer.datamodule  # type: ignore[attr-defined]  # set by a connector
        if isinstance(classes := getattr(data, "classes", None), list | tuple):  # anybody's data module may have some
            self._check_classes(classes, ours=can_sample(data))
        if stage == "fit" and getattr(self.net, "begins_from_images", False):
            if not can_sample(data):
                raise InputError(
                    f"net {self.hparams.get('net')} begins from the images: fit it with a CIFAR10DataModule, or call "
                    "model.net.init_from_images(images) first"
                )
            self.net.init_from_images(data.sample(2_000, self.trainer.strategy.root_device))  # type: ignore[operator]

    def configure_optimizers(self) -> Any:
        """The optimiser, and a schedule as long as the Trainer will fit."""
        h = self.hparams
        optimizer, total = self._optimizer(), self.trainer.estimated_stepping_batches
        # Lightning's word for a length that it does not know is infinity, or -1
        if not 0 < total < math.inf and (h["schedule"] != "constant" or h["sizes"]):
            raise InputError(
                f"schedule {h['schedule']}, sizes {h['sizes']} need a length: give max_epochs, or max_steps where the "
                "loader has no length either"
            )
        if h["schedule"] == "constant":
            return optimizer
        factor = SCHEDULES[h["schedule"]]
        scheduler = LambdaLR(optimizer, lambda step: factor(step / total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _check_classes(self, classes: Sequence[str], ours: bool) -> None:
        """Refuses images of other classes, which would go by wrong names; own names for the same number are fine."""
        unnamed = ours and self.classes == list(CLASSES) != list(classes)
        if len(classes) != len(self.classes) or unnamed:
            raise InputError(
                f"the images have the {len(classes)} classes {classes[0]}, …, the network the {len(self.classes)} "
                f"classes {self.classes[0]}, …: make it LitNet(classes=data.classes)"
            )

    def _optimizer(self) -> torch.optim.Optimizer:
        h = self.hparams
        options = {"momentum": h["momentum"], "nesterov": h["nesterov"]}
        weights = [p for p in self.parameters() if p.requires_grad]
        if h["muon_lr"] is None and h["bias_lr"] is None and h["head_lr"] is None:
            # fused: one kernel for all weights
            sgd = torch.optim.SGD(weights, h["lr"], weight_decay=h["weight_decay"], fused=True, **options)
            # It may leave the scaling of float16's gradients to others; Lightning else refuses to clip them
            # (https://github.com/Lightning-AI/pytorch-lightning/issues/21435).
            sgd._step_supports_amp_scaling = False
            return sgd
        of_dimension = {n: [p for p in weights if p.dim() == n] for n in {p.dim() for p in weights}}
        rates = {1: h["bias_lr"], 2: h["head_lr"], 4: h["muon_lr"]}
        groups = []
        for dimension, params in sorted(of_dimension.items()):
            lr = rates.get(dimension) or h["lr"]
            group = {"params": params, "lr": lr, "weight_decay": h["weight_decay"] * h["lr"] / lr}
            if dimension == 4 and h["muon_lr"] is not None:
                group |= {"muon": True, "momentum": h["muon_momentum"], "weight_decay": 0.0}
            groups.append(group)
        return SGDWithMuon(groups, h["lr"], **options)

    def on_fit_start(self) -> None:
        """Has the network compiled before the first step."""
        if self._compiled:
            keep_addresses(self.net)
            warm_up(self)

    def on_train_start(self) -> None:
        """Notes how long the fit is, of which the images' size is a function, and the learning rate."""
        self._total_steps = float(self.trainer.estimated_stepping_batches)
        for config in self.trainer.lr_scheduler_configs:
            if isinstance(scheduler := config.scheduler, LambdaLR):
                # A checkpoint brings the rates of the fit as long as it was; this one may be longer.
                rates = zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
                for group, (base, factor) in zip(scheduler.optimizer.param_groups, rates, strict=True):
                    group["lr"] = base * factor(scheduler.last_epoch)

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Logs the running loss at the log points."""
        # Batches that accumulate share a global step: only the last of them has stepped.
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by a connector
        stepped = not self.trainer.fit_loop._should_accumulate()
        if every and stepped and self.trainer.global_step % every == 0 and self._loss_count:
            self._log_train_loss()

    def on_train_epoch_end(self) -> None:
        """Logs what the steps since the last log point have left."""
        if self._loss_count:
            # The ranks have the same figures already, and any of those is right; Lightning warns without it.
            self._log_train_loss(sync_dist=True, reduce_fx="max")

    def on_validation_start(self) -> None:
        """Forgets an evaluation that was cut short; has the losses summed in float32, in a true half precision too."""
        self.val_metrics.reset()
        self.val_metrics["loss"].set_dtype(torch.float32)

    def on_test_start(self) -> None:
        """Likewise; and has the network compiled for a test: after a fit the weights have moved in memory."""
        self.test_metrics.reset()
        self.test_metrics["loss"].set_dtype(torch.float32)
        if self._compiled and self.hparams["compile"] != "auto":
            warm_up_test(self)

    def on_validation_epoch_end(self) -> None:
        """Logs the validation metrics."""
        self._log_evaluation(self.val_metrics)

    def on_test_epoch_end(self) -> None:
        """Logs the test metrics."""
        self._log_evaluation(self.test_metrics)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps the running loss of every rank, so that a resumed run logs the same figures, and the precision."""
        sums = [self._loss_sum.item()] * self.trainer.world_size
        if self.trainer.world_size > 1:
            torch.distributed.all_gather_object(sums, self._loss_sum.item())
        checkpoint["train_loss_window"] = {"sums": sums, "count": self._loss_count, "last": self._last_train_loss}
        checkpoint["precision"] = self.trainer.precision

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes up the running loss, where a fit goes on.

        Raises:
            InputError: The checkpoint is of a network of one's own, and this one has been built by name.
        """
        if "net" in self.hparams and "net" not in checkpoint.get("hyper_parameters", {"net": None}):
            raise InputError(
                "the checkpoint is of a network of your own, which it does not hold: "
                "give LitNet.load_from_checkpoint(path, net=...)"
            )
        if self._trainer is None or self._trainer.state.fn != "fit":
            return
        window = checkpoint.get("train_loss_window", {"sums": [0.0], "count": 0})
        sums, world_size = window["sums"], self._trainer.world_size
        mine = sums[self.global_rank] if len(sums) == world_size else sum(sums) / len(sums)
        self._loss_sum, self._loss_count = torch.tensor(mine, device=self.device), window["count"]
        self._last_train_loss = window.get("last")

    def _log_train_loss(self, **options: Any) -> None:
        # Every rank has the same number of images, so the mean over ranks is that over images.
        mean = self.trainer.strategy.reduce(self._loss_sum / self._loss_count, reduce_op="mean").item()
        if not math.isfinite(mean):
            raise NonFiniteError(self.diverged(f"the training loss is {mean}"))
        self.log_dict({"train_loss": mean, "lr": self.current_lr}, prog_bar=True, **options)
        self._last_train_loss = mean
        self._loss_sum.zero_()
        self._loss_count = 0

    def _evaluate(self, metrics: MetricCollection, batch: Batch) -> None:
        images, labels = batch
        logits = self.logits(images)
        predicted = logits.argmax(1)
        metrics["loss"].update(F.cross_entropy(logits, labels, reduction="none"))
        for name in ("acc", "acc_per_class", "confusion"):
            metrics[name].update(predicted, labels)

    def _log_evaluation(self, metrics: MetricCollection) -> None:
        values = metrics.compute()  # over all ranks
        prefix = metrics.prefix or ""
        self.last_evaluation = {name.removeprefix(prefix): value.cpu() for name, value in values.items()}
        # A class without images has no accuracy, which is not one of 0. The figures stay on their device: NCCL takes no
        # others.
        counts = self.last_evaluation["confusion"].sum(1)
        rows = zip(self.classes, values[f"{prefix}acc_per_class"], counts, strict=True)
        self.log_dict(
            {
                f"{prefix}loss": values[f"{prefix}loss"],
                f"{prefix}acc": values[f"{prefix}acc"],
                **{f"{prefix}acc/{name}": accuracy for name, accuracy, count in rows if count},
            },
            sync_dist=True,  # the ranks have the same figures already; Lightning warns without it
            reduce_fx="max",  # of equal figures, exactly those; their mean may be rounded
        )
        metrics.reset()


def _float32(logits: Tensor) -> Tensor:
    """`logits` in a precision of at least 32 bits: in bfloat16, of eight digits, their mean would make ties.

    To be asked for one view's before the next is computed: a CUDA graph gives them all the same memory.
    """
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
