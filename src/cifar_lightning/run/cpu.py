"""Configures how a process computes on the CPU: threads, oneDNN and memory, to suit the amount of work in a step."""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning.pytorch import LightningModule
from torch import nn
from torch.backends import mha, nnpack
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cifar_lightning.compiler import eager
from cifar_lightning.data.cifar10 import IMAGE_SHAPE
from cifar_lightning.data.pictures.helpers import usable_cores
from cifar_lightning.model.modes import evaluating
from cifar_lightning.model.networks.conv import Conv2d
from cifar_lightning.run.cluster import this_rank

# Up to these numbers of operations in a step's forward pass, the CPU is faster with less. They are measured: see
# docs/performance.md.
TINY_STEP = 8e6  # faster without oneDNN, whose convolutions cost some 50 µs before they begin
# From this many images on torch uses NNPACK (https://github.com/pytorch/pytorch/issues/26396); our Conv2d always does.
NNPACK_IMAGES = 16
SMALL_STEP = 20e6  # faster with one thread: threads that share a small step wait for each other longer than they work


@contextmanager
def restored_torch() -> Iterator[None]:
    """A context that restores at its end how this process computes, which `configure_cpu` and a Trainer change."""
    threads, onednn, benchmark = torch.get_num_threads(), torch.backends.mkldnn.enabled, torch.backends.cudnn.benchmark
    deterministic = torch.get_deterministic_debug_mode()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.backends.mkldnn.enabled, torch.backends.cudnn.benchmark = onednn, benchmark
        # Not by set_deterministic_debug_mode, which leaves the compiler's own switch as it is.
        if torch.get_deterministic_debug_mode() != deterministic:
            torch.use_deterministic_algorithms(deterministic > 0, warn_only=deterministic == 1)


def available_threads() -> int:
    """Returns how many threads this rank may compute on.

    It is torch's own number, which respects OMP_NUM_THREADS and the cores that this process may use. OMP_NUM_THREADS
    is meant for each rank; if it is not set, the ranks of a machine divide the number among them. An OMP_NUM_THREADS
    of 1 under torchrun counts as not set, because torchrun itself sets it for several ranks. srun and mpirun may have
    bound each rank to its own cores, which are then not divided again.
    """
    rank, given = this_rank(), os.environ.get("OMP_NUM_THREADS")
    ranks = (rank.local_world_size if rank else None) or 1
    by_torchrun = given == "1" and ranks > 1 and "TORCHELASTIC_RESTART_COUNT" in os.environ
    if given and not by_torchrun:
        return torch.get_num_threads()
    cores = usable_cores() if by_torchrun else torch.get_num_threads()
    if rank is not None and rank.launcher in ("srun", "mpirun"):
        machine = int(os.environ.get("SLURM_CPUS_ON_NODE") or os.cpu_count() or 1)
        return max(1, min(cores, machine // ranks))
    return max(1, cores // ranks)


def configure_cpu(model: LightningModule, images: int, threads: int) -> float:
    """Configures how this process computes on the CPU, by the work in a step: see TINY_STEP and SMALL_STEP.

    Args:
        model: The network, for images of the data module's size.
        images: Images per step in this process.
        threads: Maximum number of threads.

    Returns:
        The work in a step, as `step_work` counts it.
    """
    work = step_work(model, images)
    torch.set_num_threads(threads if work > SMALL_STEP else 1)
    torch.backends.mkldnn.enabled = work > TINY_STEP  # type: ignore[assignment]
    keep_freed_memory()
    return work


def kernels(net: nn.Module, images: int, precision: str) -> str:
    """Says which library computes the convolutions in a step of `images` images, as this process is configured."""
    if torch.backends.mkldnn.enabled:
        there: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        return "oneDNN" if there else "without oneDNN"
    few = images < NNPACK_IMAGES
    convolves = any(isinstance(module, Conv2d if few else nn.Conv2d) for module in net.modules())
    takes = convolves and precision == "32-true" and nnpack.is_available()  # type: ignore[no-untyped-call]
    return "NNPACK instead of oneDNN" if takes else "without oneDNN"


def step_work(model: LightningModule, images: int) -> float:
    """Returns the operations in the forward pass of a step of `images` images, each of the data module's size."""
    assert isinstance(model.dtype, torch.dtype)
    torch.backends.mkldnn.enabled = True  # type: ignore[assignment]  # torch does not count NNPACK's convolutions
    with (
        evaluating(model),  # otherwise the batch norms would learn from the example
        torch.no_grad(),
        eager(),
        plain_attention(),
        FlopCounterMode(display=False) as counter,
    ):
        model(torch.zeros(1, *IMAGE_SHAPE, dtype=model.dtype))
    return float(images * counter.get_total_flops())


@contextmanager
def plain_attention() -> Iterator[None]:
    """A context in which attention uses plain matrix products: torch counts no operations of its faster kernels."""
    fast = mha.get_fastpath_enabled()
    mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        mha.set_fastpath_enabled(fast)


def keep_freed_memory() -> None:
    """Makes glibc keep the memory of freed tensors for the next ones, as torch does on GPUs.

    By default glibc returns every large block to the system, which clears the pages for the next one: this takes a
    fifth of a step's time. The numbers come from https://man7.org/linux/man-pages/man3/mallopt.3.html and glibc's
    malloc.h.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(-4, 0)  # M_MMAP_MAX: take no memory from outside the heap
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: do not trim less than 2 GB from the heap's end
