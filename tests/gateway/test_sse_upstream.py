"""A server of HTTP+SSE behind the proxy, in front of it clients of every transport and revision.

MCP-L-2, D-5, D-6, S-4, S-23, X-3, H-11, P-1; PROTOCOL sections 3, 8.1, 9, 12.3 and 12.4.
"""

from __future__ import annotations

from typing import Any

import pytest

from proxy_actors.gateway import sse_pipes
from proxy_actors.errors import MailboxFullError
from proxy_actors.gateway.forwarder import HEAD_S_MAX
from proxy_actors.gateway.http_send import HttpSender
from proxy_actors.gateway.sse_pipes import ENDPOINT_S_MAX, SWEEP_S
from proxy_actors.messages.lifecycle import Stop
from proxy_actors.messages.sessions import EndUse
from proxy_actors.messages.server import ServerDrained
from proxy_actors.messages.upstream import UpstreamDrained
from proxy_actors.options import Transport
from proxy_actors.policy.pool_limits import PoolLimits
from tests.gateway.legacy_client import LegacyClient
from tests.gateway.sse_scene import SessionClient, SseScene, answer_to
from tests.scripted_server import Link, ScriptedServer
from tests.sim.virtual import UPSTREAM, Answer, SimSignal, call, initialize, note, request

VERSIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
UNKNOWN = EndUse(1)  # no part of an upstream understands it
RESULT = {"content": [{"type": "text", "text": "n=1"}]}


@pytest.fixture
def scene() -> SseScene:
    return SseScene()


def doing(n: int, *steps: str, post: str = "", **more: Any) -> dict[str, Any]:
    """A request that the server does `steps` for, and answers the POST of as `post` says."""
    message = call(n, *steps)
    message["params"]["arguments"] |= {"post": post.split(",")} if post else {}
    message["params"] |= more
    return message


def data_of(answer: Answer) -> Any:
    return answer.error["data"]


def try_to_open(scene: SseScene, version: str = "2025-11-25") -> Answer:
    """Send `initialize` alone."""
    return scene.ask(request(initialize(version)))


def posts(scene: SseScene) -> list[str]:
    """The targets of the POSTs that the server has seen."""
    return [seen.target for seen in scene.old.seen if seen.method == "POST"]


# Sessions.


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("transport", [Transport.SSE, Transport.AUTO])
def test_clients_of_streamable_http_of_every_revision_are_served(
    transport: Transport, version: str
) -> None:
    """MCP-L-2; PROTOCOL section 12.4: one channel becomes a stream or an answer for each call."""
    scene = SseScene(transport)

    def client() -> None:
        client = SessionClient(scene, version)
        assert client.opened.message["result"]["protocolVersion"] == version
        assert client.opened.message["result"]["serverInfo"]["name"] == "legacy"
        plain = client.send(doing(1))
        assert (plain.is_stream, plain.message["result"]) == (False, RESULT)
        told = client.send(doing(1, "note", "answer", _meta={"progressToken": 1}))
        assert [x.get("method") for x in told.messages if x] == ["notifications/progress", None]
        assert client.send(method="DELETE").status == 200
        assert client.send(doing(1)).status == 404

    scene.do(client)
    scene.rest()
    assert scene.old.links == 0


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("transport", [Transport.SSE, Transport.AUTO])
def test_clients_of_http_sse_are_served(transport: Transport, version: str) -> None:
    """PROTOCOL section 12.3: from one stream to the other."""
    scene = SseScene(transport)

    def act(client: LegacyClient) -> None:
        assert client.initialize(version)["result"]["protocolVersion"] == version
        token = doing(1, "note", "ask", "answer", _meta={"progressToken": 1})
        assert client.post(token).status == 202
        asked = client.message(lambda x: x.get("method") == "elicitation/create")
        assert client.post(answer_to(asked["id"])).status == 202
        assert client.reply(1)["result"] == RESULT
        methods = [message.get("method") for message in client.messages]
        assert methods == [None, "notifications/progress", "elicitation/create", None]

    scene.legacy(act)
    scene.rest()
    assert scene.old.links == 0


def test_each_session_has_a_stream_of_its_own_and_hears_of_nothing_else(
    scene: SseScene,
) -> None:
    """MCP-I-7, H-11; PROTOCOL section 12.3: one upstream connection for each front session."""

    def client() -> None:
        left, right = SessionClient(scene), SessionClient(scene)
        assert scene.old.sessions.keys() == {"1", "2"}
        answers = [each.begin(doing(1, "note", "pause 1", "answer")) for each in (left, right)]
        left.until(lambda: all(answer.complete for answer in answers))
        for answer in answers:
            assert answer.messages[-1]["result"] == RESULT
        heard = [session.methods().count("tools/call") for session in scene.old.sessions.values()]
        assert heard == [1, 1]
        left.send(method="DELETE")
        left.until(lambda: scene.old.sessions.keys() == {"2"})
        assert right.send(doing(3)).status == 200

    scene.do(client)
    assert scene.streaming() == 1


