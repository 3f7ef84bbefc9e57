"""The HTTP+SSE transport in front of every kind of upstream.

MCP-L-1, L-3 to L-6, H-2, H-3, S-24, X-3, X-5, Z-1, Z-2, A-10, P-2; PROTOCOL sections 3 and 12.3.
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any
from urllib.parse import urljoin

import pytest

from proxy_actors.policy.stream_limits import StreamLimits
from proxy_actors.gateway.keys import Identity, Keyring
from proxy_actors.gateway.legacy import LISTEN_S_MAX, message_uri
from proxy_actors.gateway.limits import LimitKey, Rate, Rule
from proxy_actors.gateway.event_writer import KEEP_ALIVE_S
from proxy_actors.gateway.route import Route, Routes
from proxy_actors.messages.server import ServerDrained
from proxy_actors.messages.upstream import DescribeReadiness
from proxy_actors.options import StdioMode
from proxy_actors.policy.legacy_stream import OPENING_S_MAX, REQUESTS_MAX
from proxy_actors.policy.legacy_streams import LegacyLimits
from proxy_actors.policy.pool_limits import PoolLimits
from proxy_actors.policy.sessions import SessionLimits
from proxy_actors.protocol.http1_framing import HttpLimits
from proxy_actors.storage.memory import MemoryStore
from proxy_actors.world.base import ChildCommand
from proxy_actors.world.sim_streams import SimProcess
from proxy_actors.world.sim_world import Faults, SimWorld
from tests.gateway.legacy_client import LegacyClient
from tests.gateway.scene import Scene
from tests.scripted_server import Link, UpstreamSession
from tests.sim.upstream import LineReader
from tests.sim.virtual import PROXY, Answer, call, initialize, note, request
from tests.stdio_plane import StdioPlane

RESULT = {"content": [{"type": "text", "text": "n=1"}]}
VERSIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")


class Child(Scene):
    """The world, the proxy in it and stdio servers that do what `call` says, but less of it."""

    def __init__(self, mode: StdioMode) -> None:
        SimWorld.__init__(self, 1, Faults(fragment=0.0))
        self.programs["server"] = self._serve
        self.heard: list[Any] = []
        self.plane: Any = StdioPlane(
            self, mode, ChildCommand(("server",), {}), MemoryStore(), PROXY
        )
        self.plane.start()
        self.run(1.0)

    def _serve(self, process: SimProcess) -> int:
        reader = LineReader(process.input)
        asking: dict[str, Any] = {}
        while line := reader.line(math.inf):
            message = json.loads(line)
            self.heard.append(message)
            if "method" not in message:
                self._say(process, asking.pop(message["id"]), RESULT)
            elif message["method"] == "initialize":
                version = message["params"]["protocolVersion"]
                result = {"protocolVersion": version, "capabilities": {}, "serverInfo": {}}
                self._say(process, message["id"], result)
            elif message["method"] == "tools/call":
                arguments = message["params"]["arguments"]
                steps = arguments.get("do", [])
                if "note" in steps:
                    token = message["params"]["_meta"]["progressToken"]
                    progress = note("notifications/progress", progressToken=token, progress=1)
                    self._write(process, progress)
                if "ask" in steps:
                    asking["ask-1"] = message["id"]
                    asked = {"jsonrpc": "2.0", "id": "ask-1", "method": "roots/list"}
                    self._write(process, asked)
                elif "pause 60" not in steps:
                    self._say(process, message["id"], RESULT)
        return 0

    def _say(self, process: SimProcess, id: Any, result: Any) -> None:
        self._write(process, {"jsonrpc": "2.0", "id": id, "result": result})

    def _write(self, process: SimProcess, message: Any) -> None:
        process.output.write((json.dumps(message).encode() + b"\n",), math.inf)


UPSTREAMS = ("http", "session", "shared", "pool")


def scene_of(upstream: str) -> Scene:
    return Scene() if upstream == "http" else Child(StdioMode(upstream))


@pytest.fixture
def scene() -> Scene:
    return Scene()


def with_progress(message: dict[str, Any]) -> dict[str, Any]:
    message["params"]["_meta"] = {"progressToken": 1}
    return message


def ended(scene: Any) -> bool:
    """Whether the proxy has no session any more."""
    return not scene.plane.store.rows()


def cancelled(scene: Any) -> list[Any]:
    """The cancellations that the server has heard of."""
    heard = scene.heard if isinstance(scene, Child) else [seen.body for seen in scene.server.seen]
    return [x for x in heard if x and x.get("method") == "notifications/cancelled"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("upstream", UPSTREAMS)
def test_session_is_opened_used_and_ended_over_the_stream(upstream: str, version: str) -> None:
    """MCP-L-1, L-3, L-4, L-5: whatever revision is spoken over it, before every upstream."""
    scene: Any = scene_of(upstream)

    def client() -> LegacyClient:
        client = LegacyClient(scene)
        assert client.answer.status == 200
        opened = client.initialize(version)
        assert opened["result"]["protocolVersion"] == version
        assert len(scene.plane.store.rows()) == 1
        assert client.call(call(1)) == {"jsonrpc": "2.0", "id": 1, "result": RESULT}
        assert not client.gone
        client.close()
        return client

    client = scene.do(client)
    scene.rest()
    assert ended(scene)
    assert [event.event for event in client.events] == [b"endpoint", b"message", b"message"]
    fields = {line.partition(b":")[0] for line in client.answer.body.split(b"\n")}
    assert fields == {b"event", b"data", b""}


@pytest.mark.parametrize("upstream", UPSTREAMS)
def test_what_belongs_to_a_call_comes_before_its_answer(upstream: str) -> None:
    """MCP-X-6, L-4."""
    scene = scene_of(upstream)

    def client() -> list[Any]:
        client = LegacyClient(scene)
        client.initialize()
        client.call(with_progress(call(1, "sse", "note", "note", "answer", "end")))
        client.close()
        return client.messages[1:]

    messages = scene.do(client)
    scene.rest()
    notes = [message["params"]["progressToken"] for message in messages[:-1]]
    assert notes == [1] * (2 if upstream == "http" else 1)
    assert messages[-1] == {"jsonrpc": "2.0", "id": 1, "result": RESULT}


@pytest.mark.parametrize("upstream", ["http", "session"])
def test_server_asks_on_the_stream_and_is_answered_by_a_post(upstream: str) -> None:
    """MCP-S-24, L-4: while the call that asks is open, and another beside it is served."""
    scene = scene_of(upstream)

    def client() -> Any:
        client = LegacyClient(scene)
        client.initialize()
        assert client.post(call(1, "sse", "ask", "answer", "end")).status == 202
        asked = client.message(lambda x: "method" in x and "id" in x)
        assert client.call(call(2, id="beside"))["id"] == "beside"
        assert client.post({"jsonrpc": "2.0", "id": asked["id"], "result": {}}).status == 202
        answer = client.reply(1)
        client.close()
        return answer

    assert scene.do(client)["result"]["content"] == RESULT["content"]
    scene.rest()


@pytest.mark.parametrize("upstream", UPSTREAMS)
def test_cancellation_reaches_the_server(upstream: str) -> None:
    """MCP-X-3: with the id under which the server knows the call."""
    scene = scene_of(upstream)

    def client() -> None:
        client = LegacyClient(scene)
        client.initialize()
        assert client.post(with_progress(call(1, "sse", "note", "pause 60"))).status == 202
        client.message(lambda x: x.get("method") == "notifications/progress")
        assert client.post(note("notifications/cancelled", requestId=1)).status == 202
        client.until(lambda: cancelled(scene))
        client.close()

    scene.do(client)
    if upstream in ("http", "session"):
        assert cancelled(scene)[0]["params"]["requestId"] == 1
    scene.rest()


def test_what_belongs_to_no_call_comes_from_the_upstreams_own_stream(scene: Scene) -> None:
    """MCP-S-8, L-4: that stands when the client learns that it is initialized."""

    def client() -> None:
        client = LegacyClient(scene)
        client.initialize()
        (session,) = scene.server.sessions.values()
        assert session.standalone is not None
        for uri in ("test://1", "test://2"):
            session.standalone.put(note("notifications/resources/updated", uri=uri))
        client.until(lambda: len(client.messages) == 3)
        assert [x["params"]["uri"] for x in client.messages[1:]] == ["test://1", "test://2"]
        client.close()

    scene.do(client)
    scene.rest()


@pytest.mark.parametrize(("takes_s", "stands"), [(LISTEN_S_MAX / 2, True), (60.0, False)])
def test_client_is_initialized_when_the_upstreams_stream_stands(
    scene: Scene, takes_s: float, stands: bool
) -> None:
    """What the server says in between would be lost; but not every server opens its stream."""
    server: Any = scene.server
    stand = server._stand

    def stand_later(link: Link, session: UpstreamSession) -> None:
        scene.pass_time(takes_s)
        stand(link, session)

    server._stand = stand_later

    def client() -> None:
        client = LegacyClient(scene)
        client.initialize()
        (session,) = scene.server.sessions.values()
        assert (session.standalone is not None) == stands
        assert client.call(call(1))["result"] == RESULT
        client.close()

    scene.do(client)
    scene.rest()


def test_upstream_without_a_stream_of_its_own_is_served_all_the_same() -> None:
    scene = Scene(standalone=False)

    def client() -> None:
        client = LegacyClient(scene)
        client.initialize()
        assert client.call(call(1))["result"] == RESULT
        client.close()

    scene.do(client)
    assert [seen.method for seen in scene.server.seen].count("GET") == 1
    scene.rest()


def test_silent_stream_is_kept_alive(scene: Scene) -> None:
    """MCP-H-14: by comments, and by nothing else."""

    def client() -> LegacyClient:
        client = LegacyClient(scene)
        client.initialize()
        scene.pass_time(4 * KEEP_ALIVE_S + 1.0)
        client.close()
        return client

    client = scene.do(client)
    assert client.answer.body.count(b": keep-alive\n\n") == 4
    assert len(client.events) == 2
    scene.rest()


# The message endpoint.


@pytest.mark.parametrize("base", ["http://a:1", "https://a.example/some/prefix"])
@pytest.mark.parametrize("name", ["", "/default", "/sse"])
def test_message_endpoint_is_named_relative_to_the_stream(base: str, name: str) -> None:
    """MCP-L-1: whatever stands before the path that the proxy sees, it leads back to the proxy."""
    uri = message_uri(b"/sse" + name.encode(), "v1.0.id").decode()
    assert urljoin(f"{base}/sse{name}", uri) == f"{base}/messages{name}?sessionId=v1.0.id"


def test_upstream_is_served_under_its_name_as_well(scene: Scene) -> None:
    def client() -> None:
        client = LegacyClient(scene, "/sse/default")
        assert client.target.startswith("/messages/default?")
        client.initialize()
        assert client.call(call(1))["result"] == RESULT
        client.close()

    scene.do(client)
    scene.rest()


def test_ids_of_message_endpoints_cannot_be_guessed(scene: Scene) -> None:
    """MCP-Z-2: 128 bits at least, and no two alike."""

    def client() -> set[str]:
        clients = [LegacyClient(scene) for _ in range(20)]
        for each in clients:
            each.close()
        return {client.target.rpartition(".")[2] for client in clients}

    ids = scene.do(client)
    assert len(ids) == 20
    assert min(map(len, ids)) >= 22
    scene.rest()


@pytest.mark.parametrize(
    ("target", "status"),
    [("/messages", 400), ("/messages?session_id=v1.0.a", 400), ("/messages?sessionId=", 404),
     ("/messages?sessionId=v1.0.a", 404), ("/messages?sessionId=%FF", 404),
     ("/messages/other?sessionId=v1.0.a", 404), ("/sse", 405), ("/messages/", 404)],
)  # fmt: skip
def test_message_to_no_stream_is_refused(scene: Scene, target: str, status: int) -> None:
    """MCP-L-3; PROTOCOL 12.3: a POST to the stream itself is 405, by which clients find it."""
    answer = scene.ask(request(call(1), path=target))
    assert answer.status == status
    if status == 405:
        assert answer.field(b"allow") == b"GET, OPTIONS"
    scene.rest()


def test_message_endpoint_takes_posts_alone(scene: Scene) -> None:
    answer = scene.ask(request(None, "GET", path="/messages"), method="GET")
    assert (answer.status, answer.field(b"allow")) == (405, b"POST, OPTIONS")
    scene.rest()


@pytest.mark.parametrize(
    ("body", "fields", "status"),
    [
        (b"{", {}, 400),
        (b"[]", {}, 400),
        (b'{"jsonrpc":"2.0","id":null,"method":"ping"}', {}, 400),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping"}', {"Content-Type": "text/plain"}, 415),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping"}', {"Content-Type": None}, 415),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping"}'.ljust(3000), {}, 413),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping"}', {"Host": "evil.example"}, 421),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping"}', {"Origin": "http://evil.example"}, 403),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping"}', {"MCP-Protocol-Version": "1999-1-1"}, 400),
        (json.dumps([call(1), call(2)]).encode(), {}, 400),
        (json.dumps(initialize()).encode(), {}, 400),
    ],
)
def test_message_that_cannot_be_taken_is_refused_and_the_stream_goes_on(
    body: bytes, fields: dict[str, str | None], status: int
) -> None:
    """MCP-L-3, H-3, H-8."""
    scene = Scene(http=HttpLimits(body_bytes_max=2000))

    def client() -> Answer:
        client = LegacyClient(scene)
        client.initialize()
        answer = client.post(body, fields)
        assert client.call(call(3))["id"] == 3
        client.close()
        return answer

    assert scene.do(client).status == status
    scene.rest()


@pytest.mark.parametrize("accept", [None, "*/*", "text/plain"])
def test_client_need_not_say_what_it_accepts_of_an_answer_without_a_body(
    scene: Scene, accept: str | None
) -> None:
    """MCP-L-3: clients of 2024-11-05 do not."""

    def client() -> Answer:
        client = LegacyClient(scene)
        answer = client.post(initialize(), {"Accept": accept})
        client.close()
        return answer

    answer = scene.do(client)
    assert (answer.status, answer.body) == (202, b"")
    scene.rest()


@pytest.mark.parametrize("message", [call(1), note("notifications/initialized")])
def test_nothing_is_taken_before_initialize(scene: Scene, message: Any) -> None:
    """MCP-S-3."""

    def client() -> Answer:
        client = LegacyClient(scene)
        answer = client.post(message)
        client.close()
        return answer

    assert scene.do(client).status == 400
    assert not scene.server.executions
    scene.rest()


def test_initialize_that_the_server_refuses_can_be_sent_again(scene: Scene) -> None:
    def client() -> None:
        client = LegacyClient(scene)
        refused = client.call({**initialize("2024-11-05", "error 200 -32602"), "id": "first"})
        assert refused["error"]["code"] == -32602
        assert client.initialize()["result"]
        client.close()

    scene.do(client)
    scene.rest()


def test_second_initialize_at_once_is_refused(scene: Scene) -> None:
    def client() -> None:
        client = LegacyClient(scene)
        assert client.post(initialize("2024-11-05", "pause 5", "json")).status == 202
        assert client.post(initialize()).status == 400
        client.reply(0)
        assert len(client.messages) == 1
        client.close()

    scene.do(client)
    scene.rest()
    assert len(scene.server.deleted) == 1


def test_batch_is_answered_message_by_message(scene: Scene) -> None:
    """MCP-S-12: over this transport as over the other, where the revision has them."""

    def client() -> None:
        client = LegacyClient(scene)
        client.initialize("2025-03-26")
        assert client.post([call(1), note("notifications/x"), call(2)]).status == 202
        assert {client.reply(n)["id"] for n in (1, 2)} == {1, 2}
        client.close()

    scene.do(client)
    assert scene.server.executions[1] == scene.server.executions[2] == 1
    scene.rest()


def test_initialize_is_not_part_of_a_batch(scene: Scene) -> None:
    """MCP-S-13: the server would open a second session that nobody knows of."""

    def client() -> Answer:
        client = LegacyClient(scene)
        client.initialize("2025-03-26")
        answer = client.post([call(1), {**initialize(), "id": 2}])
        client.close()
        return answer

    assert scene.do(client).status == 400
    assert not scene.server.executions[1]
    scene.rest()


@pytest.mark.parametrize(
    ("steps", "reason"),
    [(("close",), "upstream-closed"), (("garbage",), "upstream-protocol"),
     (("500",), "upstream-protocol"), (("503",), "upstream-unavailable")],
)  # fmt: skip
def test_failure_of_the_upstream_is_told_on_the_stream(
    scene: Scene, steps: tuple[str, ...], reason: str
) -> None:
    """RELIABILITY 1.11: under the caller's id, as over the other transport."""

    def client() -> Any:
        client = LegacyClient(scene)
        client.initialize()
        answer = client.call(call(1, *steps))
        assert client.call(call(2))["id"] == 2
        client.close()
        return answer

    assert scene.do(client)["error"]["data"]["reason"] == reason
    scene.rest()


