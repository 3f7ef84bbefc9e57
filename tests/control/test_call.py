"""`proxy-actors call` against a far end that follows a script, over loopback HTTP."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from proxy_actors.__main__ import main
from proxy_actors.control import call

Json = dict[str, Any]  # Any: JSON
JSON_TYPE = {"Content-Type": "application/json"}
SSE_TYPE = {"Content-Type": "text/event-stream"}


@dataclass
class Answer:
    """One HTTP response; without a length, its body ends with the connection."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    hold: bool = False
    """Leave the body unfinished until the far end is closed."""


@dataclass
class Seen:
    """One request as it arrived."""

    verb: str
    headers: dict[str, str]
    message: Json


class QuietServer(ThreadingHTTPServer):
    """A server whose handlers may break off without a report."""

    def handle_error(self, request: Any, client_address: Any) -> None:  # Any: as declared
        pass


class FarEnd:
    """An MCP server that answers each JSON-RPC method as it was told to."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.closing = threading.Event()
        self.script: dict[str, Answer | Callable[[Json], Answer]] = {
            "initialize": answered({"protocolVersion": "2025-11-25"}, {"Mcp-Session-Id": "s1"}),
        }
        self._server = QuietServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/mcp"

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def methods(self) -> list[str]:
        """What was asked, in order: JSON-RPC methods, or the HTTP verb for the rest."""
        return [seen.message.get("method", seen.verb) for seen in self.seen]

    def _answer(self, message: Json) -> Answer:
        entry = self.script.get(message.get("method", ""), Answer(202))
        return entry if isinstance(entry, Answer) else entry(message)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        far_end = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                far_end.seen.append(Seen("POST", lowered(self.headers), message))
                answer = far_end._answer(message)
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answer.body)
                if answer.hold:
                    self.wfile.flush()
                    far_end.closing.wait()

            def do_DELETE(self) -> None:
                far_end.seen.append(Seen("DELETE", lowered(self.headers), {}))
                self.send_response(405)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Keep standard error for the thing under test."""

        return Handler


@pytest.fixture
def far_end() -> Iterator[FarEnd]:
    """A far end, closed after the test."""
    server = FarEnd()
    yield server
    server.close()


def lowered(headers: Any) -> dict[str, str]:  # Any: email.message.Message
    return {name.lower(): value for name, value in headers.items()}


def answered(result: Json, headers: dict[str, str] | None = None) -> Callable[[Json], Answer]:
    """Answer a request with `result` as JSON."""

    def answer(request: Json) -> Answer:
        body = json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": result}).encode()
        return Answer(200, JSON_TYPE | (headers or {}), body)

    return answer


def text(*lines: str, **more: object) -> Json:
    return {"content": [{"type": "text", "text": line} for line in lines], **more}


def events(*messages: object, before: str = "") -> bytes:
    return (before + "".join(f"data: {json.dumps(m)}\r\n\r\n" for m in messages)).encode()


def failing(status: int, error: Json) -> Answer:
    body = json.dumps({"jsonrpc": "2.0", "id": 2, "error": error}).encode()
    return Answer(status, JSON_TYPE, body)


def test_a_call_is_one_whole_session(
    far_end: FarEnd, capsys: pytest.CaptureFixture[str]
) -> None:
    """MCP-S-6, MCP-S-10: handshake, call, DELETE; each with the session and its revision."""
    far_end.script["tools/call"] = answered(text("hello", "world"))
    assert main(["call", far_end.url, "echo", "message=hello", "times=2"]) == 0
    assert capsys.readouterr().out == "hello\nworld\n"
    assert far_end.methods() == [
        "initialize", "notifications/initialized", "tools/call", "DELETE"
    ]
    first, *later = far_end.seen
    assert "mcp-session-id" not in first.headers and "mcp-protocol-version" not in first.headers
    assert {seen.headers["mcp-session-id"] for seen in later} == {"s1"}
    assert {seen.headers["mcp-protocol-version"] for seen in later} == {"2025-11-25"}
    assert {seen.headers["accept"] for seen in far_end.seen} == {
        "application/json, text/event-stream"
    }
    assert far_end.seen[2].message["params"] == {
        "name": "echo", "arguments": {"message": "hello", "times": 2}
    }


