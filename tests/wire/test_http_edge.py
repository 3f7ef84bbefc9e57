"""HTTP/1.1 at the edge of a real proxy: sockets of a client, a process, sockets of an upstream.

HTTP-H3 to H21, F1, F2, F5 to F9; faults N4, N10, N11, C1, C4 to C10, C13, C16, C17; MCP-S-21. What
becomes of calls is shown in `tests/gateway`; here, that it is so on the wire.
"""

from __future__ import annotations

import gzip
import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from proxy_actors.policy.pool_limits import PoolLimits
from tests.peers.processes import free_port
from tests.sim.virtual import Answer, call, initialize, request
from tests.wire.http_client import Wire
from tests.wire.proxy_process import ProxyProcess, running
from tests.wire.plane_thread import PlaneThread
from tests.wire.socket_upstream import SocketUpstream
from tests.wire.waiting import eventually

NUMBERS = itertools.count(1)
BODY_BYTES_MAX = 4 * 1024 * 1024
# So that a connection that should not be used again is not closed for being idle.
KEEPS = PoolLimits(idle_timeout_s=1000.0)


@pytest.fixture(scope="module")
def upstream() -> Iterator[SocketUpstream]:
    with SocketUpstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def proxy(upstream: SocketUpstream) -> Iterator[ProxyProcess]:
    with running(upstream.url) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def session(proxy: ProxyProcess) -> str:
    return proxy.session_id()


@pytest.fixture
def n(upstream: SocketUpstream) -> Iterator[int]:
    """The number of a call of its own; pauses last until the test ends them."""
    upstream.hold()
    yield next(NUMBERS)
    upstream.resume()


@pytest.fixture
def wire(proxy: ProxyProcess) -> Iterator[Wire]:
    with proxy.wire() as wire:
        yield wire


def result_of(answer: Answer) -> str:
    text: str = answer.message["result"]["content"][0]["text"]
    return text


def chunks(data: bytes, size: int = 7) -> bytes:
    parts = [data[at : at + size] for at in range(0, len(data), size)]
    return b"".join(b"%x;x=1\r\n%s\r\n" % (len(part), part) for part in parts)


# Persistence and order.


def test_connection_carries_one_request_after_another(
    wire: Wire, session: str, n: int
) -> None:
    """HTTP-H16, F5."""
    for number in (n, next(NUMBERS), next(NUMBERS)):
        answer = wire.ask(request(call(number), session=session))
        assert (answer.status, result_of(answer)) == (200, f"n={number}")
        assert answer.keep_alive
        assert answer.field(b"date") is not None


def test_nothing_is_served_behind_a_close(
    wire: Wire, session: str, upstream: SocketUpstream, n: int
) -> None:
    """HTTP-H18."""
    last = request(call(n), session=session, fields={"Connection": "close"})
    behind = next(NUMBERS)
    wire.send(last + request(call(behind), session=session))
    answer = wire.answer()
    assert result_of(answer) == f"n={n}"
    assert not answer.keep_alive
    assert wire.has_ended
    assert upstream.server.executions[behind] == 0


def test_thousand_pipelined_requests_are_answered_in_order(
    wire: Wire, session: str, upstream: SocketUpstream
) -> None:
    """C10, HTTP-H17: those with effects, and those answered by the proxy itself between them."""
    numbers = [next(NUMBERS) for _ in range(100)]
    page = request(None, "GET", path="/health")
    for number in numbers:
        wire.send(request(call(number), session=session) + page * 9)
    for number in numbers:
        assert result_of(wire.answer()) == f"n={number}"
        for _ in range(9):
            assert wire.answer("GET").message == {"status": "ok"}
    assert {upstream.server.executions[number] for number in numbers} == {1}


def test_second_request_waits_for_the_first_answer(
    wire: Wire, session: str, upstream: SocketUpstream, n: int
) -> None:
    """HTTP-H17: one at a time, and the second's effects never come before the first's."""
    second = next(NUMBERS)
    slow = request(call(n, "pause 1", "json"), session=session)
    wire.send(slow + request(call(second), session=session))
    upstream.wait_for(n)
    assert upstream.server.executions[second] == 0
    upstream.resume()
    assert [result_of(wire.answer()), result_of(wire.answer())] == [f"n={n}", f"n={second}"]