def test_limits_on_rates_hold() -> None:
    """MCP-P-2: what is refused costs the server nothing."""
    rule = Rule("calls", LimitKey.SESSION, Rate(0.01, 1), method="tools/call")
    scene = Scene(rules=[rule])

    def client() -> list[int | None]:
        client = LegacyClient(scene)
        client.initialize()
        statuses = [client.post(call(n)).status for n in (1, 2)]
        client.reply(1)
        client.close()
        return statuses

    assert scene.do(client) == [202, 429]
    assert scene.server.executions[2] == 0
    scene.rest()


# Whose it is.

ANN, BOB = "pa_0123456789abcdefghijklmnopqrstuv", "pa_vutsrqponmlkjihgfedcba9876543210"
KEYRING = Keyring(
    {hashlib.sha256(key.encode()).digest(): Identity(key[-4:]) for key in (ANN, BOB)},
    anonymous=False,
)


def bearer(key: str) -> dict[str, str | None]:
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize("key", [ANN, BOB], ids=["another session", "another principal"])
def test_client_with_a_queue_of_calls_does_not_keep_another_waiting(key: str) -> None:
    """Its calls come out of its own share, as those of any client."""
    scene = Scene(keyring=KEYRING, pool=PoolLimits(connections_max=1, reserve=1))

    def client() -> None:
        hog, other = (LegacyClient(scene, fields=bearer(whose)) for whose in (ANN, key))
        hog.initialize()
        other.initialize()
        for n in range(1, 5):
            assert hog.post(call(n, "pause 1", "json")).status == 202
        hog.until(lambda: scene.server.executions[1])
        assert other.call(call(9, "pause 1", "json"))["result"]
        assert len(hog.messages) <= 2, "the answer to initialize, and one"
        assert all("result" in hog.reply(n) for n in range(1, 5))
        hog.close()
        other.close()

    scene.do(client)
    scene.rest()


