"""The rows of a connection pool: which connections exist, in which state, leased to whom, and who
waits for one.

Owns the arithmetic of conservation: every connection is in exactly one of the states opening,
idle, leased and streaming, and every lease counts in its owner's share of one budget. It takes no
decision: `policy/pool.py` alone talks to it.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator

import msgspec

from proxy_actors.messages.pool import NOBODY, CheckoutConnection, Owner, Purpose
from proxy_actors.policy.fair_queue import FairQueue

INCARNATION_SHIFT = 32


class InheritedLease(msgspec.Struct, frozen=True):
    """A lease that an earlier incarnation granted and that has not come back."""

    lease_id: int
    connection_id: int
    waiter_id: int
    exchange_id: int
    purpose: Purpose
    owner: Owner = NOBODY


class Connection:
    """An open connection. `uses` counts its leases; times are on the monotonic clock."""

    __slots__ = ("id", "idle_s_max", "idle_since_s", "opened_s", "uses")

    def __init__(self, connection_id: int, now_s: float, idle_s_max: float) -> None:
        self.id = connection_id
        self.opened_s = now_s
        self.idle_since_s = now_s
        self.idle_s_max = idle_s_max
        self.uses = 0


class Lease:
    """Who holds a connection since when, and against which budget it counts."""

    __slots__ = ("checkout", "connection", "granted_s", "id", "inherited", "purpose")

    def __init__(self, lease_id: int, connection: Connection, checkout: CheckoutConnection) -> None:
        self.id = lease_id
        self.connection = connection
        self.checkout = checkout
        self.purpose = checkout.purpose
        self.inherited = False
        self.granted_s = 0.0


class Ledger:
    """All connections of one pool incarnation.

    Attributes:
        idle: in the order of idle_since_s.
        waiting: who waits for a connection, by the budget that it is to be drawn from.

    Args:
        incarnation: the upper bits of every id minted here, so that a lease or an opening of an
            earlier incarnation can never be taken for one of this.
    """

    def __init__(self, incarnation: int) -> None:
        self._serial = incarnation << INCARNATION_SHIFT
        self._leases: dict[int, Lease] = {}
        self._granted: dict[int, Lease] = {}
        self._leased = {purpose: 0 for purpose in Purpose}
        self._openings: dict[int, Purpose] = {}
        self._opening = {purpose: 0 for purpose in Purpose}
        self.idle: list[Connection] = []
        self.waiting = {purpose: FairQueue[CheckoutConnection]() for purpose in Purpose}

    @property
    def owned(self) -> int:
        """Opening + idle + leased + streaming."""
        return len(self._openings) + len(self.idle) + len(self._leases)

    @property
    def opening(self) -> int:
        """Connections being opened."""
        return len(self._openings)

    @property
    def ordinary(self) -> int:
        """What counts against connections and reserve: all that is no stream nor opens for one."""
        streaming = self._leased[Purpose.STREAM] + self._opening[Purpose.STREAM]
        return self.owned - streaming

    @property
    def streams(self) -> int:
        """What counts against the streams: streaming, or opening for a stream."""
        return self._leased[Purpose.STREAM] + self._opening[Purpose.STREAM]

    def leased(self, purpose: Purpose) -> int:
        """Count the leases that draw from this budget."""
        return self._leased[purpose]

    def opening_for(self, purpose: Purpose) -> int:
        """Count the openings that were begun for this purpose."""
        return self._opening[purpose]

    def leases(self) -> Iterator[Lease]:
        """Walk over all leases, oldest first, safely against changes meanwhile."""
        return iter(list(self._leases.values()))

    def lease(self, lease_id: int) -> Lease | None:
        """Find a lease by its id."""
        return self._leases.get(lease_id)

    def granted_to(self, waiter_id: int) -> Lease | None:
        """Find a lease by the waiter that it was granted to."""
        return self._granted.get(waiter_id)

    def begin_opening(self, purpose: Purpose) -> int:
        """Enter an opening; return the id of the connection to be."""
        self._serial += 1
        self._openings[self._serial] = purpose
        self._opening[purpose] += 1
        return self._serial

    def end_opening(self, connection_id: int) -> Purpose | None:
        """Take out an opening; None when there is no such row."""
        purpose = self._openings.pop(connection_id, None)
        if purpose is not None:
            self._opening[purpose] -= 1
        return purpose

    def forget_openings(self) -> None:
        """Take out every opening: what still arrives of them is nobody's."""
        for connection_id in list(self._openings):
            self.end_opening(connection_id)

    def move_opening(self) -> None:
        """Count one of the openings for streams as one for a call from now on."""
        found = next(x for x, purpose in self._openings.items() if purpose is Purpose.STREAM)
        self._openings[found] = Purpose.CALL
        self._opening[Purpose.STREAM] -= 1
        self._opening[Purpose.CALL] += 1

    def put_idle(self, connection: Connection) -> None:
        """Enter a connection among the idle; its last use may be older than that of others."""
        if self.idle and self.idle[-1].idle_since_s > connection.idle_since_s:
            insort(self.idle, connection, key=lambda row: row.idle_since_s)
        else:
            self.idle.append(connection)

    def grant(self, connection: Connection, checkout: CheckoutConnection) -> Lease:
        """Enter a lease of a connection that is no longer among the idle."""
        self._serial += 1
        lease = Lease(self._serial, connection, checkout)
        connection.uses += 1
        self._enter(lease)
        return lease

    def inherit(self, row: InheritedLease, idle_s_max: float) -> None:
        """Enter a lease of an earlier incarnation under its own id."""
        connection = Connection(row.connection_id, 0.0, idle_s_max)
        checkout = CheckoutConnection(
            row.waiter_id, row.exchange_id, row.purpose, 0.0, 0.0, row.owner
        )
        lease = Lease(row.lease_id, connection, checkout)
        lease.inherited = True
        self._enter(lease)

    def move_to_streams(self, lease: Lease) -> None:
        """Count a lease as a stream from now on."""
        self._count(lease, -1)
        lease.purpose = Purpose.STREAM
        self._count(lease, 1)

    def release(self, lease_id: int) -> Lease | None:
        """Take out a lease, once: without such a row None, so a second closer does nothing."""
        lease = self._leases.pop(lease_id, None)
        if lease is not None:
            self._granted.pop(lease.checkout.waiter_id, None)
            self._count(lease, -1)
        return lease

    def _enter(self, lease: Lease) -> None:
        self._leases[lease.id] = lease
        self._granted[lease.checkout.waiter_id] = lease
        self._count(lease, 1)

    def _count(self, lease: Lease, change: int) -> None:
        self._leased[lease.purpose] += change
        self.waiting[lease.purpose].lend(lease.checkout.owner, change)