@pytest.mark.parametrize("leaves", ["DELETE", "stream"])
def test_end_of_a_clients_session_closes_its_stream(scene: SseScene, leaves: str) -> None:
    """PROTOCOL section 3: that is how a session of the old transport ends."""
    if leaves == "stream":
        scene.legacy(lambda client: client.initialize())
    else:
        scene.do(lambda: SessionClient(scene).send(method="DELETE"))
    assert scene.run_until(lambda: not scene.old.sessions, 10.0)
    scene.rest()
    assert scene.streaming() == 0


def test_handshake_that_the_server_refuses_leaves_no_stream(scene: SseScene) -> None:
    raw = r'data: {"jsonrpc":"2.0","id":0,"error":{"code":-32602,"message":"no"}}\n\n'
    answer = scene.ask(request(initialize("2025-11-25", "raw " + raw)))
    assert (answer.status, answer.error["code"]) == (200, -32602)
    assert answer.field(b"mcp-session-id") is None
    scene.rest()
    assert scene.old.links == 0


def test_session_for_which_there_is_no_connection_is_refused() -> None:
    """HTTP-F8: 503, and room comes back."""
    scene = SseScene(pool=PoolLimits(streams_max=1))

    def client() -> None:
        first = SessionClient(scene)
        refused = first.send(initialize(), session=False)
        assert (refused.status, data_of(refused)["executed"]) == (503, "no")
        first.send(method="DELETE")
        first.until(lambda: not scene.old.sessions)
        SessionClient(scene).send(method="DELETE")

    scene.do(client)
    scene.rest()


# The message endpoint.

ORIGIN = f"http://{UPSTREAM[0]}"
SAME = [
    "/messages?session={id}",
    "messages?session={id}",
    "../../messages?session={id}",
    "?session={id}",
    f"{ORIGIN}/messages?session={{id}}",
    f"{ORIGIN}:80/messages?session={{id}}",
    f"{ORIGIN.upper()}/messages?session={{id}}",
    "//upstream.test/messages?session={id}",
    "/messages?session={id}#fragment",
]
FOREIGN = [
    "http://other.test/messages?session={id}",
    "http://upstream.test:8080/messages?session={id}",
    "https://upstream.test/messages?session={id}",
    "http://upstream.test.other.test/messages?session={id}",
    "http://127.0.0.1/messages?session={id}",
    "//other.test/messages?session={id}",
    "http://somebody@upstream.test/messages?session={id}",
    "http://upstream.test@other.test/messages?session={id}",
    "ftp://upstream.test/messages?session={id}",
    "file:///etc/passwd",
    "javascript:alert(1)",
    "http://[/messages?session={id}",
    "http://upstream.test:port/messages?session={id}",
    "/messages?session={id} HTTP/1.1",
    "/messages?session={id}\tx",
    "/messages?session={id}\u00e9",
    "",
]


@pytest.mark.parametrize("endpoint", SAME)
def test_message_endpoint_is_resolved_against_the_url_of_the_stream(endpoint: str) -> None:
    """MCP-L-2; RFC 3986 section 5."""
    scene = SseScene()
    scene.old.endpoint = endpoint

    def client() -> None:
        assert SessionClient(scene).send(doing(1)).message["result"] == RESULT

    scene.do(client)


@pytest.mark.parametrize("endpoint", FOREIGN)
@pytest.mark.parametrize("transport", [Transport.SSE, Transport.AUTO])
def test_message_endpoint_at_another_origin_is_never_used(
    transport: Transport, endpoint: str, caplog: pytest.LogCaptureFixture
) -> None:
    """MCP-L-2: a server must not have the proxy send elsewhere what is meant for it (SSRF)."""
    scene = SseScene(transport)
    scene.old.endpoint = endpoint
    elsewhere: list[object] = []
    for address in (("other.test", 80), ("127.0.0.1", 80), ("upstream.test", 8080)):
        scene.listen(*address, elsewhere.append)
    answer = try_to_open(scene)
    assert answer.status == 502
    assert data_of(answer) | {"requestId": ""} == {
        "reason": "upstream-protocol", "executed": "no", "retryable": True,
        "upstream": "default", "requestId": "",
    }  # fmt: skip
    assert "message endpoint" in answer.error["message"]
    assert [x.name for x in caplog.records].count("proxy_actors.sse") == 1
    assert posts(scene) == (["/sse"] if transport is Transport.AUTO else [])
    scene.rest()
    assert not elsewhere and scene.old.links == 0


