"""How leases, waiters and pools end: cancels, ended exchanges, crashes, drains, aborts."""

from __future__ import annotations

import pytest

from proxy_actors.errors import Reason
from proxy_actors.messages import pool as m
from proxy_actors.messages.pool import PoolMessage
from proxy_actors.policy.ledger import InheritedLease
from proxy_actors.policy.pool_limits import PoolGauges, PoolLimits
from tests.policy.pool_bench import CALL, RESERVED, STREAM, Bench, gauges


def test_cancelled_waiter_is_not_served() -> None:
    bench = Bench(PoolLimits(connections_max=1, reserve=1))
    grant = bench.lease()
    bench.ask()
    assert bench.tell(m.CancelCheckout(2)) == []
    assert bench.give_back(grant) == []
    assert gauges(bench) == PoolGauges(0, 1, 0, 0, 0, 0)


def test_late_grant_is_returned_after_cancel() -> None:
    """The cancel was underway when the connection was granted: the next waiter has it."""
    bench = Bench(PoolLimits(connections_max=1, reserve=1))
    grant = bench.lease()
    bench.ask()
    (effect,) = bench.tell(m.CancelCheckout(grant.waiter_id))
    assert isinstance(effect, m.Grant)
    assert (effect.waiter_id, effect.connection_id) == (2, grant.connection_id)


def test_lease_is_closed_once_by_whoever_comes_first() -> None:
    bench = Bench()
    grant = bench.lease(exchange_id=7)
    assert bench.give_back(grant, reusable=False) == [m.Close(grant.connection_id)]
    for late in (
        m.ReturnConnection(grant.lease_id, True),
        m.CancelCheckout(grant.waiter_id),
        m.ExchangeEnded(7),
        m.ConnectionBecameStream(grant.lease_id),
        m.GrantFailed(grant.lease_id),
    ):
        assert bench.tell(late) == []
    assert gauges(bench) == PoolGauges(0, 0, 0, 0, 0, stale=3)


def test_end_of_an_exchange_closes_and_answers_all_it_has() -> None:
    bench = Bench()
    held, other = bench.lease(exchange_id=7), bench.lease(exchange_id=8)
    bench.ask(CALL, exchange_id=7)
    bench.ask(CALL, exchange_id=8)
    effects = bench.tell(m.ExchangeEnded(7))
    assert effects[:2] == [m.Refuse(3, Reason.INTERNAL), m.Close(held.connection_id)]
    assert isinstance(effects[2], m.Open), "waiter 4 has the place"
    assert bench.give_back(other) != []


def test_lease_ids_of_incarnations_differ() -> None:
    first, second = Bench(incarnation=1).lease(), Bench(incarnation=2).lease()
    assert first.lease_id != second.lease_id
    assert first.connection_id != second.connection_id


def test_lease_of_another_incarnation_is_none() -> None:
    bench = Bench(incarnation=2)
    grant = bench.lease()
    for incarnation in (1, 3):
        stale = m.ReturnConnection(grant.lease_id ^ (2 ^ incarnation) << 32, True)
        assert bench.tell(stale) == []
    assert gauges(bench) == PoolGauges(0, 0, 1, 0, 0, stale=2)


OLD_CALL = InheritedLease((1 << 32) + 2, (1 << 32) + 1, 100, 100, CALL)
OLD_STREAM = InheritedLease((1 << 32) + 4, (1 << 32) + 3, 101, 101, STREAM)
OLD_STREAM_TOO = InheritedLease((1 << 32) + 6, (1 << 32) + 5, 102, 102, STREAM)


def test_leases_of_before_a_crash_count_until_they_come_back() -> None:
    bench = Bench(incarnation=2, inherited=(OLD_CALL, OLD_STREAM))
    assert gauges(bench) == PoolGauges(0, 0, 1, 1, 0, 0)
    bench.lease()
    assert bench.ask() == []
    assert bench.ask(STREAM) == []
    closed, *_ = bench.tell(m.ReturnConnection(OLD_CALL.lease_id, True))
    assert closed == m.Close(OLD_CALL.connection_id)
    assert bench.opened()


