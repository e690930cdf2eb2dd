"""torch.compile of a module's network: in which mode, if any, and all of it before the first step."""

import os
import shutil
import sysconfig
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional as F

from cifar_lightning import stop
from cifar_lightning.compiler import eager
from cifar_lightning.console import say
from cifar_lightning.data.transforms import shrink
from cifar_lightning.errors import RunError
from cifar_lightning.model.evaluation import mean_logits
from cifar_lightning.model.images import can_sample
from cifar_lightning.model.modes import evaluating
from cifar_lightning.model.schedules import accumulation_of

# CUDA graphs give every backward pass the same memory for its gradients, so nothing can be added to them
# (https://github.com/pytorch/pytorch/issues/169545), and DDP has hung and crashed on these modes
# (https://github.com/pytorch/pytorch/issues/140395, https://github.com/pytorch/pytorch/issues/139207).
GRAPH_MODES = ("reduce-overhead", "max-autotune")
WARM_UP_RUNS = 2  # CUDA graphs are recorded in the second, at the latest
_recorded: list[Tensor] = []  # see keep_addresses


def resolve_mode(mode: str, on_gpu: bool, graphs: bool) -> str:
    """What `mode` stands for here: one of torch.compile's, or none.

    Args:
        mode: One of LitNet's `compile`.
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


class Compilation:
    """Has the `net` of a LightningModule compiled for a fit, and runs it before the first step.

    Without a data module that `can_sample` nothing is run: the first step compiles.

    Args:
        mode: One of LitNet's `compile`; with auto a test runs what is not compiled, for which it is too short.
        sizes: Sides that training images are shrunk to, besides their own.
    """

    def __init__(self, mode: str, sizes: Sequence[int] = ()) -> None:
        self.mode, self.sizes = mode, sizes
        self._taken: str | None = None  # the mode that the network is marked for

    def prepare(self, module: LightningModule) -> None:
        """Marks the network for compilation, once it is known where it is to run, and how: a fit before may differ."""
        net, trainer = _net(module), module.trainer
        mode = resolve_mode(
            self.mode,
            on_gpu=trainer.strategy.root_device.type == "cuda",
            graphs=trainer.world_size == 1 and not _accumulates(trainer),
        )
        if _is_compiled(net) and self._taken in (None, mode):  # its owner's doing, or ours for a fit like this
            return
        net._compiled_call_impl, self._taken = None, None
        if mode != "none":
            compile_network(net, mode)  # that alone: the module around it logs while it computes
            self._taken = mode

    def warm_up(self, module: LightningModule, views: str) -> None:
        """Runs a step of each size of images, and a validation, and leaves no trace but the compiled code."""
        net, trainer = _net(module), module.trainer
        data = _data(trainer)
        if not _is_compiled(net):
            return
        keep_addresses(net)
        if not can_sample(data):
            return
        from torch._dynamo.exc import TorchDynamoException  # not before: see compiler.py

        before = {name: value.clone() for name, value in net.state_dict().items()}
        try:
            self._run_each_size(module, views)
        except TorchDynamoException as error:
            self._do_without(module, error)
        net.load_state_dict(before)

    def _run_each_size(self, module: LightningModule, views: str) -> None:
        net, trainer = _net(module), module.trainer
        data = _data(trainer)
        image = data.sample(1, module.device).expand(data.hparams["batch_size"] // trainer.world_size, -1, -1, -1)
        # as the loader's; what is in them does not matter
        layout = torch.channels_last if getattr(module, "channels_last", False) else torch.contiguous_format
        images = image.contiguous(memory_format=layout)
        images = trainer.precision_plugin.convert_input(images)
        labels = torch.zeros(len(images), dtype=torch.int64, device=module.device)
        for size in [*self.sizes, None]:
            for _ in range(WARM_UP_RUNS):
                stop.raise_if_requested()  # compilation takes a while
                with trainer.precision_plugin.forward_context():
                    loss = F.cross_entropy(net(shrink(images, size)), labels)
                loss.backward()  # type: ignore[no-untyped-call]
                net.zero_grad()
        with evaluating(net), torch.no_grad():  # as a validation within a fit has it, where a test is in inference mode
            _evaluate(module, data.val_dataloader(), views)

    def _do_without(self, module: LightningModule, error: Exception) -> None:
        """Leaves the network as it is where nobody has asked for more: it only takes longer.

        Raises:
            RunError: Somebody has.
        """
        reason = " ".join(str(error).strip().splitlines()[:1])[:300]
        if self.mode != "auto":
            raise RunError(
                f"the network cannot be compiled ({reason}): mend that, or give --model.compile none"
            ) from error
        _net(module)._compiled_call_impl = None
        if module.trainer.is_global_zero:
            say(f"note: the network cannot be compiled, and is slower ({reason})")

    def warm_up_test(self, module: LightningModule, views: str) -> None:
        """Likewise for a test: after a fit the weights have moved in memory."""
        if self.mode != "auto" and _is_compiled(_net(module)) and can_sample(_data(module.trainer)):
            _evaluate(module, module.trainer.test_dataloaders or [], views)

    def in_words(self, module: LightningModule) -> str:
        """What has become of the mode, and why, for whoever is told how a fit computes."""
        taken, trainer = self._taken, module.trainer
        if _is_compiled(_net(module)):
            if taken is None:
                return "compiled by its owner"
            fewer = taken == "default" and self.mode != "default"
            return f"compiled ({taken}{', for CUDA graphs take one device and a batch a step' if fewer else ''})"
        if self.mode == "none":
            return "not compiled"
        if taken is not None:
            return "not compiled (it could not be)"
        if trainer.strategy.root_device.type != "cuda":
            return f"not compiled ({self.mode} does so on NVIDIA GPUs)"
        return "not compiled (there is no C compiler, or no Python.h)"

    def in_test(self) -> AbstractContextManager[Any]:
        """Within it a test runs what it is to run."""
        return eager() if self.mode == "auto" else nullcontext()  # from here on, and to its end


def _evaluate(module: LightningModule, loader: Iterable[Any], views: str) -> None:
    """Runs a batch of each size that `loader` gives."""
    precision = module.trainer.precision_plugin
    for images in {len(images): images for images, _ in loader}.values():
        for _ in range(WARM_UP_RUNS):
            stop.raise_if_requested()
            with precision.forward_context():
                mean_logits(_net(module), precision.convert_input(images.to(module.device, copy=True)), views)


def _net(module: LightningModule) -> nn.Module:
    net = module.net
    assert isinstance(net, nn.Module)
    return net


def _accumulates(trainer: Trainer) -> bool:
    """Whether a step has several batches, or will have: by a callback, in some epochs."""
    accumulation = accumulation_of(trainer)
    later = accumulation is not None and accumulation.going_to_accumulate_grad_batches()
    return later or trainer.accumulate_grad_batches > 1


def _data(trainer: Trainer) -> Any:
    return trainer.datamodule  # type: ignore[attr-defined]  # set by a connector


def _is_compiled(net: Any) -> bool:
    return getattr(net, "_compiled_call_impl", None) is not None