@pytest.mark.parametrize("greeting", ["", "message", "Endpoint"])
def test_server_that_names_no_message_endpoint_is_not_waited_for_for_ever(greeting: str) -> None:
    """MCP-L-2: nothing was sent, so nothing was executed."""
    scene = SseScene()
    scene.old.greeting = greeting
    began_s = scene.now_s()
    answer = try_to_open(scene)
    reason = "upstream-protocol" if greeting else "upstream-timeout"
    assert (data_of(answer)["reason"], data_of(answer)["executed"]) == (reason, "no")
    assert scene.now_s() - began_s < ENDPOINT_S_MAX + 2.0
    assert posts(scene) == []
    scene.rest()
    assert scene.old.links == 0


@pytest.mark.parametrize("status", [204, 301, 400, 401, 403, 404, 405, 406, 429, 500, 503])
def test_refusal_of_the_stream_is_the_upstreams_failure_and_not_the_clients(status: int) -> None:
    """MCP-P-1: 400, 404 and 405 would send the client to the old transport as well."""
    scene = SseScene()
    scene.old.stream_status = status
    answer = try_to_open(scene)
    assert answer.status in (429, 502, 503)
    assert data_of(answer)["executed"] == "no"
    scene.rest()


def test_upstream_that_cannot_be_reached_is_told_of_at_once_and_comes_back(
    scene: SseScene,
) -> None:
    scene.listener.close()
    scene.run(10.0)
    answer = try_to_open(scene)
    assert (answer.status, data_of(answer)["reason"]) == (502, "connect-failed")
    assert scene.ask(request(None, "GET", path="/ready"), method="GET").status == 503
    scene.listen(*UPSTREAM, scene._accept)
    scene.run(10.0)
    assert scene.ask(request(None, "GET", path="/ready"), method="GET").status == 200
    assert try_to_open(scene).status == 200


# What is sent.


def test_what_is_no_request_is_accepted_before_anything_behind_it_is_sent(
    scene: SseScene,
) -> None:
    def client() -> None:
        client = SessionClient(scene)
        slow = note("notifications/slow", _meta={"post": ["pause 5", "202"]})
        assert client.send(slow).status == 202
        assert client.send(note("notifications/quick")).status == 202
        assert client.send(doing(1)).message["result"] == RESULT
        assert scene.old.session.methods() == [
            "initialize", "notifications/initialized", "notifications/slow",
            "notifications/quick", "tools/call",
        ]  # fmt: skip

    scene.do(client)


def test_requests_do_not_wait_for_each_other(scene: SseScene) -> None:
    """Though the server answers a POST only when it has handled the message."""

    def client() -> None:
        client = SessionClient(scene)
        slow = client.begin(doing(1, "pause 8", "answer", post="late"))
        client.until(lambda: scene.old.session.methods()[-1] == "tools/call")
        assert client.send(doing(2, post="late")).complete
        assert not slow.complete
        client.until(lambda: slow.complete)
        assert slow.message["result"] == RESULT

    scene.do(client)


def test_answer_to_the_server_passes_the_request_that_waits_for_it(scene: SseScene) -> None:
    """MCP-S-23; PROTOCOL section 9: also where the POST of that request is not answered yet."""

    def client() -> None:
        client = SessionClient(scene)
        answer = client.begin(doing(1, "ask", "answer", post="late"))
        client.until(lambda: answer.messages if answer.is_stream else None)
        assert client.send(answer_to("ask-1-0")).status == 202
        client.until(lambda: answer.complete)
        assert answer.message["result"] == RESULT
        assert scene.old.session.heard[-1] == answer_to("ask-1-0")

    scene.do(client)


def test_answer_to_the_server_needs_no_connection_that_calls_may_have() -> None:
    """MCP-S-23: the only one is that of the request that waits for the answer."""
    scene = SseScene(pool=PoolLimits(connections_max=1, reserve=1))

    def client() -> None:
        client = SessionClient(scene)
        answer = client.begin(doing(1, "ask", "answer", post="late"))
        client.until(lambda: answer.messages if answer.is_stream else None)
        began_s = scene.now_s()
        assert client.send(answer_to("ask-1-0")).status == 202
        client.until(lambda: answer.complete)
        assert "result" in answer.message
        assert scene.now_s() - began_s < 1.0

    scene.do(client)


def test_session_with_a_queue_of_calls_does_not_keep_another_waiting() -> None:
    """A POST that is answered late holds a connection: it comes out of its client's own share."""
    scene = SseScene(pool=PoolLimits(connections_max=1, reserve=1))

    def client() -> None:
        hog, other = SessionClient(scene), SessionClient(scene)
        calls = [hog.begin(doing(n, "pause 1", "answer", post="late")) for n in range(1, 5)]
        hog.until(lambda: scene.old.executions[1])
        late = other.begin(doing(9, "pause 1", "answer", post="late"))
        other.until(lambda: late.complete)
        assert sum(call.complete for call in calls) <= 1
        hog.until(lambda: all(call.complete for call in calls))
        assert all("result" in answer.message for answer in (late, *calls))

    scene.do(client)


