"""How many streams a client may have, and what it is told; what is kept of them, and lost.

RELIABILITY 1.11; MCP-S-16, S-21, S-22, S-28.
"""

from __future__ import annotations

import logging
from typing import Any

import pytest

from proxy_actors.messages.base import Message
from proxy_actors.policy.stream_limits import StreamLimits
from tests.gateway.scene import Scene
from tests.gateway.test_resumption import Client, came, ids
from tests.sim.virtual import Answer, call, request

PROGRESS = "notifications/progress"
ASKS = ["sse", "note", "ask", "note", "answer", "end"]
LONG = ["sse", "note", "pause 50", "answer", "end"]


class Poison(Message, frozen=True):
    """No actor understands it."""


def listen(scene: Scene, session: str) -> Client:
    """Open the standalone stream."""
    client = Client(scene)
    answer = client.begin(request(None, "GET", session), "GET")
    client.until(lambda: answer.status is not None)
    assert answer.status == 200
    return client


def error_of(answer: Answer) -> dict[str, Any]:
    error: dict[str, Any] = answer.message["error"]
    return error


@pytest.mark.parametrize(
    ("limits", "status", "reason"),
    [
        ({"streams_per_session_max": 1}, 429, "rate-limited"),
        ({"streams_per_principal_max": 1}, 429, "rate-limited"),
        ({"streams_max": 1}, 503, "overloaded"),
    ],
    ids=["session", "principal", "all"],
)
def test_stream_too_many_is_refused_before_the_upstream_hears_of_it(
    limits: dict[str, int], status: int, reason: str
) -> None:
    """429 where others would be served, 503 where nobody would; when to come back in both."""
    scene = Scene(streams=StreamLimits(**limits))
    session = scene.session()

    def client() -> Answer:
        first = Client(scene)
        first.begin(request(call(1, *LONG), session=session))
        first.until(lambda: len(scene.plane.streams))
        before = len(scene.server.seen)
        answer = scene.connection().ask(request(None, "GET", session), "GET")
        assert len(scene.server.seen) == before
        first.leave()
        return answer

    answer = scene.do(client)
    error = error_of(answer)
    assert answer.status == status
    assert answer.field(b"retry-after") == b"1"
    assert error["data"]["reason"] == reason
    assert error["data"]["executed"] == "no"
    assert error["data"]["retryable"] is True
    assert error["data"]["upstream"] == "default"
    scene.run(60.0)
    assert scene.ask(request(call(2), session=session)).status == 200
    scene.rest()


def test_call_is_answered_without_a_stream() -> None:
    """It has been sent: nothing but its answer is true. Who asks within it is told and goes on."""
    scene = Scene(streams=StreamLimits(streams_per_session_max=1))
    session = scene.session()

    def client() -> Answer:
        listener = listen(scene, session)
        answer = scene.connection().ask(request(call(1, *ASKS), session=session))
        listener.leave()
        return answer

    answer = scene.do(client)
    assert answer.field(b"content-type") == b"application/json"
    assert answer.message["id"] == 1 and "result" in answer.message
    assert scene.server.executions[1] == 1
    (upstream,) = scene.server.sessions.values()
    (said,) = upstream.answers
    assert said["error"]["message"] == "the client cannot be asked now"
    assert scene.plane.streams.meters.refused == {"session": 1}
    scene.rest()


def test_call_without_a_stream_that_takes_too_long_is_cancelled() -> None:
    """MCP-X-5: as one with a stream is."""
    scene = Scene(streams=StreamLimits(streams_per_session_max=1))
    session = scene.session()

    def client() -> Answer:
        listener = listen(scene, session)
        answer = scene.connection().ask(
            request(call(1, "sse", "note", "pause 4000", "answer", "end"), session=session)
        )
        listener.leave()
        return answer

    answer = scene.do(client)
    assert (answer.status, error_of(answer)["data"]["executed"]) == (504, "unknown")
    scene.run(1.0)
    bodies = [seen.body for seen in scene.server.seen if isinstance(seen.body, dict)]
    assert "notifications/cancelled" in [body.get("method") for body in bodies]


