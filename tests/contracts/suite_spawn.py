"""Contracts of `World.spawn`, `Task` and `World.tasks`."""

from __future__ import annotations

from collections.abc import Callable

from tests.contracts.staging import Box, pass_time, soon

from proxy_actors.errors import StreamClosedError
from proxy_actors.world.base import World


class _Stop(BaseException):
    """Not an Exception: what gevent's own timeouts and kills are, too."""


def contract_spawned_function_runs_after_the_call_returned(world: World) -> None:
    box = Box(world)
    task = world.spawn("owner", lambda: _tell(box, "ran"))
    assert box.mail == []
    assert not task.done
    assert box.wait_for(1) == ["ran"]
    pass_time(world)
    assert task.done


def contract_exit_is_reported_once_with_what_ended_it(world: World) -> None:
    for error in (None, StreamClosedError("gone"), _Stop()):
        box = Box(world)
        task = world.spawn("owner", _ending_with(error), lambda ended, box=box: _tell(box, ended))
        assert box.wait_for(1) == [error]
        assert task.done
        pass_time(world)
        assert box.mail == [error]


def contract_living_greenlets_are_counted_by_owner(world: World) -> None:
    before = dict(world.tasks())
    ended = Box(world)
    releases = [world.waiter() for _ in range(3)]
    for owner, release in zip(("one", "two", "two"), releases, strict=True):
        world.spawn(owner, lambda release=release: release.wait(soon(world)), ended.tell)
    assert world.tasks()["one"] == before.get("one", 0) + 1
    assert world.tasks()["two"] == before.get("two", 0) + 2
    for release in releases:
        release.set()
    assert ended.wait_for(3) == [None, None, None]
    pass_time(world)
    assert dict(world.tasks()) == before


def contract_greenlets_take_turns_at_waits_only(world: World) -> None:
    steps: list[str] = []
    ended = Box(world)

    def run(name: str) -> None:
        steps.append(f"{name} begins")
        steps.append(f"{name} goes on")
        pass_time(world)

    for name in ("a", "b"):
        world.spawn(name, lambda name=name: run(name), ended.tell)
    ended.wait_for(2)
    first, second = steps[0][0], steps[2][0]
    assert steps == [
        f"{first} begins", f"{first} goes on", f"{second} begins", f"{second} goes on"
    ]


def _tell(box: Box, message: object) -> None:
    box.tell(message)


def _ending_with(error: BaseException | None) -> Callable[[], None]:
    def run() -> None:
        if error is not None:
            raise error

    return run
