"""Which exchange gets which upstream connection, and when connections are opened and closed.

Owns the budgets and the queue of waiters of one upstream; the rows are in `policy/ledger.py`, and

    opening + idle + leased + streaming = owned

holds after every message. A lease has one closer: its return, its cancel, or the end of its
exchange, whichever comes first; the others then find no row. It never connects, closes or waits:
it says what to do as effects. `actors/connection_pool.py` is its shell.

Budgets. Calls draw from `connections_max`, or what `policy/adaptive_limit.py` leaves of it.
Responses, notifications and DELETEs draw from `reserve` on top, and from what calls leave. Event
streams draw from `streams_max` alone: a standalone one from its checkout on, a call's answer once
its head says text/event-stream. So neither open streams nor calls that wait for an answer of their
own client can keep that answer from passing.

Shares. Of each budget who holds least is served first (`policy/fair_queue.py`). Refused at once is
who has most in a full queue, its share of streams, or too long to wait: `policy/pool_admission.py`.

Kept leases. A holder that is about to need a connection again may keep its lease between two
exchanges, which saves asking. To the ledger it is leased all the while. Whenever somebody waits
and no connection is coming, and when a kept one has idled too long, the policy recalls.

Incarnations. Lease ids carry the incarnation of the pool. After a crash the new incarnation closes
what was idle, counts what was leased as leased, and closes each of those when it comes back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import assert_never

import msgspec

from proxy_actors.errors import Reason
from proxy_actors.messages import pool as m
from proxy_actors.messages.pool import PoolEffect, PoolMessage, Purpose
from proxy_actors.policy.adaptive_limit import AdaptiveLimit
from proxy_actors.policy.ledger import Connection, InheritedLease, Lease, Ledger
from proxy_actors.policy.pool_admission import Admission
from proxy_actors.policy.pool_limits import PoolGauges, PoolLimits

SWEEP_INTERVAL_S = 1.0
# Who is served first: what must never wait behind calls.
_PRECEDENCE = (Purpose.RESERVED, Purpose.STREAM, Purpose.CALL)


class PoolPolicy:
    """Decides for one pool incarnation.

    Args:
        limits: the bounds.
        incarnation: counts up with every start under one name; leases of other incarnations are
            told apart by it.
        inherited: the leases of earlier incarnations that are still out, oldest first. Streams
            past the bound count as calls, as they do when they become streams.

    The first message must be SweepDue(0), which opens `idle_min` connections.
    """

    def __init__(
        self,
        limits: PoolLimits,
        incarnation: int = 1,
        inherited: Sequence[InheritedLease] = (),
    ) -> None:
        self.limits = limits
        self._ledger = Ledger(incarnation)
        self._waiting = self._ledger.waiting
        self._in_turn = tuple((x, self._waiting[x].rows) for x in _PRECEDENCE)
        self._rows = tuple(rows for _, rows in self._in_turn)
        self._admission = Admission(limits, self._ledger)
        most = limits.connections_max
        self._calls = AdaptiveLimit(limits.adaptive_min or most, most)
        self._draining = False
        self._drained = False
        self._stale = 0
        self._sweep = 0
        self._sweep_armed = True
        for row in inherited:
            if row.purpose is Purpose.STREAM and self._ledger.streams >= limits.streams_max:
                row = msgspec.structs.replace(row, purpose=Purpose.CALL)
            self._ledger.inherit(row, limits.idle_timeout_s)

    def handle(self, message: PoolMessage, now_s: float) -> list[PoolEffect]:
        """Apply one message and return what is to be done, in order."""
        effects: list[PoolEffect] = []
        match message:
            case m.CheckoutConnection():
                self._checkout(message, now_s, effects)
            case m.ReturnConnection():
                self._return(message, now_s, effects)
            case m.CancelCheckout(waiter_id):
                self._cancel(waiter_id, now_s, effects)
            case m.ConnectionBecameStream(lease_id):
                self._became_stream(lease_id)
            case m.ExchangeEnded(exchange_id):
                self._exchange_ended(exchange_id, effects)
            case m.ConnectionOpened(connection_id):
                self._opened(connection_id, now_s, effects)
            case m.ConnectionFailed(connection_id):
                self._failed(connection_id, effects)
            case m.IdleConnectionEnded(connection_id):
                self._idle_ended(connection_id, effects)
            case m.GrantFailed(lease_id):
                self._grant_failed(lease_id, effects)
            case m.SweepDue(generation):
                if generation == self._sweep:
                    self._sweep_armed = False
                    self._expire(now_s, effects)
            case m.DrainPool():
                self._drain(effects)
            case m.AbortPool():
                self._abort(effects)
            case _:
                assert_never(message)
        if any(self._rows):
            for purpose, rows in self._in_turn:
                if rows:
                    self._serve(purpose, now_s, effects)
        self._admission.look(len(self._waiting[Purpose.CALL].rows), now_s)
        self._finish(effects)
        return effects

    def gauges(self) -> PoolGauges:
        """Return the ledger in figures."""
        ledger = self._ledger
        return PoolGauges(
            opening=ledger.opening,
            idle=len(ledger.idle),
            leased=self._leased(),
            streaming=ledger.leased(Purpose.STREAM),
            waiting=sum(map(len, self._rows)),
            stale=self._stale,
            shed=self._admission.shed,
            limit=self._calls.limit if self.limits.adaptive_min else 0,
        )

    # What comes in.

    def _checkout(
        self, checkout: m.CheckoutConnection, now_s: float, effects: list[PoolEffect]
    ) -> None:
        # A stream of a call that runs may have to be opened anew, and no new one is begun.
        if self._draining and checkout.purpose is Purpose.CALL:
            effects.append(m.Refuse(checkout.waiter_id, Reason.DRAINING))
            return
        queue = self._waiting[checkout.purpose]
        direct = not queue.rows and checkout.purpose is not Purpose.STREAM
        if direct and self._ledger.idle and self._may_lease(checkout.purpose):
            connection = self._take_fitting(checkout, now_s)
            if connection is not None:
                self._lease(connection, checkout, now_s, effects)
                return
        refusal = self._admission.refusal(checkout, now_s)
        queue.append(checkout)
        if refusal is not None:
            queue.take(refusal.waiter_id)
            effects.append(refusal)

    def _return(self, back: m.ReturnConnection, now_s: float, effects: list[PoolEffect]) -> None:
        calls = self._ledger.leased(Purpose.CALL)
        lease = self._ledger.release(back.lease_id)
        if lease is None:
            self._stale += 1
            return
        if self.limits.adaptive_min and lease.purpose is Purpose.CALL and not back.kept:
            self._calls.returned(lease.granted_s, calls, now_s)
        if not back.reusable:
            effects.append(m.Close(lease.connection.id))
            return
        lease.connection.idle_since_s = now_s
        if back.idle_s_max is not None:
            lease.connection.idle_s_max = min(back.idle_s_max, self.limits.idle_timeout_s)
        self._keep(lease, now_s, effects)

    def _keep(self, lease: Lease, now_s: float, effects: list[PoolEffect]) -> None:
        """Put the connection of a lease that is over among the idle, or close it."""
        connection = lease.connection
        too_old = now_s - connection.opened_s >= self.limits.lifetime_max_s
        full = self._ledger.ordinary >= self.limits.ordinary_max
        if lease.inherited or self._draining or too_old or full:
            effects.append(m.Close(connection.id))
        else:
            self._ledger.put_idle(connection)

    def _cancel(self, waiter_id: int, now_s: float, effects: list[PoolEffect]) -> None:
        for queue in self._waiting.values():
            if queue.take(waiter_id) is not None:
                return
        lease = self._ledger.granted_to(waiter_id)
        if lease is not None:
            # The grant crossed the cancel: nobody saw it, so nothing was sent on the connection,
            # and to its peer it has been idle all the time.
            self._ledger.release(lease.id)
            self._keep(lease, now_s, effects)

    def _became_stream(self, lease_id: int) -> None:
        lease = self._ledger.lease(lease_id)
        if lease is None:
            self._stale += 1
        elif lease.purpose is not Purpose.STREAM:
            # Past the bound the stream goes on, but at the expense of the calls' budget.
            if self._ledger.streams < self.limits.streams_max:
                self._ledger.move_to_streams(lease)

    def _exchange_ended(self, exchange_id: int, effects: list[PoolEffect]) -> None:
        for queue in self._waiting.values():
            ended = [x for x in queue.in_turn() if x.exchange_id == exchange_id]
            self._refuse(ended, Reason.INTERNAL, effects)
        for lease in self._ledger.leases():
            if lease.checkout.exchange_id == exchange_id:
                self._ledger.release(lease.id)
                effects.append(m.Close(lease.connection.id))

    def _opened(self, connection_id: int, now_s: float, effects: list[PoolEffect]) -> None:
        purpose = self._ledger.end_opening(connection_id)
        if purpose is None:
            effects.append(m.Close(connection_id))
            return
        connection = Connection(connection_id, now_s, self.limits.idle_timeout_s)
        queue = self._waiting[purpose]
        if queue.rows and self._may_lease(purpose):
            # It was opened within the budget of its purpose, so no other waiter may have it first.
            self._lease(connection, next(queue.in_turn()), now_s, effects)
        elif self._draining or self._ledger.ordinary >= self.limits.ordinary_max:
            effects.append(m.Close(connection_id))
        else:
            self._ledger.put_idle(connection)

    def _failed(self, connection_id: int, effects: list[PoolEffect]) -> None:
        purpose = self._ledger.end_opening(connection_id)
        if purpose is None:
            return
        queue = self._waiting[purpose]
        if len(queue.rows) > self._ledger.opening_for(purpose):
            self._refuse([next(queue.in_turn())], Reason.CONNECT_FAILED, effects)

    def _idle_ended(self, connection_id: int, effects: list[PoolEffect]) -> None:
        for connection in self._ledger.idle:
            if connection.id == connection_id:
                self._ledger.idle.remove(connection)
                effects.append(m.Close(connection_id))
                return

    def _grant_failed(self, lease_id: int, effects: list[PoolEffect]) -> None:
        lease = self._ledger.release(lease_id)
        if lease is None:
            self._stale += 1
            return
        effects.append(m.Close(lease.connection.id))
        self._waiting[lease.checkout.purpose].put_back(lease.checkout)

    def _expire(self, now_s: float, effects: list[PoolEffect]) -> None:
        idle = self._ledger.idle
        for connection in list(idle):
            idle_s = now_s - connection.idle_since_s
            age_s = now_s - connection.opened_s
            if idle_s >= connection.idle_s_max or age_s >= self.limits.lifetime_max_s:
                idle.remove(connection)
                effects.append(m.Close(connection.id))
        for queue in self._waiting.values():
            late = [x for x in queue.in_turn() if x.deadline_s <= now_s]
            self._refuse(late, Reason.POOL_EXHAUSTED, effects)
        if self._leased():
            effects.append(m.Recall(self._leased(), overdue=True))
        if not self._draining:
            for _ in range(self.limits.idle_min - self._ledger.ordinary):
                effects.append(m.Open(self._ledger.begin_opening(Purpose.CALL)))

    def _drain(self, effects: list[PoolEffect]) -> None:
        self._draining = True
        self._refuse(list(self._waiting[Purpose.CALL].in_turn()), Reason.DRAINING, effects)
        while self._ledger.idle:
            effects.append(m.Close(self._ledger.idle.pop().id))
        if self._leased():
            effects.append(m.Recall(self._leased(), overdue=False))

    def _abort(self, effects: list[PoolEffect]) -> None:
        for lease in self._ledger.leases():
            self._ledger.release(lease.id)
            effects.append(m.Close(lease.connection.id))
        self._drain(effects)
        for queue in self._waiting.values():
            self._refuse(list(queue.in_turn()), Reason.DRAINING, effects)
        self._ledger.forget_openings()

    # What goes out.

    def _serve(self, purpose: Purpose, now_s: float, effects: list[PoolEffect]) -> None:
        queue = self._waiting[purpose]
        while self._ledger.idle and self._may_lease(purpose):
            for checkout in queue.in_turn():
                connection = self._take_fitting(checkout, now_s)
                if connection is not None:
                    self._lease(connection, checkout, now_s, effects)
                    break  # whose turn it is may have changed
            else:
                break
        for _ in range(self._ledger.streams - self.limits.streams_max):
            # A stream took an idle connection before the one being opened for it has arrived: the
            # two change places, so that neither budget is exceeded.
            self._ledger.move_opening()
        if queue.rows:
            self._open_for(purpose, effects)

    def _take_fitting(self, checkout: m.CheckoutConnection, now_s: float) -> Connection | None:
        """Take out the last used idle connection, unless it has idled too long to be trusted."""
        idle = self._ledger.idle
        for place in range(len(idle) - 1, -1, -1):
            idle_s = now_s - idle[place].idle_since_s
            if idle_s > checkout.idle_s_max:
                break
            # A sweep may be a second late; the peer may be less patient.
            if idle_s < idle[place].idle_s_max:
                return idle.pop(place)
        return None

    def _lease(
        self,
        connection: Connection,
        checkout: m.CheckoutConnection,
        now_s: float,
        effects: list[PoolEffect],
    ) -> None:
        self._waiting[checkout.purpose].take(checkout.waiter_id)
        self._admission.served(checkout.purpose)
        fresh = connection.uses == 0 and connection.opened_s == now_s
        lease = self._ledger.grant(connection, checkout)
        lease.granted_s = now_s
        effects.append(m.Grant(checkout.waiter_id, lease.id, connection.id, fresh))

    def _open_for(self, purpose: Purpose, effects: list[PoolEffect]) -> None:
        """Open one connection for each waiter that has none coming, within the budget."""
        ledger = self._ledger
        missing = len(self._waiting[purpose].rows) - ledger.opening_for(purpose)
        for _ in range(missing):
            if not self._may_open(purpose):
                return
            if purpose is not Purpose.STREAM and ledger.ordinary >= self.limits.ordinary_max:
                # Every idle one has idled too long for this waiter: the oldest makes room.
                effects.append(m.Close(ledger.idle.pop(0).id))
            effects.append(m.Open(ledger.begin_opening(purpose)))

    def _may_open(self, purpose: Purpose) -> bool:
        ledger, limits = self._ledger, self.limits
        if purpose is Purpose.STREAM:
            return ledger.streams < limits.streams_max
        if purpose is Purpose.CALL:
            calls = ledger.leased(purpose) + ledger.opening_for(purpose)
            if calls >= self._calls.limit:
                return False
        return ledger.ordinary < limits.ordinary_max or bool(ledger.idle)

    def _may_lease(self, purpose: Purpose) -> bool:
        ledger, limits = self._ledger, self.limits
        if purpose is Purpose.STREAM:
            return ledger.leased(purpose) < limits.streams_max
        calls = ledger.leased(Purpose.CALL)
        if purpose is Purpose.CALL and calls >= self._calls.limit:
            return False
        return calls + ledger.leased(Purpose.RESERVED) < limits.ordinary_max

    def _refuse(
        self,
        checkouts: Iterable[m.CheckoutConnection],
        reason: Reason,
        effects: list[PoolEffect],
    ) -> None:
        for checkout in checkouts:
            self._waiting[checkout.purpose].take(checkout.waiter_id)
            effects.append(m.Refuse(checkout.waiter_id, reason))

    def _leased(self) -> int:
        """Count the leases that a holder might keep."""
        return self._ledger.leased(Purpose.CALL) + self._ledger.leased(Purpose.RESERVED)

    def _recall(self, effects: list[PoolEffect]) -> None:
        """Ask for as many kept leases as there are waiters without a connection coming."""
        missing = 0
        for purpose, rows in self._in_turn:
            if rows and purpose is not Purpose.STREAM:
                missing += max(len(rows) - self._ledger.opening_for(purpose), 0)
        if missing:
            effects.append(m.Recall(missing, overdue=False))

    def _finish(self, effects: list[PoolEffect]) -> None:
        waiting = any(self._rows)
        leased = self._leased()
        if waiting and leased:
            self._recall(effects)
        if not self._sweep_armed and (
            waiting or leased or self._ledger.idle or (self.limits.idle_min and not self._draining)
        ):
            self._sweep += 1
            self._sweep_armed = True
            effects.append(m.Wake(SWEEP_INTERVAL_S, self._sweep))
        if self._draining and not self._drained and not waiting and not self._ledger.owned:
            self._drained = True
            effects.append(m.Drained())
