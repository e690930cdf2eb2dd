"""The network between the machines of one job: which interface leads to the others, and whether they are still there.

Left to themselves, the ranks of one machine tell the others the address that its own name has there. Debian's
installer gives it 127.0.1.1, at which each finds itself. And a machine that loses its power or its cable says nothing:
those that wait for it would wait for as long as a rank may take (see `RANK_TIMEOUT` in devices.py), which has to be
long. So each rank has a connection to the first that carries nothing, and at whose ends the kernels look for a sign of
life: whatever the ranks compute or compile, and for however long, their machines answer.
"""

import json
import os
import selectors
import signal
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_address

import torch.distributed as dist
from torch.distributed import Store  # type: ignore[attr-defined]  # it is documented there

from cifar_lightning.console import say
from cifar_lightning.errors import LostRankError, Stopped
from cifar_lightning.run import signals
from cifar_lightning.run.cluster import Rank

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

CONNECT_SECONDS = 10.0
IDLE_SECONDS, INTERVAL_SECONDS, PROBES = 10, 5, 4  # a machine that has given no sign for 30 seconds is gone
POLL_SECONDS = 0.5
LEAVE_SECONDS = 5.0  # for a rank to meet with the loss of another by itself, or to hear of it
DONE, STOPPED = "done", "stopped by "  # what a rank says as it leaves; the latter with the signal's number
SIOCGIFADDR = 0x8915  # Linux's


def interface(rank: Rank, store: Store) -> dict[str, str]:
    """The variable by which gloo takes the interface that leads to the other machines, where it would take none.

    Args:
        rank: This one, of a job on several machines.
        store: Where they have met.
    """
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
def watched(rank: Rank, store: Store) -> Iterator[None]:
    """Within it, a rank whose machine no longer answers, or that has ended, ends this one within a minute.

    Args:
        rank: This one, whose launcher may not care.
        store: Where they have met.

    Raises:
        LostRankError: That rank and its machine. If what this one waits in cannot be broken off, as the wait for a
            message or for a GPU, it says so itself, and the process ends.
    """
    watch = _Watch(rank, store)
    try:
        yield
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


class _Watch:
    """A rank's connections: the first has one to each of the others, and they have one to the first."""

    def __init__(self, rank: Rank, store: Store) -> None:
        self._rank = rank
        self._lost: str | None = None
        self._found, self._left = threading.Event(), threading.Event()
        self._peers, self._connections = selectors.DefaultSelector(), list[socket.socket]()
        self._server: socket.socket | None = None
        key, me = "cifar_lightning/watch", {"rank": rank.rank, "host": socket.gethostname()}
        if rank.rank == 0:
            both = socket.has_dualstack_ipv6()
            family = socket.AF_INET6 if both else socket.AF_INET
            self._server = socket.create_server(("", 0), family=family, backlog=rank.world_size, dualstack_ipv6=both)
            self._peers.register(self._server, selectors.EVENT_READ)
            store.set(key, json.dumps({**me, "port": self._server.getsockname()[1]}))
        else:
            first = json.loads(store.get(key))
            with suppress(OSError):  # a port that is kept from it: then nobody watches
                connection = socket.create_connection((rank.address, first["port"]), CONNECT_SECONDS)
                connection.sendall(f"{json.dumps(me)}\n".encode())
                self._add(connection, first)
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _add(self, connection: socket.socket, peer: dict[str, object]) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        idle = getattr(socket, "TCP_KEEPIDLE", None) or getattr(socket, "TCP_KEEPALIVE", None)  # of macOS
        if idle is not None:
            connection.setsockopt(socket.IPPROTO_TCP, idle, IDLE_SECONDS)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, INTERVAL_SECONDS)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES)
        self._peers.register(connection, selectors.EVENT_READ, peer)
        self._connections.append(connection)

    def lost_within(self, seconds: float) -> str | None:
        """What has become of another rank, if it is known by then."""
        self._found.wait(seconds)
        return self._lost

    def leave(self, word: str = DONE) -> None:
        """Tells the others that this rank is done, or stopped, or why it is lost, or nothing, by which it is lost."""
        if self._left.is_set():
            return
        self._left.set()
        self._tell(word)
        if threading.current_thread() is not self._thread:
            self._thread.join()
            for end in [*self._connections, *([self._server] if self._server else [])]:
                end.close()
            self._peers.close()

    def _tell(self, word: str) -> None:
        for connection in self._connections:
            with suppress(OSError):
                connection.sendall(word.encode())

    def _watch(self) -> None:
        while self._lost is None and not self._left.is_set():
            for key, _ in self._peers.select(POLL_SECONDS):
                if key.fileobj is self._server:
                    self._greet()
                elif not self._left.is_set():
                    self._hear(key)
        if self._left.wait(LEAVE_SECONDS if self._lost else None):
            return
        if self._rank.local_rank == 0:
            say(f"error: {self._lost}{signals.next_step}")
        self.leave(self._lost or "")
        os._exit(1)

    def _greet(self) -> None:
        assert self._server is not None
        connection, _ = self._server.accept()
        connection.settimeout(CONNECT_SECONDS)
        try:
            peer = json.loads(connection.makefile("rb", buffering=0).readline())
            self._add(connection, {"rank": peer["rank"], "host": peer["host"]})
        except (OSError, ValueError, TypeError, KeyError):  # whoever is no rank of this job
            connection.close()

    def _hear(self, key: selectors.SelectorKey) -> None:
        peer, lost = key.data, None
        try:
            word = key.fileobj.recv(1_000).decode()  # type: ignore[union-attr]
            if word.startswith(STOPPED):
                signals.receive(int(word.removeprefix(STOPPED).split()[0]), passed_on=True)
                if self._rank.rank == 0:  # which alone has a connection to the others
                    self._tell(word)
            elif word != DONE:
                lost = word or f"rank {peer['rank']} on {peer['host']} has ended"
        except OSError as error:
            lost = f"machine {peer['host']}, of rank {peer['rank']}, does not answer ({error.strerror})"
        self._peers.unregister(key.fileobj)
        if lost is not None and not self._left.is_set():
            self._lost = lost
            self._found.set()
