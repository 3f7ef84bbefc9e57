"""The bounds of a connection pool, and its ledger in figures."""

from __future__ import annotations

import msgspec


class PoolLimits(msgspec.Struct, frozen=True):
    """The bounds of one pool.

    Attributes:
        connections_max: connections for calls, 1 to 10,000.
        reserve: further connections for what must never wait behind calls, 1 to 100.
        streams_max: connections that carry an event stream, 1 to 20,000.
        waiters_max: exchanges that may wait for a connection, of each purpose, 1 to 100,000. Every
            exchange waits at first, if only while a connection is opened for it.
        idle_min: connections kept open without demand, 0 to connections_max.
        idle_timeout_s: an idle connection is closed after so long. Servers close after 5 s
            commonly, and the side that closes first loses no request.
        lifetime_max_s: a connection older than this is closed when next idle.
        adaptive_min: how many calls may be underway at the least, 1 to connections_max, where that
            is found out from how long they take; 0 where it is not.
    """

    connections_max: int = 64
    reserve: int = 4
    streams_max: int = 1024
    waiters_max: int = 1024
    idle_min: int = 0
    idle_timeout_s: float = 4.0
    lifetime_max_s: float = 3600.0
    adaptive_min: int = 0

    @property
    def ordinary_max(self) -> int:
        """The most connections that are no streams."""
        return self.connections_max + self.reserve


class PoolGauges(msgspec.Struct, frozen=True):
    """The ledger in figures.

    `stale` counts messages about leases that were closed before, `shed` the exchanges that were
    refused for others' sake; `limit` is the adaptive one, 0 without.
    """

    opening: int
    idle: int
    leased: int
    streaming: int
    waiting: int
    stale: int
    shed: int = 0
    limit: int = 0
