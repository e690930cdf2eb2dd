"""The network between the machines of a job: finds the interface to the others, and turns a lost rank into an error.

By default a rank tells the others the address to which the name of its machine resolves on that machine. Debian's
installer makes that 127.0.1.1, where every machine finds only itself.
"""

import signal
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_address

import torch.distributed as dist
from torch.distributed import Store  # type: ignore[attr-defined]  # it is documented there

from cifar_lightning.errors import LostRankError, Stopped
from cifar_lightning.run.cluster import Rank
from cifar_lightning.run.presence import LEAVE_SECONDS, STOPPED, Presence, presence_of

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

SIOCGIFADDR = 0x8915  # on Linux


def interface(rank: Rank, store: Store) -> dict[str, str]:
    """Returns the variable that tells gloo the interface to the other machines, if gloo would not find it by itself."""
    if not _leads_to_itself(socket.gethostname()):
        return {}
    key = "cifar_lightning/last rank's address"
    if rank.rank == rank.world_size - 1:
        store.set(key, _here(rank.address) or "")
    # On rank 0's machine the meeting point is local, so the way to the last rank's machine is looked up instead.
    here = _here(rank.address) or _here(store.get(key).decode())
    return {"GLOO_SOCKET_IFNAME": name} if here and (name := _interface_with(here)) else {}


def _leads_to_itself(name: str) -> bool:
    """Returns whether a machine's name does not resolve, or only to loopback, where each machine finds itself."""
    try:
        return all(ip_address(found[4][0]).is_loopback for found in socket.getaddrinfo(name, None))
    except (OSError, ValueError):
        return True


def _here(address: str) -> str | None:
    """Returns this machine's address on the route to another; None if there is no route, or it is the loopback."""
    with suppress(OSError):
        family, kind, _, _, there = socket.getaddrinfo(address or "-", 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as way:
            way.connect(there)  # sends nothing
            here = str(way.getsockname()[0])
        return None if ip_address(here.partition("%")[0]).is_loopback else here
    return None


def _interface_with(address: str) -> str | None:
    """Returns the name of the interface that has this IPv4 address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for _, name in socket.if_nameindex() if fcntl else []:
            with suppress(OSError):  # the interface has no IPv4 address
                answer = fcntl.ioctl(any_socket, SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                if socket.inet_ntoa(answer[20:24]) == address:
                    return name
    return None


@contextmanager
def watched(rank: Rank) -> Iterator[Presence]:
    """A context in which the loss of another rank, or of its machine, ends this rank within a minute.

    For all launchers but our own, since they may not watch their ranks. Gives the presence of this rank, before the
    ranks have met.

    Raises:
        LostRankError: Names the lost rank and its machine. If this rank is in a wait that cannot be interrupted, for a
            message or a GPU, its presence prints the error instead, and ends the process.
    """
    watch = presence_of(rank)
    try:
        yield watch
        watch.leave()
    except (Stopped, KeyboardInterrupt) as error:
        # The others have to stop too: a test does not ask all ranks first, and a scheduler may tell only one machine.
        watch.leave(f"{STOPPED}{error.signum if isinstance(error, Stopped) else signal.SIGINT}\n")
        raise
    except RuntimeError as error:
        if not of_a_connection(error):
            raise
        lost = watch.lost_within(LEAVE_SECONDS)
        watch.leave(lost or "")
        if lost is None:
            raise
        raise LostRankError(lost) from error
    finally:
        watch.leave("")


def of_a_connection(error: RuntimeError) -> bool:
    """Returns whether an error comes from a broken connection between ranks."""
    return isinstance(error, dist.DistError) or "gloo" in str(error) or "NCCL" in str(error)