def test_place_of_a_stream_is_free_at_its_end(caplog: pytest.LogCaptureFixture) -> None:
    """By its answer, by its client's, by a crash of its actor or of its upstream's (FLT-P15)."""
    caplog.set_level(logging.CRITICAL)
    scene = Scene(streams=StreamLimits(streams_max=1))
    books = scene.plane.streams.books
    session = scene.session()

    def ends_by(end: Any) -> None:
        client = Client(scene)
        client.begin(request(call(1, *LONG), session=session))
        client.until(lambda: len(books) == 1)
        end()
        client.until(lambda: len(books) == 0)
        client.leave()

    def crash(name: str) -> None:
        slot = scene.plane.upstream if name == "upstream" else None
        for stream in list(scene.plane.streams._slots.values()):
            (slot or stream).tell(Poison())

    def client() -> None:
        for end in (
            lambda: scene.pass_time(51.0), lambda: crash("stream"), lambda: crash("upstream")
        ):
            ends_by(end)
            scene.pass_time(2.0)
        listener = listen(scene, session)
        assert books.open == {"call": 0, "standalone": 1}
        listener.leave()
        scene.pass_time(61.0)
        assert len(books) == 0

    scene.do(client)
    scene.run(120.0)
    assert scene.plane.leftovers() == {}
    assert scene.plane.streams.budget.held == 0


def test_ended_streams_lose_what_is_kept_before_those_that_go_on() -> None:
    """MCP-S-16: who comes back to one is refused with 410, and never passed over a gap."""
    scene = Scene(streams=StreamLimits(bytes_total_max=2500))
    session = scene.session()
    small = ["sse", "note 500", "answer", "end"]

    def client() -> list[int | None]:
        away = Client(scene)
        running = away.begin(request(call(1, "sse", "note 500", "pause 20", "note 9", "answer",
                                          "end"), session=session))  # fmt: skip
        away.until(lambda: running.messages)
        away.leave()
        ended = [scene.connection().ask(request(call(2, *small), session=session))]
        for n in (3, 4):
            ended.append(scene.connection().ask(request(call(n, *small), session=session)))
        found = []
        for answer in (*ended, running):
            again = Client(scene)
            rest = again.resume(session, ids(answer)[0])
            again.until(lambda: rest.complete)
            found.append(rest.status)
            again.leave()
        assert came(running) + came(rest) == [PROGRESS, PROGRESS, 1]
        return found

    assert scene.do(client) == [410, 200, 200, 200]
    assert scene.plane.streams.budget.held <= 2500
    meters = scene.plane.streams.meters
    assert (meters.resumed, meters.gone, meters.replayed) == (3, 1, 2)
    scene.rest()
    assert scene.plane.streams.budget.held == 0


def test_streams_and_events_are_counted() -> None:
    scene = Scene()
    session = scene.session()
    scene.ask(request(call(1, "sse", "note", "answer", "end"), session=session))
    meters = scene.plane.streams.meters
    assert meters.opened == {"call": 1}
    assert (meters.sent, meters.lost) == (2, 0)
    names = {row.metric.template for row in meters.take()}
    assert names == {
        "streams.{kind}.open", "streams.{kind}.opened", "streams.events.sent",
        "streams.ring_bytes",
    }  # fmt: skip
    assert {row.metric.template for row in meters.take()} == {
        "streams.{kind}.open", "streams.ring_bytes"
    }
    scene.rest()


def test_plain_call_counts_nothing_of_streams() -> None:
    scene = Scene()
    session = scene.session()
    assert scene.ask(request(call(1), session=session)).status == 200
    assert [row.metric.template for row in scene.plane.streams.meters.take()] == [
        "streams.ring_bytes"
    ]
    scene.rest()