@pytest.mark.parametrize(
    "end",
    [
        m.ReturnConnection(OLD_CALL.lease_id, True),
        m.CancelCheckout(OLD_CALL.waiter_id),
        m.ExchangeEnded(OLD_CALL.exchange_id),
    ],
    ids=["return", "cancel", "exchange ended"],
)
def test_connection_of_before_a_crash_is_closed_when_it_comes_back(end: PoolMessage) -> None:
    """How long it has been open, and what was sent on it, nobody knows."""
    bench = Bench(incarnation=2, inherited=(OLD_CALL,))
    assert bench.tell(end) == [m.Close(OLD_CALL.connection_id)]


def test_streams_of_before_a_crash_keep_to_the_bound() -> None:
    """Those past it were calls before, too."""
    bench = Bench(incarnation=2, inherited=(OLD_STREAM, OLD_STREAM_TOO))
    assert gauges(bench) == PoolGauges(0, 0, 1, 1, 0, 0)


def test_connection_opened_for_an_earlier_incarnation_is_closed() -> None:
    bench = Bench(incarnation=2)
    assert bench.tell(m.ConnectionOpened((1 << 32) + 1)) == [m.Close((1 << 32) + 1)]
    assert bench.tell(m.ConnectionFailed((1 << 32) + 2)) == []


def test_drain_closes_what_is_idle_and_waits_for_what_is_leased() -> None:
    bench = Bench()
    idle, leased = bench.lease(), bench.lease()
    bench.give_back(idle)
    assert bench.tell(m.DrainPool()) == [m.Close(idle.connection_id)]
    assert bench.tell(m.DrainPool()) == []
    assert bench.give_back(leased) == [m.Close(leased.connection_id), m.Drained()]
    assert bench.tell(m.DrainPool()) == []


def test_drain_of_an_empty_pool_is_done_at_once() -> None:
    assert Bench().tell(m.DrainPool()) == [m.Drained()]


def test_drain_refuses_calls_that_wait_or_come() -> None:
    """A stream is asked for by a call that runs, whose connection has broken."""
    bench = Bench()
    for purpose in (CALL, CALL, STREAM):
        bench.lease(purpose)
    bench.ask(CALL)
    bench.ask(STREAM)
    assert bench.tell(m.DrainPool()) == [m.Refuse(4, Reason.DRAINING)]
    assert bench.ask(CALL) == [m.Refuse(6, Reason.DRAINING)]
    assert bench.ask(STREAM) == []


def test_draining_pool_still_lets_answers_pass() -> None:
    """A call that is being drained may wait for an answer of its own client."""
    bench = Bench()
    call = bench.lease()
    bench.tell(m.DrainPool())
    answer = bench.lease(RESERVED)
    assert bench.give_back(answer) == [m.Close(answer.connection_id)]
    assert bench.give_back(call) == [m.Close(call.connection_id), m.Drained()]


def test_drain_waits_for_what_is_being_opened_and_closes_it() -> None:
    bench = Bench()
    bench.ask()
    connection_id = bench.opened()
    bench.tell(m.DrainPool())
    assert bench.tell(m.ConnectionOpened(connection_id)) == [m.Close(connection_id), m.Drained()]


def test_draining_pool_opens_no_minimum() -> None:
    bench = Bench(PoolLimits(connections_max=4, idle_min=1))
    bench.tell(m.ConnectionOpened(bench.opened()))
    bench.tell(m.DrainPool())
    assert bench.sweep_after(1.0) == []


def test_abort_closes_everything_and_answers_everybody() -> None:
    bench = Bench()
    grants = [bench.lease(CALL), bench.lease(STREAM)]
    bench.ask(RESERVED)
    opening = bench.opened()
    assert set(bench.tell(m.AbortPool())) == {
        m.Refuse(3, Reason.DRAINING),
        *(m.Close(grant.connection_id) for grant in grants),
        m.Drained(),
    }
    assert bench.tell(m.AbortPool()) == []
    assert bench.tell(m.ConnectionOpened(opening)) == [m.Close(opening)]
    assert [bench.give_back(grant) for grant in grants] == [[], []]
