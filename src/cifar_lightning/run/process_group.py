"""Connects the ranks of a job, before Lightning would, and passes values from the first rank to the others."""

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
_objects: dist.ProcessGroup | None = None  # carries objects if the calling program's process group may not

# A rank that hears nothing from the others for this long gives up: a checkpoint takes seconds, an evaluation a minute.
RANK_TIMEOUT = timedelta(minutes=5)
PATIENCE = timedelta(hours=1)  # for a rank that is running but still reading its images before the ranks meet
START_UP = timedelta(minutes=1)  # how much later than another rank of its machine a rank may start
MEETING_SECONDS = 0.02  # between two checks for ranks that have arrived
TOLD_SECONDS = 1.0  # how far apart a launcher may tell two of its ranks to stop


@contextmanager
def process_group() -> Iterator[None]:
    """A context in which the ranks of a job, which share the cores, are connected; does nothing for a single process.

    Lightning would connect them too, but only once a Trainer runs, and the ranks have to agree on a folder before that.
    """
    global _objects
    rank = this_rank()
    if rank is None or rank.world_size == 1:
        yield
        return
    if dist.is_initialized():  # by the program that calls this package, perhaps for GPUs only
        _objects = gloo_group()
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
            dist.all_reduce(torch.zeros(1))  # a barrier: all ranks go on to read the results that rank 0 writes
            # Not after an error: it could wait for ranks that are gone, and would break the other ranks' connections
            # before this rank says why.
            dist.destroy_process_group()


def gloo_group(timeout: timedelta = RANK_TIMEOUT) -> dist.ProcessGroup:
    """Returns a new group of all ranks, which compares their values on the CPU, so that no device is waited for."""
    group = dist.new_group(backend="gloo", timeout=timeout)
    assert isinstance(group, dist.ProcessGroup)
    return group


@contextmanager
def stopped_together() -> Iterator[None]:
    """A context in which a broken connection is not an error if this rank has been told to stop.

    The rank at the other end has been told too. It had nothing to save yet, so it ended at once.
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
    """Returns the store through which the ranks exchange values before the process group exists."""
    # Rank 0 reads its images before it opens the store.
    patience = PATIENCE if presence is not None and presence.ranks else RANK_TIMEOUT
    with _where_they_meet(rank) as where:
        # 1 in place of the world size, for which torch would wait here without saying which ranks are missing.
        store = next(iter(rendezvous(f"tcp://{where}", rank.rank, 1, timeout=patience)))[0]
        store.set_timeout(patience)
        meeting = _name_of_the_meeting(rank, presence, store)
        store.set_timeout(RANK_TIMEOUT)
        return PrefixStore(meeting, store)


def _name_of_the_meeting(rank: Rank, presence: Presence | None, store: Store) -> str:
    """Waits for all ranks, and returns a key prefix that is the same on all of them and was never used before.

    The store may hold keys of an earlier meeting: torchrun keeps its store when it restarts its ranks, and a process
    may train more than once. So each rank publishes a unique name, and rank 0 answers under that name.

    Raises:
        RuntimeError: On rank 0: other ranks have not arrived.
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
                # This may be the name of a process that is gone: the next round answers its successor's.
                store.set(store.get(f"cifar_lightning/{other}").decode(), mine)
        waited = timedelta(seconds=time.monotonic() - begun)
        if late := [other for other in missing if waited > _patience(rank, other, presence)]:
            raise RuntimeError(f"rank {', '.join(map(str, late))} did not arrive within {waited.seconds} s")
        time.sleep(MEETING_SECONDS)
    return mine


def _patience(rank: Rank, other: int, presence: Presence | None) -> timedelta:
    """Returns how long rank 0 waits for the rank `other`."""
    if presence is None:
        return RANK_TIMEOUT
    if other in presence.ranks:
        return PATIENCE
    each = rank.local_world_size or 1
    beside = any(here // each == other // each for here in {0, *presence.ranks})
    # Ranks connect to rank 0 as they start. If another rank of the same machine has, no firewall is in the way, so the
    # missing rank has not started.
    return START_UP if presence.early and beside else RANK_TIMEOUT


def _connect(presence: Presence, rank: Rank, store: Store) -> None:
    """Connects the presence of a rank that did not find rank 0's on the default port when it started."""
    key = "cifar_lightning/port"
    if rank.rank == 0:
        store.set(key, str(presence.port))
    else:
        presence.connect_at(int(store.get(key)))


@contextmanager
def _where_they_meet(rank: Rank) -> Iterator[str]:
    """A context that gives the ranks' meeting point as text, and names it in a RunError if something fails."""
    host = f"[{rank.address}]" if ":" in rank.address else rank.address
    where = f"{host}:{rank.port}"
    try:
        yield where
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise RunError(
            f"rank {rank.rank} of {rank.world_size} could not meet the others at {where} ({reason}): set MASTER_ADDR "
            "to the machine of rank 0 and MASTER_PORT to a free port there, the same for all ranks"
        ) from error


def _backends() -> str:
    """Returns the backends for the ranks' tensors. By default, torch connects only GPUs if there are any, not CPUs."""
    return "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"


def on_first_rank(read: Callable[[], Read]) -> Read:
    """Calls `read` on rank 0 and returns its result on every rank: the other ranks may share no disk with rank 0.

    Args:
        read: Returns tensors and plain values, or lists and dictionaries of them.

    Raises:
        InputError, RunError: `read` raised it on rank 0; then every rank raises it.
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
    """Raises an InputError, on every rank of a job, if the ranks have not all read the same images of these splits."""
    if not dist.is_initialized() or world_size() == 1:
        return
    found: list[Any] = [None] * dist.get_world_size()
    where = f"{images.hparams['data_dir']} on {socket.gethostname()}"
    patient = gloo_group(PATIENCE)  # another machine may have to download the images first
    mine = [images.image_set(split).checksum() for split in splits], where
    dist.all_gather_object(found, mine, group=patient)
    for rank, (sums, where) in enumerate(found):
        if sums != found[0][0]:
            raise InputError(
                f"the images of rank {rank} ({where}) differ from the images of rank 0 ({found[0][1]}): "
                "use the same images on all machines, if necessary with another --data.data_dir on each"
            )
