"""Which of a job's ranks are there, from their first moment on.

A machine that loses its power or its cable says nothing: those that wait for it would wait for as long as a rank may
take (see `RANK_TIMEOUT` in devices.py), which has to be long. A rank that ends while it still starts says nothing
either. So each has a connection to the first that carries nothing, and at whose ends the kernels look for a sign of
life: whatever the ranks import, read, compute or compile, and for however long, their machines answer.

This module imports nothing heavy: a script has its connection before it imports torch.
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
IDLE_SECONDS, INTERVAL_SECONDS, PROBES = 10, 5, 4  # a machine that has given no sign for 30 seconds is gone
POLL_SECONDS = 0.5
LEAVE_SECONDS = 5.0  # for a rank to meet with the loss of another by itself, or to hear of it
PORTS = range(30_000, 32_768)  # between those where ranks meet and those that systems give to whoever asks for any
DONE, STOPPED = "done", "stopped by "  # what a rank says as it leaves; the latter with the signal's number

_times = count()  # that this process has met others: it may train more than once
_begun: "Presence | None" = None


def begin() -> None:
    """Has this process, a script's, be there for the other ranks of its job from now on; see `presence_of`."""
    global _begun
    if _begun is not None:  # that of a script before, in this process, which has ended by a mistake
        _begun.close()
    _begun = None
    rank = this_rank()
    if rank is not None and rank.world_size > 1 and rank.launcher != OURS:  # whose parent watches
        _begun = Presence(rank, early=True)


def presence_of(rank: Rank) -> "Presence":
    """That of this process, which has begun or begins, to be left when the ranks are done with one another."""
    global _begun
    begun, _begun = _begun, None
    return begun or Presence(rank)


def keep_quiet() -> None:
    """Of a script that is about to end, and says why by itself: what becomes of others meanwhile does not end it."""
    if _begun is not None:
        _begun.keep_quiet()


class Presence:
    """A rank's connections: the first has one to each of the others, and they have one to the first.

    The loss of one ends this process within a minute, with one line a machine that says which.

    Attributes:
        port: Where the first is to be found, on its machine.
        ranks: Those that it has a connection to, or has had.
        early: Whether the ranks are there from their first moments on, as those of a script are, or only as they meet.
    """

    def __init__(self, rank: Rank, early: bool = False) -> None:
        self._rank, self.early = rank, early
        self._lost: str | None = None
        self._found, self._left, self._connected = threading.Event(), threading.Event(), threading.Event()
        self._peers, self._connections = selectors.DefaultSelector(), list[socket.socket]()
        self._server: socket.socket | None = None
        # Where they meet, and how many they are: no other job has both. At its second meeting it is another job.
        self._me = {"rank": rank.rank, "host": socket.gethostname(), "job": [rank.port, rank.world_size, next(_times)]}
        self.ranks = set[int]()
        self.port = PORTS[rank.port % len(PORTS)]
        if rank.rank == 0:
            self._listen()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        signals.tell_others = self._say_stopped

    def connect_at(self, port: int) -> None:
        """Has a rank that is not the first be connected with that by now, at the `port` that it has said."""
        self.port = port
        self._connected.wait(CONNECT_SECONDS)  # a port that is kept from it: then nobody watches

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
            self.close()

    def close(self) -> None:
        """Lets go of all connections, without a word."""
        self._left.set()
        self._thread.join()
        for end in [*self._connections, *([self._server] if self._server else [])]:
            end.close()
        self._peers.close()

    def keep_quiet(self) -> None:
        """Hears nothing any more, and says nothing: the end of the process is its word."""
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
            with suppress(OSError):  # another's
                self._server = socket.create_server(("", port), family=family, backlog=most, dualstack_ipv6=both)
                self._peers.register(self._server, selectors.EVENT_READ)
                self.port = self._server.getsockname()[1]
                return

    def _watch(self) -> None:
        soon = iter((0.01, 0.02, 0.05, 0.1, 0.2))  # the first rank comes any moment now
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
        """Of another rank, to the first, if that is there by now."""
        with suppress(OSError):
            connection = socket.create_connection((self._rank.address, self.port), CONNECT_SECONDS)
            self._meet(connection, first=False)

    def _greet(self) -> None:
        """Of the first rank, who comes to its door."""
        assert self._server is not None
        with suppress(OSError):
            connection, _ = self._server.accept()
            connection.settimeout(CONNECT_SECONDS)
            self._meet(connection, first=True)

    def _meet(self, connection: socket.socket, first: bool) -> None:
        """Both say who they are, the first rank first: it may come to who has given it up meanwhile.

        Whoever is no rank of this job is left alone, as is one that has left it and is in its next.
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
        idle = getattr(socket, "TCP_KEEPIDLE", None) or getattr(socket, "TCP_KEEPALIVE", None)  # of macOS
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
                if self._rank.rank == 0:  # which alone has a connection to the others
                    self._tell(word)
                word = DONE if taken else ""
            if word != DONE:
                lost = word or f"rank {peer['rank']} on {peer['host']} has ended"
        except OSError as error:
            lost = f"machine {peer['host']}, of rank {peer['rank']}, does not answer ({error.strerror})"
        self._peers.unregister(key.fileobj)
        if lost is not None and not self._left.is_set():
            self._lost = lost
            self._found.set()
