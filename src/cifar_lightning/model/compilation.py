"""torch.compile for a module's network: chooses the mode, if any, and compiles everything before the first step."""

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
from cifar_lightning.model.images import can_sample
from cifar_lightning.model.modes import evaluating
from cifar_lightning.model.schedules import accumulation_of
from cifar_lightning.model.views import mean_logits

# These modes use CUDA graphs, which give the gradients of every backward pass the same memory, so gradients cannot be
# accumulated (https://github.com/pytorch/pytorch/issues/169545), and DDP has hung and crashed in these modes
# (https://github.com/pytorch/pytorch/issues/140395, https://github.com/pytorch/pytorch/issues/139207).
GRAPH_MODES = ("reduce-overhead", "max-autotune")
WARM_UP_RUNS = 2  # CUDA graphs are recorded in the second run at the latest
_recorded: list[Tensor] = []  # see keep_addresses


def resolve_mode(mode: str, on_gpu: bool, graphs: bool) -> str:
    """Resolves `auto` to a mode of torch.compile or none, and modes that need CUDA graphs to one that does not.

    Args:
        mode: A value of LitNet's `compile`.
        on_gpu: Whether the network is on an NVIDIA GPU.
        graphs: Whether CUDA graphs can be used.
    """
    if mode == "auto":
        mode = "reduce-overhead" if on_gpu and _can_compile() else "none"
    return "default" if mode in GRAPH_MODES and not graphs else mode


def _can_compile() -> bool:
    """Whether Triton can build its launcher: it needs a C compiler and Python.h.

    Source: https://github.com/triton-lang/triton/blob/main/python/triton/runtime/build.py
    """
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    return bool(compiler) and Path(sysconfig.get_path("include"), "Python.h").exists()


def compile_network(net: nn.Module, mode: str) -> None:
    """Marks `net`, in place, to be compiled in `mode` when it first runs. Its weights keep their names.

    A network may have inductor options of its own in an attribute `compile_options`.
    """
    options = {
        **torch._inductor.list_mode_options(mode),
        **getattr(net, "compile_options", {}),
        "autotune_num_choices_displayed": 0,  # otherwise it prints the times of every kernel it tries
    }
    # Every image size and batch size is compiled separately, which is faster than one program for all sizes. By default
    # torch stops compiling at the ninth size in a process.
    torch._dynamo.config.recompile_limit = 64
    with torch._dynamo.config.patch(wrap_top_frame=True):  # torch 2.11 compiles only the parts of an nn.Sequential
        net.compile(options=options, dynamic=False)


def keep_addresses(net: nn.Module) -> None:
    """Keeps the GPU memory of the weights of `net` allocated for ever, even after the end of a fit has moved them away.

    A CUDA graph recognises the weights it was recorded with by their addresses alone. If a later network's weights had
    the same addresses, the graph would hand the old weights to the backward pass.
    """
    _recorded.extend(value for value in net.state_dict().values() if value.is_cuda)


class Compilation:
    """Compiles the `net` of a LightningModule for a fit, by running it before the first step.

    Without a data module that `can_sample` there is nothing to run it on, and the first step compiles it.

    Args:
        mode: A value of LitNet's `compile`. With auto, a test runs uncompiled: it is too short to repay compilation.
        sizes: Sides that training images are shrunk to, besides their own size.
    """

    def __init__(self, mode: str, sizes: Sequence[int] = ()) -> None:
        self.mode, self.sizes = mode, sizes
        self._taken: str | None = None  # the mode we have marked the network for

    def prepare(self, module: LightningModule) -> None:
        """Marks the network for compilation once the fit's device and mode are known; an earlier fit's may differ."""
        net, trainer = _net(module), module.trainer
        mode = resolve_mode(
            self.mode,
            on_gpu=trainer.strategy.root_device.type == "cuda",
            graphs=trainer.world_size == 1 and not _accumulates(trainer),
        )
        if _is_compiled(net) and self._taken in (None, mode):  # by its owner, or by us for a fit in this mode
            return
        net._compiled_call_impl, self._taken = None, None
        if mode != "none":
            compile_network(net, mode)  # not the whole module, which logs while it computes
            self._taken = mode

    def warm_up(self, module: LightningModule, views: str) -> None:
        """Runs a step at each image size and a validation, then restores the weights: only compiled code remains."""
        net, trainer = _net(module), module.trainer
        data = _data(trainer)
        if not _is_compiled(net):
            return
        keep_addresses(net)
        if not can_sample(data):
            return
        from torch._dynamo.exc import TorchDynamoException  # imported late: see compiler.py

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
        # in the memory format of the loader's batches; their content does not matter
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
        with evaluating(net), torch.no_grad():  # as in a validation within a fit; a test is in inference mode instead
            _evaluate(module, data.val_dataloader(), views)

    def _do_without(self, module: LightningModule, error: Exception) -> None:
        """Falls back to the uncompiled network if the mode is auto: it is merely slower.

        Raises:
            RunError: The user asked for a mode other than auto.
        """
        reason = " ".join(str(error).strip().splitlines()[:1])[:300]
        if self.mode != "auto":
            raise RunError(
                f"the network cannot be compiled ({reason}): fix the cause, or use --model.compile none"
            ) from error
        _net(module)._compiled_call_impl = None
        if module.trainer.is_global_zero:
            say(f"note: the network cannot be compiled, so it runs slower ({reason})")

    def warm_up_test(self, module: LightningModule, views: str) -> None:
        """Runs a batch of each size before a test, because after a fit the weights have moved in memory."""
        if self.mode != "auto" and _is_compiled(_net(module)) and can_sample(_data(module.trainer)):
            _evaluate(module, module.trainer.test_dataloaders or [], views)

    def in_words(self, module: LightningModule) -> str:
        """Says whether the network is compiled, in which mode, and why not in the mode that was asked for."""
        taken, trainer = self._taken, module.trainer
        if _is_compiled(_net(module)):
            if taken is None:
                return "compiled by the user"
            fewer = taken == "default" and self.mode != "default"
            why = ", because CUDA graphs need one device and one batch per step" if fewer else ""
            return f"compiled ({taken}{why})"
        if self.mode == "none":
            return "not compiled"
        if taken is not None:
            return "not compiled (compilation failed)"
        if trainer.strategy.root_device.type != "cuda":
            return f"not compiled ({self.mode} compiles on NVIDIA GPUs only)"
        return "not compiled (there is no C compiler, or no Python.h)"

    def in_test(self) -> AbstractContextManager[Any]:
        """A context for the steps of a test, in which the network runs uncompiled if the mode is auto."""
        return eager() if self.mode == "auto" else nullcontext()  # eager() applies from this call to its exit


def _evaluate(module: LightningModule, loader: Iterable[Any], views: str) -> None:
    """Runs one batch of each size that `loader` yields."""
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
    """Whether a step accumulates several batches, or will in some epochs because of a callback."""
    accumulation = accumulation_of(trainer)
    later = accumulation is not None and accumulation.going_to_accumulate_grad_batches()
    return later or trainer.accumulate_grad_batches > 1


def _data(trainer: Trainer) -> Any:
    return trainer.datamodule  # type: ignore[attr-defined]  # set by a connector


def _is_compiled(net: Any) -> bool:
    return getattr(net, "_compiled_call_impl", None) is not None