def test_request_may_come_in_any_pieces(wire: Wire, session: str, n: int) -> None:
    """C10: half requests."""
    data = request(call(n), session=session)
    for at in range(0, len(data), 3):
        wire.send(data[at : at + 3])
    assert result_of(wire.answer()) == f"n={n}"


# Framing.


def test_chunked_request_reaches_the_upstream_whole(
    wire: Wire, session: str, upstream: SocketUpstream, n: int
) -> None:
    """HTTP-H13, H14: framed anew, extensions and trailers dropped."""
    fields = {"Content-Length": None, "Transfer-Encoding": "chunked", "Trailer": "X-Trailer"}
    head = request(None, session=session, fields=fields)
    body = json.dumps(call(n)).encode()
    wire.send(head + chunks(body) + b"0\r\nX-Trailer: 1\r\n\r\n")
    assert result_of(wire.answer()) == f"n={n}"
    seen = upstream.server.seen[-1]
    assert seen.body == call(n)
    assert seen.field("content-length") == str(len(body))
    assert seen.field("transfer-encoding") is None
    assert seen.field("x-trailer") is None


@pytest.mark.parametrize("steps", [["chunked 1"], ["chunked 7"], ["until-close"]], ids=" ".join)
def test_answer_of_any_framing_comes_with_its_length(
    wire: Wire, session: str, n: int, steps: list[str]
) -> None:
    answer = wire.ask(request(call(n, *steps), session=session))
    assert result_of(answer) == f"n={n}"
    assert answer.field(b"content-length") == str(len(answer.body)).encode()
    assert answer.keep_alive


def test_events_come_as_chunks_and_each_at_once(
    wire: Wire, session: str, upstream: SocketUpstream, n: int
) -> None:
    """HTTP-F9: the first is here while the upstream still waits for us to have it."""
    wire.send(request(call(n, "sse", "note", "pause 1", "answer", "end"), session=session))
    answer = wire.head()
    assert answer.field(b"transfer-encoding") == b"chunked"
    while not answer.messages:
        assert wire.more(answer)
    assert [message["method"] for message in answer.messages] == ["notifications/progress"]
    upstream.resume()
    while wire.more(answer):
        pass
    assert answer.complete
    assert result_of(answer) == f"n={n}"
    assert result_of(wire.ask(request(call(n), session=session))) == f"n={n}"


def test_client_that_expects_continue_is_told_to(wire: Wire, session: str, n: int) -> None:
    """HTTP-H19."""
    body = json.dumps(call(n)).encode()
    fields = {"Content-Length": str(len(body)), "Expect": "100-continue"}
    wire.send(request(None, session=session, fields=fields))
    assert wire.interim() == b"HTTP/1.1 100 Continue"
    wire.send(body)
    assert result_of(wire.answer()) == f"n={n}"


def test_expect_stays_here(
    wire: Wire, session: str, upstream: SocketUpstream, n: int
) -> None:
    """HTTP-H19: and a client need not wait."""
    wire.send(request(call(n), session=session, fields={"Expect": "100-continue"}))
    assert result_of(wire.answer()) == f"n={n}"
    assert upstream.server.seen[-1].field("expect") is None


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"Expect": "100-continue", "Content-Length": "99999999"}, 413),
        ({"Expect": "100-continue", "Content-Type": "text/plain"}, 415),
        ({"Expect": "100-continue", "Accept": "text/html"}, 406),
        ({"Expect": "100-continue", "Host": "evil.example.com"}, 421),
        ({"Expect": "200-ok"}, 417),
    ],
)
def test_head_that_is_not_acceptable_is_refused_instead_of_continued(
    wire: Wire, session: str, fields: dict[str, str | None], status: int
) -> None:
    """HTTP-H19: at once, before a byte of the body."""
    body: dict[str, str | None] = {"Content-Length": "100"}
    answer = wire.ask(request(None, session=session, fields=body | fields))
    assert (answer.status, answer.keep_alive) == (status, False)
    assert wire.has_ended


