"""How the pool policy opens, hands out and bounds connections, rule by rule.

How leases end is in test_pool_ends.py, the interplay of all rules in test_pool_exhaustive.py.
"""

from __future__ import annotations

import pytest

from proxy_actors.errors import Reason
from proxy_actors.messages import pool as m
from proxy_actors.messages.pool import Purpose
from proxy_actors.policy.pool import SWEEP_INTERVAL_S
from proxy_actors.policy.pool_limits import PoolGauges, PoolLimits
from tests.policy.pool_bench import CALL, RESERVED, SMALL, STREAM, Bench, gauges

# Opening and reuse.


def test_first_checkout_opens_a_connection_and_gets_it_fresh() -> None:
    bench = Bench()
    bench.ask()
    connection_id = bench.opened()
    assert gauges(bench) == PoolGauges(1, 0, 0, 0, 1, 0)
    (grant,) = bench.tell(m.ConnectionOpened(connection_id))
    assert grant == m.Grant(1, grant.lease_id, connection_id, fresh=True)
    assert gauges(bench) == PoolGauges(0, 0, 1, 0, 0, 0)


def test_returned_connection_is_used_again_and_is_not_fresh() -> None:
    bench = Bench()
    first = bench.lease()
    assert bench.give_back(first) == []
    second = bench.lease()
    assert second.connection_id == first.connection_id
    assert second.lease_id != first.lease_id
    assert not second.fresh


def test_last_returned_connection_is_used_first() -> None:
    """So that a pool that is too large for its load shrinks by idle timeout."""
    bench = Bench()
    first, second = bench.lease(), bench.lease()
    bench.give_back(first)
    bench.give_back(second)
    assert bench.lease().connection_id == second.connection_id


def test_connection_not_fit_for_reuse_is_closed() -> None:
    bench = Bench()
    grant = bench.lease()
    assert bench.give_back(grant, reusable=False) == [m.Close(grant.connection_id)]


def test_one_connection_is_opened_for_each_waiter_and_no_more() -> None:
    bench = Bench()
    bench.ask()
    bench.ask()
    assert gauges(bench).opening == 2
    bench.ask()
    assert bench.effects == []


def test_connection_that_was_opened_in_vain_waits_and_is_fresh_no_more() -> None:
    """It has been idle, so its peer may be about to leave like that of any other."""
    bench = Bench()
    bench.ask()
    connection_id = bench.opened()
    bench.tell(m.CancelCheckout(1))
    assert bench.tell(m.ConnectionOpened(connection_id)) == []
    bench.now_s += 1.0
    assert bench.lease().fresh is False


def test_failed_connect_refuses_the_waiter_that_came_first() -> None:
    bench = Bench()
    bench.ask()
    first = bench.opened()
    bench.ask()
    assert bench.tell(m.ConnectionFailed(first)) == [m.Refuse(1, Reason.CONNECT_FAILED)]


def test_failed_connect_refuses_nobody_for_whom_another_is_underway() -> None:
    bench = Bench()
    bench.ask()
    first = bench.opened()
    bench.ask()
    bench.tell(m.CancelCheckout(1))
    assert bench.tell(m.ConnectionFailed(first)) == []


def test_waiters_left_by_a_failed_connect_get_another_attempt() -> None:
    bench = Bench(PoolLimits(connections_max=1, reserve=1))
    bench.ask()
    connection_id = bench.opened()
    bench.ask()
    refused, opened = bench.tell(m.ConnectionFailed(connection_id))
    assert refused == m.Refuse(1, Reason.CONNECT_FAILED)
    assert isinstance(opened, m.Open)


def test_connection_found_dead_at_the_hand_over_keeps_the_waiter_its_place() -> None:
    bench = Bench(PoolLimits(connections_max=1, reserve=1))
    bench.give_back(bench.lease())
    grant = bench.lease()
    bench.ask()
    closed, opened = bench.tell(m.GrantFailed(grant.lease_id))
    assert closed == m.Close(grant.connection_id)
    assert isinstance(opened, m.Open)
    (granted,) = bench.tell(m.ConnectionOpened(opened.connection_id))
    assert isinstance(granted, m.Grant)
    assert granted.waiter_id == grant.waiter_id


