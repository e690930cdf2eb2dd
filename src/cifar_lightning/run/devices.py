"""Which devices a job runs on, and what its ranks share before Lightning takes over."""

import io
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import Any, Literal, TypeVar, cast

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]  # they are documented there
from torch.distributed.rendezvous import rendezvous

from cifar_lightning import stop
from cifar_lightning.data.datamodule import CIFAR10DataModule
from cifar_lightning.errors import InputError, RunError, Stopped
from cifar_lightning.run.cluster import OURS, Rank, loopback, this_rank, world_size
from cifar_lightning.run.environment import environment
from cifar_lightning.run.machines import interface, of_a_connection, watched
from cifar_lightning.run.presence import Presence

Read = TypeVar("Read")
_objects: dist.ProcessGroup | None = None  # what carries objects, where a program's own process group may not

# A rank that hears nothing from the others for so long gives up: a checkpoint takes seconds, an evaluation a minute.
RANK_TIMEOUT = timedelta(minutes=5)
PATIENCE = timedelta(hours=1)  # with a rank that is there, and reads its images, before they meet
START_UP = timedelta(minutes=1)  # that a rank may begin after another of its machine
MEETING_SECONDS = 0.02  # between two looks at who has come
TOLD_SECONDS = 1.0  # that may lie between a launcher's words to two of its ranks


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
        if not set(chosen) <= set(range(gpus)) or len(set(chosen)) < len(chosen):
            raise InputError(
                f"devices {devices}: this machine has {gpus} GPU{'s' * (gpus > 1)}; give at most that many, each once"
            )
        return accelerator, len(chosen)
    if "," in str(devices) or str(devices).strip() == "-1":
        raise InputError(f"devices {devices}: only GPUs can be chosen one by one; give a number of processes, or auto")
    count = len(_device_list(devices, 1))
    if accelerator == "mps" and count > 1:
        raise InputError(f"devices {devices}: there is one Apple GPU; give --devices 1, or --accelerator cpu")
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
    raise InputError(f"devices {devices}: give a number, a list such as 0,1, or auto")