# Other clients, other methods.


def test_old_client_is_answered_and_closed_on(wire: Wire, session: str, n: int) -> None:
    """HTTP-H15, C17."""
    data = request(call(n), session=session, fields={"Connection": "keep-alive"})
    answer = wire.ask(data.replace(b"HTTP/1.1", b"HTTP/1.0", 1))
    assert result_of(answer) == f"n={n}"
    assert not answer.keep_alive
    assert wire.has_ended


def test_old_client_gets_events_to_the_end_of_the_connection(
    wire: Wire, session: str, n: int
) -> None:
    """HTTP-H15: never a chunk."""
    data = request(call(n, "sse", "note", "answer", "end"), session=session)
    answer = wire.ask(data.replace(b"HTTP/1.1", b"HTTP/1.0", 1))
    assert answer.field(b"transfer-encoding") is None
    assert not answer.keep_alive
    assert result_of(answer) == f"n={n}"


def test_old_client_needs_no_host(wire: Wire) -> None:
    """HTTP-H5."""
    assert wire.ask(b"GET /health HTTP/1.0\r\n\r\n", "GET").status == 200


@pytest.mark.parametrize(
    ("method", "target", "status", "allow"),
    [
        ("HEAD", "/health", 200, None),
        ("HEAD", "/mcp", 405, b"POST, GET, DELETE, OPTIONS"),
        ("OPTIONS", "/mcp", 204, b"POST, GET, DELETE, OPTIONS"),
        ("OPTIONS", "*", 204, b"GET, HEAD, OPTIONS"),
        ("OPTIONS", "/ready", 204, b"GET, HEAD, OPTIONS"),
        ("TRACE", "/mcp", 405, b"POST, GET, DELETE, OPTIONS"),
        ("PUT", "/mcp", 405, b"POST, GET, DELETE, OPTIONS"),
        ("TRACE", "/health", 405, b"GET, HEAD, OPTIONS"),
    ],
)
def test_other_methods_are_answered_and_the_connection_lives_on(
    wire: Wire, method: str, target: str, status: int, allow: bytes | None
) -> None:
    """HTTP-H6, H20, C17: nothing that a client sent is reflected."""
    fields: dict[str, str | None] = {"X-Canary": "canary", "Max-Forwards": "0"}
    for _ in range(2):
        answer = wire.ask(request(None, method, path=target, fields=fields), method)
        assert (answer.status, answer.field(b"allow")) == (status, allow)
        assert b"canary" not in answer.body
        assert answer.keep_alive


@pytest.mark.parametrize(
    "data",
    [b"CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: 127.0.0.1:22\r\n\r\n",
     b"BREW /mcp HTTP/1.1\r\nHost: localhost\r\n\r\n", b"X" * 9000],
    ids=["connect", "unknown", "endless"],
)
def test_no_tunnel_and_no_unknown_method(wire: Wire, data: bytes) -> None:
    """HTTP-H6, H20."""
    assert wire.ask(data).status == 501
    assert wire.has_ended


def test_absolute_target_replaces_host(wire: Wire, session: str, n: int) -> None:
    """HTTP-H5, C17."""
    data = request(call(n), session=session, fields={"Host": "elsewhere.example.com"})
    answer = wire.ask(data.replace(b"POST /mcp", b"POST http://localhost:8808/mcp", 1))
    assert result_of(answer) == f"n={n}"
    foreign = request(call(n), session=session, path="http://elsewhere.example.com/mcp")
    assert wire.ask(foreign).status == 421


def test_upgrade_is_ignored(
    wire: Wire, session: str, upstream: SocketUpstream, n: int
) -> None:
    """HTTP-H20."""
    fields = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAAA"}
    assert wire.ask(request(call(n), session=session, fields=fields)).status == 200
    names = {name for name, _ in upstream.server.seen[-1].fields}
    assert names.isdisjoint({"upgrade", "http2-settings", "connection"})


