"""Which devices a job runs on, and what its ranks share before Lightning takes over."""

import os
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
# Operations of a step's forward pass below which one thread is faster than two: measured, see docs/performance.md.
SMALL_STEP = 50e6


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


def resolve_precision(precision: str, accelerator: str) -> str:
    """What `auto` stands for here: bfloat16 where the device computes in it, else float32."""
    if precision != "auto":
        return precision
    if accelerator in ("gpu", "cuda"):
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    abilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return "bf16-mixed" if any(abilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16")) else "32-true"


def fit_threads(model: LightningModule, images: int) -> int:
    """Sets how many threads this process computes with on the CPU: its share of the cores, or 1 for little work.

    Threads that share a step of a tiny network wait for each other longer than they work.

    Args:
        model: With an `example_input_array`.
        images: Per step in this process.

    Returns:
        The number of threads.
    """
    assert isinstance(model.example_input_array, Tensor)
    model.eval()  # or the batch norms would take the example for data
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(model.example_input_array[:1])
    model.train()
    share = max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    threads = share if images * counter.get_total_flops() > SMALL_STEP else 1
    torch.set_num_threads(threads)
    return threads


def is_first_rank() -> bool:
    """Whether this process is the one of the job that makes folders."""
    return int(os.environ.get("RANK", "0")) == 0


def world_size() -> int:
    """Ranks of the job that this process is one of."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def process_group() -> Iterator[None]:
    """Connects the ranks of a job, which share the cores; does nothing for a job of one.

    Lightning would connect them too, but only once a Trainer runs, and the ranks have a folder to agree on before.
    """
    if world_size() == 1:
        yield
        return
    dist.init_process_group(timeout=RANK_TIMEOUT)  # gloo for tensors on the CPU, NCCL for those on a GPU
    yield
    dist.all_reduce(torch.zeros(1))  # the first rank has written the results, which all go on to read
    # Not after an error: it could wait for ranks that are gone, and theirs would break before this one has said why.
    dist.destroy_process_group()


def from_first_rank(values: list[str | None]) -> list[str | None]:
    """What the first rank gives, on every rank."""
    if world_size() > 1:
        values = list(values)
        dist.broadcast_object_list(values, 0, device=torch.device("cpu"))
    return values
