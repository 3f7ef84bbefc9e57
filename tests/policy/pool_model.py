"""What a connection pool must do, stated once more and more simply, to judge the policy by.

The model hears every message that the policy gets and every effect that it returns. It keeps its
own books of connections, waiters and leases and raises `Violation` when the policy breaks a rule.
It decides nothing: where the policy may choose, the model accepts either choice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import takewhile

from proxy_actors.messages import pool as m
from proxy_actors.messages.pool import PoolEffect, PoolMessage, Purpose
from proxy_actors.policy.ledger import InheritedLease
from proxy_actors.policy.pool import PoolPolicy
from proxy_actors.policy.pool_limits import PoolLimits


class Violation(AssertionError):
    """The policy broke a rule."""


def check(rule: bool, text: str) -> None:
    if not rule:
        raise Violation(text)


class Idle:
    """An open connection that nobody has."""

    __slots__ = ("idle_s_max", "since_s")

    def __init__(self, since_s: float, idle_s_max: float) -> None:
        self.since_s = since_s
        self.idle_s_max = idle_s_max


class Loan:
    """A connection that a waiter was granted, and what it was while idle."""

    __slots__ = ("checkout", "connection", "idle", "inherited")

    def __init__(self, connection: int, checkout: m.CheckoutConnection, idle: Idle) -> None:
        self.connection = connection
        self.checkout = checkout
        self.idle = idle
        self.inherited = False


class PoolModel:
    """The books of one pool. `loans` are by lease id, `waiting` by waiter id."""

    def __init__(self, limits: PoolLimits, inherited: Sequence[InheritedLease] = ()) -> None:
        self.limits = limits
        self.now_s = 100.0
        self.idle: dict[int, Idle] = {}
        self.loans: dict[int, Loan] = {}
        self.openings: set[int] = set()
        self.forgotten: set[int] = set()
        self.waiting: dict[int, m.CheckoutConnection] = {}
        self.handed_over: tuple[int, ...] = ()
        self.next_waiter = 1
        self.armed: int | None = 0
        self.draining = False
        self.drained = False
        self.opened_now: list[int] = []
        self.recalled = 0
        self.turned_away = False
        self.seen_max = max((row.lease_id for row in inherited), default=0)
        self.last_lease = 0
        for row in inherited:
            checkout = m.CheckoutConnection(
                row.waiter_id, row.exchange_id, row.purpose, 0.0, 0.0, row.owner
            )
            loan = Loan(row.connection_id, checkout, Idle(0.0, 0.0))
            loan.inherited = True
            self.loans[row.lease_id] = loan

    def observe(self, message: PoolMessage, effects: list[PoolEffect]) -> None:
        """Enter a message and what the policy answered."""
        loose, doomed = self._enter(message)
        known = set(self.loans)
        arrived = set(loose) if isinstance(message, m.ConnectionOpened) else set()
        self.opened_now = []
        self.recalled = 0
        for effect in effects:
            self._follow(message, effect, loose, doomed)
        check(not doomed, f"connections {doomed} had to be closed")
        if isinstance(message, m.ExchangeEnded):
            left = [x for x in self.waiting.values() if x.exchange_id == message.exchange_id]
            check(not left, "the waiter of an ended exchange waits on")
        taken = {loan.connection for loan in self.loans.values()}
        self.turned_away = bool(arrived - taken - set(loose))
        for connection in loose:
            check(not self.draining, "a draining pool keeps an idle connection")
            self.idle[connection] = loose[connection]
        granted = tuple(lease for lease in self.loans if lease not in known)
        if isinstance(message, m.GrantFailed):
            granted += tuple(lease for lease in self.handed_over if lease in self.loans)
        self.handed_over = granted

    def _enter(self, message: PoolMessage) -> tuple[dict[int, Idle], set[int]]:
        """Enter a message; return what is nobody's now, and what must be closed."""
        match message:
            case m.CheckoutConnection(waiter_id):
                self.waiting[waiter_id] = message
            case m.ReturnConnection(lease_id, reusable, idle_s_max):
                return self._returned(lease_id, reusable, idle_s_max)
            case m.CancelCheckout(waiter_id):
                if self.waiting.pop(waiter_id, None) is None:
                    return self._handed_back(waiter_id)
            case m.ExchangeEnded(exchange_id):
                ended = [x for x, y in self.loans.items() if y.checkout.exchange_id == exchange_id]
                return {}, {self._take_loan(lease).connection for lease in ended}
            case m.ConnectionOpened(connection_id):
                if connection_id not in self.openings:
                    self.forgotten.discard(connection_id)
                    return {}, {connection_id}
                self.openings.remove(connection_id)
                return {connection_id: Idle(self.now_s, self.limits.idle_timeout_s)}, set()
            case m.ConnectionFailed(connection_id):
                self.openings.discard(connection_id)
                self.forgotten.discard(connection_id)
            case m.IdleConnectionEnded(connection_id):
                if self.idle.pop(connection_id, None) is not None:
                    return {}, {connection_id}
            case m.GrantFailed(lease_id):
                loan = self._take_loan(lease_id)
                self.waiting = {loan.checkout.waiter_id: loan.checkout, **self.waiting}
                return {}, {loan.connection}
            case m.SweepDue(generation):
                if generation == self.armed:
                    self.armed = None
            case m.DrainPool():
                self.draining = True
            case m.AbortPool():
                self.draining = True
                self.forgotten |= self.openings
                self.openings = set()
                return {}, {self._take_loan(lease).connection for lease in list(self.loans)}
        return {}, set()

    def _returned(
        self, lease_id: int, reusable: bool, idle_s_max: float | None
    ) -> tuple[dict[int, Idle], set[int]]:
        loan = self._take_loan(lease_id)
        if not reusable or loan.inherited:
            return {}, {loan.connection}
        known_s = loan.idle.idle_s_max if idle_s_max is None else idle_s_max
        idle = Idle(self.now_s, min(known_s, self.limits.idle_timeout_s))
        return {loan.connection: idle}, set()

    def _handed_back(self, waiter_id: int) -> tuple[dict[int, Idle], set[int]]:
        """A grant crossed its cancel. Nothing was sent, so to its peer it has been idle on."""
        found = [x for x, loan in self.loans.items() if loan.checkout.waiter_id == waiter_id]
        loan = self._take_loan(found[0])
        return ({}, {loan.connection}) if loan.inherited else ({loan.connection: loan.idle}, set())

    def _take_loan(self, lease_id: int) -> Loan:
        self.last_lease = lease_id
        return self.loans.pop(lease_id)

    def _follow(
        self, message: PoolMessage, effect: PoolEffect, loose: dict[int, Idle], doomed: set[int]
    ) -> None:
        match effect:
            case m.Grant():
                self._granted(effect, loose)
            case m.Refuse(waiter_id):
                check(waiter_id in self.waiting, f"waiter {waiter_id} was answered twice")
                self._check_refused(self.waiting.pop(waiter_id), message)
            case m.Open(connection_id):
                self._mint(connection_id)
                served = (Purpose.RESERVED, Purpose.STREAM)
                wanted = not self.draining or any(self._waiting_for(x) for x in served)
                check(bool(wanted), "a draining pool opened a connection for nobody")
                self.openings.add(connection_id)
                self.opened_now.append(connection_id)
            case m.Close(connection_id):
                found = [x for x in (self.idle, loose) if x.pop(connection_id, None) is not None]
                free = bool(found) or connection_id in doomed
                check(free, f"connection {connection_id} was closed, but is in use or unknown")
                doomed.discard(connection_id)
            case m.Recall(leases_max, overdue):
                check(leases_max > 0 and bool(self.loans), "recalled what nobody holds")
                self.recalled += 0 if overdue else leases_max
            case m.Wake(_, generation):
                check(self.armed is None, "two sweeps are underway")
                self.armed = generation
            case m.Drained():
                check(self.draining and not self.drained, "drained twice, or without a drain")
                left = self.loans or self.openings or self.idle or self.waiting or loose
                check(not left, "drained, but something is left")
                self.drained = True

    def _granted(self, grant: m.Grant, loose: dict[int, Idle]) -> None:
        before = list(takewhile(
            lambda row: row.waiter_id != grant.waiter_id, self.waiting.values()
        ))
        checkout = self.waiting.pop(grant.waiter_id, None)
        check(checkout is not None, f"waiter {grant.waiter_id} was answered twice")
        assert checkout is not None
        source = self.idle if grant.connection_id in self.idle else loose
        check(grant.connection_id in source, f"connection {grant.connection_id} was not free")
        idle = source.pop(grant.connection_id)
        check(self._fits(checkout, idle), "the connection had idled too long")
        self._check_turn(
            checkout, [row for row in before if row.purpose is checkout.purpose], idle
        )
        self._mint(grant.lease_id)
        self.loans[grant.lease_id] = Loan(grant.connection_id, checkout, idle)

    def _check_turn(
        self, served: m.CheckoutConnection, before: list[m.CheckoutConnection], idle: Idle
    ) -> None:
        """Nobody who could have had the connection had a better claim to it."""
        held, owner = self._held(served.purpose), served.owner
        for other in before:
            jumped = other.owner == owner and self._fits(other, idle)
            check(not jumped, "a line was jumped")
        for other in self._waiting_for(served.purpose):
            if self._fits(other, idle):
                less = held[other.owner.name] < held[owner.name]
                check(not less, "served beside an owner who holds less")
                same = other.owner.name == owner.name
                less = same and held[other.owner] < held[owner]
                check(not less, "served beside a session that holds less")

    def _check_refused(self, refused: m.CheckoutConnection, message: PoolMessage) -> None:
        """Whoever leaves a full queue had most in it."""
        if not isinstance(message, m.CheckoutConnection) or self.draining:
            return
        left = self._waiting_for(refused.purpose)
        check(len(left) == self.limits.waiters_max, "refused while there was room")
        count = Counter(row.owner.name for row in left)
        most = max(count.values())
        own = count[refused.owner.name] + 1
        check(own >= most, "refused, though another has more in the queue")
        lines = Counter(x.owner for x in left if x.owner.name == refused.owner.name)
        longest = max(lines.values(), default=0)
        check(lines[refused.owner] + 1 >= longest, "refused, though another session has more")
        later = [x for x in left if x.owner == refused.owner and x.waiter_id > refused.waiter_id]
        check(not later, "refused, though another came later")

    def _held(self, purpose: Purpose) -> Counter[object]:
        """Count the leases of a budget by owner and by the owner's name."""
        held: Counter[object] = Counter()
        for loan in self.loans.values():
            if loan.checkout.purpose is purpose:
                held[loan.checkout.owner] += 1
                held[loan.checkout.owner.name] += 1
        return held

    def _mint(self, number: int) -> None:
        check(number > self.seen_max, f"id {number} was used before")
        self.seen_max = number

    def _fits(self, checkout: m.CheckoutConnection, idle: Idle) -> bool:
        idle_s = self.now_s - idle.since_s
        return idle_s == 0 or (idle_s <= checkout.idle_s_max and idle_s < idle.idle_s_max)

    def _waiting_for(self, purpose: Purpose) -> list[m.CheckoutConnection]:
        return [row for row in self.waiting.values() if row.purpose is purpose]

    def check_against(self, policy: PoolPolicy) -> None:
        """Compare the books, and hold the policy's figures against the bounds."""
        gauges, limits, ledger = policy.gauges(), self.limits, policy._ledger
        check(gauges.opening == len(self.openings), "openings were lost or invented")
        check(gauges.idle == len(self.idle), "idle connections were lost or invented")
        check(gauges.leased + gauges.streaming == len(self.loans), "leases were lost or invented")
        lines = [_lines(queue.in_turn()) for queue in ledger.waiting.values()]
        own = [_lines(self._waiting_for(purpose)) for purpose in ledger.waiting]
        check(lines == own, "waiters were lost or invented, or a line was jumped")
        missing = sum(
            max(len(self._waiting_for(purpose)) - ledger.opening_for(purpose), 0)
            for purpose in (Purpose.CALL, Purpose.RESERVED)
        )
        if missing and gauges.leased:
            check(self.recalled >= missing, "somebody waits, and a kept lease is not recalled")
        rows = gauges.opening + gauges.idle + gauges.leased + gauges.streaming
        check(rows == ledger.owned, "the rows do not add up")
        check(ledger.ordinary <= limits.ordinary_max, "more connections than allowed")
        check(ledger.streams <= limits.streams_max, "more streams than allowed")
        calls = ledger.leased(Purpose.CALL)
        for connection_id in self.opened_now:
            if ledger._openings.get(connection_id) is Purpose.CALL:
                opening = ledger.opening_for(Purpose.CALL)
                check(calls + opening <= limits.connections_max, "calls opened beyond the budget")
        check(calls <= limits.connections_max, "calls took from the reserve")
        if self.waiting:
            self._check_waiters(calls, gauges.leased, gauges.streaming)
        tired = bool(self.waiting or self.idle or (limits.idle_min and not self.draining))
        check(not tired or self.armed is not None, "no sweep is underway")
        empty = self.draining and not rows and not self.waiting
        check(not empty or self.drained, "the drain is done, but nobody was told")

    def _check_waiters(self, calls: int, leased: int, streaming: int) -> None:
        """Nobody waits beside a connection that it may have, nor for nothing."""
        room = {
            Purpose.CALL: calls < self.limits.connections_max,
            Purpose.RESERVED: True,
            Purpose.STREAM: streaming < self.limits.streams_max,
        }
        for checkout in self.waiting.values():
            if not room[checkout.purpose]:
                continue
            turned_away = self.turned_away and checkout.purpose is Purpose.STREAM
            turned_away = turned_away and not self.draining  # there, each waits for its own
            check(not turned_away, "a connection was closed that a stream waits for")
            check(
                not any(self._fits(checkout, idle) for idle in self.idle.values()),
                f"a {checkout.purpose} waits beside an idle connection",
            )
            if not self.openings:
                full = leased >= self.limits.ordinary_max and checkout.purpose != Purpose.STREAM
                check(full, f"a {checkout.purpose} waits for nothing")


def _lines(waiters: Iterable[m.CheckoutConnection]) -> dict[m.Owner, list[int]]:
    lines: dict[m.Owner, list[int]] = {}
    for row in waiters:
        lines.setdefault(row.owner, []).append(row.waiter_id)
    return lines