# Bounds. The client sees the answer although it was still sending: the connection is not reset.


def test_body_that_says_it_is_too_large_is_refused_readably(wire: Wire, session: str) -> None:
    """C7, HTTP-H16: 50 MB, all of it sent before the client looks for an answer."""
    size = 50 * 1024 * 1024
    fields = {"Content-Length": str(size)}
    wire.send(request(None, session=session, fields=fields))
    wire.send(b"x" * size)
    answer = wire.answer()
    assert (answer.status, answer.keep_alive) == (413, False)
    assert wire.has_ended


def test_endless_chunked_body_is_refused_readably(wire: Wire, session: str) -> None:
    """C7."""
    fields = {"Content-Length": None, "Transfer-Encoding": "chunked"}
    wire.send(request(None, session=session, fields=fields))
    chunk = b"10000\r\n%s\r\n" % (b"x" * 0x10000)
    for _ in range(3 * BODY_BYTES_MAX // 0x10000):
        wire.send(chunk)
    answer = wire.answer()
    assert (answer.status, answer.keep_alive) == (413, False)
    assert wire.has_ended


def test_largest_body_is_served(wire: Wire, session: str, n: int) -> None:
    body = json.dumps(call(n)).encode()
    body += b" " * (BODY_BYTES_MAX - len(body))
    assert result_of(wire.ask(request(body, session=session))) == f"n={n}"


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /%s HTTP/1.1\r\nHost: localhost\r\n\r\n" % (b"x" * 100_000), 414),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: %s\r\n\r\n" % (b"x" * 1_000_000), 431),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\n%s\r\n" % (b"X: x\r\n" * 10_000), 431),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\n%s\r\n" % (b"X: x\r\n" * 101), 431),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\n%s" % (b"X: x\r\n" * 10_000), 431),
        (b"GET /health HTTP/1.1\r\nHost: %s\r\n\r\n" % (b"x" * 9_000), 431),
    ],
    ids=["target", "field", "fields", "one field more", "no end", "host"],
)
def test_head_that_is_too_large_is_refused_readably(
    wire: Wire, head: bytes, status: int
) -> None:
    """C6."""
    wire.send_what_is_taken(head)
    answer = wire.answer("GET")
    assert (answer.status, answer.keep_alive) == (status, False)
    assert wire.has_ended


def test_body_that_ends_before_its_length_is_refused(
    wire: Wire, session: str, upstream: SocketUpstream, n: int
) -> None:
    """C7: a lie. Nothing of it is forwarded."""
    body = json.dumps(call(n)).encode()
    fields = {"Content-Length": str(len(body) + 1)}
    wire.send(request(body, session=session, fields=fields))
    wire.end()
    assert wire.answer().status == 400
    assert wire.has_ended
    assert upstream.server.executions[n] == 0


def test_body_that_goes_on_behind_its_length_is_not_a_part_of_it(
    wire: Wire, session: str, upstream: SocketUpstream, n: int
) -> None:
    """C7: what is behind is no request either."""
    wire.send(request(call(n), session=session) + b"{}\r\n\r\n")
    assert result_of(wire.answer()) == f"n={n}"
    assert wire.answer().status == 400
    assert wire.has_ended


# What passes on.