def test_idle_connection_that_its_peer_left_is_closed() -> None:
    bench = Bench()
    grant = bench.lease()
    bench.give_back(grant)
    gone = m.IdleConnectionEnded(grant.connection_id)
    assert bench.tell(gone) == [m.Close(grant.connection_id)]
    assert bench.tell(gone) == []


# Budgets.


def test_calls_leave_the_reserve_alone() -> None:
    bench = Bench()
    grants = [bench.lease(), bench.lease()]
    assert bench.ask() == []
    reserved = bench.lease(RESERVED)
    assert bench.give_back(reserved) == []
    assert gauges(bench).idle == 1, "the call waits on, and the reserve stands ready"
    (grant,) = bench.give_back(grants[0])
    assert isinstance(grant, m.Grant)
    assert grant.waiter_id == 3


def test_reserved_exchanges_may_use_what_calls_leave() -> None:
    bench = Bench()
    for _ in range(SMALL.connections_max + SMALL.reserve):
        bench.lease(RESERVED)
    assert bench.ask(RESERVED) == []
    assert bench.ask(CALL) == []


def test_streams_have_a_budget_of_their_own() -> None:
    bench = Bench()
    stream = bench.lease(STREAM)
    assert bench.ask(STREAM) == []
    assert gauges(bench).streaming == 1
    for _ in range(SMALL.connections_max):
        bench.lease(CALL)
    bench.lease(RESERVED)
    assert gauges(bench) == PoolGauges(0, 0, 3, 1, 1, 0)
    closed, opened = bench.give_back(stream)
    assert closed == m.Close(stream.connection_id), "ordinary connections are at their bound"
    assert isinstance(opened, m.Open)


def test_answer_that_becomes_a_stream_gives_its_place_to_the_next_call() -> None:
    bench = Bench()
    grants = [bench.lease(), bench.lease()]
    bench.ask()
    bench.tell(m.ConnectionBecameStream(grants[0].lease_id))
    assert bench.opened()
    assert gauges(bench).streaming == 1


def test_stream_past_the_bound_goes_on_as_a_call() -> None:
    bench = Bench()
    grants = [bench.lease(), bench.lease()]
    for grant in grants:
        bench.tell(m.ConnectionBecameStream(grant.lease_id))
        bench.tell(m.ConnectionBecameStream(grant.lease_id))
    assert (gauges(bench).streaming, gauges(bench).leased) == (1, 1)


def test_stream_that_takes_an_idle_connection_leaves_its_opening_to_calls() -> None:
    bench = Bench()
    call = bench.lease()
    bench.ask(STREAM)
    connection_id = bench.opened()
    (grant,) = bench.give_back(call)
    assert isinstance(grant, m.Grant)
    assert gauges(bench) == PoolGauges(1, 0, 0, 1, 0, 0)
    assert bench.tell(m.ConnectionOpened(connection_id)) == []
    assert bench.lease(CALL).connection_id == connection_id


def test_what_was_opened_for_a_stream_goes_to_a_stream() -> None:
    """A reserved exchange that waits would take it beyond the ordinary budget."""
    bench = Bench()
    for _ in range(SMALL.connections_max + SMALL.reserve):
        bench.lease(RESERVED)
    bench.ask(STREAM)
    connection_id = bench.opened()
    bench.ask(RESERVED)
    (grant,) = bench.tell(m.ConnectionOpened(connection_id))
    assert isinstance(grant, m.Grant)
    assert grant.waiter_id == 4


