"""Breadth-first search through all orders of messages that a small pool can get.

States that differ in nothing but ids are one state. In each state, messages about what does not
exist (any more, or yet) must change nothing: so a cancel may come before its checkout, a return
twice, and anything from an earlier incarnation.
"""

from __future__ import annotations

import pickle
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field

from proxy_actors.messages import pool as m
from proxy_actors.messages.pool import PoolEffect, PoolMessage, Purpose
from proxy_actors.policy.ledger import InheritedLease
from proxy_actors.policy.pool import PoolPolicy
from proxy_actors.policy.pool_limits import PoolLimits
from tests.policy.pool_model import PoolModel, Violation, check

INCARNATION = 2
UNKNOWN = 1 << 60
TICK_S = 2.0
PATIENCE_S = 3.0
# Else every abort in a row could leave one more connection underway.
FORGOTTEN_MAX = 1


@dataclass(frozen=True)
class Scope:
    """What is explored: the pool's bounds, the moves, how many messages in a row."""

    limits: PoolLimits
    depth: int
    purposes: tuple[Purpose, ...] = tuple(Purpose)
    outstanding_max: int = 4
    idle_s_max: tuple[float, ...] = (60.0,)
    failures: bool = True
    streams: bool = False
    time: bool = False
    drain: bool = False
    inherited: tuple[InheritedLease, ...] = ()
    owners: tuple[m.Owner, ...] = (m.NOBODY,)


@dataclass
class Findings:
    """How much was explored."""

    states: int = 0
    messages: int = 0
    depth: int = 0
    violation: Violation | None = None
    trace: list[PoolMessage | str] = field(default_factory=list)


def explore(scope: Scope) -> Findings:
    """Explore to the end of the scope or to the first violation, whose shortest trace is kept."""
    findings = Findings()
    policy = PoolPolicy(scope.limits, INCARNATION, scope.inherited)
    model = PoolModel(scope.limits, scope.inherited)
    trace: tuple[PoolMessage | str, ...] = (m.SweepDue(0),)
    try:
        step(policy, model, m.SweepDue(0))
        seen = {state_key(policy, model)}
        layer = [(pickle.dumps((policy, model), 5), trace)]
        for depth in range(1, scope.depth + 1):
            following = []
            for frozen, path in layer:
                policy, model = pickle.loads(frozen)
                trace = path
                moves = list(possible_moves(scope, policy, model))
                probe_with_nonsense(policy, model)
                for move in moves:
                    policy, model = pickle.loads(frozen)
                    trace = (*path, move)
                    step(policy, model, move)
                    findings.messages += 1
                    key = state_key(policy, model)
                    if key not in seen:
                        seen.add(key)
                        following.append((pickle.dumps((policy, model), 5), trace))
            if not following:
                break
            layer, findings.depth = following, depth
        findings.states = len(seen)
    except Violation as violation:
        findings.violation, findings.trace = violation, list(trace)
    except Exception as error:  # a policy that raises is as wrong as one that decides wrongly
        findings.violation, findings.trace = Violation(repr(error)), list(trace)
    return findings


def step(policy: PoolPolicy, model: PoolModel, move: PoolMessage | str) -> None:
    """Let the policy and the model have one message, or let time pass."""
    if isinstance(move, str):
        model.now_s += TICK_S
        model.handed_over = ()
        return
    if isinstance(move, m.CheckoutConnection):
        model.next_waiter += 1
    model.observe(move, policy.handle(move, model.now_s))
    model.check_against(policy)