def test_message_endpoint_is_its_principals_alone() -> None:
    """MCP-Z-1: to another one it does not exist, to nobody neither."""
    scene = Scene(keyring=KEYRING)

    def client() -> list[int | None]:
        client = LegacyClient(scene, fields=bearer(ANN))
        client.initialize()
        keys = (ANN, BOB, "wrong", None)
        shown = [{"Authorization": None} if key is None else bearer(key) for key in keys]
        statuses = [client.post(call(n), fields).status for n, fields in enumerate(shown)]
        client.reply(0)
        client.close()
        return statuses

    assert scene.do(client) == [202, 404, 401, 401]
    assert scene.server.executions[1] == 0
    scene.rest()


@pytest.mark.parametrize(
    ("fields", "status"),
    [({"Authorization": None}, 401), (bearer("wrong"), 401), ({"Host": "evil.example"}, 421),
     ({"Origin": "http://evil.example"}, 403), ({"Accept": "application/json"}, 406),
     ({"MCP-Protocol-Version": "2026-07-28"}, 400), ({"Last-Event-ID": "7"}, 200)],
)  # fmt: skip
def test_stream_is_opened_by_the_rules_of_every_request(
    fields: dict[str, str | None], status: int
) -> None:
    """MCP-A-10, H-2, H-3; an id of an event says nothing here, since none is ever sent."""
    scene = Scene(keyring=KEYRING)

    def client() -> LegacyClient:
        client = LegacyClient(scene, fields={**bearer(ANN), **fields})
        client.close()
        return client

    assert scene.do(client).answer.status == status
    scene.rest()


