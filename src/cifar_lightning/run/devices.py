"""Which devices a job runs on, and what its ranks share before Lightning takes over."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from cifar_lightning.errors import InputError

# A rank that hears nothing from the others for so long gives up: a checkpoint takes seconds, an evaluation a minute.
RANK_TIMEOUT = timedelta(minutes=5)


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


def launched() -> bool:
    """Whether this process is a rank that a launcher (ours or torchrun) has started.

    Raises:
        InputError: Half of what a launcher sets is set: parts of Lightning would take it for a whole.
    """
    needs = {"RANK": ["WORLD_SIZE"], "WORLD_SIZE": ["RANK"]}
    if os.environ.get("WORLD_SIZE", "1") != "1":
        needs["WORLD_SIZE"] += ["MASTER_ADDR", "MASTER_PORT"]  # where the ranks meet
    for name in needs.keys() & os.environ.keys():
        for other in needs[name]:
            if other not in os.environ:
                value = os.environ[name]
                raise InputError(f"the environment has {name} {value} and no {other}: unset it, or use torchrun")
    return "RANK" in os.environ


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
