"""A TCP proxy that cuts its connections: after any byte, in either direction, in several ways.

Where and how is drawn from a seed for each connection, exchange by exchange: what comes from the
client once something has come from the server begins another. Who does not come back for something
gets the first bytes in any case: without an id there is nothing to come back with.
"""

from __future__ import annotations

import math
import random
import select
import socket
import struct
import threading
from collections.abc import Sequence

from .waiting import PATIENCE_S

RESET, CLOSE, STALL = "reset", "close", "stall"
# A stall lasts until its client has lost patience; the others take no time.
WAYS = (RESET,) * 9 + (CLOSE,) * 9 + (STALL,)
# A head, an event with an id, and some more.
FIRST_BYTES = 700


class CuttingProxy:
    """Carries connections to `target`. A context manager: its threads end with it.

    Args:
        target: the address.
        seed: of where and how connections are cut.
        mean_bytes: how much an exchange carries on the average.
        ways: how connections are cut.

    Attributes:
        cuts: how many connections have been cut, by way and direction.
        calm: whether exchanges that begin now are left alone.
        allowed: how many more may be cut.
    """

    def __init__(
        self,
        target: tuple[str, int],
        seed: int,
        mean_bytes: int = 700,
        ways: Sequence[str] = WAYS,
    ) -> None:
        self._ways = ways
        self.cuts: dict[tuple[str, str], int] = {}
        self.calm = False
        self.allowed = math.inf
        self._target = target
        self._seed = seed
        self._serial = 0
        self._mean_bytes = mean_bytes
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._ending, self._end = socket.socketpair()
        self._threads: list[threading.Thread] = []
        self._acceptor = threading.Thread(target=self._accept)

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        host, port = self._listening.getsockname()
        return host, port

    @property
    def url(self) -> str:
        """The MCP endpoint behind it."""
        return "http://{}:{}/mcp".format(*self.address)

    @property
    def total(self) -> int:
        """How many connections have been cut."""
        return sum(self.cuts.values())

    def __enter__(self) -> CuttingProxy:
        self._acceptor.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._acceptor.join(PATIENCE_S)
        self._end.close()
        for thread in self._threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()
        self._listening.close()
        self._ending.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            self._threads = [x for x in self._threads if x.is_alive()]
            self._serial += 1
            chance = random.Random(f"{self._seed} {self._serial}")
            thread = threading.Thread(target=self._carry, args=(client, chance))
            self._threads.append(thread)
            thread.start()

    def _plan(
        self, chance: random.Random, request: bytes
    ) -> tuple[int | None, int | None, str]:
        """Draw after how many bytes of which direction an exchange is cut, and how."""
        if self.calm or self.allowed <= 0:
            return None, None, CLOSE
        bytes_max = int(chance.expovariate(1 / self._mean_bytes))
        way = chance.choice(self._ways)
        if b"\r\nlast-event-id:" not in request.lower():
            # A reset takes with it what has arrived and was not read yet.
            return None, FIRST_BYTES + bytes_max, CLOSE if way == RESET else way
        if chance.random() < 0.1:
            return bytes_max % 200, None, way
        return None, bytes_max, way

    def _carry(self, client: socket.socket, chance: random.Random) -> None:
        server = socket.create_connection(self._target)
        left: dict[socket.socket, int | None] = {server: None}
        way, answered = CLOSE, False
        peers = {client: server, server: client}
        names = {client: "request", server: "answer"}
        try:
            while True:
                ready, _, _ = select.select([client, server, self._ending], [], [])
                for source in ready:
                    data = b"" if source is self._ending else source.recv(4096)
                    if not data:
                        return
                    if source is client and (client not in left or answered):
                        left[client], left[server], way = self._plan(chance, data)
                    answered = source is server
                    bytes_left = left[source]
                    peers[source].sendall(data if bytes_left is None else data[:bytes_left])
                    if bytes_left is not None:
                        left[source] = bytes_left - len(data)
                        if bytes_left <= len(data):
                            key = (way, names[source])
                            self.cuts[key] = self.cuts.get(key, 0) + 1
                            self.allowed -= 1
                            self._cut(way, client, server)
                            return
        except OSError:
            pass  # one of the two has gone
        finally:
            client.close()
            server.close()

    def _cut(self, way: str, client: socket.socket, server: socket.socket) -> None:
        if way == RESET:
            for end in (client, server):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif way == STALL:
            select.select([client, self._ending], [], [])  # its client loses patience