class Trouble:
    """Errors that a connection is asked for in vain with, when there are any."""

    def __init__(self, scene: SseScene, monkeypatch: pytest.MonkeyPatch) -> None:
        self.errors: list[Exception] = []
        begin = HttpSender.begin

        def begin_or_raise(sender: HttpSender, *arguments: Any) -> Any:
            if self.errors:
                raise self.errors.pop()
            return begin(sender, *arguments)

        monkeypatch.setattr(HttpSender, "begin", begin_or_raise)


@pytest.mark.parametrize(
    ("error", "status", "executed"),
    [(MailboxFullError("full"), 503, "no"), (KeyError("a bug"), 500, "unknown")],
)
def test_request_ends_however_its_sending_does(
    scene: SseScene,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    status: int,
    executed: str,
) -> None:
    """The pool's box is full, or the unforeseen; and the session goes on."""
    trouble = Trouble(scene, monkeypatch)

    def client() -> None:
        client = SessionClient(scene)
        trouble.errors = [error]
        failed = client.send(doing(1))
        assert (failed.status, data_of(failed)["executed"]) == (status, executed)
        assert client.send(doing(1)).message["result"] == RESULT
        client.send(method="DELETE")

    scene.do(client)
    scene.errors.clear()
    scene.rest()


def test_session_that_can_send_nothing_any_more_ends(
    scene: SseScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that nobody foresaw leaves no client waiting."""
    trouble = Trouble(scene, monkeypatch)

    def client() -> None:
        client = SessionClient(scene)
        waiting = client.begin(doing(1, "nothing"))
        client.until(lambda: scene.old.executions[1])
        trouble.errors = [KeyError("a bug")]
        client.send(note("notifications/x"))
        client.until(lambda: waiting.complete)
        assert data_of(waiting)["executed"] == "unknown"
        assert client.send(doing(2)).status == 404

    scene.do(client)
    scene.errors.clear()
    scene.rest()


def test_request_that_waits_for_a_connection_is_not_sent_when_the_session_has_ended() -> None:
    """Its client has been told that it was not executed."""
    scene = SseScene(pool=PoolLimits(connections_max=1, reserve=1))

    def client() -> None:
        client = SessionClient(scene)
        client.begin(doing(1, "pause 30", "answer", post="late"))
        client.until(lambda: scene.old.executions[1])
        waiting = client.begin(doing(2))
        scene.pass_time(1.0)
        scene.old.session.link.reset()
        client.until(lambda: waiting.complete)
        assert data_of(waiting)["executed"] == "no"

    scene.do(client)
    scene.rest()
    sent = [seen.body["id"] for seen in scene.old.seen if seen.body and "id" in seen.body]
    assert sent == [0, 1]


def test_fields_of_the_client_pass_with_each_request_and_its_secrets_do_not(
    scene: SseScene,
) -> None:
    """HTTP-F1, THR-T9: as to any upstream; what names no request passes with the first ones."""

    def client() -> None:
        client = SessionClient(scene)
        own = {"traceparent": "00-1", "Authorization": "Bearer secret", "Cookie": "secret"}
        answer = client.begin(doing(1), **own)
        client.until(lambda: answer.complete)

    scene.do(client)
    stream, *others, last = scene.old.seen
    for seen in (stream, *others, last):
        assert seen.field("x-forwarded-for") == "127.0.0.1"
        assert "proxy-actors" in str(seen.field("via"))
        assert "secret" not in str(seen.fields)
        assert seen.field("mcp-session-id") is None
        assert seen.field("traceparent") == ("00-1" if seen is last else None)


def test_cancellation_reaches_the_server_behind_its_request(scene: SseScene) -> None:
    """MCP-X-3; the id is the client's own."""

    def client() -> None:
        client = SessionClient(scene)
        client.begin(doing(1, "nothing"))
        client.until(lambda: scene.old.session.methods()[-1] == "tools/call")
        cancel = note("notifications/cancelled", requestId=1)
        assert client.send(cancel).status == 202
        client.until(lambda: scene.old.session.heard[-1] == cancel)

    scene.do(client)


FAILING_POSTS = {
    "400": (502, "upstream-protocol", "no"),
    "401": (502, "upstream-protocol", "no"),
    "413": (502, "upstream-protocol", "no"),
    "429": (429, "rate-limited", "no"),
    "500": (502, "upstream-protocol", "unknown"),
    "503": (503, "upstream-unavailable", "unknown"),
    "break": (502, "upstream-closed", "unknown"),
}


@pytest.mark.parametrize("post", FAILING_POSTS)
def test_request_that_is_not_accepted_fails_at_once_and_alone(scene: SseScene, post: str) -> None:
    """With what is known of whether it was executed; the session lives on."""

    def client() -> None:
        client = SessionClient(scene)
        other = client.begin(doing(2, "pause 3", "answer"))
        began_s = scene.now_s()
        failed = client.send(doing(1, post=post))
        status, reason, executed = FAILING_POSTS[post]
        assert failed.status == status
        assert (data_of(failed)["reason"], data_of(failed)["executed"]) == (reason, executed)
        assert scene.now_s() - began_s < 1.0
        client.until(lambda: other.complete)
        assert "result" in other.message
        assert client.send(doing(1)).message["result"] == RESULT

    scene.do(client)
    scene.run(10.0)
    assert scene.streaming() == 1


def test_request_for_which_no_connection_can_be_had_was_not_executed(scene: SseScene) -> None:
    def client() -> None:
        client = SessionClient(scene)
        scene.listener.close()
        scene.pass_time(10.0)  # what is idle is closed
        failed = client.send(doing(1))
        assert (failed.status, data_of(failed)["reason"]) == (502, "connect-failed")
        assert data_of(failed)["executed"] == "no"
        scene.listen(*UPSTREAM, scene._accept)
        assert client.send(doing(1)).message["result"] == RESULT

    scene.do(client)


@pytest.mark.parametrize("end", ["break", "500", "404"])
def test_post_that_fails_behind_the_answer_takes_nothing_from_the_client(
    scene: SseScene, end: str
) -> None:
    """The answer has come on the stream."""
    post = f"handle,pause 1,{end}"

    def client() -> None:
        client = SessionClient(scene)
        assert client.send(doing(1, post=post)).message["result"] == RESULT

    scene.do(client)


def test_notification_that_is_not_accepted_is_logged_and_holds_nothing_up(
    scene: SseScene, caplog: pytest.LogCaptureFixture
) -> None:
    def client() -> None:
        client = SessionClient(scene)
        assert client.send(note("notifications/x", _meta={"post": ["500"]})).status == 202
        assert client.send(doing(1)).message["result"] == RESULT

    scene.do(client)
    assert "message_not_accepted" in caplog.text


def test_notification_that_is_never_accepted_holds_others_up_for_a_while_only(
    scene: SseScene,
) -> None:
    def client() -> None:
        client = SessionClient(scene)
        assert client.send(note("notifications/x", _meta={"post": ["never"]})).status == 202
        began_s = scene.now_s()
        assert client.send(doing(1)).complete
        assert scene.now_s() - began_s <= HEAD_S_MAX + 1.0

    scene.do(client)


def test_post_that_is_never_answered_is_left_when_its_call_is_over(scene: SseScene) -> None:
    """And not before: some servers answer when they have handled the message."""

    def client() -> None:
        client = SessionClient(scene)
        assert client.send(doing(1, post="never")).message["result"] == RESULT
        long = client.begin(doing(2, "pause 60", "answer", post="never"))
        scene.pass_time(50.0)
        assert scene.old.links == 2, "the stream and the POST that is being handled"
        client.until(lambda: long.complete)
        assert "result" in long.message
        scene.pass_time(3 * SWEEP_S)
        assert scene.old.links == 1

    scene.do(client)


def test_requests_that_are_not_accepted_are_bounded(
    scene: SseScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FLT-U8: 503, and what is no request still passes."""
    monkeypatch.setattr(sse_pipes, "REQUESTS_MAX", 3)

    def client() -> None:
        client = SessionClient(scene)
        calls = [client.begin(doing(n, "ask", "answer", post="late")) for n in range(1, 4)]
        client.until(lambda: scene.old.session.methods().count("tools/call") == 3)
        refused = client.send(doing(4))
        assert (refused.status, data_of(refused)["executed"]) == (503, "no")
        for n in range(1, 4):
            assert client.send(answer_to(f"ask-{n}-0")).status == 202
        client.until(lambda: all(answer.complete for answer in calls))
        assert client.send(doing(5)).complete

    scene.do(client)


def test_bytes_that_are_not_accepted_are_bounded(
    scene: SseScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FLT-U8; they are room again when they were accepted."""
    monkeypatch.setattr(sse_pipes, "UNACCEPTED_BYTES_MAX", 3000)

    def client() -> None:
        client = SessionClient(scene)
        for n in range(1, 4):
            assert client.send(doing(n, pad="x" * 2000)).status == 200
        slow = client.begin(doing(4, "pause 2", "answer", post="late", pad="x" * 2000))
        client.until(lambda: scene.old.executions[4])
        refused = client.send(doing(5, pad="x" * 2000))
        assert (refused.status, data_of(refused)["executed"]) == (503, "no")
        client.until(lambda: slow.complete)
        assert client.send(doing(6, pad="x" * 2000)).status == 200

    scene.do(client)


# What comes.


def test_data_of_events_passes_byte_for_byte(scene: SseScene) -> None:
    """MCP-G-8: white space, order, unknown members, numbers of any size, over several lines."""
    raw = r'{"x": 1e400, \ndata: "id" :1,"jsonrpc":"2.0", "result":{"\\u00e9":[ ]}}'

    def client() -> bytes:
        client = SessionClient(scene)
        return client.send(doing(1, rf"raw event: message\r\ndata: {raw}\r\n\r\n")).body

    sent = raw.replace(r"\ndata: ", " ").replace("\\\\", "\\").encode()
    assert scene.do(client) == sent


def test_what_is_no_message_is_left_out_and_told_in_the_log(
    scene: SseScene, caplog: pytest.LogCaptureFixture
) -> None:
    others = r"raw : x\n\nevent: ping\ndata: 1\n\ndata: {nope\n\nevent: endpoint\ndata: /x\n\n"

    def client() -> None:
        client = SessionClient(scene)
        assert client.send(doing(1, others, "answer")).message["result"] == RESULT
        assert client.send(doing(2)).complete

    scene.do(client)
    assert [x.getMessage() for x in caplog.records if "event_dropped" in x.getMessage()]
    assert set(posts(scene)) == {"/messages?session=1"}


def test_request_without_a_call_goes_to_the_standalone_stream(scene: SseScene) -> None:
    """MCP-H-11; PROTOCOL sections 9 and 12.4."""

    def client() -> None:
        client = SessionClient(scene)
        alone = client.begin(None, "GET")
        client.until(lambda: alone.status)
        id = {"jsonrpc": "2.0", "id": "s-1", "method": "roots/list"}
        scene.old.session.send(id)
        scene.old.session.send({"jsonrpc": "2.0", "id": "s-2", "method": "ping"})
        client.until(lambda: id in alone.messages)
        assert client.send(answer_to("s-1", {"roots": []})).status == 202
        client.until(lambda: len(scene.old.session.heard) == 4)
        assert {x["id"] for x in scene.old.session.heard[2:]} == {"s-1", "s-2"}
        call = client.begin(doing(1, "log", "pause 1", "answer"))
        client.until(lambda: call.complete)
        assert [x.get("method") for x in call.messages] == ["notifications/message", None]
        assert client.send(method="DELETE").status == 200
        client.until(lambda: alone.complete)

    scene.do(client)
    scene.rest()


ENDS = {
    "end": "upstream-closed", "close": "upstream-closed", "reset": "upstream-closed",
    "raw data: {\"jsonrpc\":": "upstream-closed", "flood 5000": "upstream-protocol",
    "nonsense": "upstream-protocol",
}  # fmt: skip


@pytest.mark.parametrize("end", ENDS)
def test_end_of_the_stream_ends_what_is_in_flight_and_the_session(
    scene: SseScene, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MCP-S-4; PROTOCOL section 12.3: HTTP+SSE cannot be resumed."""
    monkeypatch.setattr(sse_pipes, "EVENT_BYTES_MAX", 4000)
    steps = [end, "close"] if end.startswith("raw data") else [end]

    def client() -> None:
        client = SessionClient(scene)
        pending = client.begin(doing(1, "nothing"))
        streaming = client.begin(doing(2, "note", "nothing", _meta={"progressToken": 2}))
        alone = client.begin(None, "GET")
        client.until(lambda: streaming.is_stream and alone.status)
        client.until(lambda: len(scene.old.session.heard) == 4)
        began_s = scene.now_s()
        broken = client.send(doing(3, *steps))
        assert scene.now_s() - began_s < 1.0
        client.until(lambda: pending.complete and streaming.complete and alone.complete)
        for answer in (pending, streaming, broken):
            assert data_of(answer)["reason"] == ENDS[end]
            assert data_of(answer)["executed"] == "unknown"
        assert client.send(doing(4)).status == 404
        SessionClient(scene).send(method="DELETE")

    scene.do(client)
    scene.rest()
    assert scene.old.links == 0


def test_request_that_was_not_sent_when_the_stream_ended_was_not_executed(
    scene: SseScene,
) -> None:
    def client() -> None:
        client = SessionClient(scene)
        assert client.send(note("notifications/x", _meta={"post": ["pause 60"]})).status == 202
        waiting = client.begin(doing(1))
        scene.pass_time(1.0)
        scene.old.session.link.reset()
        client.until(lambda: waiting.complete)
        assert (data_of(waiting)["reason"], data_of(waiting)["executed"]) == (
            "upstream-closed", "no",
        )  # fmt: skip

    scene.do(client)


def test_end_of_the_stream_ends_that_of_a_client_of_http_sse(scene: SseScene) -> None:
    def act(client: LegacyClient) -> None:
        client.initialize()
        assert client.post(doing(1, "reset")).status == 202
        client.until(lambda: client.gone)
        assert client.messages[-1]["error"]["data"]["executed"] == "unknown"

    scene.legacy(act)
    scene.rest()


def test_session_that_the_server_does_not_know_any_more_is_lost(scene: SseScene) -> None:
    """PROTOCOL section 3: 404 to a POST."""

    def client() -> None:
        client = SessionClient(scene)
        other = client.begin(doing(2, "nothing"))
        client.until(lambda: scene.old.session.methods()[-1] == "tools/call")
        scene.old.forget()
        lost = client.send(doing(1))
        assert (lost.status, data_of(lost)["reason"]) == (404, "session-lost")
        assert data_of(lost)["executed"] == "no"
        client.until(lambda: other.complete)
        assert data_of(other)["executed"] == "unknown"
        assert client.send(doing(3)).status == 404

    scene.do(client)
    scene.rest()
    assert scene.old.links == 0


def test_session_at_a_server_that_has_hung_ends(
    scene: SseScene, caplog: pytest.LogCaptureFixture
) -> None:
    """FLT-U4, MCP-S-24: it accepts what it is sent, and answers nothing, a ping neither."""

    def client() -> None:
        client = SessionClient(scene)
        scene.old.hung = True
        late = client.send(doing(1))
        assert data_of(late)["reason"] == "upstream-timeout"
        other = client.begin(doing(2))
        client.until(lambda: other.complete)
        assert data_of(other)["executed"] == "unknown"
        assert other.error["message"] == "the upstream has hung"
        assert client.send(doing(3)).status == 404

    scene.do(client)
    assert "session_given_up" in caplog.text
    scene.rest()
    assert scene.old.links == 0


@pytest.mark.parametrize("slot", ["upstream", "sse", "session"])
def test_sessions_are_lost_with_the_actors_behind_them_and_others_can_be_opened(
    scene: SseScene, slot: str
) -> None:
    """And a session that was lost never comes upon the channel of another one."""
    parent = scene.plane.sse._slot

    def client() -> None:
        client = SessionClient(scene)
        victim = {
            "upstream": scene.plane.upstream.ref, "sse": parent.ref,
            "session": next(iter(parent.ref.children())),
        }[slot]  # fmt: skip
        victim.tell(UNKNOWN)
        client.until(lambda: not scene.old.sessions)
        client.until(lambda: parent.ref is not None)
        other = SessionClient(scene)
        lost = client.send(doing(1))
        assert lost.status == 404
        assert other.send(doing(1)).message["result"] == RESULT
        other.send(method="DELETE")

    scene.do(client)
    scene.errors.clear()
    scene.rest()


# Draining.


def test_drain_ends_idle_sessions_and_lets_calls_end(scene: SseScene) -> None:
    def client() -> Answer:
        idle, busy = SessionClient(scene), SessionClient(scene)
        answer = busy.begin(doing(1, "pause 5", "ask", "answer"))
        idle.until(lambda: scene.old.executions[1])
        scene.plane.drain()
        idle.until(lambda: scene.old.sessions.keys() == {"2"})
        assert not any(isinstance(x, UpstreamDrained) for x in scene.plane.mail)
        idle.until(lambda: answer.is_stream and answer.messages)
        scene.old.sessions["2"].asked["ask-1-0"].set()
        idle.until(lambda: answer.complete)
        return answer

    assert scene.do(client).message["result"] == RESULT
    drained = {UpstreamDrained, ServerDrained}
    assert scene.run_until(lambda: drained <= {type(x) for x in scene.plane.mail}, 60.0)
    assert scene.old.links == 0


def test_stop_leaves_nothing(scene: SseScene) -> None:
    scene.do(lambda: SessionClient(scene).begin(doing(1, "nothing")))
    scene.run(1.0)
    scene.plane.root.tell(Stop())
    assert scene.run_until(lambda: scene.plane.root.ref is None, 60.0)
    scene.run(1.0)
    assert scene.old.links == 0
    assert not scene.plane.table.streams


# Detection.


@pytest.mark.parametrize("status", [400, 404, 405])
def test_server_that_refuses_initialize_as_old_ones_do_is_tried_by_the_old_transport(
    status: int,
) -> None:
    """MCP-D-5: and what was found is kept."""
    scene = SseScene(Transport.AUTO)
    scene.old.refusal = status

    def client() -> None:
        for _ in range(2):
            client = SessionClient(scene)
            assert client.send(doing(1)).message["result"] == RESULT

    scene.do(client)
    assert posts(scene).count("/sse") == 1


@pytest.mark.parametrize("status", [401, 403, 406, 415, 429, 500, 502, 503])
def test_other_refusals_are_no_evidence(status: int) -> None:
    """MCP-D-5, D-6."""
    scene = SseScene(Transport.AUTO)
    scene.old.refusal = status
    assert try_to_open(scene).status in (429, 502, 503)
    assert [seen.method for seen in scene.old.seen] == ["POST"]


@pytest.mark.parametrize("status", [400, 404, 405])
def test_refusal_that_speaks_json_rpc_is_no_evidence(status: int) -> None:
    """MCP-D-5: whoever says it knows Streamable HTTP."""
    scene = SseScene(Transport.AUTO)
    scene.old.refusal = status
    scene.old.refusal_body = (
        b'{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"not now"}}'
    )
    assert try_to_open(scene).status in (400, 502)
    assert [seen.method for seen in scene.old.seen] == ["POST"]


def test_silence_and_an_unreachable_server_are_no_evidence() -> None:
    """MCP-D-6."""
    scene = SseScene(Transport.AUTO)
    heard: list[bytes] = []

    def listen_only(link: Link) -> None:
        while data := link.receive():
            heard.append(data)

    scene.serving = listen_only
    assert data_of(try_to_open(scene))["reason"] == "upstream-timeout"
    scene.listener.close()
    scene.run(10.0)
    assert data_of(try_to_open(scene))["reason"] == "connect-failed"
    assert b"GET" not in b"".join(heard)


@pytest.mark.parametrize("stream_status, greeting", [(404, ""), (405, ""), (200, "message")])
@pytest.mark.parametrize("status", [400, 404, 405])
def test_server_that_is_no_old_one_either_has_refused_as_it_did(
    status: int, stream_status: int, greeting: str
) -> None:
    """The client is told what it would be told without the attempt."""
    scene, plain = SseScene(Transport.AUTO), SseScene(Transport.STREAMABLE)
    for each in (scene, plain):
        each.old.refusal, each.old.stream_status = status, stream_status
        each.old.greeting = greeting
    refused, expected = try_to_open(scene), try_to_open(plain)
    assert (refused.status, refused.body) == (expected.status, expected.body)
    assert [seen.method for seen in scene.old.seen] == ["POST", "GET"]
    scene.rest()


def test_server_that_is_neither_any_more_is_asked_once_for_each_transport() -> None:
    """MCP-D-5."""
    scene = SseScene(Transport.AUTO)
    scene.do(lambda: SessionClient(scene).send(method="DELETE"))
    scene.old.seen.clear()
    scene.old.stream_status = 500
    assert try_to_open(scene).status == 502
    assert [seen.method for seen in scene.old.seen] == ["GET", "POST"]


def test_server_that_was_renewed_is_spoken_to_as_the_new_one_at_once() -> None:
    """MCP-D-5, PROTOCOL section 8.1: probed again after a failure, and the client sees nothing."""
    scene = SseScene(Transport.AUTO)

    def client() -> None:
        old = SessionClient(scene)
        new = start_new(scene)
        client = SessionClient(scene)
        assert client.opened.message["result"]["serverInfo"]["name"] == "scripted"
        assert client.send(call(1)).message["result"] == RESULT
        assert old.send(doing(1)).status == 404, "its server has gone"
        assert list(new.sessions) == ["up-1"]
        back_to_old(scene)
        again = SessionClient(scene)
        assert again.opened.message["result"]["serverInfo"]["name"] == "legacy"
        assert again.send(doing(1)).message["result"] == RESULT
        again.send(method="DELETE")

    scene.do(client)
    scene.rest()


def start_new(scene: SseScene) -> ScriptedServer:
    """Have a server of Streamable HTTP take the place of the old one."""
    new = ScriptedServer(scene.pass_time, lambda: SimSignal(scene))
    scene.serving = new.serve
    for session in list(scene.old.sessions.values()):
        session.link.reset()
    scene.pass_time(10.0)  # what is idle is closed
    return new


def back_to_old(scene: SseScene) -> None:
    scene.serving = scene.old.serve
    scene.pass_time(10.0)


def test_streamable_http_pays_nothing_for_the_detection() -> None:
    """Until a session of the old transport has been begun, calls go straight to its forwarder."""
    scene = SseScene(Transport.AUTO)
    forwarder = scene.plane.wiring.routes.by_name["default"].forwarder
    plain = scene.plane.forwarder
    assert (forwarder.call, forwarder.post) == (plain.call, plain.post)
    scene.do(lambda: SessionClient(scene))
    assert forwarder.call != plain.call


def test_pinned_transport_is_not_tried_with_the_other() -> None:
    scene, other = SseScene(Transport.STREAMABLE), SseScene(Transport.SSE)
    assert try_to_open(scene).status == 502
    assert [seen.method for seen in scene.old.seen] == ["POST"]
    assert try_to_open(other).status == 200
    assert other.old.seen[0].method == "GET"
