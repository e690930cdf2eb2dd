"""Finds out the rank of this process from what its launcher has set: the only place that does so.

Each launcher sets environment variables of its own. Lightning is told the result (see `Ranks` in trainer.py) and does
not look itself: it would take a batch script's own process for one of as many as there are cores, and two processes of
one `mpirun` for two jobs, and it would ignore a `RANK` without the other variables.

This module imports nothing heavy, because scripts use it before they import torch.
"""

import os
import re
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from cifar_lightning.errors import InputError

Variables = Mapping[str, str]
REQUEUE_SECONDS = 10.0  # enough for a busy scheduler
OURS = "cifar_lightning"  # the TORCHELASTIC_RUN_ID of ranks that launch.py has started and watches
NEEDED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # by ranks that no launcher has told more
LIGHTNINGS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")  # Lightning's import reads the first one set
# Where mpirun sets a process's rank, the number of processes, and both for the machine alone.
OPEN_MPI = (
    "OMPI_COMM_WORLD_RANK",
    "OMPI_COMM_WORLD_SIZE",
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "OMPI_COMM_WORLD_LOCAL_SIZE",
)
HYDRA = ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS")
PORTS = range(10_000, 30_000)  # below the ephemeral ports, which systems give to programs that ask for any port


@dataclass(frozen=True)
class Rank:
    """The place of a process among those that train one network together.

    Attributes:
        launcher: The program that has started the processes, for messages.
        rank: The number of the process, from 0.
        world_size: Number of processes.
        local_rank: The number of the process on its machine.
        local_world_size: Number of processes on its machine; None if the launcher does not say.
        address: The machine where the processes meet: the one of rank 0.
        port: The port where they meet.
    """

    launcher: str
    rank: int
    world_size: int
    local_rank: int
    local_world_size: int | None
    address: str
    port: int

    @property
    def on_one_machine(self) -> bool:
        """Whether all processes of the job are on one machine, as far as the launcher says."""
        return self.local_world_size == self.world_size


def this_rank() -> Rank | None:
    """Returns the place of this process in its job; None for a job of one process, unless torchrun has started it.

    Raises:
        InputError: The environment variables contradict each other, or do not say where the ranks meet.
    """
    group = _process_group()
    try:
        told = rank_in(os.environ)
    except InputError:
        if group is None:
            raise
        told = None
    if group is None or (told is not None and (told.rank, told.world_size) == group):
        return told
    # The calling program has connected its processes itself, as Ray Train and Fabric do.
    local, here = _on_this_machine(os.environ)
    return Rank("this program", *group, local, here, os.environ.get("MASTER_ADDR", ""), 0)