def test_message_endpoint_is_of_its_upstream_alone(scene: Scene) -> None:
    plane: Any = scene.plane
    route = plane.wiring.routes.by_name["default"]
    other = Route("other", route.slot, route.forwarder)
    plane.wiring.routes = Routes([route, other], "default")

    def client() -> Answer:
        client = LegacyClient(scene)
        client.initialize()
        elsewhere = client.target.replace("/messages", "/messages/other")
        answer = client.post(call(1), target=elsewhere)
        client.close()
        return answer

    assert scene.do(client).status == 404
    assert scene.server.executions[1] == 0
    scene.rest()


# The end.

STRANGE = DescribeReadiness()  # which neither actor of this transport understands


@pytest.mark.parametrize("upstream", UPSTREAMS)
def test_session_ends_with_its_stream_and_cancels_what_runs(upstream: str) -> None:
    """MCP-L-5: the upstream's session is deleted, and the endpoint is no more."""
    scene: Any = scene_of(upstream)

    def client() -> Answer:
        client = LegacyClient(scene)
        client.initialize()
        target = client.target
        assert client.post(with_progress(call(1, "sse", "note", "pause 60"))).status == 202
        client.message(lambda x: x.get("method") == "notifications/progress")
        client.stream.close()
        client.until(lambda: ended(scene))
        client.until(lambda: upstream == "session" or cancelled(scene))
        answer = client.post(call(2), target=target)
        client.close()
        return answer

    assert scene.do(client).status == 404
    scene.rest()
    if upstream == "http":
        assert len(scene.server.deleted) == 1
        assert scene.server.executions[2] == 0