def test_key_of_the_environment_is_shown_with_every_request(
    far_end: FarEnd, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """MCP-A-10; and not what a .netrc says of the host."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login other password other")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("PROXY_ACTORS_KEY", "pa_secret")
    far_end.script["tools/call"] = answered(text("hello"))
    assert main(["call", far_end.url, "echo"]) == 0
    assert len(far_end.seen) == 4
    assert {seen.headers["authorization"] for seen in far_end.seen} == {"Bearer pa_secret"}


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("a=5", 5),
        ("a=-0.5", -0.5),
        ("a=true", True),
        ("a=null", None),
        ('a={"b": [1]}', {"b": [1]}),
        ('a="5"', "5"),
        ("a=five", "five"),
        ("a=NaN", "NaN"),
        ("a=", ""),
        ("a=b=c", "b=c"),
        ("a={not json", "{not json"),
        ("a=" + "[" * 100_000, "[" * 100_000),
    ],
)
def test_a_value_is_json_if_it_can_be(entry: str, value: object) -> None:
    """And a string if not."""
    assert call.parse_arguments([entry]) == {"a": value}


def test_the_answer_may_come_as_a_stream_of_events(
    far_end: FarEnd, capsys: pytest.CaptureFixture[str]
) -> None:
    """MCP-S-19: a priming event, comments and notifications may come before the answer."""
    progress = {"jsonrpc": "2.0", "method": "notifications/progress", "params": {}}
    answer = {"jsonrpc": "2.0", "id": 2, "result": text("drip")}
    far_end.script["tools/call"] = Answer(
        200, SSE_TYPE, events(progress, answer, before="id: 1\r\ndata:\r\n\r\n: alive\r\n\r\n"),
        hold=True,
    )
    assert main(["call", far_end.url, "slow"]) == 0
    assert capsys.readouterr().out == "drip\n"


def test_a_batch_in_a_stream_is_read(far_end: FarEnd, capsys: pytest.CaptureFixture[str]) -> None:
    """MCP-S-12: revision 2025-03-26 may send its answers in an array."""
    far_end.script["initialize"] = answered({"protocolVersion": "2025-03-26"})
    answer = {"jsonrpc": "2.0", "id": 2, "result": text("batched")}
    far_end.script["tools/call"] = Answer(200, SSE_TYPE, events([answer]))
    assert main(["call", far_end.url, "echo"]) == 0
    assert capsys.readouterr().out == "batched\n"


def test_what_the_server_asks_meanwhile_is_answered(far_end: FarEnd) -> None:
    """MCP-S-24, MCP-S-26: a ping must be; sampling was never offered."""
    asked = [
        {"jsonrpc": "2.0", "id": "p", "method": "ping"},
        {"jsonrpc": "2.0", "id": "q", "method": "sampling/createMessage", "params": {}},
        {"jsonrpc": "2.0", "id": 2, "result": text("done")},
    ]
    far_end.script["tools/call"] = Answer(200, SSE_TYPE, events(*asked))
    assert main(["call", far_end.url, "slow"]) == 0
    ping, sampling = [seen.message for seen in far_end.seen[3:5]]
    assert ping == {"jsonrpc": "2.0", "id": "p", "result": {}}
    assert (sampling["id"], sampling["error"]["code"]) == ("q", -32601)


def test_a_session_is_taken_from_the_handshake_alone(far_end: FarEnd) -> None:
    """MCP-P-5: an id on another answer is a stray one."""
    far_end.script["initialize"] = answered({"protocolVersion": "2025-06-18"})
    far_end.script["notifications/initialized"] = Answer(202, {"Mcp-Session-Id": "stray"})
    far_end.script["tools/call"] = answered(text("hello"), {"Mcp-Session-Id": "stray"})
    assert main(["call", far_end.url, "echo"]) == 0
    assert far_end.methods() == ["initialize", "notifications/initialized", "tools/call"]
    assert not any("mcp-session-id" in seen.headers for seen in far_end.seen)


def test_an_error_of_the_tool_is_told_on_standard_error(
    far_end: FarEnd, capsys: pytest.CaptureFixture[str]
) -> None:
    """A tool that failed has no output for a pipe."""
    far_end.script["tools/call"] = answered(text("no such file", isError=True))
    assert main(["call", far_end.url, "read"]) == 1
    assert capsys.readouterr() == ("", "no such file\n")


def test_json_prints_the_whole_result(
    far_end: FarEnd, capsys: pytest.CaptureFixture[str]
) -> None:
    """An error of the tool is a part of it."""
    result = text("é\ud800", isError=True)
    far_end.script["tools/call"] = answered(result)
    assert main(["call", "--json", far_end.url, "read", "path=/x"]) == 1
    assert json.loads(capsys.readouterr().out) == result


@pytest.mark.parametrize(
    ("result", "printed"),
    [
        ({"content": [{"type": "image", "data": "AA=="}]}, '{"type": "image", "data": "AA=="}\n'),
        ({"content": [], "structuredContent": {"n": 1}}, '{"n": 1}\n'),
        ({"content": []}, '{"content": []}\n'),
        ({"content": "odd"}, '{"content": "odd"}\n'),
        (text("a\ud800\x1b[0m"), "a\\ud800\x1b[0m\n"),
    ],
)
def test_content_that_is_not_text_is_printed_as_json(
    far_end: FarEnd, capsys: pytest.CaptureFixture[str], result: Json, printed: str
) -> None:
    """A pipe gets text as it is, save what no encoding could carry."""
    far_end.script["tools/call"] = answered(result)
    assert main(["call", far_end.url, "draw"]) == 0
    assert capsys.readouterr().out == printed


def test_a_terminal_is_not_steered_by_a_tool(
    far_end: FarEnd, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines and tabs stay."""
    far_end.script["tools/call"] = answered(text("a\n\tb\x1b]0;title\x07"))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert main(["call", far_end.url, "echo"]) == 0
    assert capsys.readouterr().out == "a\n\tb\\x1b]0;title\\x07\n"


def test_an_error_of_the_proxy_is_told_with_its_contract(
    far_end: FarEnd, capsys: pytest.CaptureFixture[str]
) -> None:
    """RELIABILITY 1.11: who reads it must know whether to repeat the call."""
    data = {
        "reason": "upstream-timeout", "upstream": "demo", "executed": "unknown",
        "retryable": False, "retryAfterMs": 1500, "requestId": "r-7", "other": "x",
    }
    error = {"code": -32603, "message": "no answer\x1b in time", "data": data}
    far_end.script["tools/call"] = failing(504, error)
    assert main(["call", far_end.url, "slow"]) == 1
    assert capsys.readouterr() == (
        "",
        "proxy-actors: no answer\\x1b in time (HTTP 504, code: -32603, reason: upstream-timeout,"
        " upstream: demo, executed: unknown, retryable: false, retryAfterMs: 1500,"
        " requestId: r-7)\n",
    )
    assert far_end.methods()[-1] == "DELETE"


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (failing(200, {"code": -32602, "message": "unknown tool"}), "unknown tool (HTTP 200"),
        (failing(400, {}), "None (HTTP 400"),
        (Answer(200, JSON_TYPE, b'{"id":2,"error":null}'), "an error without a description"),
        (Answer(401), "HTTP 401 Unauthorized"),
        (Answer(500, JSON_TYPE, b'{"trace": 1}'), "HTTP 500 Internal Server Error"),
        (Answer(502, JSON_TYPE, b"<html>"), "HTTP 502 Bad Gateway"),
        (Answer(307, {"Location": "/other"}), "HTTP 307"),
        (Answer(200, {"Content-Type": "text/html"}, b"<html>"), "text/html, not MCP"),
        (Answer(200), "of no type, not MCP"),
        (Answer(202, JSON_TYPE), "not JSON"),
        (Answer(200, JSON_TYPE, b"[" * 100_000), "not JSON"),
        (Answer(200, JSON_TYPE, b"5"), "not a JSON-RPC message"),
        (Answer(200, JSON_TYPE, b'{"id": 2}'), "neither a result nor an error"),
        (Answer(200, JSON_TYPE, b'{"id": 3, "result": {}}'), "ended before the answer"),
        (Answer(200, JSON_TYPE | {"Content-Length": "9"}, b"{}"), "broke off"),
        (Answer(200, SSE_TYPE, events({"jsonrpc": "2.0", "method": "n"})), "ended before"),
        (Answer(200, SSE_TYPE, b"data: \xff\n\n"), "not UTF-8"),
        (Answer(200, SSE_TYPE, b"data: {\n\n"), "not JSON"),
    ],
)
def test_what_is_no_result_fails_the_call(
    far_end: FarEnd, capsys: pytest.CaptureFixture[str], answer: Answer, told: str
) -> None:
    """Status 1, one line, and the session is ended all the same."""
    far_end.script["tools/call"] = answer
    assert main(["call", far_end.url, "echo"]) == 1
    out, err = capsys.readouterr()
    assert out == "" and told in err and err.count("\n") == 1
    assert far_end.methods()[-1] == "DELETE"


