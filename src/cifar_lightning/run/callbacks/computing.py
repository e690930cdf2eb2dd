"""Configures how a run computes, and says in one line on which device, with which settings, and why."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from cifar_lightning.console import say
from cifar_lightning.errors import number_of
from cifar_lightning.model.lit_net import LitNet
from cifar_lightning.run.cpu import SMALL_STEP, available_threads, configure_cpu, kernels
from cifar_lightning.run.precision import has_bfloat16


class Computing(Callback):
    """A callback that configures the CPU before a fit and before a test; before a fit it also prints that line.

    Args:
        threads: Maximum number of threads; by default as many as this rank may compute on.
        aloud: Whether to print.
    """

    def __init__(self, threads: int | None = None, aloud: bool = False) -> None:
        self._threads, self._aloud = threads or available_threads(), aloud
        self._images, self._work = 0, 0.0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Configures the CPU for the stage's batch size."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]  # set by a connector
        h = data.hparams
        self._images = h["batch_size"] // trainer.world_size if stage == "fit" else h["eval_batch_size"]
        self._work = configure_cpu(pl_module, self._images, self._threads)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints the line, on the first rank, once everything in it is configured."""
        if self._aloud and trainer.is_global_zero:
            assert isinstance(pl_module, LitNet)
            say(f"computes {self.words(trainer, pl_module)}", 1)

    def words(self, trainer: Trainer, model: LitNet) -> str:
        """Returns device, threads, kernels, precision and compilation, with the reason for each choice."""
        on_cpu = trainer.strategy.root_device.type == "cpu"
        parts = [_device(trainer), *(self._on_the_cpu(trainer, model) if on_cpu else [])]
        return ", ".join([*parts, _precision(trainer), model.compilation_in_words()])

    def _on_the_cpu(self, trainer: Trainer, model: LitNet) -> list[str]:
        count = torch.get_num_threads()
        threads = f"{number_of(count, 'thread')}{' per process' * (trainer.world_size > 1)}"
        small = f" (small steps: {self._work / 1e6:,.1f} million operations in a forward pass)"
        why = small if self._work <= SMALL_STEP else ""
        return [threads, kernels(model.net, self._images, trainer.precision) + why]


def _device(trainer: Trainer) -> str:
    device = trainer.strategy.root_device
    if device.type == "cpu":
        there = torch.cuda.is_available() or torch.backends.mps.is_available()
        return f"on the CPU ({'as requested; there is a GPU' if there else 'no GPU that torch can use'})"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "Apple"
    return f"on the GPU ({name})" if trainer.world_size == 1 else f"on {trainer.world_size} GPUs ({name})"


def _precision(trainer: Trainer) -> str:
    precision, device = str(trainer.precision), trainer.strategy.root_device.type
    if not precision.startswith("bf16") or device not in ("cpu", "cuda"):  # torch does not say for Apple GPUs
        return f"precision {precision}"
    where, accelerator = ("this CPU", "cpu") if device == "cpu" else ("this GPU", "gpu")
    if has_bfloat16(accelerator):
        return f"precision {precision} (fast: {where} has instructions for bfloat16)"
    return f"precision {precision} (not faster: {where} has no instructions for bfloat16)"
