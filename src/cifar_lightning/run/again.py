"""A tested network, run once more by one rank alone: for what a report asks about images that the test had not."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from cifar_lightning import stop
from cifar_lightning.compiler import eager
from cifar_lightning.data.datamodule import CIFAR10DataModule
from cifar_lightning.model.grad_cam import grad_cam
from cifar_lightning.model.lit_net import LitNet

CAM_BATCH = 100  # images


class Again:
    """Runs the network that `trainer` has tested, on the device and in the precision of the test."""

    def __init__(self, trainer: Trainer, model: LitNet, data: CIFAR10DataModule) -> None:
        self.trainer, self.model, self.data = trainer, model, data

    def held_out(self) -> tuple[Tensor, Tensor] | None:
        """The logits and labels of the validation images; None where there are none."""
        index, train = self.data.val_indices, self.data.image_set("train")
        if not len(index):
            return None
        logits = []
        with self._ready(), torch.no_grad(), self.trainer.precision_plugin.forward_context():
            for part in torch.split(index, self.data.hparams["eval_batch_size"]):
                stop.raise_if_requested()
                logits.append(self.model.logits(self._normalized(train.images[part])).cpu())
        return torch.cat(logits), train.labels[index]

    def grad_cam(self, images: Tensor, classes: Tensor) -> Tensor | None:
        """Maps of the evidence for a class in each of some images, uint8 and int64; see model/grad_cam.py."""
        maps = []
        with self._ready():
            for part, label in zip(torch.split(images, CAM_BATCH), torch.split(classes, CAM_BATCH), strict=True):
                stop.raise_if_requested()
                found = grad_cam(self.model.net, self._normalized(part), label.to(self.model.device))
                if found is None:
                    return None
                maps.append(found)
        return torch.cat(maps)

    def _normalized(self, images: Tensor) -> Tensor:
        images = self.data.normalize(images.to(self.model.device)).to(self.model.dtype)
        return images if self.model.channels_last else images.contiguous()

    @contextmanager
    def _ready(self) -> Iterator[None]:
        """Has the network on the device, from which a Trainer takes it at its end; not compiled, which is for a fit."""
        before, self.model = self.model.device, self.model.to(self.trainer.strategy.root_device).eval()
        try:
            with eager():
                yield
        finally:
            self.model.to(before)
