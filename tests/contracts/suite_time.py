"""Contracts of the clocks, of chance, and of `World.timer`."""

from __future__ import annotations

from tests.contracts.staging import SHORT_S, Box, pass_time

from proxy_actors.world.base import World


def contract_clock_moves_on_while_waiting(world: World) -> None:
    before_s = world.now_s()
    pass_time(world)
    assert world.now_s() >= before_s + SHORT_S
    assert world.wall_s() > 0


def contract_random_numbers_lie_in_the_unit_interval(world: World) -> None:
    drawn = [world.random() for _ in range(100)]
    assert all(0.0 <= number < 1.0 for number in drawn)
    assert len(set(drawn)) > 1


def contract_tokens_differ_and_fit_into_an_url(world: World) -> None:
    tokens = {world.token() for _ in range(100)}
    assert len(tokens) == 100
    assert all(token.replace("-", "a").replace("_", "a").isalnum() for token in tokens)
    assert min(map(len, tokens)) >= 22  # 16 bytes in base64
    assert len(world.token(32)) > len(world.token(16))


def contract_timer_tells_once_and_not_before_its_time(world: World) -> None:
    box = Box(world)
    due_s = world.now_s() + SHORT_S
    world.timer(SHORT_S, box, "due")
    assert box.wait_for(1) == ["due"]
    assert world.now_s() >= due_s
    pass_time(world)
    assert box.mail == ["due"]


def contract_timer_never_tells_within_the_call(world: World) -> None:
    box = Box(world)
    world.timer(0.0, box, "due")
    world.timer(-1.0, box, "overdue")
    assert box.mail == []
    assert sorted(box.wait_for(2)) == ["due", "overdue"]


def contract_cancelled_timer_is_never_told(world: World) -> None:
    box = Box(world)
    cancel = world.timer(SHORT_S / 2, box, "cancelled")
    cancel()
    cancel()
    pass_time(world)
    assert box.mail == []


def contract_cancelling_after_the_time_changes_nothing(world: World) -> None:
    box = Box(world)
    cancel = world.timer(0.0, box, "first")
    box.wait_for(1)
    cancel()
    world.timer(0.0, box, "second")
    assert box.wait_for(2) == ["first", "second"]


def contract_timers_are_told_in_the_order_of_their_times(world: World) -> None:
    box = Box(world)
    for after_s in (0.03, 0.01, 0.02, 0.0):
        world.timer(after_s, box, after_s)
    assert box.wait_for(4) == [0.0, 0.01, 0.02, 0.03]


def contract_timer_may_be_set_by_whoever_is_told(world: World) -> None:
    box = Box(world)

    class Repeater:
        def tell(self, message: int) -> bool:
            if message:
                world.timer(0.0, self, message - 1)
            return box.tell(message)

    world.timer(0.0, Repeater(), 3)
    assert box.wait_for(4) == [3, 2, 1, 0]


def contract_ten_thousand_timers_are_all_told_but_the_cancelled(world: World) -> None:
    box = Box(world)
    cancels = [world.timer(SHORT_S * (n % 10) / 10, box, n) for n in range(10_000)]
    for cancel in cancels[::2]:
        cancel()
    told = box.wait_for(5_000)
    assert sorted(told) == list(range(1, 10_000, 2))