def test_waiters_are_served_in_order_of_their_coming() -> None:
    bench = Bench(PoolLimits(connections_max=1, reserve=1))
    grant = bench.lease()
    bench.ask()
    bench.ask()
    for waiter_id in (2, 3):
        (effect,) = bench.give_back(grant)
        assert isinstance(effect, m.Grant)
        assert effect.waiter_id == waiter_id
        grant = effect


def test_what_must_not_wait_behind_calls_is_served_first() -> None:
    bench = Bench(PoolLimits(connections_max=1, reserve=1, streams_max=1))
    call, reserved = bench.lease(), bench.lease(RESERVED)
    bench.ask(CALL)
    bench.ask(RESERVED)
    (effect,) = bench.give_back(call)
    assert isinstance(effect, m.Grant)
    assert effect.waiter_id == 4
    (effect,) = bench.give_back(reserved)
    assert isinstance(effect, m.Grant)
    assert effect.waiter_id == 3


@pytest.mark.parametrize("purpose", Purpose)
def test_too_many_waiters_are_refused_at_once(purpose: Purpose) -> None:
    limits = PoolLimits(connections_max=1, reserve=1, streams_max=1, waiters_max=2)
    bench = Bench(limits)
    for _ in range(2):
        bench.ask(purpose)
    assert bench.ask(purpose) == [m.Refuse(3, Reason.POOL_EXHAUSTED)]
    other = RESERVED if purpose is CALL else CALL
    assert m.Refuse(4, Reason.POOL_EXHAUSTED) not in bench.ask(other)


# Shares.

ONE, TWO = m.Owner("one"), m.Owner("two")


def test_owner_of_all_connections_does_not_keep_another_from_the_next() -> None:
    bench = Bench(PoolLimits(connections_max=2, reserve=1))
    grants = [bench.lease(owner=ONE), bench.lease(owner=ONE)]
    for owner in (ONE, ONE, TWO, TWO):
        bench.ask(owner=owner)
    served = []
    for _ in range(4):
        (grant,) = bench.give_back(grants.pop(0))
        assert isinstance(grant, m.Grant)
        served.append(grant.waiter_id)
        grants.append(grant)
    assert served == [5, 3, 6, 4]


def test_full_queue_refuses_who_has_most_in_it() -> None:
    bench = Bench(PoolLimits(connections_max=1, reserve=1, waiters_max=3))
    bench.lease(owner=ONE)
    for _ in range(3):
        bench.ask(owner=ONE)
    assert bench.ask(owner=TWO) == [m.Refuse(4, Reason.POOL_EXHAUSTED)]
    assert bench.ask(owner=ONE) == [m.Refuse(6, Reason.POOL_EXHAUSTED)]
    assert gauges(bench).shed == 2


def overloaded() -> Bench:
    """A pool of one connection, which serves ten calls a second while five wait."""
    bench = Bench(PoolLimits(connections_max=1, reserve=1))
    grant = bench.lease(owner=ONE)
    for _ in range(5):
        bench.ask(owner=ONE)
    for _ in range(20):
        bench.now_s += 0.1
        (effect,) = bench.give_back(grant)
        assert isinstance(effect, m.Grant)
        grant = effect
        assert bench.ask(owner=ONE) == []
    return bench


def test_call_that_cannot_be_served_in_time_is_refused_at_once() -> None:
    bench = overloaded()
    (refused,) = bench.ask(owner=ONE, patience_s=0.45)
    assert isinstance(refused, m.Refuse)
    assert refused.reason is Reason.OVERLOADED
    assert refused.after_s == pytest.approx(0.15, abs=0.05)
    assert bench.ask(owner=ONE, patience_s=0.65) == []


def test_call_whose_owner_holds_least_is_not_refused_for_the_line_of_another() -> None:
    bench = overloaded()
    assert bench.ask(owner=TWO, patience_s=0.15) == []


def test_what_must_not_wait_behind_calls_is_never_refused_for_them() -> None:
    bench = overloaded()
    bench.lease(RESERVED)
    for purpose in (RESERVED, STREAM):
        effects = bench.ask(purpose, patience_s=0.01)
        assert not any(isinstance(effect, m.Refuse) for effect in effects)