def possible_moves(
    scope: Scope, policy: PoolPolicy, model: PoolModel
) -> Iterator[PoolMessage | str]:
    """Yield everything that can happen next."""
    if len(model.waiting) + len(model.loans) < scope.outstanding_max:
        for purpose in scope.purposes:
            for idle_s_max in scope.idle_s_max:
                number = model.next_waiter
                deadline_s = model.now_s + PATIENCE_S
                for owner in scope.owners:
                    yield m.CheckoutConnection(
                        number, number, purpose, deadline_s, idle_s_max, owner
                    )
    for waiter_id, checkout in model.waiting.items():
        yield m.CancelCheckout(waiter_id)
        yield m.ExchangeEnded(checkout.exchange_id)
    for lease_id, loan in model.loans.items():
        yield m.ReturnConnection(lease_id, True)
        yield m.ReturnConnection(lease_id, False)
        yield m.CancelCheckout(loan.checkout.waiter_id)
        yield m.ExchangeEnded(loan.checkout.exchange_id)
        if scope.streams:
            yield m.ConnectionBecameStream(lease_id)
        if scope.time:
            yield m.ReturnConnection(lease_id, True, 1.0)
    for lease_id in model.handed_over:
        yield m.GrantFailed(lease_id)
    for connection_id in sorted(model.openings | model.forgotten):
        yield m.ConnectionOpened(connection_id)
        if scope.failures:
            yield m.ConnectionFailed(connection_id)
    for connection_id in model.idle:
        yield m.IdleConnectionEnded(connection_id)
    if scope.time:
        yield "time passes"
        if model.armed is not None:
            yield m.SweepDue(model.armed)
    if scope.drain:
        yield m.DrainPool()
        if len(model.forgotten) < FORGOTTEN_MAX:
            yield m.AbortPool()


def but_recalls(effects: list[PoolEffect]) -> list[PoolEffect]:
    """Leave out what is said again with every message for as long as somebody waits."""
    return [effect for effect in effects if not isinstance(effect, m.Recall)]


def probe_with_nonsense(policy: PoolPolicy, model: PoolModel) -> None:
    """Tell the policy what must not matter to it."""
    before = state_key(policy, model)
    stale_lease = model.last_lease or UNKNOWN
    nonsense: list[PoolMessage] = [
        m.CancelCheckout(model.next_waiter),
        m.ExchangeEnded(model.next_waiter),
        m.ReturnConnection(stale_lease, True),
        *(m.ReturnConnection(x ^ (INCARNATION ^ 5) << 32, True) for x in model.loans),
        m.ConnectionBecameStream(stale_lease),
        m.GrantFailed(stale_lease),
        m.ConnectionFailed(UNKNOWN),
        m.IdleConnectionEnded(UNKNOWN),
        m.SweepDue(-1 if model.armed is None else model.armed - 1),
        *(m.IdleConnectionEnded(loan.connection) for loan in model.loans.values()),
        *(m.IdleConnectionEnded(connection_id) for connection_id in model.openings),
    ]
    for message in nonsense:
        effects = but_recalls(policy.handle(message, model.now_s))
        check(not effects, f"{message} had the effects {effects}")
    effects = but_recalls(policy.handle(m.ConnectionOpened(UNKNOWN), model.now_s))
    check(effects == [m.Close(UNKNOWN)], "a connection that nobody asked for was kept")
    check(state_key(policy, model) == before, "nonsense changed the pool")


def state_key(policy: PoolPolicy, model: PoolModel) -> Hashable:
    """Describe a state without ids; times are relative to now."""
    ledger, now_s = policy._ledger, model.now_s
    return (
        policy._draining,
        policy._drained,
        policy._sweep_armed,
        len(model.forgotten),
        tuple(ledger._openings.values()),
        tuple(
            (min(now_s - row.idle_since_s, 9.0), row.idle_s_max, row.uses == 0)
            for row in ledger.idle
        ),
        tuple(
            (
                lease.purpose,
                lease.checkout.purpose,
                lease.inherited,
                lease.id in model.handed_over,
                min(now_s - lease.connection.idle_since_s, 9.0),
                lease.connection.idle_s_max,
                max(lease.checkout.deadline_s - now_s, 0.0),
                lease.checkout.idle_s_max,
                lease.checkout.owner,
            )
            for lease in ledger.leases()
        ),
        tuple(
            tuple(
                (max(row.deadline_s - now_s, 0.0), row.idle_s_max, row.owner)
                for row in queue.in_turn()
            )
            for queue in policy._waiting.values()
        ),
    )
