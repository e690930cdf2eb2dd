"""torch.compile of a network: in which mode, if any, and all of it before the first step."""

import os
import shutil
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cifar_lightning.data.transforms import shrink
from cifar_lightning.run import signals

if TYPE_CHECKING:
    from cifar_lightning.model.lit_net import LitNet

MODES = ("none", "auto", "default", "reduce-overhead", "max-autotune")
# CUDA graphs give every backward pass the same memory for its gradients, so nothing can be added to them
# (https://github.com/pytorch/pytorch/issues/169545), and DDP has hung and crashed on these modes
# (https://github.com/pytorch/pytorch/issues/140395, https://github.com/pytorch/pytorch/issues/139207).
GRAPH_MODES = ("reduce-overhead", "max-autotune")
WARM_UP_RUNS = 2  # CUDA graphs are recorded in the second, at the latest
_recorded: list[Tensor] = []  # see keep_addresses


def resolve_mode(mode: str, on_gpu: bool, graphs: bool) -> str:
    """What `mode` stands for here: one of torch.compile's, or none.

    Args:
        mode: One of MODES.
        on_gpu: Whether the network is on an NVIDIA GPU.
        graphs: Whether CUDA graphs can be used.
    """
    if mode == "auto":
        mode = "reduce-overhead" if on_gpu and _can_compile() else "none"
    return "default" if mode in GRAPH_MODES and not graphs else mode


def _can_compile() -> bool:
    """Whether there is what Triton builds its launcher with.

    Source: https://github.com/triton-lang/triton/blob/main/python/triton/runtime/build.py
    """
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    return bool(compiler) and Path(sysconfig.get_path("include"), "Python.h").exists()


def compile_network(net: nn.Module, mode: str) -> None:
    """Has `net` compiled in `mode` when it first runs, in place: its weights keep their names.

    Options of inductor's that suit a network are in its `compile_options`, if it has some.
    """
    options = {
        **torch._inductor.list_mode_options(mode),
        **getattr(net, "compile_options", {}),
        "autotune_num_choices_displayed": 0,  # it prints the times of every kernel it tries
    }
    # Each size of images and of batches has its own code, which is faster than one for all sizes, and torch would give
    # up at the ninth in a process.
    torch._dynamo.config.recompile_limit = 64
    with torch._dynamo.config.patch(wrap_top_frame=True):  # torch 2.11 compiles only the parts of an nn.Sequential
        net.compile(options=options, dynamic=False)


def keep_addresses(net: nn.Module) -> None:
    """Has nothing else ever lie where the weights of `net` do on a GPU, not even once a fit's end has moved them away.

    A CUDA graph tells a later network's weights from those it was recorded with by their addresses alone, and would
    hand the old ones to the backward pass.
    """
    _recorded.extend(value for value in net.state_dict().values() if value.is_cuda)


def can_sample(data: Any) -> bool:
    """Whether a data module has `sample` and a `batch_size`, as CIFAR10DataModule does; anybody's may be in use."""
    return hasattr(data, "sample") and "batch_size" in getattr(data, "hparams", {})


def warm_up(model: "LitNet") -> None:
    """Runs a step of each size of images, and a validation, and leaves no trace of it but the compiled code.

    Without a data module that `can_sample` it does nothing: the first step compiles.
    """
    trainer: Any = model.trainer
    data = trainer.datamodule
    if not can_sample(data):
        return
    before = {name: value.clone() for name, value in model.net.state_dict().items()}
    image = data.sample(1, model.device).expand(data.hparams["batch_size"] // trainer.world_size, -1, -1, -1)
    images = image.contiguous(memory_format=torch.channels_last)  # as the loader's; what is in them does not matter
    images = trainer.precision_plugin.convert_input(images)
    labels = torch.zeros(len(images), dtype=torch.int64, device=model.device)
    for size in [*(model.hparams["sizes"] or []), None]:
        for _ in range(WARM_UP_RUNS):
            signals.raise_if_requested()  # compilation takes a while
            with trainer.precision_plugin.forward_context():
                loss = F.cross_entropy(model(shrink(images, size)), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            model.zero_grad()
    model.eval()
    with torch.no_grad():  # as a validation within a fit has it, where a test is in inference mode
        _warm_up_evaluation(model, data.val_dataloader())
    model.train()
    model.net.load_state_dict(before)


def warm_up_test(model: "LitNet") -> None:
    """Likewise for a test."""
    trainer: Any = model.trainer
    if can_sample(trainer.datamodule):
        _warm_up_evaluation(model, trainer.test_dataloaders)


def _warm_up_evaluation(model: "LitNet", loader: Iterable[Any]) -> None:
    """Runs a batch of each size that `loader` gives."""
    precision: Any = model.trainer.precision_plugin
    for images in {len(images): images for images, _ in loader}.values():
        for _ in range(WARM_UP_RUNS):
            signals.raise_if_requested()
            with precision.forward_context():
                model.logits(precision.convert_input(images.to(model.device, copy=True)))