def test_adaptive_limit_bounds_calls_and_is_told_what_they_take() -> None:
    bench = Bench(PoolLimits(connections_max=8, reserve=1, adaptive_min=2))
    grants = [bench.lease(), bench.lease()]
    for _ in range(6):
        bench.ask()
    assert (gauges(bench).leased, gauges(bench).limit) == (2, 2)
    while gauges(bench).limit == 2:
        bench.now_s += 0.1
        grant = grants.pop(0)
        effects = bench.give_back(grant)
        grants += [x for x in effects if isinstance(x, m.Grant)]
        for opened in [x for x in effects if isinstance(x, m.Open)]:
            grants += [x for x in bench.tell(m.ConnectionOpened(opened.connection_id))
                       if isinstance(x, m.Grant)]
        bench.ask()
    assert gauges(bench).leased + gauges(bench).opening > 2


def test_lease_that_was_kept_says_nothing_of_how_long_a_call_takes() -> None:
    bench = Bench(PoolLimits(connections_max=8, reserve=1, adaptive_min=1))
    for _ in range(100):
        grant = bench.lease()
        bench.now_s += 1.0
        bench.tell(m.ReturnConnection(grant.lease_id, True, kept=True))
    assert bench.policy._calls._measuring


# Time.


@pytest.mark.parametrize("idle_s, granted", [(1.0, True), (1.1, False)])
def test_idle_connection_goes_only_to_who_trusts_it_for_so_long(
    idle_s: float, granted: bool
) -> None:
    """An exchange that cannot be repeated should not meet a peer that is just leaving."""
    bench = Bench()
    bench.give_back(bench.lease())
    bench.now_s += idle_s
    (effect,) = bench.ask(idle_s_max=1.0)
    assert isinstance(effect, m.Grant if granted else m.Open)


def test_waiter_that_wants_a_young_connection_does_not_hold_up_the_next() -> None:
    bench = Bench()
    bench.give_back(bench.lease())
    bench.now_s += 2.0
    bench.ask(idle_s_max=1.0)
    (grant,) = bench.ask(idle_s_max=60.0)
    assert isinstance(grant, m.Grant)
    assert grant.waiter_id == 3


def test_oldest_idle_connection_makes_room_for_a_young_one() -> None:
    bench = Bench(PoolLimits(connections_max=2, reserve=1, lifetime_max_s=1e9))
    grants = [bench.lease(CALL), bench.lease(CALL), bench.lease(RESERVED)]
    for grant in grants:
        bench.give_back(grant)
        bench.now_s += 0.1
    bench.now_s += 2.0
    closed, opened = bench.ask(idle_s_max=1.0)
    assert closed == m.Close(grants[0].connection_id)
    assert isinstance(opened, m.Open)


@pytest.mark.parametrize(
    "said_s, kept_s",
    [(None, 4.0), (2.5, 2.5), (30.0, 4.0), (0.0, 0.0)],
    ids=["nothing said", "shorter", "longer", "not at all"],
)
def test_idle_connection_is_kept_as_long_as_both_sides_want(
    said_s: float | None, kept_s: float
) -> None:
    bench = Bench()
    grant = bench.lease()
    bench.give_back(grant, idle_s_max=said_s)
    if kept_s:
        assert bench.sweep_after(kept_s - 0.1) == []
        bench.now_s += 0.1
    assert isinstance(bench.ask()[0], m.Open), "not granted past its time, swept or not"
    assert bench.sweep_after(0.0)[0] == m.Close(grant.connection_id)


def test_grant_that_nobody_saw_is_no_use() -> None:
    """To its peer the connection has been idle all the time."""
    bench = Bench()
    first = bench.lease()
    bench.give_back(first)
    bench.now_s += 3.0
    grant = bench.lease()
    assert bench.tell(m.CancelCheckout(grant.waiter_id)) == []
    assert bench.sweep_after(1.0) == [m.Close(first.connection_id)]


