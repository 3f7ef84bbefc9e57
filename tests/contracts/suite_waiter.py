"""Contracts of `Waiter`."""

from __future__ import annotations

import math

from tests.contracts.staging import SHORT_S, pass_time, soon

from proxy_actors.errors import DeadlineError, MailboxFullError
from proxy_actors.world.base import Waiter, World


def contract_value_set_before_the_wait_is_returned_at_once(world: World) -> None:
    waiter = world.waiter()
    assert not waiter.is_set
    assert waiter.set("value")
    assert waiter.is_set
    assert waiter.wait(world.now_s() - 1.0) == "value"
    assert waiter.wait(math.inf) == "value"


def contract_parked_greenlet_gets_the_value(world: World) -> None:
    waiter = world.waiter()
    world.spawn("setter", lambda: _set(waiter, {"a": 1}))
    assert waiter.wait(math.inf) == {"a": 1}


def contract_parked_greenlet_gets_the_error(world: World) -> None:
    waiter = world.waiter()
    world.spawn("setter", lambda: _fail(waiter))
    assert _error_of(waiter, math.inf) == "full"
    assert waiter.is_set
    assert _error_of(waiter, math.inf) == "full"


def contract_only_the_first_outcome_counts(world: World) -> None:
    first_set, first_failed = world.waiter(), world.waiter()
    assert first_set.set(1)
    assert not first_set.set(2)
    assert not first_set.fail(MailboxFullError("full"))
    assert first_set.wait(soon(world)) == 1
    assert first_failed.fail(MailboxFullError("full"))
    assert not first_failed.fail(MailboxFullError("fuller"))
    assert not first_failed.set(1)
    assert _error_of(first_failed, soon(world)) == "full"


def contract_none_is_a_value(world: World) -> None:
    waiter = world.waiter()
    assert waiter.set()
    assert waiter.wait(soon(world)) is None
    assert not waiter.set(1)


def contract_setting_never_switches(world: World) -> None:
    """PYK-P: a reply is set inside an actor's receive, which must not be left midway."""
    waiter = world.waiter()
    steps: list[str] = []

    def park() -> None:
        waiter.wait(soon(world))
        steps.append("resumed")

    done = world.waiter()
    world.spawn("parker", park, done.set)
    pass_time(world)
    waiter.set()
    steps.append("set returned")
    done.wait(soon(world))
    assert steps == ["set returned", "resumed"]


def contract_deadline_ends_a_wait_and_never_early(world: World) -> None:
    deadline_s = world.now_s() + SHORT_S
    try:
        world.waiter().wait(deadline_s)
    except DeadlineError:
        assert world.now_s() >= deadline_s
    else:
        raise AssertionError("nobody set it")


def contract_deadline_in_the_past_ends_a_wait(world: World) -> None:
    for deadline_s in (world.now_s(), world.now_s() - 10.0, -math.inf):
        try:
            world.waiter().wait(deadline_s)
        except DeadlineError:
            continue
        raise AssertionError("nobody set it")


def contract_earlier_deadline_is_not_held_up_by_a_later_one(world: World) -> None:
    order: list[str] = []
    waits = []
    for name, after_s in (("late", 3 * SHORT_S), ("early", SHORT_S)):
        ended = world.waiter()
        waits.append(ended)

        def wait(name: str = name, after_s: float = after_s) -> None:
            pass_time(world, after_s)
            order.append(name)

        world.spawn(name, wait, ended.set)
    for ended in waits:
        ended.wait(soon(world))
    assert order == ["early", "late"]


def contract_a_wait_that_was_late_leaves_the_waiter_usable(world: World) -> None:
    """A deadline ends the wait, not the waiter: a late value is accepted and kept."""
    waiter = world.waiter()
    try:
        waiter.wait(world.now_s())
    except DeadlineError:
        pass
    assert not waiter.is_set
    assert waiter.set("late")
    assert waiter.wait(soon(world)) == "late"


def contract_many_greenlets_wait_and_each_gets_its_own(world: World) -> None:
    waiters = [world.waiter() for _ in range(100)]
    got: dict[int, object] = {}
    ended = world.waiter()

    def wait(number: int) -> None:
        got[number] = waiters[number].wait(soon(world))
        if len(got) == len(waiters):
            ended.set()

    for number in range(len(waiters)):
        world.spawn("waiting", lambda number=number: wait(number))
    pass_time(world)
    for number, waiter in reversed(list(enumerate(waiters))):
        waiter.set(number)
    ended.wait(soon(world))
    assert got == {number: number for number in range(100)}


def _set(waiter: Waiter, value: object) -> None:
    waiter.set(value)


def _fail(waiter: Waiter) -> None:
    waiter.fail(MailboxFullError("full"))


def _error_of(waiter: Waiter, deadline_s: float) -> str:
    try:
        waiter.wait(deadline_s)
    except MailboxFullError as error:
        return str(error)
    raise AssertionError("the error was not raised")
