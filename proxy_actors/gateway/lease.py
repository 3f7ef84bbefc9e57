"""A connection on loan from a pool, and how it is asked for and given back.

Owns one row of the pool's ledger for as long as the lease lives. The rule of the house: an ask that
does not end in an answer ends in a cancel, and a lease ends in a return, whatever the reason.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

from proxy_actors.actors.connection_pool import ConnectionTable
from proxy_actors.actors.refs import Slot
from proxy_actors.errors import DeadlineError, FailedError, Reason
from proxy_actors.messages.pool import (
    CancelCheckout,
    CheckoutConnection,
    ConnectionBecameStream,
    ConnectionGranted,
    Purpose,
    ReturnConnection,
)
from proxy_actors.world.base import ByteStream

POOL_WAIT_S_MAX = 5.0
# A peer that is about to close an idle connection has most often done so after its first second.
IDLE_S_MAX = 1.0
IDLE_REPEATABLE_S_MAX = 60.0
# Servers commonly close an idle connection after 5 s; the pool recalls what is kept before that.
KEPT_S_MAX = 3.0


class Lease:
    """The right to read and write one connection, for one exchange."""

    __slots__ = ("_keeper", "_lease_id", "_pool", "_released", "stream")

    def __init__(
        self, pool: Pool, lease_id: int, stream: ByteStream, keeper: Keeper | None
    ) -> None:
        self._pool = pool
        self._lease_id = lease_id
        self._keeper = keeper
        self._released = False
        self.stream = stream

    def became_stream(self) -> None:
        """Count the connection as a stream from now on."""
        self._keeper = None
        self._pool.slot.deliver(ConnectionBecameStream(self._lease_id))

    def release(self, reusable: bool, idle_s_max: float | None = None) -> None:
        """End the lease, or leave it with its keeper. Idempotent.

        Args:
            reusable: whether it stands between two messages.
            idle_s_max: how long the peer said that it keeps it, if it did.
        """
        if self._released:
            return
        self._released = True
        pool = self._pool
        if reusable and self._keeper is not None and not pool.table.wanted:
            self._keeper.keep(pool, self._lease_id, self.stream, idle_s_max)
        else:
            pool.give_back(self._lease_id, reusable, idle_s_max)


class Keeper:
    """Keeps the lease of a client's connection from one exchange to the next.

    The pool may take a kept lease back whenever it wants: the row in its table's `kept` is the
    lease, and whoever removes it has it. One at most is kept, since a connection has one exchange
    at a time.
    """

    __slots__ = ("_lease_id", "_now_s", "_pool", "_since_s", "_stream")

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._pool: Pool | None = None
        self._lease_id = 0
        self._since_s = 0.0
        self._stream: ByteStream | None = None

    def keep(
        self, pool: Pool, lease_id: int, stream: ByteStream, idle_s_max: float | None
    ) -> None:
        """Keep a lease whose exchange is over."""
        self.close()
        now_s = self._now_s()
        until_s = now_s + min(KEPT_S_MAX, KEPT_S_MAX if idle_s_max is None else idle_s_max)
        self._pool, self._lease_id, self._stream, self._since_s = pool, lease_id, stream, now_s
        pool.table.kept[lease_id] = until_s

    def take(self, pool: Pool, repeatable: bool) -> Lease | None:
        """Take the kept lease for the next exchange; None if there is none that will do."""
        stream = self._stream
        if stream is None or self._pool is not pool:
            return None
        self._stream = None
        until_s = pool.table.kept.pop(self._lease_id, None)
        if until_s is None:
            return None  # the pool has taken it back
        now_s = self._now_s()
        idle_s = now_s - self._since_s
        if until_s <= now_s or idle_s > (IDLE_REPEATABLE_S_MAX if repeatable else IDLE_S_MAX):
            pool.give_back(self._lease_id, True, None)
            return None
        if not stream.is_quiet():
            pool.give_back(self._lease_id, False, None)
            return None
        return Lease(pool, self._lease_id, stream, self)

    def close(self) -> None:
        """Give back what is kept. Idempotent."""
        pool, self._stream = self._pool, None
        if pool is not None and pool.table.kept.pop(self._lease_id, None) is not None:
            pool.give_back(self._lease_id, True, None)


class Pool:
    """How the data plane sees one upstream's pool."""

    def __init__(self, slot: Slot, table: ConnectionTable, upstream: str) -> None:
        self.slot = slot
        self.table = table
        self.upstream = upstream
        self._waiter_ids = itertools.count(1)

    def checkout(
        self,
        exchange_id: int,
        purpose: Purpose,
        now_s: float,
        deadline_s: float,
        repeatable: bool,
        keeper: Keeper | None = None,
    ) -> Lease:
        """Take the connection that `keeper` has, or ask for one and wait for it.

        Raises:
            FailedError: none became free in time, or the upstream cannot be connected to; nothing
                was sent to it.
            ActorStoppedError: the pool crashed meanwhile.
        """
        kept = None if keeper is None else keeper.take(self, repeatable)
        if kept is not None:
            return kept
        waiter_id = next(self._waiter_ids)
        wait_until_s = min(deadline_s, now_s + POOL_WAIT_S_MAX)
        idle_s_max = IDLE_REPEATABLE_S_MAX if repeatable else IDLE_S_MAX
        ask = CheckoutConnection(waiter_id, exchange_id, purpose, wait_until_s, idle_s_max)
        grant: ConnectionGranted | None = None
        try:
            grant = self.slot.ask(ask, wait_until_s)
            assert grant is not None
            return Lease(self, grant.lease_id, self.table.streams[grant.connection_id], keeper)
        except DeadlineError as error:
            text = "no upstream connection became free in time"
            raise FailedError(
                Reason.POOL_EXHAUSTED, text, upstream=self.upstream, retry_after_s=1.0
            ) from error
        finally:
            if grant is None:
                self.slot.deliver(CancelCheckout(waiter_id))

    def give_back(self, lease_id: int, reusable: bool, idle_s_max: float | None) -> None:
        """Return a lease to the pool, or close its connection when there is no pool to go to."""
        if not self.slot.deliver(ReturnConnection(lease_id, reusable, idle_s_max)):
            self.table.discard_lease(lease_id)
