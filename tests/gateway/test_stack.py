"""What is refused before anything is forwarded, with which status, and in which order.

PROTOCOL 4.2; MCP-G-2, G-4, H-1 to H-9, S-2 to S-13; the upstream must have seen nothing of it.
"""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from proxy_actors.gateway import stack
from proxy_actors.gateway.keys import Identity, Keyring
from proxy_actors.protocol.revisions import SESSION_VERSIONS
from tests.gateway.scene import Scene
from tests.sim.virtual import UPSTREAM, Answer, call, initialize, note, request

CALL = call(1)


@pytest.fixture
def scene() -> Scene:
    return Scene()


def refused(scene: Scene, data: bytes, status: int, method: str = "POST") -> Answer:
    """Ask; the answer has this status and the upstream has not seen the request."""
    before = len(scene.server.seen)
    answer = scene.ask(data, method=method)
    assert answer.status == status, answer
    assert len(scene.server.seen) == before
    assert answer.field(b"mcp-session-id") is None  # MCP-P-3
    return answer


def test_request_without_session_is_400(scene: Scene) -> None:
    """MCP-S-3."""
    answer = refused(scene, request(CALL), 400)
    assert answer.error["code"] == -32600
    assert answer.message["id"] == 1


@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
def test_unknown_session_is_404(scene: Scene, method: str) -> None:
    """MCP-S-4."""
    body = CALL if method == "POST" else None
    refused(scene, request(body, method, session="v1.0.nobody"), 404, method)


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_get_and_delete_without_session_are_400(scene: Scene, method: str) -> None:
    refused(scene, request(None, method), 400, method)


def test_deleted_session_is_404_afterwards(scene: Scene) -> None:
    """MCP-S-7."""
    session = scene.session()
    assert scene.ask(request(None, "DELETE", session), method="DELETE").status == 200
    scene.run(5.0)
    assert scene.server.deleted == ["up-1"]
    for method in ("POST", "GET", "DELETE"):
        body = CALL if method == "POST" else None
        refused(scene, request(body, method, session), 404, method)


def test_session_of_another_principal_is_404() -> None:
    """MCP-Z-1: just as an unknown one."""
    digest = hashlib.sha256(b"secret").digest()
    scene = Scene(keyring=Keyring({digest: Identity("somebody")}))
    session = scene.session()
    theirs: dict[str, str | None] = {"X-API-Key": "secret"}
    refused(scene, request(CALL, session=session, fields=theirs), 404)
    assert scene.ask(request(CALL, session=session)).status == 200


@pytest.mark.parametrize("method", ["PUT", "PATCH", "HEAD", "TRACE"])
def test_other_methods_are_405_with_allow(scene: Scene, method: str) -> None:
    """HTTP-H6, H20."""
    answer = refused(scene, request(None, method), 405, method)
    assert answer.field(b"allow") == b"POST, GET, DELETE, OPTIONS"


def test_connect_and_unknown_methods_are_501(scene: Scene) -> None:
    refused(scene, b"CONNECT a:1 HTTP/1.1\r\nHost: localhost\r\n\r\n", 501)
    refused(scene, b"BREW /mcp HTTP/1.1\r\nHost: localhost\r\n\r\n", 501)


@pytest.mark.parametrize("path", ["/mcp", "/health", "*"])
def test_options_says_what_is_allowed(scene: Scene, path: str) -> None:
    answer = refused(scene, request(None, "OPTIONS", path=path), 204, "OPTIONS")
    assert answer.field(b"allow") is not None
    assert answer.field(b"content-length") is None


@pytest.mark.parametrize("path", ["/", "/mcp/", "/MCP", "/mcp/x", "/%6dcp"])
def test_other_paths_are_404(scene: Scene, path: str) -> None:
    """MCP-H-1: a single endpoint."""
    refused(scene, request(CALL, path=path), 404)


def test_query_does_not_change_the_endpoint(scene: Scene) -> None:
    session = scene.session()
    assert scene.ask(request(CALL, session=session, path="/mcp?x=1")).status == 200


@pytest.mark.parametrize(
    "accept",
    [None, "", "application/json", "text/event-stream", "text/html",
     "application/json, text/event-stream;q=0"],
)
def test_post_that_accepts_too_little_is_406(scene: Scene, accept: str | None) -> None:
    """MCP-H-7."""
    refused(scene, request(initialize(), fields={"Accept": accept}), 406)


