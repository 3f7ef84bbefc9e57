"""What a stream leaves for its client: in order, within bounds, and past a greenlet that waits.

MCP-H-9, H-11; SSE-S9; RELIABILITY.md on slow clients.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from proxy_actors.actors.subscriber import Subscriber
from proxy_actors.errors import DeadlineError
from proxy_actors.policy.stream_limits import StreamLimits
from tests.actors.stage import Stage

LIMITS = StreamLimits(events_max=4, bytes_max=200)


class Outlet:
    """Takes what it is given, all of it as long as it is said to."""

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.takes_all = True

    def __call__(self, messages: Sequence[bytes]) -> bool:
        self.got += messages
        return self.takes_all


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_message_goes_through_the_outlet_of_who_waits(stage: Stage) -> None:
    subscriber, outlet, woken = Subscriber(stage, LIMITS), Outlet(), list[str]()
    subscriber.lend(outlet, lambda: woken.append("woken"))
    assert subscriber.push(b"one")
    assert subscriber.push_all((b"two", b"three"))
    assert outlet.got == [b"one", b"two", b"three"]
    assert subscriber.last == b"three"
    assert not woken
    assert subscriber.take_unread() == []


def test_who_waits_is_woken_once_for_what_the_outlet_has_left(stage: Stage) -> None:
    """What comes then waits too, or it would be written into the middle of a message."""
    subscriber, outlet, woken = Subscriber(stage, LIMITS), Outlet(), list[str]()
    outlet.takes_all = False
    subscriber.lend(outlet, lambda: woken.append("woken"))
    assert subscriber.push(b"one")
    assert subscriber.push(b"two")
    subscriber.wake()
    assert outlet.got == [b"one"]
    assert woken == ["woken"]
    assert subscriber.take_unread() == [b"two"]
    assert subscriber.push(b"three")
    assert woken == ["woken"]
    assert subscriber.take_unread() == [b"three"]


def test_who_waits_is_woken_by_the_end(stage: Stage) -> None:
    subscriber, outlet, woken = Subscriber(stage, LIMITS), Outlet(), list[str]()
    subscriber.lend(outlet, lambda: woken.append("woken"))
    subscriber.end()
    subscriber.push(b"at the end")
    assert woken == ["woken"]
    assert subscriber.take_unread() == [b"at the end"]
    assert not outlet.got


def test_greenlet_waits_for_a_message_until_its_deadline(stage: Stage) -> None:
    subscriber = Subscriber(stage, LIMITS)
    assert subscriber.push(b"before")
    assert stage.do(lambda: subscriber.take(stage.now_s() + 60.0)) == [b"before"]
    taken = stage.start(lambda: subscriber.take(stage.now_s() + 60.0))
    stage.run(1.0)
    assert subscriber.push(b"one")
    stage.run(1.0)
    assert taken.result() == [b"one"]
    late = stage.start(lambda: subscriber.take(stage.now_s() + 60.0))
    stage.run(61.0)
    with pytest.raises(DeadlineError):
        late.result()


def test_client_that_is_too_far_behind_is_cut(stage: Stage) -> None:
    """FLT-C5: it gets what it was left before, and no more."""
    subscriber = Subscriber(stage, LIMITS)
    assert not subscriber.push_all((b"one", b"two", b"three"))
    assert not subscriber.push(b"four")
    assert subscriber.cut
    assert stage.do(subscriber.take) == [b"one", b"two"]
    assert stage.do(subscriber.take) == []


def test_message_of_any_size_is_left_where_nothing_is_unread(stage: Stage) -> None:
    subscriber = Subscriber(stage, LIMITS)
    assert subscriber.push(b"x" * 1000)
    assert not subscriber.push(b"x")
    assert subscriber.cut


def test_what_is_void_is_not_taken(stage: Stage) -> None:
    subscriber = Subscriber(stage, LIMITS)
    assert subscriber.push(b"one")
    subscriber.abort()
    assert stage.do(subscriber.take) == []
    assert subscriber.cut
