"""Notices when a rank of the job, or its machine, is lost, from the moment that the rank starts.

A machine that loses its power or its cable says nothing: the other ranks would wait for as long as a rank may take,
which has to be long (see `RANK_TIMEOUT` in process_group.py). A rank that ends during its start-up says nothing either.
So each rank has an idle TCP connection to rank 0, with keepalive: the kernels at both ends answer, whatever the ranks
import, read, compute or compile, and however long that takes.

This module imports nothing heavy, because a script opens its connection before it imports torch.
"""

import json
import os
import selectors
import socket
import threading
from contextlib import suppress
from itertools import count
from typing import Any

from cifar_lightning.console import say
from cifar_lightning.run import signals
from cifar_lightning.run.cluster import OURS, Rank, this_rank

CONNECT_SECONDS = 10.0
IDLE_SECONDS, INTERVAL_SECONDS, PROBES = 10, 5, 4  # a machine that has not answered for 30 seconds is lost
POLL_SECONDS = 0.5
LEAVE_SECONDS = 5.0  # for a rank to run into the loss of another by itself, or to hear of it
PORTS = range(30_000, 32_768)  # between the ports where ranks meet (cluster.py) and the ephemeral ones
DONE, STOPPED = "done", "stopped by "  # what a rank says as it leaves; the latter is followed by the signal's number

_times = count()  # how often this process has met others: it may train more than once
_begun: "Presence | None" = None


def begin() -> None:
    """Starts the presence of this process, which runs a script, for the other ranks of its job; see `presence_of`."""
    global _begun
    if _begun is not None:  # left by an earlier script in this process, which ended with an error
        _begun.close()
    _begun = None
    rank = this_rank()
    if rank is not None and rank.world_size > 1 and rank.launcher != OURS:  # our own launcher watches its ranks
        _begun = Presence(rank, early=True)


def presence_of(rank: Rank) -> "Presence":
    """Returns the presence of this process, begun earlier or now. The caller has to `leave` it when the job is done."""
    global _begun
    begun, _begun = _begun, None
    return begun or Presence(rank)


def keep_quiet() -> None:
    """Stops watching: a script that is about to end prints the reason itself, and no lost rank may end it before."""
    if _begun is not None:
        _begun.keep_quiet()


