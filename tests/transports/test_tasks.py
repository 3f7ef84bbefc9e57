"""Greenlets that take turns, on the real hub: thousands that are woken at once hold up nobody."""

from __future__ import annotations

from functools import partial

import gevent

from proxy_actors.messages.lifecycle import Stop
from proxy_actors.transports.tasks import BEGUN_AT_ONCE, TaskTable
from proxy_actors.world.gevent_world import GeventWorld
from tests.actors.stage import Act, Puppet
from tests.actors.test_nap import Napper

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


def test_actor_that_is_started_while_thousands_go_on_answers_before_them() -> None:
    """A call that needs a stream or a process of its own waits for no broadcast."""
    world = GeventWorld()
    nappers = [Napper(world, f"napper {n}") for n in range(MANY)]
    for napper in nappers:
        napper.start_loop()
    gevent.idle()
    assert not world.tasks()
    order: list[str] = []
    for napper in nappers:
        napper.ref.tell(Act(lambda actor: order.append(actor.name)))
    new = Puppet(world, "new")
    new.start_loop()
    new.ref.tell(Act(lambda actor: order.append(actor.name)))
    gevent.idle()
    assert order.index("new") <= BEGUN_AT_ONCE
    assert len(order) == MANY + 1
    for actor in (*nappers, new):
        actor.ref.tell(Stop())
    while world.tasks():
        gevent.sleep(0)
