"""Runs a tested network once more, on one rank alone, for what a report needs and the test does not give."""

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
    """The network that `trainer` has tested, to be run again on the device and in the precision of the test."""

    def __init__(self, trainer: Trainer, model: LitNet, data: CIFAR10DataModule) -> None:
        self.trainer, self.model, self.data = trainer, model, data

    def held_out(self) -> tuple[Tensor, Tensor] | None:
        """Returns the logits and labels of the held-out validation images; None if no images were held out."""
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
        """Returns a map of the evidence for one class in each image, or None if the network allows none.

        `images` are uint8, `classes` int64; see model/grad_cam.py.
        """
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
        """A context with the network back on the device, off which a Trainer moves it at its end.

        The network is not compiled in it: compiling is for a fit.
        """
        before, self.model = self.model.device, self.model.to(self.trainer.strategy.root_device).eval()
        try:
            with eager():
                yield
        finally:
            self.model.to(before)