def test_session_whose_stream_ends_during_initialize_ends_too(scene: Scene) -> None:
    """Nobody is left who could use or end it."""

    def client() -> None:
        client = LegacyClient(scene)
        assert client.post(initialize("2024-11-05", "pause 5", "json")).status == 202
        client.close()
        client.until(lambda: scene.server.deleted)

    scene.do(client)
    assert ended(scene)
    scene.rest()


def test_stream_ends_when_the_upstream_has_lost_the_session(scene: Scene) -> None:
    """FLT-U10: the call that finds out is told on the stream, which then ends as it should."""

    def client() -> LegacyClient:
        client = LegacyClient(scene)
        client.initialize()
        scene.server.lose_sessions()
        assert client.post(call(1)).status == 202
        client.until(lambda: client.gone)
        assert client.post(call(2)).status == 404
        client.close()
        return client

    client = scene.do(client)
    assert client.answer.complete
    assert client.reply(1)["error"]["data"]["reason"] == "session-lost"
    assert ended(scene)
    scene.rest()


def test_stream_without_a_session_ends_after_a_while(scene: Scene) -> None:
    """FLT-C: who only opens streams does not keep them."""

    def client() -> tuple[LegacyClient, float]:
        began_s = scene.now_s()
        client = LegacyClient(scene)
        client.until(lambda: client.gone)
        client.close()
        return client, scene.now_s() - began_s

    client, took_s = scene.do(client)
    assert client.answer.complete
    assert OPENING_S_MAX <= took_s < OPENING_S_MAX + 1.0
    scene.rest()


