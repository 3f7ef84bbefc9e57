"""What the forwarder of shared children tells of a session to the upstream and to the registry."""

from __future__ import annotations

from typing import Any

import pytest

from proxy_actors.actors.directory import Directory
from proxy_actors.actors.meters import CallMeter
from proxy_actors.actors.refs import Ref, Slot
from proxy_actors.errors import ActorStoppedError, Executed, FailedError, Reason
from proxy_actors.gateway.exchange import Exchange
from proxy_actors.gateway.handshake import Handshake
from proxy_actors.gateway.stdio_forward import SharedForwarder
from proxy_actors.messages import stdio as m
from proxy_actors.messages.base import Message
from proxy_actors.messages.pool import NOBODY
from proxy_actors.messages.sessions import Session, SetLogLevel, SetSubscription
from proxy_actors.options import StdioMode
from proxy_actors.protocol import jsonrpc
from proxy_actors.protocol.revisions import SET_LEVEL, SUBSCRIBE, UNSUBSCRIBE
from proxy_actors.world.sim_world import SimWorld
from tests.gateway.test_stdio_shares import Crowd
from tests.policy.stdio_frames import fault, notification, request, result, session

URI = "test://a"
SESSION = session("key", level="error", subscriptions=(URI,))


class Actor(Slot):
    """A name behind which everything is noted, and asks are answered by what was laid down."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.starts = 1
        self.heard: list[Message] = []
        self.answer: jsonrpc.Message | None = result(b"0")
        self.listens = True

    def tell(self, message: Message) -> bool:
        if self.listens:
            self.heard.append(message)
        return self.listens

    def ask(self, message: Message, deadline_s: float) -> Any:  # Any: see Slot.ask
        self.tell(message)
        if self.answer is None:
            raise ActorStoppedError(f"{self.name} is not running")
        if isinstance(message, m.OpenStandalone):
            return m.CallStreaming("stream")
        return m.CallAnswered(self.answer.raw)


class Scene:
    """A forwarder between actors that only listen."""

    def __init__(self, mode: StdioMode = StdioMode.SHARED) -> None:
        world = SimWorld(1)
        self.upstream, self.registry = Actor("upstream/default"), Actor("registry")
        self.child = Actor("upstream/default/shared")
        processes = Directory()
        processes.enter(self.child)
        handshake = Handshake(self.registry, "default")
        pool = mode is StdioMode.POOL
        self.known: set[str] = set()
        self.forwarder = SharedForwarder(
            world, "default", self.upstream, processes, handshake, self.registry, pool,
            self.known,
        )

    def call(self, method: str, **params: object) -> None:
        self.forwarder.call(exchange(request(b"0", method, **params)))


class InSession:
    """As much of an exchange as a forwarder looks at."""

    id = 7
    session = SESSION
    deadline_s = 300.0
    owner = NOBODY

    def __init__(self, message: jsonrpc.Message) -> None:
        self.message = message
        self.meter = CallMeter()

    def in_session(self) -> Session:
        return SESSION


def exchange(message: jsonrpc.Message) -> Exchange:
    return InSession(message)  # type: ignore[return-value]


@pytest.mark.parametrize("kind", ["call", "notification", "stream"])
def test_upstream_hears_of_a_session_before_anything_else_of_it(kind: str) -> None:
    """With the level and the subscriptions that were stored; once."""
    scene = Scene()
    for _ in range(2):
        if kind == "call":
            scene.call(SET_LEVEL, level="info")
        elif kind == "notification":
            scene.forwarder.post(exchange(notification("notifications/x")))
        else:
            scene.forwarder.open_standalone(exchange(request(b"0")))
    assert scene.upstream.heard[0] == m.SessionSeen(SESSION)
    assert scene.upstream.heard.count(m.SessionSeen(SESSION)) == 1


def test_upstream_that_was_started_anew_hears_of_its_sessions_again() -> None:
    """It would take the log of one client for that of the only one."""
    scene = Scene()
    scene.call("tools/call")
    scene.call("tools/call")
    scene.known.clear()
    scene.call("tools/call")
    assert scene.upstream.heard == [m.SessionSeen(SESSION)] * 2


def test_upstream_that_is_started_anew_is_told_of_sessions_before_it_has_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What it knew before its crash is known no more when its box takes the first mail."""
    crowd = Crowd(StdioMode.SHARED)
    crowd.start(crowd.hog, 1)
    crowd.run(2.0)
    slot, known = crowd.plane.upstream, crowd.plane.known
    assert known
    seen: list[set[str]] = []
    enter = Slot.enter

    def entered(self: Slot, ref: Ref) -> None:
        if self is slot:
            seen.append(set(known))
        enter(self, ref)

    monkeypatch.setattr(Slot, "enter", entered)
    slot.tell(m.RestProcess())  # which it cannot handle
    crowd.run(5.0)
    assert seen == [set()]


def test_session_that_nobody_heard_of_is_told_again() -> None:
    scene = Scene()
    scene.upstream.listens = False
    scene.call("tools/call")
    scene.upstream.listens = True
    scene.call("tools/call")
    assert scene.upstream.heard == [m.SessionSeen(SESSION)]


def test_level_and_subscriptions_that_were_set_are_stored() -> None:
    """So that sessions on shared children go on after a restart of the proxy."""
    scene = Scene()
    scene.call(SET_LEVEL, level="debug")
    scene.call(SUBSCRIBE, uri=URI)
    scene.call(UNSUBSCRIBE, uri=URI)
    assert scene.registry.heard == [
        SetLogLevel("key", "debug"),
        SetSubscription("key", URI, True),
        SetSubscription("key", URI, False),
    ]


def test_what_the_server_has_refused_is_not_stored() -> None:
    scene = Scene()
    scene.upstream.answer = fault(b"0")
    scene.call(SET_LEVEL, level="debug")
    scene.call(SUBSCRIBE, uri=URI)
    assert scene.registry.heard == []


def test_call_while_no_child_runs_can_be_repeated_soon() -> None:
    """FLT-U3: 503, not executed; the child is being started anew."""
    scene = Scene()
    scene.child.answer = None
    with pytest.raises(FailedError) as caught:
        scene.call("tools/call")
    assert (caught.value.status, caught.value.reason) == (503, Reason.UPSTREAM_UNAVAILABLE)
    assert caught.value.executed is Executed.NO
    assert caught.value.retryable


def test_notification_while_no_child_runs_is_refused() -> None:
    scene = Scene()
    scene.child.listens = False
    with pytest.raises(FailedError) as caught:
        scene.forwarder.post(exchange(notification("notifications/x")))
    assert caught.value.reason is Reason.UPSTREAM_UNAVAILABLE


def test_call_that_ends_without_an_answer_is_given_up() -> None:
    """An ask that does not end in an answer ends in a cancel."""
    scene = Scene()
    scene.child.answer = None
    with pytest.raises(FailedError):
        scene.call("tools/call")
    assert scene.child.heard[-1] == m.AbandonCall(7)
