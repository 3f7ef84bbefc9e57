"""A connection on loan from a pool, and how it is asked for and given back.

Owns one row of the pool's ledger for as long as the lease lives. The rule of the house: an ask that
does not end in an answer ends in a cancel, and a lease ends in a return, whatever the reason.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

from proxy_actors.actors.connection_pool import ConnectionTable
from proxy_actors.actors.refs import Slot
from proxy_actors.errors import ActorStoppedError, DeadlineError, FailedError, Reason
from proxy_actors.messages.pool import (
    NOBODY,
    CancelCheckout,
    CheckoutConnection,
    ConnectionBecameStream,
    ConnectionGranted,
    Owner,
    Purpose,
    ReturnConnection,
)
from proxy_actors.world.base import ByteStream

POOL_WAIT_S_MAX = 5.0
# A peer that is about to close an idle connection has most often done so after its first second.
IDLE_S_MAX = 1.0
IDLE_REPEATABLE_S_MAX = 60.0
IDLE_S_NEW = -1.0
# Servers commonly close an idle connection after 5 s; the pool recalls what is kept before that.
KEPT_S_MAX = 3.0


class Lease:
    """The right to read and write one connection, for one exchange."""

    __slots__ = ("_keeper", "_kept", "_pool", "_released", "fresh", "id", "stream")

    def __init__(
        self,
        pool: Pool,
        lease_id: int,
        stream: ByteStream,
        keeper: Keeper | None,
        fresh: bool = False,
        kept: bool = False,
    ) -> None:
        self._pool = pool
        self.id = lease_id
        self._keeper = keeper
        self._kept = kept
        self._released = False
        self.stream = stream
        self.fresh = fresh
        """Whether the connection was opened for this exchange, and so cannot be a stale one."""

    def became_stream(self) -> None:
        """Count the connection as a stream from now on."""
        self._keeper = None
        self._pool.slot.deliver(ConnectionBecameStream(self.id))

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
            self._keeper.keep(pool, self, idle_s_max)
        else:
            pool.give_back(self.id, reusable, idle_s_max, self._kept)

    def discard(self) -> None:
        """Have the connection closed, whoever waits on it; for actors. No effect when released."""
        if self._released:
            return
        pool = self._pool
        if not pool.slot.tell(ReturnConnection(self.id, reusable=False)):
            pool.table.discard_lease(self.id)
        self._released = True  # last: an actor that crashes here gives it back once more at its end


class Keeper:
    """Keeps the lease of a client's connection from one exchange to the next.

    The pool may take a kept lease back whenever it wants: the row in its table's `kept` is the
    lease, and whoever removes it has it. One at most is kept, since a connection has one exchange
    at a time.
    """

    __slots__ = ("_lease", "_now_s", "_pool", "_since_s")

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._pool: Pool | None = None
        self._lease: Lease | None = None
        self._since_s = 0.0

    def keep(self, pool: Pool, lease: Lease, idle_s_max: float | None) -> None:
        """Keep a lease whose exchange is over."""
        if self._lease is not None:
            self.close()
        clock = self._now_s
        now_s = clock()
        kept_s_max = KEPT_S_MAX if idle_s_max is None else min(KEPT_S_MAX, idle_s_max)
        self._pool, self._lease, self._since_s = pool, lease, now_s
        pool.table.kept[lease.id] = now_s + kept_s_max

    def take(self, pool: Pool, idle_s_max: float) -> Lease | None:
        """Take the kept lease for the next exchange; None if there is none that will do."""
        lease = self._lease
        if lease is None or self._pool is not pool:
            return None
        self._lease = None
        until_s = pool.table.kept.pop(lease.id, None)
        if until_s is None:
            return None  # the pool has taken it back
        clock = self._now_s
        now_s = clock()
        if until_s <= now_s or now_s - self._since_s > idle_s_max:
            self._give_back(pool, lease)
            return None
        if not lease.stream.looks_quiet:  # the loop has watched it ever since it was kept
            pool.give_back(lease.id, False, None, kept=True)
            return None
        # Not the same object: whoever still holds that one must not end this exchange's lease.
        return Lease(pool, lease.id, lease.stream, self, kept=True)

    def close(self) -> None:
        """Give back what is kept. Idempotent."""
        pool, lease, self._lease = self._pool, self._lease, None
        if pool is None or lease is None:
            return
        if pool.table.kept.pop(lease.id, None) is not None:
            self._give_back(pool, lease)

    def _give_back(self, pool: Pool, lease: Lease) -> None:
        """To the pool a connection is idle from now on: one that has been for long misleads it."""
        idle_s = self._now_s() - self._since_s
        pool.give_back(lease.id, idle_s <= IDLE_S_MAX, None, kept=True)


class Pool:
    """How the data plane sees one upstream's pool.

    Args:
        wait_s_max: how long a request may wait for a connection.
    """

    def __init__(
        self,
        slot: Slot,
        table: ConnectionTable,
        upstream: str,
        wait_s_max: float = POOL_WAIT_S_MAX,
    ) -> None:
        self.slot = slot
        self.table = table
        self.upstream = upstream
        self._wait_s_max = wait_s_max
        self._waiter_ids = itertools.count(1)

    def checkout(
        self,
        exchange_id: int,
        purpose: Purpose,
        now_s: float,
        deadline_s: float,
        idle_s_max: float,
        keeper: Keeper | None = None,
        owner: Owner = NOBODY,
    ) -> Lease:
        """Ask for a connection and wait for it.

        Args:
            idle_s_max: how long it may have been idle; below 0 for a new one.
            keeper: keeps it when its exchange is over.
            owner: whose share it comes out of.

        Raises:
            FailedError: none became free in time, or none would, the upstream cannot be connected
                to, or the pool crashed meanwhile; nothing was sent.
        """
        waiter_id = next(self._waiter_ids)
        wait_until_s = min(deadline_s, now_s + self._wait_s_max)
        ask = CheckoutConnection(
            waiter_id, exchange_id, purpose, wait_until_s, idle_s_max, owner
        )
        grant: ConnectionGranted | None = None
        answered = False
        try:
            grant = self.slot.ask(ask, wait_until_s)
            answered = True
        except FailedError:
            answered = True
            raise
        except DeadlineError as error:
            text = "no upstream connection became free in time"
            raise FailedError(Reason.POOL_EXHAUSTED, text, upstream=self.upstream) from error
        except ActorStoppedError as error:
            raise self._restarted() from error
        finally:
            if not answered and not self.slot.deliver(CancelCheckout(waiter_id)):
                self.table.discard_granted(waiter_id)
        assert grant is not None
        stream = self.table.streams.get(grant.connection_id)
        if stream is None:  # closed with all others between the grant and now
            self.give_back(grant.lease_id, False, None)
            raise self._restarted()
        return Lease(self, grant.lease_id, stream, keeper, grant.fresh)

    def give_back(
        self, lease_id: int, reusable: bool, idle_s_max: float | None, kept: bool = False
    ) -> None:
        """Return a lease to the pool, or close its connection when there is no pool to go to."""
        if not self.slot.deliver(ReturnConnection(lease_id, reusable, idle_s_max, kept)):
            self.table.discard_lease(lease_id)

    def _restarted(self) -> FailedError:
        text = "the connections to the upstream were closed; try again"
        return FailedError(Reason.UPSTREAM_UNAVAILABLE, text, upstream=self.upstream)