def test_session_does_not_expire_while_its_stream_is_read() -> None:
    """MCP-S-10: a client that listens uses its session."""
    scene = Scene(session_limits=SessionLimits(idle_timeout_s=100.0))

    def client() -> Any:
        client = LegacyClient(scene)
        client.initialize()
        scene.pass_time(1000.0)
        answer = client.call(call(1))
        client.close()
        return answer

    assert scene.do(client)["result"] == RESULT
    scene.rest()


def test_drain_lets_calls_end_and_then_the_stream(scene: Scene) -> None:
    """RELIABILITY 1.10: nothing new is begun, no answer is lost, and the end is a proper one."""

    def client() -> LegacyClient:
        client = LegacyClient(scene)
        client.initialize()
        assert client.post(call(1, "sse", "note", "pause 5", "answer", "end")).status == 202
        client.message(lambda x: x.get("method") == "notifications/progress")
        scene.plane.drain()
        client.until(lambda: client.gone)
        client.close()
        return client

    idle: list[LegacyClient] = []

    def bystander() -> None:
        idle.append(LegacyClient(scene))
        idle[0].initialize()

    scene.do(bystander)
    client = scene.do(client)
    assert client.answer.complete
    assert client.reply(1)["result"] == RESULT
    assert idle[0].answer.complete
    scene.do(idle[0].close)
    scene.rest()
    assert len(scene.server.deleted) == 2
    assert any(isinstance(mail, ServerDrained) for mail in scene.plane.mail)