def test_fields_of_one_hop_do_not_reach_the_upstream(
    wire: Wire, session: str, upstream: SocketUpstream, n: int
) -> None:
    """HTTP-F1, C13: nor what only the proxy may say."""
    dropped = {
        "Connection": "keep-alive, X-Hop, TE", "X-Hop": "1", "Keep-Alive": "timeout=5",
        "Proxy-Connection": "keep-alive", "TE": "trailers", "Proxy-Authorization": "Basic x",
        "Trailer": "X-Hop", "Upgrade": "websocket", "Authorization": "Bearer x", "Cookie": "a=b",
        "X-Forwarded-User": "root", "X-Proxy-Actors-Principal": "root", "Forwarded": "for=1.2.3.4",
    }
    fields = {**dropped, "X-Unknown": "passes", "X-Forwarded-For": "1.2.3.4"}
    assert wire.ask(request(call(n), session=session, fields=fields)).status == 200
    seen = upstream.server.seen[-1]
    names = {name for name, _ in seen.fields}
    assert names.isdisjoint(name.lower() for name in dropped)
    assert seen.field("x-unknown") == "passes"
    assert seen.field("x-forwarded-for") == "127.0.0.1"
    assert seen.field("host") == f"127.0.0.1:{upstream.port}"
    assert seen.field("x-forwarded-host") == "127.0.0.1:8808"


@pytest.mark.parametrize("name", ["authorization", "Mcp-Session-Id", "Content-Type", "host", "via"])
def test_nobody_has_end_to_end_fields_stripped(
    wire: Wire, session: str, upstream: SocketUpstream, n: int, name: str
) -> None:
    """HTTP-F1, C13."""
    fields = {"Connection": name}
    assert wire.ask(request(call(n), session=session, fields=fields)).status == 400
    assert upstream.server.executions[n] == 0


