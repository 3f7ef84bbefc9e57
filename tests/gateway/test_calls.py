"""What becomes of a call, by what the upstream does with it.

MCP-G-1, G-5, H-9 to H-12, S-5, S-8 to S-10, S-14, S-21 to S-24, X-3 to X-5; HTTP-F7, F8;
faults N1, N4, N5, N9 to N12, C1; THR-T21.
"""

from __future__ import annotations

from typing import Any

import pytest

from proxy_actors.gateway.forwarder import CALL_S_MAX, SILENT_S_MAX, TOLD_S_MAX
from proxy_actors.messages.sessions import EndReason, SessionEnded
from proxy_actors.policy.pool_limits import PoolLimits
from tests import scripted_server
from tests.gateway.scene import Scene
from tests.scripted_server import ANSWER_WAIT_S
from tests.sim.virtual import UPSTREAM, Answer, call, initialize, note, request


@pytest.fixture
def scene() -> Scene:
    return Scene()


def ask(scene: Scene, *steps: str, method: str = "tools/call", id: Any = None) -> Answer:
    """Call once in a session of its own; everything comes to rest after it."""
    answer = scene.ask(request(call(1, *steps, method=method, id=id), session=scene.session()))
    scene.rest()
    return answer


def data_of(answer: Answer) -> Any:
    return answer.error["data"]


RESULT = {"content": [{"type": "text", "text": "n=1"}]}


@pytest.mark.parametrize(
    "steps",
    [["json"], ["chunked"], ["chunked 1"], ["until-close"], ["sse", "answer", "end"],
     ["sse", "prime", "answer", "end"], ["pause 40", "json"], ["sse", "pause 5", "answer", "end"],
     ["sse", "answer"], ["sse", "answer", "close"], ["sse", "answer", "reset"],
     ["sse", "answer", "garbage"], ["spaced"], ["json", "extra"], ["json", "close"]],
    ids=" ".join,
)
def test_answer_alone_comes_as_json(scene: Scene, steps: list[str]) -> None:
    """MCP-H-10: in whatever form it came; so the client's connection stays open."""
    answer = ask(scene, *steps)
    assert (answer.status, answer.field(b"content-type")) == (200, b"application/json")
    assert answer.message == {"jsonrpc": "2.0", "id": 1, "result": RESULT}
    assert answer.keep_alive
    assert scene.server.executions[1] == 1


STRANGE = ["field X-Strange: a", "field X-Strange: b", "field Retry-After: 7"]


@pytest.mark.parametrize(
    "steps",
    [["json"], ["chunked"], ["sse", "answer", "end"], ["sse", "note", "answer", "end"]],
    ids=" ".join,
)
def test_fields_of_the_answer_pass_on(scene: Scene, steps: list[str]) -> None:
    """HTTP-F3: unknown ones too, in their order, whatever form the answer has."""
    answer = ask(scene, *STRANGE, *steps)
    assert answer.status == 200
    assert [value for name, value in answer.fields if name == b"x-strange"] == [b"a", b"b"]
    assert answer.field(b"retry-after") == b"7"


def test_fields_of_the_answer_to_initialize_pass_on(scene: Scene) -> None:
    """HTTP-F3."""
    body = initialize("2025-11-25", *STRANGE, "json")
    answer = scene.ask(request(body))
    assert answer.field(b"x-strange") == b"a"
    assert answer.field(b"mcp-session-id") is not None


@pytest.mark.parametrize(
    "line",
    ["Set-Cookie: a=b", "Server: inside/1", "Access-Control-Allow-Origin: *", "Keep-Alive: max=9",
     "WWW-Authenticate: Basic", "Proxy-Status: inside", "Mcp-Session-Id: of-the-upstream",
     "X-Accel-Buffering: yes", "Date: Fri, 01 Jan 1999 00:00:00 GMT"],
)
@pytest.mark.parametrize("steps", [["json"], ["sse", "note", "answer", "end"]], ids=" ".join)
def test_what_the_upstream_says_for_its_own_origin_does_not_pass(
    scene: Scene, steps: list[str], line: str
) -> None:
    """HTTP-F1, THR-T9: nor what is of one connection."""
    name, _, value = line.partition(": ")
    answer = ask(scene, f"field {line}", *steps)
    assert answer.status == 200
    assert (name.lower().encode(), value.encode()) not in answer.fields


