"""Configures the CPU for the batches of a fit, and then for those of its test."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from cifar_lightning.run.cpu import available_threads, configure_cpu


class FittedCPU(Callback):
    """A callback that calls `configure_cpu` before a fit and before a test.

    Args:
        threads: Maximum number of threads; by default as many as this rank may compute on.

    Attributes:
        images: Images per step in this process.
        work: Operations in the forward pass of a step.
    """

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads or available_threads()
        self.images, self.work = 0, 0.0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Configures the CPU for the stage's batch size."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]  # set by a connector
        h = data.hparams
        self.images = h["batch_size"] // trainer.world_size if stage == "fit" else h["eval_batch_size"]
        self.work = configure_cpu(pl_module, self.images, self._threads)
