"""A TCP proxy that carries connections as a fate of each says: how networks are made to fail.

It owns a thread for each connection and the thread that accepts, and never looks at what it
carries. `FaultProxy` puts toxics between two parties; `tests/wire/cutting_proxy.py` cuts event
streams at drawn bytes.
"""

from __future__ import annotations

import random
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable

# How a connection ends; a stall lasts until its client has lost patience.
RESET, CLOSE, STALL = "reset", "close", "stall"
# Bytes are handed on, a number is a wait in seconds, and a word is the end.
Step = bytes | float | str

JOIN_S_MAX = 30.0
READ_BYTES_MAX = 16_384


class Fate:
    """What becomes of one connection; this one lets everything pass.

    Each method says what becomes of some bytes of one direction.
    """

    def request(self, data: bytes) -> Iterable[Step]:
        """Bytes from the client."""
        return (data,)

    def answer(self, data: bytes) -> Iterable[Step]:
        """Bytes from the server."""
        return (data,)


class Relay:
    """Carries connections to `target`. A context manager: its threads end with it.

    Args:
        target: the address.
        seed: of what the fates draw.
        fate: makes that of a connection; takes the chance that is its own.

    Attributes:
        times_s: when each connection came.
    """

    def __init__(
        self,
        target: tuple[str, int],
        seed: int,
        fate: Callable[[random.Random], Fate],
    ) -> None:
        self._target = target
        self._seed = seed
        self._fate = fate
        self.times_s: list[float] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._address: tuple[str, int] = self._listening.getsockname()
        self._ending, self._end = socket.socketpair()
        self._threads: list[threading.Thread] = []
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._ends: set[tuple[socket.socket, socket.socket]] = set()

    @property
    def accepted(self) -> int:
        """How many connections there have been."""
        return len(self.times_s)

    @property
    def open(self) -> int:
        """How many connections there are: those that both parties have not ended yet."""
        return len(self._ends)

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        return self._address

    @property
    def url(self) -> str:
        """The MCP endpoint behind it."""
        return "http://{}:{}/mcp".format(*self.address)

    def __enter__(self) -> Relay:
        self._acceptor.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.refuse()
        self._end.close()
        self.cut(CLOSE)
        for thread in self._threads:
            thread.join(JOIN_S_MAX)
            assert not thread.is_alive()
        self._ending.close()

    def refuse(self) -> None:
        """Listen no more: who connects is refused. Idempotent."""
        try:
            self._listening.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # it does so already
        self._acceptor.join(JOIN_S_MAX)
        self._listening.close()

    def accept(self) -> None:
        """Listen again, where it was. Idempotent."""
        if self._acceptor.is_alive():
            return
        self._listening = socket.create_server(self._address)
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    def cut(self, way: str) -> int:
        """End every connection that there is; return how many."""
        ends = list(self._ends)
        for pair in ends:
            for end in pair:
                _end_soon(end, way)
        return len(ends)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            self._threads = [x for x in self._threads if x.is_alive()]
            self.times_s.append(time.monotonic())
            fate = self._fate(random.Random(f"{self._seed} {self.accepted}"))
            thread = threading.Thread(target=self._serve, args=(client, fate), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket, fate: Fate) -> None:
        try:
            server = socket.create_connection(self._target, JOIN_S_MAX)
        except OSError:
            _end_soon(client, RESET)
            client.close()
            return
        pair = (client, server)
        for end in pair:
            end.settimeout(None)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._ends.add(pair)
        try:
            self._carry(client, server, fate)
        except ConnectionError:
            for end in pair:  # one of the two has gone without a farewell: so does the other
                _end_soon(end, RESET)
        except OSError:
            pass
        finally:
            self._ends.discard(pair)
            client.close()
            server.close()

    def _carry(self, client: socket.socket, server: socket.socket, fate: Fate) -> None:
        peers = {client: server, server: client}
        takes = {client: fate.request, server: fate.answer}
        while peers:
            ready, _, _ = select.select([*peers, self._ending], [], [])
            for source in ready:
                if source is self._ending:
                    return
                data = source.recv(READ_BYTES_MAX)
                if not data:
                    peers.pop(source).shutdown(socket.SHUT_WR)
                    continue
                for step in takes[source](data):
                    if isinstance(step, bytes):
                        peers[source].sendall(step)
                    elif isinstance(step, str):
                        self._finish(step, client, server)
                        return
                    elif select.select([self._ending], [], [], step)[0]:
                        return

    def _finish(self, way: str, client: socket.socket, server: socket.socket) -> None:
        """End a connection; after a stall, once its client has."""
        if way == RESET:
            _end_soon(client, way)
            _end_soon(server, way)
        elif way == STALL:
            while not select.select([client, self._ending], [], [])[0][0] is self._ending:
                if not client.recv(READ_BYTES_MAX):
                    return


def _end_soon(end: socket.socket, way: str) -> None:
    """Wake who waits for this end of a connection; its close is a reset, if it is to be one."""
    try:
        if way == RESET:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            end.shutdown(socket.SHUT_RD)  # sends nothing
        else:
            end.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # it has ended already
