"""Which devices a job runs on, and what its ranks share before Lightning takes over."""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from cifar_lightning.errors import InputError

# A rank that hears nothing from the others for so long gives up: a checkpoint takes seconds, an evaluation a minute.
RANK_TIMEOUT = timedelta(minutes=5)
# Operations of a step's forward pass up to which the CPU is quicker with less: measured, see docs/performance.md.
TINY_STEP = 8e6  # without oneDNN, whose convolutions cost some 50 µs before they begin
SMALL_STEP = 20e6  # with one thread: threads that share a small step wait for each other longer than they work


def resolve_devices(accelerator: str, devices: str | int) -> tuple[str, int]:
    """What `auto` stands for here: the accelerator, and how many devices of this machine.

    Raises:
        InputError: There are no such devices.
    """
    if accelerator not in ("auto", "cpu", "gpu", "cuda", "mps"):
        raise InputError(f"accelerator {accelerator} is not known: give cpu, gpu, mps or auto")
    if accelerator == "mps" and not torch.backends.mps.is_available():
        raise InputError("accelerator mps: this machine has no Apple GPU that torch can use; give --accelerator cpu")
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if accelerator == "auto":
        accelerator = "gpu" if gpus else "mps" if torch.backends.mps.is_available() else "cpu"
    if accelerator in ("gpu", "cuda"):
        if not gpus:
            raise InputError(
                f"accelerator {accelerator}: this machine has no GPU that torch can use; give --accelerator cpu"
            )
        chosen = _device_list(devices, gpus)
        if len(chosen) > gpus or any(index >= gpus for index in chosen):
            raise InputError(
                f"devices {devices}: this machine has {gpus} GPU{'s' * (gpus > 1)}; give at most that many"
            )
        return accelerator, len(chosen)
    if "," in str(devices) or str(devices).strip() == "-1":
        raise InputError(f"devices {devices}: only GPUs can be chosen one by one; give a number of processes, or auto")
    return accelerator, len(_device_list(devices, 1))


def _device_list(devices: str | int, available: int) -> list[int]:
    text = str(devices).strip()
    try:
        if text in ("auto", "-1"):
            return list(range(available))
        if "," in text:
            return [int(part) for part in text.split(",") if part.strip()]
        if int(text) > 0:
            return list(range(int(text)))
    except ValueError:
        pass
    raise InputError(f"devices {devices}: give a number, a list such as 0,1, or auto")


def resolve_precision(precision: str | int, accelerator: str) -> str:
    """What `auto` stands for here: bfloat16 where the device computes in it, else float32.

    On a CPU, where torch has no mixed float16, `16-mixed` is mixed bfloat16, as the Trainer has it.
    """
    if precision != "auto":
        short = {"16": "16-mixed", "bf16": "bf16-mixed", "32": "32-true", "64": "64-true"}  # as the Trainer has it
        precision = short.get(str(precision), str(precision))
        return "bf16-mixed" if (precision, accelerator) == ("16-mixed", "cpu") else precision
    if accelerator in ("gpu", "cuda"):
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    abilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return "bf16-mixed" if any(abilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16")) else "32-true"


@contextmanager
def restored_cpu() -> Iterator[None]:
    """Within it `fit_cpu` may set how this process computes; after it threads and oneDNN are as they were."""
    threads, onednn = torch.get_num_threads(), torch.backends.mkldnn.enabled
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.backends.mkldnn.enabled = onednn


def available_threads() -> int:
    """How many threads this rank may compute on.

    torch's own number, which knows of OMP_NUM_THREADS and of the cores that the process may use, shared with the ranks
    beside it where OMP_NUM_THREADS, which is meant for each, does not say it. A 1 under torchrun does not: torchrun
    itself sets it for several ranks.
    """
    ranks, given = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), os.environ.get("OMP_NUM_THREADS")
    if given == "1" and ranks > 1 and "TORCHELASTIC_RESTART_COUNT" in os.environ:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    elif given:
        return torch.get_num_threads()
    else:
        cores = torch.get_num_threads()
    return max(1, cores // ranks)


def fit_cpu(model: LightningModule, images: int, threads: int) -> None:
    """Sets how this process computes on the CPU, by the work there is in a step: see TINY_STEP and SMALL_STEP.

    Args:
        model: With an `example_input_array`.
        images: Per step in this process.
        threads: At most.
    """
    assert isinstance(model.example_input_array, Tensor)
    torch.backends.mkldnn.enabled = True  # type: ignore[assignment]  # NNPACK's convolutions are not counted
    model.eval()  # or the batch norms would take the example for data
    with torch.no_grad(), torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False) as counter:
        model(model.example_input_array[:1])
    model.train()
    work = images * counter.get_total_flops()
    torch.set_num_threads(threads if work > SMALL_STEP else 1)
    torch.backends.mkldnn.enabled = work > TINY_STEP
    _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Has glibc keep the memory of freed tensors for the next ones, as torch does on GPUs.

    By default it hands every large one back to the system, which clears its pages for the next: a fifth of a step's
    time. Source of the numbers: https://man7.org/linux/man-pages/man3/mallopt.3.html and glibc's malloc.h.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(-4, 0)  # M_MMAP_MAX: no memory from outside the heap
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: no trimming of the heap's end below 2 GB


def launched() -> bool:
    """Whether this process is a rank that a launcher (ours or torchrun) has started.

    Raises:
        InputError: Half of what a launcher sets is set: parts of Lightning would take it for a whole.
    """
    rank, world_size = ("RANK" in os.environ), ("WORLD_SIZE" in os.environ)
    if rank != world_size:
        name, other = ("RANK", "WORLD_SIZE") if rank else ("WORLD_SIZE", "RANK")
        raise InputError(f"the environment has {name} {os.environ[name]} and no {other}: unset it, or use torchrun")
    return rank


def is_first_rank() -> bool:
    """Whether this process is the one of the job that makes folders."""
    return not launched() or int(os.environ["RANK"]) == 0


def world_size() -> int:
    """Ranks of the job that this process is one of."""
    return int(os.environ["WORLD_SIZE"]) if launched() else 1


@contextmanager
def process_group() -> Iterator[None]:
    """Connects the ranks of a job, which share the cores; does nothing for a job of one.

    Lightning would connect them too, but only once a Trainer runs, and the ranks have a folder to agree on before.
    """
    if world_size() == 1:
        yield
        return
    dist.init_process_group(_backends(), timeout=RANK_TIMEOUT)
    yield
    dist.all_reduce(torch.zeros(1))  # the first rank has written the results, which all go on to read
    # Not after an error: it could wait for ranks that are gone, and theirs would break before this one has said why.
    dist.destroy_process_group()


def _backends() -> str:
    """What carries the ranks' tensors: without a name torch connects GPUs alone where there are any, and no CPUs."""
    return "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"


def from_first_rank(values: list[str | None]) -> list[str | None]:
    """What the first rank gives, on every rank."""
    if world_size() > 1:
        values = list(values)
        dist.broadcast_object_list(values, 0, device=torch.device("cpu"))
    return values