def test_fields_of_the_upstream_do_not_reach_the_client(
    wire: Wire, session: str, n: int
) -> None:
    """HTTP-F1, F6, MCP-P-5: the answer's fields are the proxy's own."""
    body = json.dumps({"jsonrpc": "2.0", "id": n, "result": {}})
    head = (
        "HTTP/1.1 200 OK\r\nConnection: X-Up, keep-alive\r\nX-Up: 1\r\nKeep-Alive: timeout=5\r\n"
        "Proxy-Authenticate: Basic\r\nTrailer: X-T\r\nSet-Cookie: a=b\r\nServer: secret\r\n"
        f"Mcp-Session-Id: other\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    answer = wire.ask(request(call(n, raw(head + body)), session=session))
    assert answer.message["result"] == {}
    assert {name for name, _ in answer.fields} == {b"content-type", b"content-length", b"date"}


def raw(text: str) -> str:
    """A step of the upstream that sends this."""
    return "raw " + text.encode("unicode_escape").decode()


def test_via_names_each_hop_once(
    wire: Wire, session: str, upstream: SocketUpstream, n: int
) -> None:
    """HTTP-F2."""
    fields = {"Via": "1.0 elsewhere"}
    assert wire.ask(request(call(n), session=session, fields=fields)).status == 200
    via = upstream.server.seen[-1].field("via")
    assert via is not None
    assert via.startswith("1.0 elsewhere, 1.1 proxy-actors-")
    assert wire.ask(request(call(n), session=session, fields={"Via": via})).status == 508
    assert wire.has_ended


def test_proxy_in_front_of_itself_does_not_go_round() -> None:
    """HTTP-F2."""
    port = free_port()
    with running(f"http://127.0.0.1:{port}/mcp", listen=f"127.0.0.1:{port}") as proxy:
        with proxy.wire() as wire:
            answer = wire.ask(request(initialize()))
        assert answer.status == 502
        assert answer.error["data"]["reason"] == "upstream-protocol"


# What upstreams do wrong.


@pytest.mark.parametrize(
    "answer",
    [
        "\x00\x01\x02 this is not HTTP\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: " + "x" * 40_000 + "\r\n\r\n",
        "HTTP/1.1 200 OK\r\n" + "X: x\r\n" * 200 + "\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\n{}\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{} ",
        "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\n{}",
        "HTTP/1.1 200 OK\nContent-Length: 2\n\n{}",
        "HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 2\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\nX : a\r\nContent-Length: 2\r\n\r\n{}",
        "HTTP/2 200\r\nContent-Length: 2\r\n\r\n{}",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\n" * 20,
        "ICY 200 OK\r\n\r\n",
    ],
    ids=[
        "rubbish", "field", "fields", "chunk", "two framings", "coding", "two lengths", "length",
        "folded", "bare LF", "NUL", "space", "HTTP/2", "switch", "interims", "protocol",
    ],
)
def test_answer_that_is_no_http_is_502_and_its_connection_is_gone(answer: str) -> None:
    """N10: and the next call fares well."""
    with SocketUpstream() as upstream, PlaneThread(upstream.url, pool=KEEPS) as proxy:
        session = proxy.session()
        with proxy.wire() as wire:
            refused = wire.ask(request(call(1, raw(answer)), session=session))
            assert (refused.status, refused.message["id"]) == (502, 1)
            data = refused.error["data"]
            assert (data["reason"], data["executed"]) == ("upstream-protocol", "unknown")
            assert refused.keep_alive
        eventually(lambda: upstream.server.links == 0)
        with proxy.wire() as wire:
            assert result_of(wire.ask(request(call(2), session=session))) == "n=2"


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirect_is_not_followed(wire: Wire, session: str, n: int, status: int) -> None:
    """N14, THR-T11: nowhere, with nobody's credentials."""
    with SocketUpstream(sessions=False) as elsewhere:
        step = f"{status} Location: {elsewhere.url}"
        answer = wire.ask(request(call(n, step), session=session))
        assert (answer.status, answer.error["data"]["reason"]) == (502, "upstream-protocol")
        assert answer.field(b"location") is None
        assert elsewhere.server.seen == []


def test_coded_answer_was_not_asked_for_and_is_not_inflated(
    wire: Wire, session: str, upstream: SocketUpstream, n: int
) -> None:
    """N20."""
    bomb = gzip.compress(b" " * 10_000_000)
    head = (
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\n"
        f"Content-Length: {len(bomb)}\r\n\r\n"
    )
    answer = wire.ask(request(call(n, raw(head + bomb.decode("latin-1"))), session=session))
    assert (answer.status, answer.error["data"]["reason"]) == (502, "upstream-protocol")
    assert upstream.server.seen[-1].field("accept-encoding") == "identity"


@pytest.mark.parametrize(
    "steps",
    [["head", "half", "close"], ["head", "half", "reset"], ["head", "reset"], ["sse", "reset"],
     ["sse", "half-event", "close"], [raw("HTTP/1.1 200 OK\r\nContent-Le"), "close"],
     [raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n"), "close"]],
    ids=lambda steps: " ".join(steps)[:30],
)
def test_truncated_answer_is_never_a_whole_one(
    wire: Wire, session: str, n: int, steps: list[str]
) -> None:
    """HTTP-F7, N4. Between two of them all is well, or their tool would be left alone."""
    assert wire.ask(request(call(n + 10_000), session=session)).status == 200
    answer = wire.ask(request(call(n, *steps), session=session))
    assert (answer.status, answer.message["id"]) == (502, n)
    assert answer.error["data"]["reason"] == "upstream-closed"


def test_truncated_stream_ends_in_an_error(wire: Wire, session: str, n: int) -> None:
    """HTTP-F7, N5: what came before is there, half an event is not."""
    answer = wire.ask(request(call(n, "sse", "note", "half-event", "reset"), session=session))
    assert answer.complete
    assert [message.get("id") for message in answer.messages] == [None, n]
    assert answer.error["data"]["reason"] == "upstream-closed"


def test_answer_beyond_every_bound_is_502(wire: Wire, session: str, n: int) -> None:
    """N10: bounded by the proxy, not by its memory."""
    answer = wire.ask(request(call(n, "large 17000000", "json"), session=session))
    assert (answer.status, answer.error["data"]["reason"]) == (502, "upstream-protocol")


@pytest.mark.parametrize("steps", [["json", "extra"], ["chunked", "extra"]], ids=" ".join)
def test_bytes_behind_an_answer_are_nobodys(
    wire: Wire, session: str, n: int, steps: list[str]
) -> None:
    """N11: response splitting. Bytes that come late make a call fail, never answer it."""
    for _ in range(3):
        answer = wire.ask(request(call(n, *steps), session=session))
        assert answer.message["id"] == n
        if answer.status != 200:
            assert (answer.status, answer.error["data"]["executed"]) == (502, "unknown")


def test_connection_with_bytes_behind_an_answer_is_gone() -> None:
    """N11: at once, when they came with it."""
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "result": {}})
    twice = 2 * (
        f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        f"\r\n{body}"
    )
    with SocketUpstream() as upstream, PlaneThread(upstream.url, pool=KEEPS) as proxy:
        session = proxy.session()
        with proxy.wire() as wire:
            assert wire.ask(request(call(1, raw(twice)), session=session)).status == 200
        eventually(lambda: upstream.server.links == 0)


# Clients that leave.


@pytest.mark.parametrize(
    "steps",
    [["json"], ["pause 1", "json"], ["sse", "note", "pause 1", "answer", "end"]],
    ids=" ".join,
)
def test_client_that_has_ended_its_side_gets_its_answer(
    wire: Wire, session: str, upstream: SocketUpstream, n: int, steps: list[str]
) -> None:
    """C16."""
    wire.send(request(call(n, *steps), session=session))
    wire.end()
    upstream.wait_for(n)
    upstream.resume()
    answer = wire.answer()
    assert answer.complete
    assert result_of(answer) == f"n={n}"
    assert wire.has_ended


@pytest.mark.parametrize("leave", [Wire.close, Wire.reset], ids=["end", "reset"])
@pytest.mark.parametrize(
    "steps",
    [["pause 1", "json"], ["sse", "note", "pause 1", "answer", "end"],
     ["sse", "note", "pause 1", "note", "note", "answer", "end"]],
    ids=" ".join,
)
def test_call_of_a_client_that_has_left_runs_to_its_end(
    proxy: ProxyProcess,
    session: str,
    upstream: SocketUpstream,
    n: int,
    steps: list[str],
    leave: Callable[[Wire], None],
) -> None:
    """MCP-S-21, C1: once, uncancelled, and what it had on loan comes back."""
    with proxy.wire() as wire:
        wire.send(request(call(n, *steps), session=session))
        upstream.wait_for(n)
        if steps[0] == "sse":
            assert wire.more(wire.head())
        leave(wire)
    ledger = proxy.pool()
    assert ledger["leased"] + ledger["streaming"] == 1
    upstream.resume()
    eventually(lambda: lent(proxy) == 0)
    assert upstream.server.executions[n] == 1
    assert not [seen for seen in upstream.server.seen if "cancelled" in str(seen.body)]


def lent(proxy: ProxyProcess) -> int:
    ledger = proxy.pool()
    return ledger["leased"] + ledger["streaming"]


def test_client_that_leaves_its_standalone_stream_can_have_it_again(
    proxy: ProxyProcess, upstream: SocketUpstream
) -> None:
    """MCP-S-28: it waits for its client, and ends with the session."""
    session = proxy.session_id()
    get = request(None, "GET", session)
    for leave in (Wire.close, Wire.reset):
        with eventually(lambda: standing(proxy, get)) as wire, proxy.wire() as second:
            assert second.ask(get, "GET").status == 409
            leave(wire)
        assert streaming(proxy) == 1
    with proxy.wire() as wire:
        assert wire.ask(request(None, "DELETE", session), "DELETE").status == 200
    eventually(lambda: not streaming(proxy))
    end_standalone(upstream)


def standing(proxy: ProxyProcess, get: bytes) -> Wire | None:
    """Open the standalone stream; None while it has another reader still."""
    wire = proxy.wire()
    wire.send(get)
    if wire.head().status == 200:
        return wire
    wire.close()
    return None


def streaming(proxy: ProxyProcess) -> Any:
    return proxy.pool()["streaming"]


def end_standalone(upstream: SocketUpstream) -> None:
    """A server notices that its stream is read no more when it next writes to it."""
    for session in upstream.server.sessions.values():
        if session.standalone is not None:
            session.standalone.end()
    eventually(lambda: not any(x.standalone for x in upstream.server.sessions.values()))