def test_connection_of_a_crossed_grant_is_sorted_in_by_its_age() -> None:
    bench = Bench()
    old, young = bench.lease(), bench.lease()
    bench.give_back(old)
    bench.now_s += 1.0
    crossed = bench.lease()
    bench.give_back(young)
    bench.tell(m.CancelCheckout(crossed.waiter_id))
    assert crossed.connection_id == old.connection_id
    assert bench.lease().connection_id == young.connection_id


@pytest.mark.parametrize("swept", [False, True], ids=["when returned", "when idle"])
def test_connection_is_closed_at_the_end_of_its_life(swept: bool) -> None:
    bench = Bench(PoolLimits(lifetime_max_s=10.0, idle_timeout_s=60.0))
    grant = bench.lease()
    if swept:
        assert bench.give_back(grant) == []
        assert bench.sweep_after(10.0) == [m.Close(grant.connection_id)]
    else:
        bench.now_s += 10.0
        assert bench.give_back(grant) == [m.Close(grant.connection_id)]


def test_waiter_is_refused_when_its_time_is_up() -> None:
    bench = Bench(PoolLimits(connections_max=1, reserve=1))
    bench.lease()
    bench.ask()
    assert bench.sweep_after(9.9) == []
    assert bench.sweep_after(0.1) == [m.Refuse(2, Reason.POOL_EXHAUSTED)]
    assert bench.sweep_after(1.0) == []


def test_minimum_is_opened_at_once_and_kept_up() -> None:
    bench = Bench(PoolLimits(connections_max=4, idle_min=2))
    connections = [x.connection_id for x in bench.effects if isinstance(x, m.Open)]
    assert len(connections) == 2
    for connection_id in connections:
        assert bench.tell(m.ConnectionOpened(connection_id)) == []
    effects = bench.sweep_after(4.0)
    assert effects[:2] == [m.Close(connection_id) for connection_id in connections]
    assert [type(x) for x in effects[2:]] == [m.Open, m.Open]


def test_minimum_counts_what_is_in_use() -> None:
    bench = Bench(PoolLimits(connections_max=4, idle_min=1))
    bench.tell(m.ConnectionOpened(bench.opened()))
    bench.lease()
    assert bench.sweep_after(1.0) == []


def test_sweep_of_another_generation_is_none() -> None:
    bench = Bench()
    grant = bench.lease()
    bench.give_back(grant)
    bench.now_s += 100.0
    for generation in (bench.sweep - 1, bench.sweep + 1):
        assert bench.tell(m.SweepDue(generation)) == []
    assert bench.tell(m.SweepDue(bench.sweep)) == [m.Close(grant.connection_id)]


def test_kept_leases_are_recalled_for_waiters_that_have_no_connection_coming() -> None:
    bench = Bench(PoolLimits(connections_max=1, reserve=1))
    bench.ask()
    assert bench.recalls == []  # a connection is being opened for this one
    bench.tell(m.ConnectionOpened(bench.opened()))
    bench.ask()
    assert bench.recalls == [m.Recall(1, overdue=False)]
    bench.ask()
    assert bench.recalls == [m.Recall(2, overdue=False)]


def test_sweep_recalls_what_is_kept_too_long_and_goes_on_while_anything_is_leased() -> None:
    bench = Bench()
    bench.lease()
    for _ in range(3):
        bench.now_s += SWEEP_INTERVAL_S
        sweep = bench.sweep
        bench.tell(m.SweepDue(sweep))
        assert bench.recalls == [m.Recall(1, overdue=True)]
        assert bench.sweep == sweep + 1


def test_drain_recalls_every_kept_lease() -> None:
    bench = Bench()
    bench.lease()
    bench.lease()
    bench.tell(m.DrainPool())
    assert bench.recalls == [m.Recall(2, overdue=False)]
