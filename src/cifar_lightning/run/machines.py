"""The network between the machines of one job: which interface leads to the others, and what the loss of one breaks.

Left to themselves, the ranks of one machine tell the others the address that its own name has there. Debian's
installer gives it 127.0.1.1, at which each finds itself.
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

SIOCGIFADDR = 0x8915  # Linux's


def interface(rank: Rank, store: Store) -> dict[str, str]:
    """The variable by which gloo takes the interface that leads to the other machines, where it would take none."""
    if not _leads_to_itself(socket.gethostname()):
        return {}
    key = "cifar_lightning/last rank's address"
    if rank.rank == rank.world_size - 1:
        store.set(key, _here(rank.address) or "")
    # The first machine finds itself at the meeting point: it looks the other way.
    here = _here(rank.address) or _here(store.get(key).decode())
    return {"GLOO_SOCKET_IFNAME": name} if here and (name := _interface_with(here)) else {}


def _leads_to_itself(name: str) -> bool:
    """Whether a machine's name is nobody's, or one that means another machine to each."""
    try:
        return all(ip_address(found[4][0]).is_loopback for found in socket.getaddrinfo(name, None))
    except (OSError, ValueError):
        return True


def _here(address: str) -> str | None:
    """This machine's address on the way to another; None where the way leads to itself."""
    with suppress(OSError):
        family, kind, _, _, there = socket.getaddrinfo(address or "-", 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as way:
            way.connect(there)  # sends nothing
            here = str(way.getsockname()[0])
        return None if ip_address(here.partition("%")[0]).is_loopback else here
    return None


def _interface_with(address: str) -> str | None:
    """The name of the interface that has an IPv4 address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for _, name in socket.if_nameindex() if fcntl else []:
            with suppress(OSError):  # it has none
                answer = fcntl.ioctl(any_socket, SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                if socket.inet_ntoa(answer[20:24]) == address:
                    return name
    return None


@contextmanager
def watched(rank: Rank) -> Iterator[Presence]:
    """Within it, a rank whose machine no longer answers, or that has ended, ends this one within a minute.

    Gives the presence of this rank, whose launcher may not care; the ranks have not yet met.

    Raises:
        LostRankError: That rank and its machine. If what this one waits in cannot be broken off, as the wait for a
            message or for a GPU, it says so itself, and the process ends.
    """
    watch = presence_of(rank)
    try:
        yield watch
        watch.leave()
    except (Stopped, KeyboardInterrupt) as error:
        # So are they to: in a test nobody asks first, and a scheduler may tell one machine alone.
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
    """Whether it is that of ranks that no longer hear each other."""
    return isinstance(error, dist.DistError) or "gloo" in str(error) or "NCCL" in str(error)
