"""What became of each request is counted, once, where it belongs."""

from __future__ import annotations

import json

import pytest

from proxy_actors import metrics
from proxy_actors.errors import Executed, FailedError, Reason
from proxy_actors.gateway import rescue
from proxy_actors.gateway.limits import LimitKey, Rate, Rule
from proxy_actors.gateway.metering import JSON_RPC, TOOL_ERROR, outcome
from tests.gateway.scene import Scene
from tests.plane import UPSTREAM
from tests.sim.virtual import call, note, request

Counts = dict[str, float]


def result(**members: object) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": 1, "result": members}).encode()


def text(words: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": words}]


CONTRACT = rescue.message(FailedError(Reason.OVERLOADED, "x", executed=Executed.NO), b"1", "a")


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        (b"", ""),
        (result(content=[]), ""),
        (result(content=text("x"), isError=False), ""),
        (result(content=text("x"), isError=True), TOOL_ERROR),
        (b'{"jsonrpc":"2.0","id":1,"result" : {"isError" : true }}', TOOL_ERROR),
        (b'{"isError":true,"jsonrpc":"2.0","id":1,"result":{}}', ""),
        # One name with escapes is the same name to whoever reads it.
        (rb'{"jsonrpc":"2.0","id":1,"result":{"isErro\u0072":true}}', TOOL_ERROR),
        (rb'{"jsonrpc":"2.0","id":1,"\u0072esult":{"\u0069s\u0045r\u0072or":true}}', TOOL_ERROR),
        (rb'{"jsonrpc":"2.0","id":1,"erro\u0072":{"code":1,"message":""}}', JSON_RPC),
        # What a tool says is not what became of its call.
        (result(content=text('"isError":true')), ""),
        (result(content=text('say "isError": true, "error": {}')), ""),
        (result(content=[{"isError": True}], structuredContent={"isError": True}), ""),
        (result(structuredContent={"error": {"code": 1}}, _meta={"isError": True}), ""),
        (result(isError="true"), ""),
        (result(isError=1), ""),
        (b'{"jsonrpc":"2.0","id":1,"result":[{"isError":true}]}', ""),
        (b'{"jsonrpc":"2.0","id":1,"result":"error"}', ""),
        (b'{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"no"}}', JSON_RPC),
        (b'{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"","data":5}}', JSON_RPC),
        (b'{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"","data":{"reason":"x"}}}',
         JSON_RPC),
        (CONTRACT, "overloaded"),
        (CONTRACT.replace(b"overloaded", b"made-up"), JSON_RPC),
    ],
)
def test_answer_says_what_became_of_the_request(answer: bytes, what: str) -> None:
    assert outcome(answer) == what


def counted(scene: Scene) -> Counts:
    """Take what was counted of requests; times only by how many there were."""
    counts: Counts = {}
    for row in scene.plane.wiring.meters.take():
        if row.metric.template.startswith("streams."):
            continue
        name = row.metric.template.format(**dict(zip(row.metric.labels, row.labels)))
        timer = row.metric.kind is metrics.Kind.TIMER
        counts[name] = len(row.values) if timer else row.values[0]
    return counts


def of(method: str, **counts: int) -> Counts:
    return {f"upstream.{UPSTREAM}.method.{method}.{name}": n for name, n in counts.items()}


def errors(**counts: int) -> Counts:
    return {
        f"upstream.{UPSTREAM}.errors.{name.replace('_', '-')}": n for name, n in counts.items()
    }


TIMES = {"latency": 1, "queue": 1, "first_byte": 1}


def test_call_is_counted_with_its_times() -> None:
    scene = Scene()
    session = scene.session()
    assert counted(scene) == {
        **of("initialize", requests=1, **TIMES), "http.responses.2xx": 1,
    }  # fmt: skip
    assert scene.ask(*(request(call(n), session=session) for n in (1, 2, 3))).status == 200
    assert counted(scene) == {
        **of("tools/call", requests=3, latency=3, queue=1, first_byte=3), "http.responses.2xx": 3,
    }  # fmt: skip
    assert counted(scene) == {}


@pytest.mark.parametrize(
    "steps",
    [
        ("json",),
        ("chunked",),
        ("sse", "answer", "end"),
        ("sse", "note", "answer", "end"),
        ("sse", "prime", "pause 30", "answer"),
    ],
)
@pytest.mark.parametrize("fails", [False, True])
def test_tool_that_failed_is_no_error(steps: tuple[str, ...], fails: bool) -> None:
    """Whatever form the answer has, streams that outlive their first message included."""
    scene = Scene()
    session = scene.session()
    counted(scene)
    steps = ("tool-error", *steps) if fails else steps
    assert scene.ask(request(call(1, *steps), session=session)).status == 200
    failed = of("tools/call", tool_errors=1) if fails else {}
    assert counted(scene) == {
        **of("tools/call", requests=1, **TIMES), **failed, "http.responses.2xx": 1
    }


def test_time_of_a_streamed_call_ends_with_its_answer() -> None:
    scene = Scene()
    session = scene.session()
    counted(scene)
    scene.ask(request(call(1, "sse", "note", "pause 20", "answer", "end"), session=session))
    times = {row.metric: row.values[0] for row in scene.plane.wiring.meters.take()}
    assert 20_000 <= times[metrics.LATENCY] < 21_000
    assert times[metrics.FIRST_BYTE] < 1_000 and times[metrics.QUEUE] < 1_000


