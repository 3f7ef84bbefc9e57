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


def test_message_goes_past_a_greenlet_that_waits(stage: Stage) -> None:
    subscriber, outlet = Subscriber(stage, LIMITS), Outlet()
    taken = stage.start(lambda: subscriber.take(stage.now_s() + 60.0, outlet))
    stage.run(1.0)
    assert subscriber.push(b"one")
    assert subscriber.push_all((b"two", b"three"))
    stage.run(1.0)
    assert outlet.got == [b"one", b"two", b"three"]
    assert subscriber.last == b"three"
    stage.run(60.0)
    with pytest.raises(DeadlineError):
        taken.result()


def test_greenlet_is_woken_for_what_its_outlet_has_left(stage: Stage) -> None:
    """What comes then waits for it, or it would be written into the middle of a message."""
    subscriber, outlet = Subscriber(stage, LIMITS), Outlet()
    outlet.takes_all = False
    taken = stage.start(lambda: subscriber.take(stage.now_s() + 60.0, outlet))
    stage.run(1.0)
    assert subscriber.push(b"one")
    assert subscriber.push(b"two")
    assert outlet.got == [b"one"]
    stage.run(1.0)
    assert taken.result() == [b"two"]


def test_outlet_is_lent_for_as_long_as_nothing_is_to_be_done(stage: Stage) -> None:
    subscriber, outlet = Subscriber(stage, LIMITS), Outlet()
    assert subscriber.push(b"before")
    assert stage.do(lambda: subscriber.take(stage.now_s() + 60.0, outlet)) == [b"before"]
    assert subscriber.push(b"after")
    assert stage.do(lambda: subscriber.take(stage.now_s() + 60.0, outlet)) == [b"after"]
    taken = stage.start(lambda: subscriber.take(stage.now_s() + 60.0, outlet))
    stage.run(1.0)
    subscriber.end()
    subscriber.push(b"at the end")
    stage.run(1.0)
    assert taken.result() == [b"at the end"]
    assert not outlet.got


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