def test_stream_that_crashes_leaves_nothing_behind(scene: Scene) -> None:
    """Its client sees the end of it, and its session ends; the others go on."""

    def client() -> None:
        client, other = LegacyClient(scene), LegacyClient(scene)
        client.initialize()
        other.initialize()
        name = next(iter(scene.plane.legacy.ref._own.children))
        scene.plane.streams.find(name).tell(STRANGE)
        client.until(lambda: client.gone)
        client.until(lambda: scene.server.deleted)
        assert other.call(call(1))["result"] == RESULT
        client.close()
        other.close()

    scene.do(client)
    scene.errors.clear()
    scene.rest()


def test_crash_of_the_parent_ends_its_streams_and_others_can_be_opened(scene: Scene) -> None:
    def client() -> None:
        client = LegacyClient(scene)
        client.initialize()
        scene.plane.legacy.tell(STRANGE)
        client.until(lambda: client.gone)
        client.close()
        client.until(lambda: ended(scene))
        again = LegacyClient(scene)
        again.initialize()
        assert again.call(call(1))["result"] == RESULT
        again.close()

    scene.do(client)
    scene.errors.clear()
    scene.rest()


# Bounds.


@pytest.mark.parametrize("bound", ["streams_max", "per_address_max"])
def test_streams_are_bounded_and_room_comes_back(bound: str) -> None:
    """MCP-Z-6; 503 with Retry-After, since a stream may end at any moment."""
    scene = Scene(legacy=LegacyLimits(**{bound: 2}))

    def client() -> None:
        clients = [LegacyClient(scene) for _ in range(3)]
        assert [client.answer.status for client in clients] == [200, 200, 503]
        assert clients[2].answer.field(b"retry-after") is not None
        clients[0].close()
        scene.pass_time(1.0)
        clients.append(LegacyClient(scene))
        assert clients[-1].answer.status == 200
        for each in clients:
            each.close()

    scene.do(client)
    scene.rest()


def test_requests_of_one_client_are_bounded(scene: Scene) -> None:
    """MCP-Z-6: they hold no connection of the client's that would bound them."""

    def client() -> list[int | None]:
        client = LegacyClient(scene)
        client.initialize()
        statuses = [client.post(call(n, "pause 50")).status for n in range(REQUESTS_MAX + 1)]
        assert client.post(note("notifications/x")).status == 202
        client.close()
        return statuses

    assert scene.do(client) == [202] * REQUESTS_MAX + [503]
    scene.run(200.0)
    scene.rest()


def test_client_that_reads_too_slowly_is_cut_and_its_session_ends(scene: Scene) -> None:
    """FLT-C5: at a bound of bytes; what is cut is visibly cut."""

    def client() -> Answer:
        client = Stalled(scene)
        assert client.post(initialize()).status == 202
        client.until(lambda: not ended(scene))
        large = StreamLimits().unread_bytes_max // 4
        for n in range(7):
            assert client.post(call(n, f"large {large}", "json")).status == 202
        client.until(lambda: ended(scene))
        client.answer.body = b""
        rest = client.stream.receive("GET")
        client.close()
        return rest

    assert not scene.do(client).complete
    scene.rest()


class Stalled(LegacyClient):
    """Reads no more than where to send its messages."""

    def _read(self) -> None:
        came = b""
        while b"sessionId" not in came or not came.endswith(b"\n\n\r\n"):
            came += self.stream.stream.read(1024, math.inf)
        self.answer.fields = [(b"content-type", b"text/event-stream")]
        self.answer.body = came[came.index(b"event: ") :]
