"""The shell of the pool policy: opens, hands out, takes back and closes connections of an upstream.

Owns the askers that wait. The table of connections belongs to the pool's parent, which hands it to
every incarnation: a crash of this actor closes nothing that an exchange is using. It never reads
or writes a connection; that is the lease holder's work.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import assert_never

import msgspec

from proxy_actors.actors.base import LATER, Actor
from proxy_actors.actors.refs import Reply, Slot
from proxy_actors.errors import (
    ActorStoppedError,
    ConnectError,
    FailedError,
    ProxyActorsError,
    Reason,
)
from proxy_actors.messages import pool as m
from proxy_actors.messages.pool import PoolMessage
from proxy_actors.policy.ledger import InheritedLease
from proxy_actors.policy.pool import PoolPolicy
from proxy_actors.policy.pool_limits import PoolLimits
from proxy_actors.world.base import ByteStream, World

CONNECT_S_MAX = 2.0
_TEXTS = {
    Reason.POOL_EXHAUSTED: "no upstream connection became free in time",
    Reason.OVERLOADED: "too many others wait for the upstream to answer in time",
    Reason.RATE_LIMITED: "this client has its share of the upstream's event streams",
    Reason.DRAINING: "the upstream is being drained",
    Reason.CONNECT_FAILED: "the upstream could not be connected to",
    Reason.INTERNAL: "the exchange has ended",
}


class ConnectionTable:
    """The connections of one upstream and who holds them; survives the pool actor.

    Holders of a lease use it to reach their connection by its id.

    Attributes:
        kept: the leases that their holders keep between two exchanges, longest kept first, with
            the time until which the connection may idle. Whoever removes a row has the lease: the
            holder to use it, or the pool to take it back.
        wanted: whether none should be kept: somebody waits for one, or calls are timed.
    """

    def __init__(self) -> None:
        self.streams: dict[int, ByteStream] = {}
        self.leases: dict[int, InheritedLease] = {}
        self.kept: dict[int, float] = {}
        self.wanted = False

    def granted_to(self, waiter_id: int) -> InheritedLease | None:
        """Find the lease that was granted to a waiter."""
        return next((x for x in self.leases.values() if x.waiter_id == waiter_id), None)

    def held_by(self, exchange_id: int) -> list[InheritedLease]:
        """List the leases of an exchange."""
        return [row for row in self.leases.values() if row.exchange_id == exchange_id]

    def count_as_stream(self, lease_id: int) -> None:
        """Note that a lease carries an event stream, for incarnations to come."""
        row = self.leases.get(lease_id)
        if row is not None:
            self.leases[lease_id] = msgspec.structs.replace(row, purpose=m.Purpose.STREAM)

    def close(self, connection_id: int) -> None:
        """Close and forget a connection. Idempotent."""
        stream = self.streams.get(connection_id)
        if stream is not None:
            stream.close()  # first: one that is forgotten is closed by nobody
            self.streams.pop(connection_id, None)

    def discard_lease(self, lease_id: int) -> None:
        """Close what a lease holds: for a return that found no pool to go to."""
        row = self.leases.get(lease_id)
        if row is not None:
            self.close(row.connection_id)
        self.kept.pop(lease_id, None)
        self.leases.pop(lease_id, None)

    def discard_granted(self, waiter_id: int) -> None:
        """Close what a waiter was granted: for a cancel that found no pool to go to."""
        row = self.granted_to(waiter_id)
        if row is not None:
            self.discard_lease(row.lease_id)

    def discard_exchange(self, exchange_id: int) -> None:
        """Close what an exchange holds: for an end that found no pool to be told to."""
        for row in self.held_by(exchange_id):
            self.discard_lease(row.lease_id)

    def forget_kept_in_vain(self) -> None:
        """Forget what is kept of leases that were taken back: their holders find nothing."""
        for lease_id in self.kept.keys() - self.leases.keys():
            del self.kept[lease_id]

    def close_unless_leased(self, *connection_ids: int) -> None:
        """Close those of the connections that no lease holds."""
        leased = {row.connection_id for row in self.leases.values()}
        for connection_id in connection_ids:
            if connection_id not in leased:
                self.close(connection_id)

    def close_idle(self) -> None:
        """Close every connection that no lease holds."""
        self.close_unless_leased(*self.streams)

    def close_all(self) -> None:
        """Close every connection. Leases then find nothing to close."""
        self.leases.clear()
        self.kept.clear()
        for connection_id in list(self.streams):
            self.close(connection_id)


class ConnectionPool(Actor):
    """The pool of one upstream.

    Args:
        slot: its stable name, to which connectors report across restarts.
        table: the parent's table.
        connect: opens one connection; takes a deadline, raises ConnectError. Runs in a greenlet.
        connect_s_max: how long it may take.
    """

    mail_max = 10_000

    def __init__(
        self,
        world: World,
        slot: Slot,
        limits: PoolLimits,
        table: ConnectionTable,
        connect: Callable[[float], ByteStream],
        upstream: str,
        connect_s_max: float = CONNECT_S_MAX,
    ) -> None:
        super().__init__(world, slot.name)
        self._upstream = upstream
        self._connect_s_max = connect_s_max
        self._limits = limits
        self._table = table
        self._connect = connect
        self._asks: dict[int, Reply] = {}
        self._checkouts: dict[int, m.CheckoutConnection] = {}
        self._policy = PoolPolicy(limits)

    def on_start(self) -> None:
        """Close what the last incarnation left idle, and count what is still out."""
        self._table.forget_kept_in_vain()
        self._table.close_idle()
        inherited = tuple(self._table.leases.values())
        self._policy = PoolPolicy(self._limits, self.slot.starts, inherited)
        self._apply(m.SweepDue(0))

    def on_receive(self, message: PoolMessage) -> object:
        """Apply the message; checkouts are answered when granted or refused."""
        match message:
            case m.CheckoutConnection():
                if self.asked_by is None:
                    raise ProxyActorsError("a checkout must be asked, not told")
                self._asks[message.waiter_id] = self.asked_by
                self._checkouts[message.waiter_id] = message
                self._apply(message)
                return LATER
            case m.ReturnConnection(lease_id):
                self._closed(self._table.leases.get(lease_id))
            case m.CancelCheckout(waiter_id):
                if self._forget(waiter_id) is None:
                    self._closed(self._table.granted_to(waiter_id))
            case m.ExchangeEnded(exchange_id):
                for row in self._table.held_by(exchange_id):
                    self._closed(row)
            case m.ConnectionBecameStream(lease_id):
                self._table.count_as_stream(lease_id)
            case m.ConnectionOpened(connection_id):
                self._watch(connection_id)
        self._apply(message)
        return None

    def on_stop(self) -> None:
        """Leave no asker waiting and no connection open."""
        self._fail_askers()
        self._table.close_all()

    def on_crash(self) -> None:
        """Leave no asker waiting; connections are the next incarnation's."""
        self._fail_askers()

    def on_undelivered(self, message: PoolMessage) -> None:
        """Give back what mail in the box gave back."""
        match message:
            case m.ReturnConnection(lease_id):
                self._table.discard_lease(lease_id)
            case m.CancelCheckout(waiter_id):
                self._table.discard_granted(waiter_id)
            case m.ExchangeEnded(exchange_id):
                self._table.discard_exchange(exchange_id)
            case m.ConnectionOpened(connection_id):
                self._table.close_unless_leased(connection_id)

    def describe(self) -> dict[str, object]:
        """Return the ledger in figures."""
        gauges = self._policy.gauges()
        return {name: getattr(gauges, name) for name in gauges.__struct_fields__}

    def _apply(self, message: PoolMessage) -> None:
        todo = [message]
        for following in todo:
            for effect in self._policy.handle(following, self.world.now_s()):
                # In a loop, not by recursion: hundreds of idle connections may die at once.
                if isinstance(effect, m.Grant):
                    todo.extend(self._grant(effect))
                elif isinstance(effect, m.Recall):
                    todo.extend(self._recall(effect))
                else:
                    self._perform(effect)
        # What is kept tells nothing of how long calls take, of which the limit is made.
        self._table.wanted = bool(self._asks) or self._limits.adaptive_min > 0

    def _perform(self, effect: m.Refuse | m.Open | m.Close | m.Wake | m.Drained) -> None:
        match effect:
            case m.Refuse(waiter_id, reason, after_s):
                reply = self._asks.get(waiter_id)
                if reply is not None:
                    text, upstream = _TEXTS[reason], self._upstream
                    error = FailedError(reason, text, upstream=upstream, retry_after_s=after_s)
                    reply.fail(error)
                self._forget(waiter_id)  # last: who crashes answers those that it has not forgotten
            case m.Open(connection_id):
                self.world.spawn("connect", lambda: self._open(connection_id))
            case m.Close(connection_id):
                self._table.close(connection_id)
            case m.Wake(after_s, generation):
                self.world.timer(after_s, self.ref, m.SweepDue(generation))
            case m.Drained():
                if self.parent is not None:
                    self.parent.tell(m.PoolDrained())
            case _:
                assert_never(effect)

    def _recall(self, recall: m.Recall) -> list[PoolMessage]:
        """Take back leases that nobody uses at the moment; what is returned gives them back."""
        kept, now_s = self._table.kept, self.world.now_s()
        taken = [
            lease_id
            for lease_id, until_s in kept.items()
            if not recall.overdue or until_s <= now_s
        ][: recall.leases_max]
        for lease_id in taken:
            self._closed(self._table.leases.get(lease_id))
            del kept[lease_id]
        reusable = not recall.overdue
        return [m.ReturnConnection(lease_id, reusable, kept=True) for lease_id in taken]

    def _grant(self, grant: m.Grant) -> list[PoolMessage]:
        """Hand a connection over; what is returned says that it was not."""
        reply = self._asks.get(grant.waiter_id)
        if reply is None or reply.settled:
            # The asker gave up; its cancel is underway, or was lost with a crash.
            self._forget(grant.waiter_id)
            return [m.CancelCheckout(grant.waiter_id)]
        stream = self._table.streams[grant.connection_id]
        stream.on_departure(None)
        if not grant.fresh and not stream.is_quiet():
            return [m.GrantFailed(grant.lease_id)]
        checkout = self._checkouts[grant.waiter_id]
        self._table.leases[grant.lease_id] = InheritedLease(
            grant.lease_id,
            grant.connection_id,
            grant.waiter_id,
            checkout.exchange_id,
            checkout.purpose,
            checkout.owner,
        )
        reply.set(m.ConnectionGranted(grant.lease_id, grant.connection_id, grant.fresh))
        self._forget(grant.waiter_id)
        return []

    def _open(self, connection_id: int) -> None:
        """Connect, in a greenlet of its own."""
        outcome: PoolMessage = m.ConnectionFailed(connection_id)
        try:
            deadline_s = self.world.now_s() + self._connect_s_max
            self._table.streams[connection_id] = self._connect(deadline_s)
            outcome = m.ConnectionOpened(connection_id)
        except ConnectError:
            pass
        finally:  # an error that nobody thought of must not hold the place for ever
            if not self.slot.tell(outcome):
                self._table.close(connection_id)

    def _closed(self, row: InheritedLease | None) -> None:
        """A lease is over."""
        if row is not None:
            del self._table.leases[row.lease_id]
            self._watch(row.connection_id)

    def _watch(self, connection_id: int) -> None:
        """Be told when the peer leaves: nobody reads this connection now."""
        stream = self._table.streams.get(connection_id)
        if stream is None:
            return
        gone = m.IdleConnectionEnded(connection_id)

        def on_departure() -> None:
            self.slot.tell(gone)

        stream.on_departure(on_departure)

    def _forget(self, waiter_id: int) -> Reply | None:
        self._checkouts.pop(waiter_id, None)
        return self._asks.pop(waiter_id, None)

    def _fail_askers(self) -> None:
        for reply in self._asks.values():
            reply.fail(ActorStoppedError(f"{self.name} stopped"))
        self._asks.clear()