@pytest.mark.parametrize(
    "accept",
    ["*/*", "application/*, text/*", "text/event-stream, application/json",
     "application/json;q=0.1, text/event-stream;charset=utf-8"],
)
def test_post_that_accepts_enough_is_served(scene: Scene, accept: str) -> None:
    """MCP-H-7: in any order, with any parameters."""
    assert scene.ask(request(initialize(), fields={"Accept": accept})).status == 200


@pytest.mark.parametrize("accept", [None, "application/json"])
def test_get_that_accepts_no_events_is_406(scene: Scene, accept: str | None) -> None:
    session = scene.session()
    refused(scene, request(None, "GET", session, fields={"Accept": accept}), 406, "GET")


@pytest.mark.parametrize("media_type", [None, "", "text/plain", "application/json-rpc", "a/b/c"])
def test_other_media_types_are_415(scene: Scene, media_type: str | None) -> None:
    """MCP-H-8; what a foreign page can send without being asked first is among them."""
    refused(scene, request(initialize(), fields={"Content-Type": media_type}), 415)


@pytest.mark.parametrize("media_type", ["Application/JSON", "application/json; charset=utf-8"])
def test_media_type_is_read_as_http_says(scene: Scene, media_type: str) -> None:
    """MCP-H-10."""
    assert scene.ask(request(initialize(), fields={"Content-Type": media_type})).status == 200


def test_coded_bodies_are_415(scene: Scene) -> None:
    """HTTP-H21."""
    answer = refused(scene, request(initialize(), fields={"Content-Encoding": "gzip"}), 415)
    assert answer.field(b"accept-encoding") == b"identity"


@pytest.mark.parametrize("path", ["/mcp", "/health", "/ready"])
def test_foreign_host_is_421_everywhere(scene: Scene, path: str) -> None:
    """THR-T3, MCP-H-5."""
    data = request(None, "GET", path=path, fields={"Host": "evil.example.com"})
    answer = refused(scene, data, 421, "GET")
    assert not answer.keep_alive


@pytest.mark.parametrize("path", ["/mcp", "/health", "/ready"])
@pytest.mark.parametrize("origin", ["http://evil.example.com", "null"])
def test_foreign_origin_is_403_everywhere(scene: Scene, path: str, origin: str) -> None:
    """MCP-H-2, H-3: an error without an id."""
    data = request(None, "GET", path=path, fields={"Origin": origin})
    assert "id" not in refused(scene, data, 403, "GET").message


def test_one_foreign_origin_of_two_is_403(scene: Scene) -> None:
    data = request(initialize(), fields={"Origin": "http://localhost"})
    data = data.replace(b"\r\nHost:", b"\r\nOrigin: http://localhost\r\nHost:", 1)
    assert scene.ask(data).status == 200
    refused(scene, data.replace(b"Origin: http://localhost", b"Origin: http://evil", 1), 403)


def test_page_of_localhost_is_served(scene: Scene) -> None:
    fields: dict[str, str | None] = {"Host": "localhost:8808", "Origin": "http://localhost:8808"}
    assert scene.ask(request(initialize(), fields=fields)).status == 200


@pytest.mark.parametrize("version", ["2026-07-28", "1999-01-01", "draft", ""])
def test_unsupported_version_is_400_and_says_what_is(scene: Scene, version: str) -> None:
    """MCP-S-11, and what lets a client of a later era fall back to initialize."""
    body = {"jsonrpc": "2.0", "id": 1, "method": "server/discover", "params": {}}
    answer = refused(scene, request(body, fields={"MCP-Protocol-Version": version}), 400)
    assert answer.message["id"] == 1
    assert answer.error["code"] == -32022
    assert answer.error["data"]["supported"] == list(SESSION_VERSIONS)
    assert answer.error["data"]["requested"] == version


@pytest.mark.parametrize("version", [*SESSION_VERSIONS, None])
def test_supported_version_or_none_is_served(scene: Scene, version: str | None) -> None:
    session = scene.session()
    fields = {"MCP-Protocol-Version": version}
    assert scene.ask(request(CALL, session=session, fields=fields)).status == 200