def shared_out(devices: str | int | None, num_nodes: int | None) -> tuple[str | int, int]:
    """`devices` and `num_nodes` as they are given, or else as the launcher has it that has started this process, or 1.

    `auto` is as if it were not given where a launcher has chosen how many it starts.
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
    """Raises an InputError where a launcher has started other processes than there are devices.

    Args:
        devices: As they were given.
        here: How many they are on each machine.
        num_nodes: Machines.
    """
    rank = this_rank()
    if rank is None or ((rank.local_world_size or here) == here and rank.world_size == here * num_nodes):
        return
    local = f", {rank.local_world_size} on this machine" if rank.local_world_size else ""
    raise InputError(
        f"devices {devices} and num_nodes {num_nodes} are {here * num_nodes} processes, {here} on each machine, and "
        f"{rank.launcher} has started {rank.world_size}{local}: leave --devices and --num_nodes out to go by "
        f"{rank.launcher}, or have it start as many"
    )


@contextmanager
def process_group() -> Iterator[None]:
    """Connects the ranks of a job, which share the cores; does nothing for a job of one.

    Lightning would connect them too, but only once a Trainer runs, and the ranks have a folder to agree on before.
    """
    global _objects
    rank = this_rank()
    if rank is None or rank.world_size == 1:
        yield
        return
    if dist.is_initialized():  # by the program that calls us, maybe for GPUs only
        group = dist.new_group(backend="gloo", timeout=RANK_TIMEOUT)
        assert isinstance(group, dist.ProcessGroup)
        _objects = group
        yield
        dist.all_reduce(torch.zeros(1), group=_objects)
        _objects = None
        return
    with nullcontext() if rank.launcher == OURS else watched(rank) as presence, stopped_together():
        store = _meet(rank, presence)
        if presence is not None:
            _connect(presence, rank, store)
        with environment(loopback() if rank.on_one_machine else interface(rank, store)):
            with _where_they_meet(rank):
                dist.init_process_group(
                    _backends(), store=store, timeout=RANK_TIMEOUT, world_size=rank.world_size, rank=rank.rank
                )
            yield
            dist.all_reduce(torch.zeros(1))  # the first rank has written the results, which all go on to read
            # Not after an error: it could wait for ranks that are gone, and theirs would break before this one says why
            dist.destroy_process_group()


@contextmanager
def stopped_together() -> Iterator[None]:
    """Within it, a connection that breaks while this rank is told to stop is no error.

    Another has been told too, and had nothing to save yet: it has ended where it was.
    """
    try:
        yield
    except RuntimeError as error:
        deadline = time.monotonic() + TOLD_SECONDS
        while of_a_connection(error) and not stop.requested and time.monotonic() < deadline:
            time.sleep(0.05)
        if stop.requested and of_a_connection(error):
            raise Stopped(stop.requested) from error
        raise


def _meet(rank: Rank, presence: Presence | None) -> Store:
    """What the ranks tell each other by, before they are connected."""
    # The first rank reads its images before it opens the store.
    patience = PATIENCE if presence is not None and presence.ranks else RANK_TIMEOUT
    with _where_they_meet(rank) as where:
        # 1 for the world: torch waits for all here, and would not say which are missing
        store = next(iter(rendezvous(f"tcp://{where}", rank.rank, 1, timeout=patience)))[0]
        store.set_timeout(patience)
        meeting = _name_of_the_meeting(rank, presence, store)
        store.set_timeout(RANK_TIMEOUT)
        return PrefixStore(meeting, store)


def _name_of_the_meeting(rank: Rank, presence: Presence | None, store: Store) -> str:
    """One that all ranks have, once all are there, and that nobody has had before.

    The store may be torchrun's, which keeps all that was said in it when it starts its ranks again, or that of a
    process which trains more than once. So each rank shows a name of its own, and is answered under that.

    Raises:
        RuntimeError: On the first rank: others have not come.
    """
    mine = f"cifar_lightning/{uuid.uuid4()}"
    if rank.rank:
        store.set(f"cifar_lightning/{rank.rank}", mine)
        meeting = store.get(mine).decode()
        store.set(f"{meeting}/{rank.rank}", "")
        return meeting
    missing, begun = list(range(1, rank.world_size)), time.monotonic()
    while missing := [other for other in missing if not store.check([f"{mine}/{other}"])]:
        for other in missing:
            if store.check([f"cifar_lightning/{other}"]):
                store.set(store.get(f"cifar_lightning/{other}").decode(), mine)  # or to one that is gone
        waited = timedelta(seconds=time.monotonic() - begun)
        if late := [other for other in missing if waited > _patience(rank, other, presence)]:
            raise RuntimeError(f"rank {', '.join(map(str, late))} has not come in {waited.seconds} s")
        time.sleep(MEETING_SECONDS)
    return mine


def _patience(rank: Rank, other: int, presence: Presence | None) -> timedelta:
    """For how long the first rank waits for another."""
    if presence is None:
        return RANK_TIMEOUT
    if other in presence.ranks:
        return PATIENCE
    each = rank.local_world_size or 1
    beside = any(here // each == other // each for here in {0, *presence.ranks})
    # It is not there, and no firewall keeps it away: its neighbours have come.
    return START_UP if presence.early and beside else RANK_TIMEOUT


def _connect(presence: Presence, rank: Rank, store: Store) -> None:
    """Has a rank whose first moments have not led it to the first be connected with it."""
    key = "cifar_lightning/port"
    if rank.rank == 0:
        store.set(key, str(presence.port))
    else:
        presence.connect_at(int(store.get(key)))


@contextmanager
def _where_they_meet(rank: Rank) -> Iterator[str]:
    """Raises a RunError that names the place where something has failed within."""
    host = f"[{rank.address}]" if ":" in rank.address else rank.address
    where = f"{host}:{rank.port}"
    try:
        yield where
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise RunError(
            f"rank {rank.rank} of {rank.world_size} does not meet the others at {where} ({reason}): set MASTER_ADDR to "
            "the first one's machine and MASTER_PORT to a free port there, the same for all"
        ) from error


def _backends() -> str:
    """What carries the ranks' tensors: without a name torch connects GPUs alone where there are any, and no CPUs."""
    return "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"


def on_first_rank(read: Callable[[], Read]) -> Read:
    """What `read` gives on the first rank, on every rank of a job: the others may have no disk in common with it.

    Args:
        read: Gives tensors and plain values, or lists and dictionaries of them.

    Raises:
        InputError, RunError: What it raises there, on every rank.
    """
    if not dist.is_initialized() or world_size() == 1:
        return read()
    found: list[Any] = [None, None]
    first, packed = dist.get_rank() == 0, io.BytesIO()
    if first:
        try:
            value = read()
            torch.save(value, packed)
            found[0] = packed.getvalue()
        except (InputError, RunError) as error:
            found[1] = error
    dist.broadcast_object_list(found, 0, group=_objects, device=torch.device("cpu"))
    if found[1] is not None:
        raise found[1]
    return value if first else cast(Read, torch.load(io.BytesIO(found[0]), "cpu", weights_only=True))


def check_same_images(images: CIFAR10DataModule, *splits: Literal["train", "test"]) -> None:
    """Raises an InputError, on every rank of a job, where they have not all read the same images of these splits."""
    if not dist.is_initialized() or world_size() == 1:
        return
    found: list[Any] = [None] * dist.get_world_size()
    where = f"{images.hparams['data_dir']} on {socket.gethostname()}"
    patient = dist.new_group(backend="gloo", timeout=PATIENCE)  # another machine may have to fetch them first
    assert isinstance(patient, dist.ProcessGroup)
    mine = [images.image_set(split).checksum() for split in splits], where
    dist.all_gather_object(found, mine, group=patient)
    for rank, (sums, where) in enumerate(found):
        if sums != found[0][0]:
            raise InputError(
                f"the images of rank {rank} ({where}) are not those of rank 0 ({found[0][1]}): "
                "give all machines the same, each by its own --data.data_dir if need be"
            )
