"""A connection on loan from a pool, and how it is asked for and given back.

Owns one row of the pool's ledger for as long as the lease lives. The rule of the house: an ask that
does not end in an answer ends in a cancel, and a lease ends in a return, whatever the reason.
"""

from __future__ import annotations

import itertools

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


class Lease:
    """The right to read and write one connection."""

    __slots__ = ("_grant", "_pool", "_released", "stream")

    def __init__(self, pool: Pool, grant: ConnectionGranted, stream: ByteStream) -> None:
        self._pool = pool
        self._grant = grant
        self._released = False
        self.stream = stream

    def became_stream(self) -> None:
        """Count the connection as a stream from now on."""
        self._pool.slot.deliver(ConnectionBecameStream(self._grant.lease_id))

    def release(self, reusable: bool, idle_s_max: float | None = None) -> None:
        """Give the connection back. Idempotent.

        Args:
            reusable: whether it stands between two messages.
            idle_s_max: how long the peer said that it keeps it, if it did.
        """
        if self._released:
            return
        self._released = True
        lease_id = self._grant.lease_id
        if not self._pool.slot.deliver(ReturnConnection(lease_id, reusable, idle_s_max)):
            self._pool.table.discard_lease(lease_id)


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
    ) -> Lease:
        """Ask for a connection and wait for it.

        Raises:
            FailedError: none became free in time, or the upstream cannot be connected to; nothing
                was sent to it.
            ActorStoppedError: the pool crashed meanwhile.
        """
        waiter_id = next(self._waiter_ids)
        wait_until_s = min(deadline_s, now_s + POOL_WAIT_S_MAX)
        idle_s_max = IDLE_REPEATABLE_S_MAX if repeatable else IDLE_S_MAX
        ask = CheckoutConnection(waiter_id, exchange_id, purpose, wait_until_s, idle_s_max)
        grant: ConnectionGranted | None = None
        try:
            grant = self.slot.ask(ask, wait_until_s)
            assert grant is not None
            return Lease(self, grant, self.table.streams[grant.connection_id])
        except DeadlineError as error:
            text = "no upstream connection became free in time"
            raise FailedError(
                Reason.POOL_EXHAUSTED, text, upstream=self.upstream, retry_after_s=1.0
            ) from error
        finally:
            if grant is None:
                self.slot.deliver(CancelCheckout(waiter_id))
