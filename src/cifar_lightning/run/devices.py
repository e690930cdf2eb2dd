"""Resolves the devices of a job, and how a launcher has shared its processes out among machines."""

import torch

from cifar_lightning.errors import InputError, number_of
from cifar_lightning.run.cluster import this_rank


def resolve_devices(accelerator: str, devices: str | int) -> tuple[str, int]:
    """Resolves `auto`: returns the accelerator and the number of devices on this machine.

    Raises:
        InputError: This machine has no such devices.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    there = {"gpu": gpus, "cuda": gpus, "mps": int(torch.backends.mps.is_available()), "cpu": 1}
    if accelerator == "auto":
        accelerator = next(kind for kind, count in there.items() if count)
    if accelerator not in there:
        raise InputError(f"unknown accelerator {accelerator}: choose from cpu, gpu, cuda, mps, auto")
    if not there[accelerator]:
        what = "Apple GPU" if accelerator == "mps" else "GPU"
        raise InputError(
            f"accelerator {accelerator}: this machine has no {what} that torch can use; use --accelerator cpu"
        )
    if accelerator in ("gpu", "cuda"):
        chosen = _device_list(devices, gpus)
        if not set(chosen) <= set(range(gpus)) or len(set(chosen)) < len(chosen):
            raise InputError(
                f"devices {devices}: this machine has {number_of(gpus, 'GPU')}; use at most {gpus}, each once"
            )
        return accelerator, len(chosen)
    if "," in str(devices) or str(devices).strip() == "-1":
        raise InputError(f"devices {devices}: only GPUs can be chosen one by one; use a number of processes, or auto")
    count = len(_device_list(devices, 1))
    if accelerator == "mps" and count > 1:
        raise InputError(f"devices {devices}: there is only one Apple GPU; use --devices 1, or --accelerator cpu")
    return accelerator, count


def _device_list(devices: str | int, available: int) -> list[int]:
    text = str(devices).strip()
    try:
        if text in ("auto", "-1"):
            return list(range(available))
        if "," in text:
            if chosen := [int(part) for part in text.split(",") if part.strip()]:
                return chosen
        elif int(text) > 0:
            return list(range(int(text)))
    except ValueError:
        pass
    raise InputError(f"devices {devices}: must be a number of at least 1, a list of GPUs such as 0,1, or auto")


def devices_and_nodes(devices: str | int | None, num_nodes: int | None) -> tuple[str | int, int]:
    """Returns `devices` and `num_nodes` as given, otherwise those of the launcher of this process, otherwise 1.

    If a launcher has chosen how many processes it starts, `auto` counts as not given.
    """
    rank = this_rank()
    if rank is None:
        return 1 if devices is None else devices, 1 if num_nodes is None else num_nodes
    if devices is None or str(devices).strip() in ("auto", "-1"):
        devices = rank.local_world_size or rank.world_size // max(num_nodes or 1, 1)
    if num_nodes is None:
        on_each = str(devices).count(",") + 1 if "," in str(devices) else devices
        num_nodes = max(1, rank.world_size // int(on_each)) if str(on_each).isdigit() and int(on_each) else 1
    return devices, num_nodes


def check_ranks(devices: str | int, here: int, num_nodes: int) -> None:
    """Raises an InputError if a launcher has started more or fewer processes than there are devices.

    Args:
        devices: The argument as given, for the message.
        here: Number of devices on each machine.
        num_nodes: Number of machines.
    """
    rank = this_rank()
    if rank is None or ((rank.local_world_size or here) == here and rank.world_size == here * num_nodes):
        return
    local = f", {rank.local_world_size} on this machine" if rank.local_world_size else ""
    raise InputError(
        f"devices {devices} and num_nodes {num_nodes} are {here * num_nodes} processes, {here} on each machine, but "
        f"{rank.launcher} has started {rank.world_size}{local}: leave out --devices and --num_nodes to use what "
        f"{rank.launcher} has started, or start {here * num_nodes} processes"
    )