class Presence:
    """The connections of a rank: rank 0 has one to each other rank, and each of these has one to rank 0.

    The loss of a connection ends this process within a minute; one line per machine names the lost rank.

    Attributes:
        port: The port of rank 0's presence, on its machine.
        ranks: The ranks to which this one has, or has had, a connection.
        early: Whether the presence begins as the process starts, as in a script, or only when the ranks meet.
    """

    def __init__(self, rank: Rank, early: bool = False) -> None:
        self._rank, self.early = rank, early
        self._lost: str | None = None
        self._found, self._left, self._connected = threading.Event(), threading.Event(), threading.Event()
        self._peers, self._connections = selectors.DefaultSelector(), list[socket.socket]()
        self._server: socket.socket | None = None
        # No other job has the same meeting port and number of ranks. Processes that train again count as another job.
        self._me = {"rank": rank.rank, "host": socket.gethostname(), "job": [rank.port, rank.world_size, next(_times)]}
        self.ranks = set[int]()
        self.port = PORTS[rank.port % len(PORTS)]
        if rank.rank == 0:
            self._listen()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        signals.tell_others = self._say_stopped

    def connect_at(self, port: int) -> None:
        """Waits until this rank is connected to rank 0, whose `port` it now knows."""
        self.port = port
        self._connected.wait(CONNECT_SECONDS)  # in vain if a firewall blocks the port: then its loss goes unnoticed

    def lost_within(self, seconds: float) -> str | None:
        """Returns how another rank was lost, if that becomes known within `seconds`; otherwise None."""
        self._found.wait(seconds)
        return self._lost

    def leave(self, word: str = DONE) -> None:
        """Ends the presence with a last `word` to the others: done, stopped, or an error that they are to report.

        After an empty word they report this rank as lost.
        """
        if self._left.is_set():
            return
        self._left.set()
        self._tell(word)
        if threading.current_thread() is not self._thread:
            self.close()

    def close(self) -> None:
        """Closes all connections, without telling the others anything."""
        self._left.set()
        self._thread.join()
        for end in [*self._connections, *([self._server] if self._server else [])]:
            end.close()
        self._peers.close()

    def keep_quiet(self) -> None:
        """Stops listening and telling: the others notice the end of the process itself."""
        self._left.set()

    def _say_stopped(self, signum: int) -> None:
        if not self._left.is_set():
            self._left.set()
            self._tell(f"{STOPPED}{signum}\n")

    def _tell(self, word: str) -> None:
        for connection in self._connections:
            with suppress(OSError):
                connection.sendall(word.encode())

    def _listen(self) -> None:
        both, most = socket.has_dualstack_ipv6(), self._rank.world_size
        family = socket.AF_INET6 if both else socket.AF_INET
        for port in (self.port, 0):
            with suppress(OSError):  # the port is in use by another program
                self._server = socket.create_server(("", port), family=family, backlog=most, dualstack_ipv6=both)
                self._peers.register(self._server, selectors.EVENT_READ)
                self.port = self._server.getsockname()[1]
                return

    def _watch(self) -> None:
        soon = iter((0.01, 0.02, 0.05, 0.1, 0.2))  # try often at first: rank 0 starts at about the same time
        while self._lost is None and not self._left.is_set():
            pause = POLL_SECONDS
            if self._rank.rank != 0 and not self._connected.is_set():
                self._connect()
                pause = next(soon, pause)
            for key, _ in self._peers.select(pause):
                if key.fileobj is self._server:
                    self._greet()
                elif not self._left.is_set():
                    self._hear(key)
        if self._left.wait(LEAVE_SECONDS if self._lost else None):
            return
        if self._rank.local_rank == 0:
            say(f"error: {self._lost}{signals.next_step or signals.ANEW}")
        self.leave(self._lost or "")
        os._exit(1)

    def _connect(self) -> None:
        """Connects this rank to rank 0, if that listens by now."""
        with suppress(OSError):
            connection = socket.create_connection((self._rank.address, self.port), CONNECT_SECONDS)
            self._meet(connection, first=False)

    def _greet(self) -> None:
        """Accepts, on rank 0, a connection from another rank."""
        assert self._server is not None
        with suppress(OSError):
            connection, _ = self._server.accept()
            connection.settimeout(CONNECT_SECONDS)
            self._meet(connection, first=True)

    def _meet(self, connection: socket.socket, first: bool) -> None:
        """Keeps a new connection if both ends are ranks of one job; otherwise closes it.

        Both say who they are, rank 0 first: the answer shows it that the other end has not given up meanwhile. A rank
        that has left this job and is in its next does not belong to it either.
        """
        try:
            if first:
                self._say(connection)
            peer = json.loads(connection.makefile("rb", buffering=0).readline(1_000))
            if peer["job"] != self._me["job"]:
                raise ValueError("of another job")
            if not first:
                self._say(connection)
            self._add(connection, {"rank": int(peer["rank"]), "host": peer["host"]})
        except (OSError, ValueError, TypeError, KeyError):
            connection.close()

    def _say(self, connection: socket.socket) -> None:
        connection.sendall(f"{json.dumps(self._me)}\n".encode())

    def _add(self, connection: socket.socket, peer: dict[str, Any]) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        idle = getattr(socket, "TCP_KEEPIDLE", None) or getattr(socket, "TCP_KEEPALIVE", None)  # the latter on macOS
        if idle is not None:
            connection.setsockopt(socket.IPPROTO_TCP, idle, IDLE_SECONDS)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, INTERVAL_SECONDS)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES)
        self._peers.register(connection, selectors.EVENT_READ, peer)
        self._connections.append(connection)
        self.ranks.add(peer["rank"])
        self._connected.set()

    def _hear(self, key: selectors.SelectorKey) -> None:
        peer, lost = key.data, None
        try:
            word = key.fileobj.recv(1_000).decode()  # type: ignore[union-attr]
            if word.startswith(STOPPED):
                taken = signals.receive(int(word.removeprefix(STOPPED).split()[0]), passed_on=True)
                if self._rank.rank == 0:  # only rank 0 is connected to all others
                    self._tell(word)
                word = DONE if taken else ""
            if word != DONE:
                lost = word or f"rank {peer['rank']} on {peer['host']} has ended"
        except OSError as error:
            lost = f"machine {peer['host']} of rank {peer['rank']} does not answer ({error.strerror})"
        self._peers.unregister(key.fileobj)
        if lost is not None and not self._left.is_set():
            self._lost = lost
            self._found.set()
