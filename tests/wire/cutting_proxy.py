"""A TCP proxy that cuts its connections: after any byte, in either direction, in several ways.

Where and how is drawn from a seed for each connection, exchange by exchange: what comes from the
client once something has come from the server begins another. Who does not come back for something
gets the first bytes in any case: without an id there is nothing to come back with.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence

from chaos.relay import CLOSE, RESET, STALL, Fate, Relay, Step

# A stall lasts until its client has lost patience; the others take no time.
WAYS = (RESET,) * 9 + (CLOSE,) * 9 + (STALL,)
# A head, an event with an id, and some more.
FIRST_BYTES = 700


class CuttingProxy(Relay):
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
        super().__init__(target, seed, lambda chance: _Scissors(self, chance))
        self.ways = ways
        self.mean_bytes = mean_bytes
        self.cuts: dict[tuple[str, str], int] = {}
        self.calm = False
        self.allowed = math.inf

    @property
    def total(self) -> int:
        """How many connections have been cut."""
        return sum(self.cuts.values())


class _Scissors(Fate):
    """Cuts one connection."""

    def __init__(self, proxy: CuttingProxy, chance: random.Random) -> None:
        self._proxy = proxy
        self._chance = chance
        self._left: dict[str, int | None] = {"answer": None}
        self._way = CLOSE
        self._answered = False

    def request(self, data: bytes) -> Iterator[Step]:
        """From the client: the first of it, and the first after an answer, begins an exchange."""
        if "request" not in self._left or self._answered:
            self._left["request"], self._left["answer"], self._way = self._plan(data)
        self._answered = False
        return self._carry("request", data)

    def answer(self, data: bytes) -> Iterator[Step]:
        """From the server."""
        self._answered = True
        return self._carry("answer", data)

    def _plan(self, request: bytes) -> tuple[int | None, int | None, str]:
        """Draw after how many bytes of which direction an exchange is cut, and how."""
        proxy, chance = self._proxy, self._chance
        if proxy.calm or proxy.allowed <= 0:
            return None, None, CLOSE
        bytes_max = int(chance.expovariate(1 / proxy.mean_bytes))
        way = chance.choice(proxy.ways)
        if b"\r\nlast-event-id:" not in request.lower():
            # A reset takes with it what has arrived and was not read yet.
            return None, FIRST_BYTES + bytes_max, CLOSE if way == RESET else way
        if chance.random() < 0.1:
            return bytes_max % 200, None, way
        return None, bytes_max, way

    def _carry(self, name: str, data: bytes) -> Iterator[Step]:
        bytes_left = self._left[name]
        if bytes_left is None:
            yield data
            return
        yield data[:bytes_left]
        self._left[name] = bytes_left - len(data)
        if bytes_left <= len(data):
            key = (self._way, name)
            self._proxy.cuts[key] = self._proxy.cuts.get(key, 0) + 1
            self._proxy.allowed -= 1
            yield self._way