@pytest.mark.parametrize("media_type", [JSON_TYPE, SSE_TYPE])
def test_no_more_than_the_bound_is_read(
    far_end: FarEnd,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    media_type: dict[str, str],
) -> None:
    """SSE-S12, for JSON too: an answer that never ends is given up."""
    monkeypatch.setattr(call, "RESPONSE_BYTES_MAX", 1000)
    far_end.script["tools/call"] = Answer(200, media_type, b"data: " + b"x" * 1000, hold=True)
    assert main(["call", far_end.url, "echo"]) == 1
    assert "longer than 1000 bytes" in capsys.readouterr().err


def test_a_call_that_is_late_is_cancelled_at_the_far_end(
    far_end: FarEnd, capsys: pytest.CaptureFixture[str]
) -> None:
    """MCP: who stops waiting says so. An event now and then is no answer."""
    far_end.script["tools/call"] = Answer(200, SSE_TYPE, b": alive\n\n", hold=True)
    assert main(["call", far_end.url, "slow", "--timeout", "0.5"]) == 1
    assert "no answer within 0.5 s; whether the tool ran is unknown" in capsys.readouterr().err
    assert far_end.methods()[-2:] == ["notifications/cancelled", "DELETE"]
    assert far_end.seen[-2].message["params"]["requestId"] == 2


