"""A call whose client is asked something waits for it, but not for a client that has left.

MCP-X-5, X-7, S-21. At a server of Streamable HTTP and at one to which a session has a channel.
"""

from __future__ import annotations

from typing import Any

import pytest

from proxy_actors.gateway.event_writer import KEEP_ALIVE_S
from proxy_actors.gateway.forwarder import CALL_S_MAX
from proxy_actors.policy.event_stream import EventStreamPolicy
from proxy_actors.policy.stdio_calls import CallTable
from proxy_actors.policy.stream_limits import StreamLimits
from tests.defects import Defect, planted
from tests.gateway.scene import Scene
from tests.gateway.sse_scene import SseScene, answer_to
from tests.gateway.test_resumption import Client, ids
from tests.gateway.test_upstream_streams import patient
from tests.sim.virtual import Answer, call, initialize, request

KEPT = StreamLimits(age_s_max=2 * CALL_S_MAX)
ASK = "ask-1-0"


def http_scene() -> Scene:
    return Scene(streams=KEPT)


def channel_scene() -> Scene:
    return SseScene(streams=KEPT)


def asked(scene: Scene) -> tuple[Client, str, Answer]:
    """Make a call whose server asks, and read what it asks."""
    server: Any = scene.old if isinstance(scene, SseScene) else scene.server
    server.signal = patient(server)
    steps = ["ask", "answer"] if isinstance(scene, SseScene) else ["sse", "ask", "answer", "end"]
    connection = scene.connection()
    id = connection.ask(request(initialize())).field(b"mcp-session-id")
    connection.close()
    assert id is not None
    client = Client(scene)
    answer = client.begin(request(call(1, *steps), session=id.decode()))
    client.until(lambda: answer.messages)
    assert answer.messages[0]["id"] == ASK
    return client, id.decode(), answer


def cancelled(scene: Scene) -> int:
    """How often the server was told that the call is not wanted any more."""
    if isinstance(scene, SseScene):
        return scene.old.session.methods().count("notifications/cancelled")
    bodies = [seen.body for seen in scene.server.seen if isinstance(seen.body, dict)]
    return [body.get("method") for body in bodies].count("notifications/cancelled")


@pytest.mark.parametrize("make", [http_scene, channel_scene])
def test_call_whose_client_leaves_when_it_is_asked_ends_by_its_deadline(make: Any) -> None:
    """That it has left is seen at the next sign of life. If it comes back it is told the end."""
    scene = make()

    def client() -> None:
        client, session, answer = asked(scene)
        client.leave()
        scene.pass_time(CALL_S_MAX - 10.0)
        assert cancelled(scene) == 0 and scene.plane.streams.books.open["call"] == 1
        scene.pass_time(10.0 + 2 * KEEP_ALIVE_S)
        assert cancelled(scene) == 1 and scene.plane.streams.books.open["call"] == 0
        again = client.resume(session, ids(answer)[0])
        client.until(lambda: again.complete)
        assert again.message["error"]["data"]["reason"] == "upstream-timeout"
        client.leave()

    scene.do(client)


@pytest.mark.parametrize("make", [http_scene, channel_scene])
def test_clock_stands_still_for_a_client_that_is_back(make: Any) -> None:
    """Only the time without it has passed of the call's."""
    scene = make()

    def client() -> None:
        client, session, answer = asked(scene)
        scene.pass_time(2 * CALL_S_MAX)
        client.leave()
        scene.pass_time(CALL_S_MAX / 2)
        again = client.resume(session, ids(answer)[0])
        scene.pass_time(2 * CALL_S_MAX)
        line = scene.connection()
        assert line.ask(request(answer_to(ASK), session=session)).status == 202
        client.until(lambda: again.complete)
        assert "result" in again.message
        assert cancelled(scene) == 0
        line.close()
        client.leave()

    scene.do(client)


DEFECTS = [
    (http_scene, Defect("the clock stands still for a client that is away", EventStreamPolicy,
                        "_mind_clock", "and not self._is_away()", "")),
    (channel_scene, Defect("the clock stands still for a client that is away", CallTable,
                           "_mind_clock", "and not call.away", "")),
]  # fmt: skip


@pytest.mark.parametrize(("make", "defect"), DEFECTS)
def test_these_tests_find_what_is_planted(make: Any, defect: Defect) -> None:
    with planted(defect), pytest.raises(AssertionError):
        test_call_whose_client_leaves_when_it_is_asked_ends_by_its_deadline(make)