def test_mirrored_fields_do_not_make_a_request_modern(scene: Scene) -> None:
    """Session-era clients have been seen to send both."""
    fields: dict[str, str | None] = {
        "Mcp-Method": "initialize", "MCP-Protocol-Version": "2025-11-25"
    }
    assert scene.ask(request(initialize(), fields=fields)).status == 200


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", -32700),
        (b"", -32700),
        (b"\xff\xfe", -32700),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":NaN}', -32700),
        (b"7", -32600),
        (b"[]", -32600),
        (b"[7]", -32600),
        (b'{"jsonrpc":"2.0","id":null,"method":"ping"}', -32600),
        (b'{"jsonrpc":"2.0","id":1.5,"method":"ping"}', -32600),
        (b'{"jsonrpc":"1.0","id":1,"method":"ping"}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"Method":"ping"}', -32600),
        (b"[" * 100_000, -32700),
    ],
)
def test_what_is_no_message_is_400_and_the_connection_lives_on(
    scene: Scene, body: bytes, code: int
) -> None:
    """MCP-H-8, G-2; C9: never a 500."""
    answer = refused(scene, request(body), 400)
    assert answer.error["code"] in (code, -32600)
    assert answer.keep_alive


def test_refused_request_is_answered_under_its_id(scene: Scene) -> None:
    body = {"jsonrpc": "1.0", "id": "abc", "method": "ping"}
    assert refused(scene, request(body), 400).message["id"] == "abc"


def test_error_about_a_response_does_not_bear_its_id(scene: Scene) -> None:
    """It is the server's id, and would be taken for the answer to a request of the client's."""
    body = {"jsonrpc": "2.0", "id": 1, "result": {}}
    assert "id" not in refused(scene, request(body), 400).message


def test_second_initialize_in_a_session_is_400(scene: Scene) -> None:
    refused(scene, request(initialize(), session=scene.session()), 400)


def test_ids_of_sessions_are_visible_ascii_and_all_different(scene: Scene) -> None:
    """MCP-S-2."""
    ids = {scene.session() for _ in range(5)}
    assert len(ids) == 5
    assert all(0x21 <= ord(character) <= 0x7E for id in ids for character in id)


# Batches.

NOTES = [note("notifications/a"), note("notifications/b")]


@pytest.mark.parametrize("version", [v for v in SESSION_VERSIONS if v != "2025-03-26"])
def test_batch_is_400_where_the_revision_has_none(scene: Scene, version: str) -> None:
    """MCP-S-13."""
    refused(scene, request(NOTES, session=scene.session(version)), 400)


def test_batch_of_notifications_and_responses_is_202(scene: Scene) -> None:
    """MCP-S-12, H-9; the upstream gets them one by one, since many refuse batches."""
    session = scene.session("2025-03-26")
    body = [*NOTES, {"jsonrpc": "2.0", "id": 9, "result": {}}]
    answer = scene.ask(request(body, session=session))
    assert (answer.status, answer.body) == (202, b"")
    bodies = [seen.body for seen in scene.server.seen[1:]]
    assert bodies == body
    scene.rest()


def test_every_request_of_a_batch_is_answered(scene: Scene) -> None:
    """MCP-S-12: whatever the upstream makes of each."""
    session = scene.session("2025-03-26")
    body: list[Any] = [
        call(1), call(2, "sse", "note", "answer", "end"), NOTES[0], call(3, "close"),
        call(4, "pause 2", "json"), call(5, "sse", "answer", "end"),
    ]
    answer = scene.ask(request(body, session=session))
    assert answer.status == 200
    assert answer.is_stream
    answers = {x["id"]: x for x in answer.messages if "id" in x}
    assert sorted(answers) == [1, 2, 3, 4, 5]
    assert len([x for x in answer.messages if "id" in x]) == 5
    assert answers[3]["error"]["data"]["reason"] == "upstream-closed"
    assert all("result" in answers[n] for n in (1, 2, 4, 5))
    assert scene.server.executions == {None: 1, 1: 1, 2: 1, 3: 1, 4: 1, 5: 1}
    scene.rest()


def test_server_may_ask_during_a_batch(scene: Scene) -> None:
    """So the answers cannot wait for one another."""
    session = scene.session("2025-03-26")

    def client() -> Answer:
        batch = [call(1, "sse", "ask", "answer", "end"), call(2)]
        connection, answer = scene.begin(request(batch, session=session))
        other = scene.connection()
        while not any("method" in x for x in answer.messages):
            scene.pass_time(0.1)
        reply = {"jsonrpc": "2.0", "id": "ask-1-0", "result": {"action": "decline"}}
        assert other.ask(request(reply, session=session)).status == 202
        while not answer.complete:
            scene.pass_time(0.1)
        connection.close()
        other.close()
        return answer

    answers = [x["id"] for x in scene.do(client).messages if "result" in x]
    assert sorted(answers) == [1, 2]
    scene.rest()