def job() -> str | None:
    """Returns the name of this process's SLURM job, such as `17`, or `17_3` for a task of an array; None without SLURM.

    A task's plain SLURM_JOB_ID would not do: for the last task of an array it is the number of the whole array.
    """
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def requeue() -> str:
    """Asks SLURM to start this job again, and returns the outcome in words."""
    name = job()
    if name is None:
        return "not requeued, because this is not a SLURM job"
    command = ["scontrol", "requeue", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=REQUEUE_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"job {name} is not requeued ({error})"
    reason = (done.stderr or done.stdout).strip().partition("\n")[0]
    return f"job {name} is requeued" if done.returncode == 0 else f"job {name} is not requeued ({reason})"


def first_rank_waits(seconds: float) -> bool:
    """Returns whether rank 0 opens its meeting point within `seconds`: if so, it has not failed before that."""
    rank, deadline = this_rank(), time.monotonic() + seconds
    while rank is not None and time.monotonic() < deadline:
        try:
            socket.create_connection((rank.address, rank.port), timeout=1.0).close()
            return True
        except OSError:
            time.sleep(0.5)
    return False


def loopback() -> dict[str, str]:
    """Returns the variable that connects ranks on one machine even if its name has no address, as in a container."""
    with suppress(OSError):
        for _, name in socket.if_nameindex():
            if name in ("lo", "lo0"):  # on Linux and on macOS
                return {"GLOO_SOCKET_IFNAME": name}
    return {}


def rank_in(variables: Variables) -> Rank | None:
    """Returns the place in its job of a process with these environment variables; see `this_rank`."""
    if name := next((name for name in LIGHTNINGS if name in variables), None):
        _number(variables, name)  # otherwise Lightning's import would end in a traceback
    by_name = _by_name(variables)
    if by_name is not None and "LOCAL_RANK" in variables:
        return by_name  # all of them are set on purpose: by torchrun inside a step of srun, and by our own launcher
    theirs = _of_mpirun(variables) or _of_srun(variables)
    if theirs is None:
        _check_whole(variables)
        return by_name
    given = {name: variables[name] for name in ("RANK", "WORLD_SIZE") if name in variables}
    if given.items() <= {"RANK": str(theirs.rank), "WORLD_SIZE": str(theirs.world_size)}.items():
        return theirs
    *others, last = (name for name in NEEDED if name not in variables)
    raise InputError(
        f"the environment has {' and '.join(map(' '.join, given.items()))}, but {theirs.launcher} says that this is "
        f"rank {theirs.rank} of {theirs.world_size}: unset {' and '.join(given)} to use the values of "
        f"{theirs.launcher}, or also set {', '.join(others)}{' and ' if others else ''}{last} to use the environment's"
    )


def is_first_rank() -> bool:
    """Returns whether this process is rank 0: the one that creates folders and prints."""
    rank = this_rank()
    return rank is None or rank.rank == 0


def is_first_of_its_machine() -> bool:
    """Returns whether this process has local rank 0: it prints what other machines may not know."""
    rank = this_rank()
    return rank is None or rank.local_rank == 0


def world_size() -> int:
    """The number of processes of this process's job."""
    rank = this_rank()
    return 1 if rank is None else rank.world_size


def _process_group() -> tuple[int, int] | None:
    """Returns the rank and world size of torch's process group; None if there is none, or it has one process."""
    dist = sys.modules.get("torch.distributed")
    if dist is None or not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return None
    return dist.get_rank(), dist.get_world_size()


def _by_name(variables: Variables) -> Rank | None:
    """Reads the variables that torch reads: torchrun, our own launcher and others set them."""
    if not {"RANK", "WORLD_SIZE"} <= variables.keys():
        return None
    rank, size = _number(variables, "RANK"), _number(variables, "WORLD_SIZE")
    if "LOCAL_RANK" not in variables and size == 1:
        return None
    if not 0 <= rank < size:
        raise InputError(f"the environment has RANK {rank} of WORLD_SIZE {size}: RANK must be from 0 to WORLD_SIZE - 1")
    if size > 1:
        _check_whole(variables)
    launcher = {None: "the launcher", OURS: OURS}.get(variables.get("TORCHELASTIC_RUN_ID"), "torchrun")
    return Rank(launcher, rank, size, *_on_this_machine(variables), *_meeting_point(variables))


def _on_this_machine(variables: Variables) -> tuple[int, int | None]:
    """Returns the local rank and local world size; 0 and 1 without LOCAL_RANK, as in Kubeflow and Vertex.

    Two processes without LOCAL_RANK on one machine could not be told apart, and would use the same GPU.
    """
    here = _number(variables, "LOCAL_WORLD_SIZE", 0) or None
    return _number(variables, "LOCAL_RANK", 0), here if "LOCAL_RANK" in variables else 1


def _of_srun(variables: Variables) -> Rank | None:
    """Reads the variables of an srun step of several tasks. A batch script's own process has none of a step.

    A step with a terminal (`srun --pty bash`) does not count: it is a shell, in which the user may start anything.
    """
    size = _number(variables, "SLURM_STEP_NUM_TASKS", 1)
    if size == 1 or "SLURM_PTY_PORT" in variables:
        return None
    # "2(x3),1" means three machines with 2 tasks each and one with 1.
    counts = re.findall(r"(\d+)(?:\(x\d+\))?", variables.get("SLURM_STEP_TASKS_PER_NODE", str(size)))
    if len(set(counts)) > 1:
        raise InputError(
            f"srun has started different numbers of tasks on its machines "
            f"({variables['SLURM_STEP_TASKS_PER_NODE']}; {size} in all): use srun --ntasks-per-node"
        )
    here = int(counts[0])
    first = "127.0.0.1" if here == size else first_host(variables.get("SLURM_STEP_NODELIST", ""))
    key = f"{variables.get('SLURM_JOB_ID')}.{variables.get('SLURM_STEP_ID')}"
    address, port = _meeting_point(variables, first, key)
    rank, local = _number(variables, "SLURM_PROCID"), _number(variables, "SLURM_LOCALID")
    return Rank("srun", rank, size, local, here, address, port)


def _of_mpirun(variables: Variables) -> Rank | None:
    """Reads the variables of mpirun: Open MPI's, or MPICH's and Intel's."""
    if _number(variables, "OMPI_COMM_WORLD_SIZE", 1) != 1:
        names, key = OPEN_MPI, variables.get("PMIX_NAMESPACE")
    # `srun --mpi=pmi2` sets PMI_RANK and PMI_SIZE too, but no local rank
    elif "MPI_LOCALRANKID" in variables and _number(variables, "PMI_SIZE", 1) != 1:
        names, key = HYDRA, None
    else:
        return None
    rank, world, local_rank, here = (_number(variables, name) for name in names)
    if here == world:
        # Without a name of the job, take the parent's id: all ranks on a machine have mpirun or its proxy as parent.
        address, port = _meeting_point(variables, "127.0.0.1", key or f"parent {os.getppid()}")
    else:
        for name in ("MASTER_ADDR", "MASTER_PORT"):
            if name not in variables:
                raise InputError(
                    f"mpirun has started {world} processes, {here} of them on this machine, but does not say where "
                    f"they meet: set {name}, e.g. mpirun -x MASTER_ADDR=HOST -x MASTER_PORT=29500, with rank 0's "
                    "machine as HOST"
                )
        address, port = _meeting_point(variables)
    return Rank("mpirun", rank, world, local_rank, here, address, port)


def _meeting_point(variables: Variables, address: str = "", key: str = "") -> tuple[str, int]:
    """Returns MASTER_ADDR and MASTER_PORT; if not set, `address` and a port that follows from `key`."""
    port = PORTS[zlib.crc32(key.encode()) % len(PORTS)]
    return variables.get("MASTER_ADDR", address), _number(variables, "MASTER_PORT", port)


def first_host(hosts: str) -> str:
    """Returns the first host of a list as SLURM writes it: `n[3-5,8],m1`, `r[01-02]n[1-4]`."""
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", re.split(r",(?![^\[]*\])", hosts)[0])


def _check_whole(variables: Variables) -> None:
    """Raises an InputError if only some of the variables that torch needs together are set."""
    needs = {"RANK": ["WORLD_SIZE"], "WORLD_SIZE": ["RANK"]}
    if variables.get("WORLD_SIZE", "1") != "1":
        needs["WORLD_SIZE"] += ["MASTER_ADDR", "MASTER_PORT"]  # where the ranks meet
    for name in needs.keys() & variables.keys():
        for other in needs[name]:
            if other not in variables:
                raise InputError(
                    f"the environment has {name} {variables[name]} but no {other}: unset {name}, or use torchrun"
                )


def _number(variables: Variables, name: str, default: int | None = None) -> int:
    text = variables.get(name)
    if text is None and default is not None:
        return default
    if text is None:
        launcher = "srun" if name.startswith("SLURM") else "mpirun"
        raise InputError(f"the environment has no {name}, though it has others that {launcher} sets: use {launcher}")
    try:
        return int(text)
    except ValueError:
        raise InputError(f"the environment has {name} {text}, which is not a number: unset {name}") from None