@pytest.mark.parametrize(
    ("steps", "status", "reason"),
    [
        (("error 200 -32601",), 200, "json-rpc"),
        (("error 400 -32602",), 200, "json-rpc"),
        (("sse", "note", "reset"), 200, "upstream-closed"),
        (("close",), 502, "upstream-closed"),
        (("garbage",), 502, "upstream-protocol"),
        (("pause 400", "json"), 504, "upstream-timeout"),
    ],
)
def test_failure_is_counted_by_its_reason(
    steps: tuple[str, ...], status: int, reason: str
) -> None:
    scene = Scene()
    session = scene.session()
    counted(scene)
    answer = scene.ask(request(call(1, *steps), session=session))
    assert answer.status == status, answer
    counts = counted(scene)
    assert counts[f"http.responses.{status // 100}xx"] == 1
    key = f"upstream.{UPSTREAM}.method.tools/call"
    assert (counts[f"{key}.requests"], counts[f"{key}.errors"]) == (1, 1)
    assert counts[f"upstream.{UPSTREAM}.errors.{reason}"] == 1
    assert f"{key}.tool_errors" not in counts


def test_what_is_refused_is_an_error_of_its_method() -> None:
    """A body that cannot be read has none; a head that is refused is no request to an upstream."""
    scene = Scene()
    session = scene.session()
    counted(scene)
    assert scene.ask(request(call(1), session="unknown")).status == 404
    assert scene.ask(request(b"{", session=session)).status == 400
    assert scene.ask(request(call(1), path="/nowhere")).status == 404
    assert scene.ask(request(None, "GET", path="/health"), method="GET").status == 200
    assert scene.ask(b"nonsense\r\n\r\n").status == 400
    assert counted(scene) == {
        **of("tools/call", requests=1, errors=1, latency=1),
        **of("_unread", requests=1, errors=1, latency=1),
        **errors(refused=2),
        "http.responses.4xx": 4,
        "http.responses.2xx": 1,
    }


def test_method_that_a_client_made_up_has_no_name() -> None:
    """RELIABILITY THR-T18."""
    scene = Scene()
    session = scene.session()
    counted(scene)
    made_up = call(1, method="x:1|c\ny")
    made_up["params"] = {"arguments": {"n": 1}}
    assert scene.ask(request(made_up, session=session)).status == 200
    counts = counted(scene)
    assert counts == {
        **of("_other", requests=1, **TIMES), "http.responses.2xx": 1
    }


def test_notifications_answers_listeners_and_ends_are_counted() -> None:
    scene = Scene()
    session = scene.session()
    counted(scene)
    answer = {"jsonrpc": "2.0", "id": "ask", "result": {}}
    for body in (note("notifications/initialized"), answer):
        assert scene.ask(request(body, session=session)).status == 202

    def listen() -> None:
        connection = scene.connection()
        connection.send(request(None, "GET", session))
        scene.spawn("reader", lambda: connection.receive("GET"))
        scene.pass_time(5.0)
        connection.close()

    scene.do(listen)
    assert scene.ask(request(None, "DELETE", session), method="DELETE").status == 200
    counts = counted(scene)
    assert counts == {
        **of("notifications/initialized", requests=1, latency=1),
        **of("_response", requests=1, latency=1),
        **of("_listen", requests=1),
        **of("_delete", requests=1, latency=1),
        "http.responses.2xx": 4,
    }
    scene.rest()


def test_client_that_left_got_no_result() -> None:
    scene = Scene()
    session = scene.session()
    counted(scene)

    def leave() -> None:
        connection = scene.connection()
        body = call(1, "sse", "note", "pause 5", "note", "answer")
        connection.send(request(body, session=session))
        scene.pass_time(2.0)
        connection.close()

    scene.do(leave)
    scene.run(60.0)
    counts = counted(scene)
    assert counts == {
        **of("tools/call", requests=1, errors=1, **TIMES), **errors(client_left=1),
        "http.responses.2xx": 1,
    }  # fmt: skip


def test_each_message_of_a_batch_is_counted_once() -> None:
    """MCP-S-12."""
    scene = Scene()
    session = scene.session("2025-03-26")
    counted(scene)
    fields: dict[str, str | None] = {"MCP-Protocol-Version": "2025-03-26"}
    batch = [
        call(1), call(2, "tool-error", "sse", "note", "answer", "end"), call(3, "close"),
        note("notifications/initialized"),
    ]
    answer = scene.ask(request(batch, session=session, fields=fields))
    assert answer.status == 200 and len(answer.messages) == 4
    counts = counted(scene)
    assert counts == {
        **of("tools/call", requests=3, errors=1, tool_errors=1, latency=3, queue=3, first_byte=2),
        **of("notifications/initialized", requests=1, latency=1),
        **errors(upstream_closed=1),
        "http.responses.2xx": 1,
    }
    scene = Scene()
    assert scene.ask(request(batch, session="unknown", fields=fields)).status == 404
    assert counted(scene) == {
        **of("tools/call", requests=3, errors=3, latency=3),
        **of("notifications/initialized", requests=1, errors=1, latency=1),
        **errors(refused=4),
        "http.responses.4xx": 1,
    }


def test_refusal_is_counted_by_its_rule() -> None:
    """As often as a request was refused, however often a bucket was asked for it."""
    rule = Rule(name="calls", key=LimitKey.PRINCIPAL, rate=Rate(0.001, 2), method="tools/call")
    scene = Scene(rules=[rule], address=Rate(0.001, 6))
    session = scene.session()
    statuses = [scene.ask(request(call(n), session=session)).status for n in range(8)]
    assert statuses == [200] * 2 + [429] * 6
    counts = counted(scene)
    assert counts["limits.calls.refused"] + counts["limits.address.refused"] == 6
    assert counts["limits.address.refused"] == 3
    key = f"upstream.{UPSTREAM}"
    assert counts[f"{key}.errors.rate-limited"] == 6
    assert counts[f"{key}.method.tools/call.requests"] == 8
    assert counts[f"{key}.method.tools/call.errors"] == 6
