"""Greenlets that take turns, on the real hub: thousands that are woken at once hold up nobody."""

from __future__ import annotations

from functools import partial

import gevent

from proxy_actors.transports.tasks import BEGUN_AT_ONCE, TaskTable

MANY = 10 * BEGUN_AT_ONCE


def run_all(table: TaskTable) -> None:
    """Let the hub go round until no greenlet lives."""
    while table.living():
        gevent.sleep(0)


def test_who_comes_while_many_take_turns_waits_for_a_few_of_them_only() -> None:
    """C3: a connection is accepted, and health is answered, in the middle of a broadcast."""
    table = TaskTable()
    order: list[int | str] = []
    for n in range(MANY):
        table.spawn_in_turn("many", partial(order.append, n))
    table.spawn("other", lambda: order.append("other"))
    assert table.living() == {"many": MANY, "other": 1}
    run_all(table)
    assert order.index("other") == BEGUN_AT_ONCE
    assert [n for n in order if n != "other"] == list(range(MANY))


def test_turns_go_on_behind_one_that_waits_or_fails() -> None:
    """And when all have had theirs, as many can begin at once as before."""
    table = TaskTable()
    order: list[int] = []

    def turn(n: int) -> None:
        order.append(n)
        if n % 3 == 0:
            raise gevent.GreenletExit
        if n % 3 == 1:
            gevent.sleep(0)

    for _ in range(2):
        order.clear()
        for n in range(MANY):
            table.spawn_in_turn("many", partial(turn, n))
        table.spawn("other", lambda: order.append(-1))
        run_all(table)
        assert order.index(-1) == BEGUN_AT_ONCE
        assert sorted(order) == list(range(-1, MANY))