@pytest.mark.parametrize("version", [None, "2025-03-26"])
def test_initialize_within_a_batch_is_400(scene: Scene, version: str | None) -> None:
    """MCP-S-12, 0326 lifecycle."""
    session = None if version is None else scene.session(version)
    refused(scene, request([initialize(), NOTES[0]], session=session), 400)


def test_batch_of_one_is_a_batch(scene: Scene) -> None:
    refused(scene, request([call(1)], session=scene.session()), 400)


# The order of the steps.


@pytest.mark.parametrize(
    ("wrong", "status"),
    [
        (("host", "origin", "path", "accept", "type", "json"), 421),
        (("origin", "path", "accept", "type", "json"), 403),
        (("path", "accept", "type", "json"), 404),
        (("accept", "type", "json"), 406),
        (("type", "json"), 415),
        (("json", "version"), 400),
    ],
)
def test_cheaper_check_refuses_first(scene: Scene, wrong: tuple[str, ...], status: int) -> None:
    """What is wrong in many ways is refused by the first step that can."""
    fields: dict[str, str | None] = {}
    if "host" in wrong:
        fields["Host"] = "evil"
    if "origin" in wrong:
        fields["Origin"] = "http://evil"
    if "accept" in wrong:
        fields["Accept"] = "text/html"
    if "type" in wrong:
        fields["Content-Type"] = "text/plain"
    if "version" in wrong:
        fields["MCP-Protocol-Version"] = "1999-01-01"
    body: Any = b"{" if "json" in wrong else initialize()
    data = request(body, path="/nowhere" if "path" in wrong else "/mcp", fields=fields)
    answer = refused(scene, data, status)
    if status == 400:
        assert answer.error["code"] == -32700


def test_version_is_judged_before_the_session_is_looked_up(scene: Scene) -> None:
    fields: dict[str, str | None] = {"MCP-Protocol-Version": "1999-01-01"}
    refused(scene, request(CALL, session="v1.0.nobody", fields=fields), 400)


def test_the_list_of_steps_is_the_order() -> None:
    assert stack.STEPS_OF_POST == (
        stack.take_address, stack.admit_body, stack.authenticate, stack.check_version,
        stack.find_session, stack.check_batch, stack.take_rules,
    )
    assert stack.STEPS_OF_DELETE == (
        stack.authenticate, stack.check_version, stack.find_session
    ), "DELETE is never limited"


# The pages that are served here.


@pytest.mark.parametrize("path", ["/health", "/admin/health"])
def test_health_is_answered_here(scene: Scene, path: str) -> None:
    answer = refused(scene, request(None, "GET", path=path), 200, "GET")
    assert answer.message == {"status": "ok"}


def test_head_of_a_page_has_its_length_and_no_body(scene: Scene) -> None:
    """C17."""
    answer = refused(scene, request(None, "HEAD", path="/health"), 200, "HEAD")
    assert answer.field(b"content-length") == b"15"
    assert answer.body == b""


def test_post_to_a_page_is_405(scene: Scene) -> None:
    answer = refused(scene, request(CALL, path="/health"), 405)
    assert answer.field(b"allow") == b"GET, HEAD, OPTIONS"


def test_readiness_follows_the_upstream(scene: Scene) -> None:
    """MCP-P-1: without an upstream the proxy is alive, and not ready."""
    page = request(None, "GET", path="/ready")
    assert refused(scene, page, 200, "GET").message == readiness("ready", "ready")
    scene.run(10.0)
    listener = scene.listeners.pop(UPSTREAM)
    assert scene.ask(request(initialize())).status == 502
    away = readiness("not ready", "not ready") | {"causes": {"default": "connection-refused"}}
    assert refused(scene, page, 503, "GET").message == away
    scene.listeners[UPSTREAM] = listener
    scene.run(10.0)
    assert refused(scene, page, 200, "GET").message == readiness("ready", "ready")


def readiness(status: str, upstream: str) -> dict[str, object]:
    return {"status": status, "upstreams": {"default": upstream}, "sessions": "stored"}


def test_draining_proxy_is_not_ready(scene: Scene) -> None:
    scene.plane.wiring.draining = True
    page = request(None, "GET", path="/ready")
    assert refused(scene, page, 503, "GET").message == readiness("draining", "ready")