def test_a_far_end_of_another_revision_is_left(
    far_end: FarEnd, capsys: pytest.CaptureFixture[str]
) -> None:
    """MCP lifecycle: a client that does not speak the answered revision disconnects."""
    far_end.script["initialize"] = answered(
        {"protocolVersion": "1999-01-01"}, {"Mcp-Session-Id": "s1"}
    )
    assert main(["call", far_end.url, "echo"]) == 1
    assert "1999-01-01" in capsys.readouterr().err
    assert far_end.methods() == ["initialize", "DELETE"]


@pytest.mark.parametrize("path", ["", "/"])
def test_a_url_without_its_path_is_completed_for_the_user(
    far_end: FarEnd, capsys: pytest.CaptureFixture[str], path: str
) -> None:
    """The most frequent mistake in a URL."""
    far_end.script["initialize"] = Answer(404)
    assert main(["call", far_end.url.removesuffix("/mcp") + path, "echo"]) == 1
    assert capsys.readouterr().err.endswith(f"Not Found; did you mean {far_end.url}?\n")
    assert main(["call", far_end.url, "echo"]) == 1
    assert capsys.readouterr().err.endswith("Not Found\n")


def test_nobody_there_is_unavailable(capsys: pytest.CaptureFixture[str]) -> None:
    """Status 69: a script may wait and try again."""
    with socket.socket() as bound:  # bound but not listening: connections are refused
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}/mcp"
        assert main(["call", url, "echo"]) == 69
    assert capsys.readouterr().err == f"proxy-actors: cannot reach {url}: Connection refused\n"


def test_a_connection_that_breaks_leaves_the_call_unknown(
    far_end: FarEnd, capsys: pytest.CaptureFixture[str]
) -> None:
    """The far end may have acted before it broke."""

    def vanish(_request: Json) -> Answer:
        raise ConnectionAbortedError

    far_end.script["tools/call"] = vanish
    assert main(["call", far_end.url, "echo"]) == 1
    assert "whether the tool ran is unknown" in capsys.readouterr().err