def test_field_that_the_answers_connection_names_does_not_pass(scene: Scene) -> None:
    """HTTP-F1."""
    answer = ask(scene, "field Connection: x-hop", "field X-Hop: 1", "field X-End: 2", "json")
    assert answer.field(b"x-hop") is None
    assert answer.field(b"x-end") == b"2"


@pytest.mark.parametrize("id", [0, 1, -7, "1", "", "caf\u00e9 \U0001f600", 2**63])
def test_id_comes_back_as_it_was(scene: Scene, id: Any) -> None:
    """MCP-G-1, G-5: with its type; 0 and "" are ids like others."""
    answer = ask(scene, id=id)
    assert answer.message["id"] == id
    assert type(answer.message["id"]) is type(id)


@pytest.mark.parametrize(
    "steps",
    [["sse", "note", "answer", "end"], ["sse", "prime", "note", "note", "answer", "end"],
     ["sse", "pause 11", "note", "answer", "end"], ["sse", "note", "pause 100", "answer", "end"],
     ["sse", "note", "answer"], ["sse", "note", "answer", "reset"],
     ["sse", "note", "foreign", "answer", "end"]],
    ids=" ".join,
)
def test_answer_with_company_comes_as_events(scene: Scene, steps: list[str]) -> None:
    """MCP-H-11, H-12, S-14, S-22: every message once, nothing else, the stream ends after it."""
    answer = ask(scene, *steps)
    assert answer.status == 200
    assert answer.is_stream
    assert answer.complete
    assert answer.field(b"x-accel-buffering") == b"no"
    assert answer.field(b"content-length") is None
    notes = [message for message in answer.messages if "method" in message]
    assert len(notes) == steps.count("note")
    assert answer.message == {"jsonrpc": "2.0", "id": 1, "result": RESULT}
    assert len(answer.messages) == len(notes) + 1
    assert answer.keep_alive


def test_silent_call_becomes_a_stream_that_is_kept_alive(scene: Scene) -> None:
    """MCP-H-14."""
    answer = ask(scene, "sse", f"pause {SILENT_S_MAX + 40}", "answer", "end")
    assert answer.is_stream
    assert answer.body.count(b": keep-alive\n\n") == 2


def test_comment_comes_when_nothing_has_for_a_while(scene: Scene) -> None:
    """SSE-S9, MCP-H-14: an event that was written at once counts as much as any other."""
    steps = ["sse", "note", "pause 10", "note", "pause 10", "note", "pause 20", "note", "answer"]
    answer = ask(scene, *steps)
    assert len(answer.messages) == 5
    blocks = answer.body.split(b"\n\n")  # the first one tells where the stream begins
    assert [n for n, block in enumerate(blocks) if block == b": keep-alive"] == [4]


@pytest.mark.parametrize("steps", [["note"] * 9, ["note", "pause 16"] * 9], ids=["at once", "slow"])
def test_events_that_a_client_takes_in_pieces_arrive_whole(
    scene: Scene, steps: list[str]
) -> None:
    """MCP-H-9: what it does not take at once comes before anything else, comments too."""
    scene.faults.fragment = 1.0
    answer = ask(scene, "sse", *steps, "answer")
    assert answer.complete
    assert len(answer.messages) == 10
    assert scene.seen["write_was_short"] > 0
    assert answer.message["result"] == RESULT


@pytest.mark.parametrize(
    ("steps", "status", "reason", "executed"),
    [
        (["close"], 502, "upstream-closed", "unknown"),
        (["reset"], 502, "upstream-closed", "unknown"),
        (["head", "close"], 502, "upstream-closed", "unknown"),
        (["head", "reset"], 502, "upstream-closed", "unknown"),
        (["head", "half", "close"], 502, "upstream-closed", "unknown"),
        (["head", "half", "reset"], 502, "upstream-closed", "unknown"),
        (["sse", "close"], 502, "upstream-closed", "unknown"),
        (["sse", "half-event", "reset"], 502, "upstream-closed", "unknown"),
        (["sse", "half-event", "end"], 502, "upstream-closed", "unknown"),
        (["garbage"], 502, "upstream-protocol", "unknown"),
        (["no-json"], 502, "upstream-protocol", "unknown"),
        (["wrong-id"], 502, "upstream-protocol", "unknown"),
        (["202"], 502, "upstream-protocol", "unknown"),
        (["204"], 502, "upstream-protocol", "unknown"),
        (["307 Location: http://elsewhere/"], 502, "upstream-protocol", "unknown"),
        (["raw HTTP/1.1\\x20200\\x20OK\\r\\nContent-Length:\\x20+5\\r\\n\\r\\n", "close"],
         502, "upstream-protocol", "unknown"),
        (["raw HTTP/1.1\\x20200\\x20OK\\nA:\\x20b\\n\\n", "close"],
         502, "upstream-protocol", "unknown"),
        (["401"], 502, "upstream-protocol", "no"),
        (["403"], 502, "upstream-protocol", "no"),
        (["405"], 502, "upstream-protocol", "unknown"),
        (["500"], 502, "upstream-protocol", "unknown"),
        (["502"], 502, "upstream-protocol", "unknown"),
        (["429 Retry-After: 7"], 429, "rate-limited", "no"),
        (["503"], 503, "upstream-unavailable", "unknown"),
        (["503 Retry-After: 7"], 503, "upstream-unavailable", "no"),
        (["404"], 404, "session-lost", "no"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else None,
)
def test_failure_of_the_upstream_has_its_status_and_contract(
    scene: Scene, steps: list[str], status: int, reason: str, executed: str
) -> None:
    """N4, N5, N8, N10, N14; O5: with the caller's id."""
    answer = ask(scene, *steps)
    assert answer.status == status
    assert answer.message["id"] == 1
    assert answer.error["code"] == -32603
    data = data_of(answer)
    assert (data["reason"], data["executed"]) == (reason, executed)
    assert data["upstream"] == "default"
    assert scene.server.executions[1] <= 1
    if executed == "no":
        assert scene.server.executions[1] == 0
    if "Retry-After: 7" in steps[0]:
        assert (answer.field(b"retry-after"), data["retryAfterMs"]) == (b"7", 7000)


@pytest.mark.parametrize("steps", [["error 400 -32602"], ["error 500 -32603"],
                                   ["error 404 -32601"], ["error 200 -32000"]], ids=" ".join)
def test_error_of_the_application_is_its_answer(scene: Scene, steps: list[str]) -> None:
    """MCP-B-3: whatever status it came with, the session goes on."""
    session = scene.session()
    answer = scene.ask(request(call(1, *steps), session=session))
    assert answer.status == 200
    assert answer.error["code"] == int(steps[0].split()[2])
    assert scene.ask(request(call(2), session=session)).status == 200


def test_refusal_of_the_message_is_told_with_its_text(scene: Scene) -> None:
    body = '{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"not\\x20initialized"}}'
    size = len(body.replace("\\x20", " "))
    head = f"HTTP/1.1\\x20400\\x20No\\r\\nContent-Length:{size}\\r\\n\\r\\n"
    answer = ask(scene, f"raw {head}{body}")
    assert answer.status == 400
    assert answer.message["id"] == 1
    assert answer.error["code"] == -32000
    assert answer.error["message"].endswith("not initialized")


@pytest.mark.parametrize("ending", [["close"], ["reset"], ["half-event", "reset"], ["end"]],
                         ids=" ".join)
def test_stream_that_breaks_ends_in_an_error_and_never_in_half_an_event(
    scene: Scene, ending: list[str]
) -> None:
    """N5, HTTP-F7."""
    answer = ask(scene, "sse", "note", *ending)
    assert answer.complete
    assert len(answer.messages) == 2
    assert answer.message["id"] == 1
    assert data_of(answer)["reason"] == "upstream-closed"
    assert data_of(answer)["requestId"] != ""


NO_MESSAGES = [
    "{nope", '{"jsonrpc":"2.0"}', '"text"', "[]", "[1]", '{"jsonrpc":"2.0","method":7}',
    '{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1.5}}',
    '{"jsonrpc":"1.0","method":"notifications/message"}', '{"jsonrpc":"2.0","id":1,"method":"a",'
    '"result":{}}', '{"jsonrpc":"2.0","id":"another","result":{},"error":{}}',
]  # fmt: skip


@pytest.mark.parametrize("data", NO_MESSAGES)
@pytest.mark.parametrize("before", [[], ["note"]], ids=["at first", "within a stream"])
def test_event_that_is_no_message_is_left_out_and_the_call_goes_on(
    scene: Scene, before: list[str], data: str, caplog: pytest.LogCaptureFixture
) -> None:
    """FLT-U7 over HTTP: it is counted and told in the log, and not quoted there."""
    answer = ask(scene, "sse", *before, f"event {data}", "answer", "end")
    assert answer.message == {"jsonrpc": "2.0", "id": 1, "result": RESULT}
    assert len(answer.messages) == len(before) + 1
    assert scene.server.executions[1] == 1
    (line,) = [x.getMessage() for x in caplog.records if x.name == "proxy_actors.http"
               and x.levelname == "WARNING"]  # fmt: skip
    assert line.startswith("event_dropped upstream=default request=")
    assert " count=1 error=the upstream sent no valid JSON-RPC: " in line
    assert data not in line


def test_flood_of_events_that_are_no_messages_is_told_as_often_as_it_doubles(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    answer = ask(scene, "sse", *["event {nope"] * 100, "answer", "end")
    assert answer.message["result"] == RESULT
    lines = [x.getMessage() for x in caplog.records if "event_dropped" in x.getMessage()]
    counts = [line.partition("count=")[2].partition(" ")[0] for line in lines]
    assert counts == ["1", "2", "4", "8", "16", "32", "64"]


@pytest.mark.parametrize(
    "data",
    ['{"id":1,"result":{}}', '{"jsonrpc":"2.0","id":1}', '{"jsonrpc":"2.0","id":1,"error":"no"}',
     '{"jsonrpc":"2.0","id":1,"result":{},"result":{}}'],
)  # fmt: skip
@pytest.mark.parametrize("before", [[], ["note"]], ids=["at first", "within a stream"])
def test_answer_that_is_malformed_fails_its_call_at_once(
    scene: Scene, before: list[str], data: str
) -> None:
    """No other will come: whoever waited for it would wait until the deadline."""
    answer = ask(scene, "sse", *before, f"event {data}", f"pause {CALL_S_MAX + 1}")
    assert answer.message["id"] == 1
    assert data_of(answer)["reason"] == "upstream-protocol"
    assert data_of(answer)["executed"] == "unknown"


@pytest.mark.parametrize("before", [[], ["note"]], ids=["at first", "within a stream"])
def test_stream_that_ends_after_what_may_have_been_its_answer_says_so(
    scene: Scene, before: list[str]
) -> None:
    """As with NaN, which many servers write and JSON does not know."""
    nan = '{"jsonrpc":"2.0","id":1,"result":{"x":NaN}}'
    answer = ask(scene, "sse", *before, f"event {nan}", "end")
    assert answer.message["id"] == 1
    assert data_of(answer)["reason"] == "upstream-protocol"
    assert "no valid JSON-RPC" in answer.error["message"]


def test_connection_refused_is_told_at_once_and_as_not_executed(scene: Scene) -> None:
    """N1."""
    session = scene.session()
    scene.run(10.0)
    del scene.listeners[UPSTREAM]
    before_s = scene.now_s()
    answer = scene.ask(request(call(1), session=session))
    assert answer.status == 502
    assert data_of(answer)["reason"] == "connect-failed"
    assert (data_of(answer)["executed"], data_of(answer)["retryable"]) == ("no", True)
    assert scene.now_s() - before_s < 1.0


def test_call_without_an_answer_ends_at_its_deadline_and_is_cancelled(scene: Scene) -> None:
    """MCP-X-5; HTTP-F8."""
    answer = ask(scene, f"pause {CALL_S_MAX + 100}", "json")
    assert answer.status == 504
    assert data_of(answer)["reason"] == "upstream-timeout"
    cancelled = scene.server.seen[-1].body
    assert cancelled["method"] == "notifications/cancelled"
    assert cancelled["params"]["requestId"] == 1


def test_server_that_hangs_holds_the_reserve_for_a_moment_only(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """N3: nobody waits for the answer to what the proxy says itself, but for the connection."""
    session = scene.session()
    monkeypatch.setattr(scripted_server, "refuse", lambda *_: scene.server.pause(1000.0))
    late = request(call(1, f"pause {CALL_S_MAX + 100}", "json"), session=session)
    assert scene.ask(late).status == 504
    scene.run(1.0)
    assert len(scene.plane.table.leases) == 1
    scene.run(TOLD_S_MAX)
    assert not scene.plane.table.leases


def test_stream_without_an_answer_ends_at_its_deadline_and_is_cancelled(scene: Scene) -> None:
    answer = ask(scene, "sse", "note", f"pause {CALL_S_MAX + 100}", "answer", "end")
    assert data_of(answer)["reason"] == "upstream-timeout"
    assert scene.server.seen[-1].body["params"]["requestId"] == 1


@pytest.mark.parametrize("method", ["tools/list", "ping"])
def test_list_is_sent_again_when_the_idle_connection_was_closed(
    scene: Scene, method: str
) -> None:
    """N12: it does no harm."""
    answer = stale_call(scene, method)
    assert answer.status == 200
    assert scene.server.executions[2] == 1


def test_call_is_never_sent_again(scene: Scene) -> None:
    """N12, H-16: the server may have executed it."""
    answer = stale_call(scene, "tools/call")
    assert answer.status == 502
    assert data_of(answer)["executed"] == "unknown"


def test_list_that_is_sent_again_in_vain_may_have_been_executed(scene: Scene) -> None:
    """O1: what is known of the second time is not known of the first."""
    answer = stale_call(scene, "tools/list", "429")
    assert (answer.status, data_of(answer)["executed"]) == (429, "unknown")


def test_list_that_cannot_be_sent_again_may_have_been_executed(scene: Scene) -> None:
    answer = stale_call(scene, "tools/list", gone=True)
    assert (answer.status, data_of(answer)["reason"]) == (502, "upstream-closed")
    assert data_of(answer)["executed"] == "unknown"


def stale_call(scene: Scene, method: str, *steps: str, gone: bool = False) -> Answer:
    """Call on a connection that the upstream closes as the request arrives.

    `gone` says that it accepts no further one.
    """
    session = scene.session()

    def client() -> Answer:
        connection = scene.connection()
        connection.ask(request(call(1), session=session))
        (stream,) = scene.plane.table.streams.values()
        write = stream.write

        def write_too_late(parts: Any, deadline_s: float) -> None:
            stream.break_off()
            if gone:
                del scene.listeners[UPSTREAM]
            write(parts, deadline_s)

        stream.write = write_too_late
        answer = connection.ask(request(call(2, *steps, method=method), session=session))
        connection.close()
        return answer

    answer: Answer = scene.do(client)
    return answer


def test_bytes_behind_an_answer_are_never_the_next_answer(scene: Scene) -> None:
    """N11."""
    session = scene.session()

    def client() -> list[Answer]:
        connection = scene.connection()
        answers = [
            connection.ask(request(call(n, "json", "extra"), session=session)) for n in (1, 2, 3)
        ]
        connection.close()
        return answers

    answers = scene.do(client)
    assert [x.message["id"] for x in answers if x.status == 200] == [
        n for n, x in enumerate(answers, 1) if x.status == 200
    ]
    assert not [x for x in answers if b"not yours" in x.body]
    scene.rest()


@pytest.mark.parametrize(
    "body",
    [call(2, "pause 1", "sse", "note", "answer", "end"), call(2, "pause 1", "json"),
     call(2, "pause 1", "202"), note("notifications/x", _meta={"do": ["pause 1", "202"]})],
    ids=["stream", "json", "refusal", "notification"],
)  # fmt: skip
def test_connection_that_is_out_of_step_carries_nobody_else(body: Any) -> None:
    """N11, O1: an answer to another request shows that the next would be answered by this one."""
    scene = Scene(pool=PoolLimits(connections_max=1, reserve=1))
    mine, other = scene.session(), scene.session()

    def client() -> Answer:
        connections = [scene.connection() for _ in range(3)]
        connections[0].ask(request(call(1, "json", "pause 1", "extra"), session=mine))
        connections[0].close()
        scene.pass_time(0.1)
        connections[1].ask(request(body, session=mine))
        answer = connections[2].ask(request(call(3), session=other))
        for connection in connections:
            connection.close()
        return answer

    answer = scene.do(client)
    assert answer.messages == [{"jsonrpc": "2.0", "id": 3, "result": {"content": [
        {"type": "text", "text": "n=3"}]}}]
    scene.rest()


# Sessions at the upstream.


def test_session_that_the_upstream_lost_is_gone(scene: Scene) -> None:
    """N7, MCP-S-4, S-5: 404 now and afterwards, so that the client initializes anew."""
    session = scene.session()
    scene.server.lose_sessions()
    assert scene.ask(request(call(1), session=session)).status == 404
    seen = len(scene.server.seen)
    assert scene.ask(request(call(1), session=session)).status == 404
    assert len(scene.server.seen) == seen
    assert scene.ask(request(call(1), session=scene.session())).status == 200
    scene.rest()


def test_404_of_a_server_without_sessions_is_no_lost_session() -> None:
    scene = Scene(sessions=False)
    answer = ask(scene, "404")
    assert (answer.status, data_of(answer)["reason"]) == (502, "upstream-protocol")


def test_server_without_sessions_is_served() -> None:
    """PROTOCOL 4.3: the proxy's session is its own."""
    scene = Scene(sessions=False)
    session = scene.session()
    assert scene.ask(request(call(1), session=session)).status == 200
    assert scene.ask(request(None, "DELETE", session), method="DELETE").status == 200
    scene.rest()
    assert "DELETE" not in [seen.method for seen in scene.server.seen]


def test_session_fields_of_the_upstream_stay_behind(scene: Scene) -> None:
    """MCP-P-5: clients adopt a session id from any answer."""
    session = scene.session()
    assert "up-1" not in session
    raw = (
        "HTTP/1.1\\x20400\\x20No\\r\\nMcp-Session-Id:\\x20useless\\r\\n"
        "Content-Length:\\x200\\r\\n\\r\\n"
    )
    answer = scene.ask(request(call(1, f"raw {raw}"), session=session))
    assert answer.status == 400
    assert answer.field(b"mcp-session-id") is None
    assert scene.server.seen[-1].field("mcp-session-id") == "up-1"


# Notifications, responses and the standalone stream.


def test_notification_is_202_without_a_body(scene: Scene) -> None:
    """MCP-H-9, G-4."""
    session = scene.session()
    body = note("notifications/initialized")
    answer = scene.ask(request(body, session=session))
    assert (answer.status, answer.body, answer.field(b"content-length")) == (202, b"", b"0")
    assert scene.server.seen[-1].body == body
    scene.rest()


@pytest.mark.parametrize(
    ("step", "status"), [("200", 202), ("202", 202), ("204", 202), ("400", 400), ("500", 502)]
)
def test_notification_fares_as_the_upstream_says(scene: Scene, step: str, status: int) -> None:
    body = note("notifications/x", _meta={"do": [step]})
    answer = scene.ask(request(body, session=scene.session()))
    assert answer.status == status
    assert status == 202 or "id" not in answer.message


def test_server_asks_and_the_client_answers(scene: Scene) -> None:
    """MCP-S-23: the answer comes on another connection, under the server's own id."""
    session = scene.session()

    def client() -> Answer:
        script = call(1, "sse", "ask", "answer", "end")
        connection, answer = scene.begin(request(script, session=session))
        while not answer.body:
            scene.pass_time(0.1)
        scene.pass_time(CALL_S_MAX + 50)  # a person thinks, and the call's clock stands still
        other = scene.connection()
        reply = {"jsonrpc": "2.0", "id": "ask-1-0", "result": {"action": "accept"}}
        assert other.ask(request(reply, session=session)).status == 202
        while not answer.complete:
            scene.pass_time(0.1)
        connection.close()
        other.close()
        return answer

    monkey = 2 * CALL_S_MAX
    scene.server.signal = patient(scene, monkey)
    answer: Answer = scene.do(client)
    assert [x.get("method", x.get("id")) for x in answer.messages] == ["elicitation/create", 1]
    assert answer.message["result"] == RESULT
    scene.rest()


def patient(scene: Scene, seconds: float) -> Any:
    """Signals of a server that waits for longer than it would."""
    make = scene.server.signal

    def signal() -> Any:
        made = make()
        wait = made.wait
        setattr(made, "wait", lambda _: wait(seconds))
        return made

    return signal


def test_cancelled_call_may_end_without_an_answer(scene: Scene) -> None:
    """MCP-X-3, X-4."""
    session = scene.session()

    def client() -> Answer:
        connection, other, answer = scene.connection(), scene.connection(), Answer()
        connection.send(request(call(1, "sse", "note", "pause 5", "end"), session=session))
        scene.spawn("reader", lambda: connection.receive(answer=answer))
        while not answer.body:
            scene.pass_time(0.1)
        body = note("notifications/cancelled", requestId=1)
        assert other.ask(request(body, session=session)).status == 202
        while not answer.complete:
            scene.pass_time(0.1)
        connection.close()
        other.close()
        return answer

    answer: Answer = scene.do(client)
    assert [message.get("id") for message in answer.messages] == [None]
    assert scene.server.seen[-1].body["params"] == {"requestId": 1}
    scene.rest()


@pytest.mark.parametrize("steps", [["pause 5", "json"], ["sse", "note", "pause 5", "answer", "end"],
                                   ["sse", "pause 20", "answer", "end"]], ids=" ".join)
def test_client_that_leaves_does_not_cancel(scene: Scene, steps: list[str]) -> None:
    """MCP-S-21, C1: the call runs to its end, once; everything that was lent comes back."""
    session = scene.session()

    def client() -> None:
        connection = scene.connection()
        connection.send(request(call(1, *steps), session=session))
        scene.pass_time(2.0)
        connection.close()

    scene.do(client)
    scene.rest()
    assert scene.server.executions[1] == 1
    assert [x for x in scene.server.seen if x.body and "cancelled" in str(x.body)] == []
    assert scene.server.links == 0 or scene.plane.table.streams


def test_standalone_stream_carries_what_the_server_says(scene: Scene) -> None:
    """MCP-S-8, S-14, H-11."""
    session = scene.session()

    def client() -> Answer:
        connection, answer = scene.begin(request(None, "GET", session), "GET")
        while answer.status is None:
            scene.pass_time(0.1)
        (upstream,) = scene.server.sessions.values()
        assert upstream.standalone is not None
        upstream.standalone.put(note("notifications/tools/list_changed"))
        upstream.standalone.put({"jsonrpc": "2.0", "id": 0, "method": "roots/list"})
        upstream.standalone.put({"jsonrpc": "2.0", "id": 1, "result": {}})
        upstream.standalone.put({"jsonrpc": "2.0", "error": {"code": 1, "message": "stray"}})
        upstream.standalone.put({"jsonrpc": "2.0", "id": 7})
        upstream.standalone.put(note("notifications/prompts/list_changed"))
        scene.pass_time(20.0)
        connection.close()
        return answer

    answer: Answer = scene.do(client)
    assert answer.is_stream
    assert [x["method"] for x in answer.messages] == [
        "notifications/tools/list_changed", "roots/list", "notifications/prompts/list_changed"
    ]
    assert b": keep-alive\n\n" in answer.body
    scene.rest()


def test_second_standalone_stream_is_409_until_the_first_has_ended(scene: Scene) -> None:
    """MCP-S-28."""
    session = scene.session()
    get = request(None, "GET", session)

    def client() -> list[Any]:
        second = scene.connection()
        first, answer = scene.begin(get, "GET")
        while answer.status is None:
            scene.pass_time(0.1)
        refused = second.ask(get, "GET").status
        first.close()
        second.close()
        scene.pass_time(2 * ANSWER_WAIT_S)  # so long the upstream takes to notice
        third, again = scene.begin(get, "GET")
        scene.pass_time(5.0)
        third.close()
        return [answer.status, refused, again.status]

    assert scene.do(client) == [200, 409, 200]
    scene.rest()


def test_missing_standalone_stream_is_405() -> None:
    """MCP-S-8, S-9; and may be asked for again."""
    scene = Scene(standalone=False)
    session = scene.session()
    for _ in range(2):
        answer = scene.ask(request(None, "GET", session), method="GET")
        assert answer.status == 405
        assert answer.field(b"allow") == b"POST, DELETE"
    scene.rest()


def test_end_of_the_session_ends_its_streams(scene: Scene) -> None:
    """MCP-S-7: a call that runs is answered."""
    session = scene.session()

    def client() -> tuple[Answer, Answer]:
        connections = [scene.connection() for _ in range(3)]
        get, post = Answer(), Answer()
        connections[0].send(request(None, "GET", session))
        scene.spawn("reader", lambda: connections[0].receive("GET", get))
        body = call(1, "sse", "note", "pause 60", "answer", "end")
        connections[1].send(request(body, session=session))
        scene.spawn("reader", lambda: connections[1].receive(answer=post))
        while get.status is None or not post.body:
            scene.pass_time(0.1)
        deleted = connections[2].ask(request(None, "DELETE", session), "DELETE")
        assert deleted.status == 200
        while not get.complete or not post.complete:
            scene.pass_time(0.1)
        for connection in connections:
            connection.close()
        return get, post

    get, post = scene.do(client)
    assert get.messages == []
    assert data_of(post)["reason"] == "session-lost"
    assert scene.server.deleted == ["up-1"]
    scene.rest()


def test_session_that_ends_while_its_upstream_is_started_anew_ends_there_too(
    scene: Scene,
) -> None:
    """MCP-S-6: the next incarnation hears of it, or the server's session would live on."""
    session = scene.session()
    upstream = scene.plane.upstream
    (actor,) = [task for task in scene.live if task.owner == "actor HttpUpstream"]
    actor.kill()
    assert scene.run_until(lambda: upstream.ref is None, 10.0)
    (row,) = scene.plane.store.rows()
    assert upstream.tell(SessionEnded(row.session, EndReason.DELETED))
    assert scene.run_until(lambda: scene.server.deleted == ["up-1"], 10.0)
    assert upstream.starts == 2
    assert scene.ask(request(call(1), session=session)).status == 404


# Limits.


def test_standalone_streams_leave_the_calls_their_connections() -> None:
    scene = Scene(pool=PoolLimits(connections_max=1, reserve=1, streams_max=4))
    sessions = [scene.session() for _ in range(4)]

    def client() -> tuple[list[Any], list[Any]]:
        connections = [scene.connection() for _ in sessions]
        gets = [Answer() for _ in sessions]
        for connection, session, get in zip(connections, sessions, gets):
            connection.send(request(None, "GET", session))
            scene.spawn("reader", lambda c=connection, g=get: c.receive("GET", g))
        scene.pass_time(20.0)
        other = scene.connection()
        calls = [other.ask(request(call(1), session=x)).status for x in sessions]
        for connection in [*connections, other]:
            connection.close()
        return [get.status for get in gets], calls

    gets, calls = scene.do(client)
    assert sorted(gets) == [200, 200, 200, 429], "the last one is for another client"
    assert calls == [200, 200, 200, 200]
    scene.rest()


def test_call_that_gets_no_connection_in_time_was_not_executed() -> None:
    """HTTP-F8: 503 with Retry-After."""
    scene = Scene(pool=PoolLimits(connections_max=1, reserve=1))
    session = scene.session()

    def client() -> Answer:
        first, second = scene.connection(), scene.connection()
        first.send(request(call(1, "pause 60", "json"), session=session))
        scene.pass_time(1.0)
        answer = second.ask(request(call(2), session=session))
        first.close()
        second.close()
        return answer

    answer: Answer = scene.do(client)
    assert (answer.status, data_of(answer)["reason"]) == (503, "pool-exhausted")
    assert answer.field(b"retry-after") == b"1"
    assert scene.server.executions[2] == 0
    scene.rest()


# initialize.


def test_initialize_may_be_answered_by_events(scene: Scene) -> None:
    body = initialize("2025-11-25", "sse", "prime", "note", "answer", "end")
    answer = scene.ask(request(body))
    assert answer.field(b"content-type") == b"application/json"
    assert answer.message["id"] == 0
    assert answer.field(b"mcp-session-id") is not None
    scene.rest()


@pytest.mark.parametrize(
    ("step", "status"),
    [("error 200 -32602", 200), ("error 400 -32602", 200), ("400", 400), ("404", 502), ("405", 502),
     ("500", 502), ("close", 502), ("401", 502)],
)
def test_initialize_that_fails_opens_no_session(scene: Scene, step: str, status: int) -> None:
    """MCP-P-3; PROTOCOL trap 3: a 404 or 405 would send the client to another transport."""
    answer = scene.ask(request(initialize("2025-11-25", step)))
    assert answer.status == status
    assert answer.field(b"mcp-session-id") is None
    assert answer.message["id"] == 0
    assert list(scene.plane.store.rows()) == []
    scene.rest()
