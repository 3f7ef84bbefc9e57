"""Requests that are no good requests: RELIABILITY 6.4, C6 to C10, C13 and C17."""

from __future__ import annotations

import threading
from collections import Counter

from chaos.client_rows import MEGABYTE, raw_call, served, wire
from chaos.footing import rss_bytes
from chaos.load import VICTIM
from chaos.scorecard import plays
from chaos.servers import http_upstream
from chaos.stage import Stage
from tests.sim.virtual import request
from tests.wire.smuggling import SESSION, payloads

POISON: tuple[bytes, ...] = (
    b"", b"{", b"nope", b"[" * 100_000, b'{"a":' * 100_000, b"7", b"null", b'"x"', b"[]",
    b'{"jsonrpc":"2.0","id":1,"method":"ping"}\xff', b'{"jsonrpc":"1.0","id":1,"method":"ping"}',
    b'{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}', b'{"jsonrpc":"2.0","id":{},"method":"a"}',
    b'{"jsonrpc":"2.0","id":1e999,"method":"ping"}', b'{"jsonrpc":"2.0","id":1,"method":7}',
    b'{"jsonrpc":"2.0","id":true,"method":"ping"}', b'{"jsonrpc":"2.0","id":1}',
    b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]', b'{"jsonrpc":"2.0","id":1.5,"method":"ping"}',
)  # fmt: skip


@plays("C6", "a target of 100 kB, a field of 1 MB, 10,000 fields, 101 fields, a host of 9 kB")
def large_heads(stage: Stage) -> None:
    """414 or 431, readably, and memory stays flat."""
    stage.serve(http_upstream(stage.http_server().url))
    start = b"GET /health HTTP/1.1\r\n"
    heads = {
        b"GET /%s HTTP/1.1\r\nHost: localhost\r\n\r\n" % (b"x" * 100_000): 414,
        start + b"Host: localhost\r\nX: %s\r\n\r\n" % (b"x" * 1_000_000): 431,
        start + b"Host: localhost\r\n%s\r\n" % (b"X: x\r\n" * 10_000): 431,
        start + b"Host: localhost\r\n%s\r\n" % (b"X: x\r\n" * 101): 431,
        start + b"Host: %s\r\n\r\n" % (b"x" * 9_000): 431,
    }
    for _ in range(10):
        for head, status in heads.items():
            with wire(stage) as opened:
                opened.send_what_is_taken(head)
                answer = opened.answer("GET")
            stage.require(answer.status == status, f"{head[:30]!r}: {answer.status}")
    stage.recovered(0.5)


@plays("C7", "50 MB by length and in chunks; lengths that say more and less than there is")
def large_bodies(stage: Stage) -> None:
    """413 that can be read, 400 for lies; nothing of it is executed."""
    stage.serve(http_upstream(stage.http_server().url))
    session = stage.session()
    size = 50 * MEGABYTE
    with wire(stage) as opened:
        fields = {"Content-Length": str(size)}
        opened.send(request(None, session=session.id, path=VICTIM, fields=fields))
        opened.send_what_is_taken(b"x" * size)
        stage.require(opened.answer().status == 413, "50 MB")
    with wire(stage) as opened:
        chunked: dict[str, str | None] = {"Content-Length": None, "Transfer-Encoding": "chunked"}
        opened.send(request(None, session=session.id, path=VICTIM, fields=chunked))
        for _ in range(200):
            opened.send_what_is_taken(b"10000\r\n%s\r\n" % (b"x" * 0x10000))
        stage.require(opened.answer().status == 413, "endless chunks")
    for more in (1, -1):
        name, data = raw_call(stage, session)
        length = len(data.partition(b"\r\n\r\n")[2])
        with wire(stage) as opened:
            lie = b"Content-Length: %d" % (length + more)
            opened.send(data.replace(b"Content-Length: %d" % length, lie))
            opened.end()
            stage.require(opened.answer().status == 400, f"a lie by {more}")
        stage.require(name not in stage.journal.read_text(), "a lie was executed")
    stage.recovered(0.5, session)


@plays("C8", "the list of payloads of the tests, all of them")
def smuggling(stage: Stage) -> None:
    """The upstream executes what the framing gives, and nothing that was hidden."""
    server = stage.http_server()
    stage.serve(http_upstream(server.url), top='default-upstream = "victim"\n')
    session = stage.session("/mcp")
    expected: Counter[str] = Counter()
    count = 0
    for payload in payloads():
        with wire(stage) as opened:
            opened.send_what_is_taken(payload.data.replace(SESSION, session.id.encode()))
            opened.end()
            opened.rest()
        expected.update(str(n) for n in payload.served)
        count += 1
    journal = stage.journal.read_text().split()
    executed = Counter(n for n in journal if n.isdigit())
    stage.journal.write_text("".join(f"{n}\n" for n in journal if not n.isdigit()))
    stage.figures["payloads"] = count
    stage.require(executed == expected, f"executed {executed - expected} too often")
    stage.recovered(0.5)


@plays("C9", "what is no JSON, too deep, doubled, out of range, no UTF-8, or an array")
def poisoned(stage: Stage) -> None:
    """400 with -32700 or -32600, never 500, and the connection goes on."""
    stage.serve(http_upstream(stage.http_server().url))
    session = stage.session()
    codes: Counter[object] = Counter()
    with wire(stage) as opened:
        for body in stage.chance.sample(POISON, len(POISON)):
            answer = opened.ask(request(body, session=session.id, path=VICTIM))
            code = answer.message["error"]["code"]
            codes[code] += 1
            stage.require(answer.status == 400, f"{body[:40]!r}: {answer.status}")
            stage.require(code in (-32700, -32600), f"{body[:40]!r}: {code}")
            name, data = raw_call(stage, session)
            served(stage, opened.ask(data), name)
    stage.figures["codes"] = dict(codes)


@plays("C10", "a thousand pipelined calls, and half a request behind them")
def pipelined(stage: Stage) -> None:
    """Answered in order, with a bounded look ahead."""
    stage.serve(http_upstream(stage.http_server().url))
    session = stage.session()
    calls = [raw_call(stage, session) for _ in range(1000)]
    data = b"".join(data for _, data in calls) + calls[0][1][:100]
    before = rss_bytes(stage.proxy.pid)
    with wire(stage) as opened:
        sender = threading.Thread(target=opened.send_what_is_taken, args=(data,), daemon=True)
        sender.start()
        for name, _ in calls:
            served(stage, opened.answer(), name)
        opened.end()
        sender.join()
    stage.figures["rss grew MB"] = round((rss_bytes(stage.proxy.pid) - before) / MEGABYTE, 1)
    stage.recovered(0.5, session)


@plays("C13", "foreign hosts and origins, fields that are the proxy's, doctored Connection")
def names(stage: Stage) -> None:
    """421 or 403; what is nominated or ours is not believed."""
    stage.serve(http_upstream(stage.http_server().url))
    session = stage.session()
    cases: list[tuple[dict[str, str | None], int]] = [
        ({"Host": "evil.example.com"}, 421), ({"Host": "127.0.0.1.evil.example.com"}, 421),
        ({"Origin": "http://evil.example.com"}, 403), ({"Origin": "null"}, 403),
        ({"X-Forwarded-Host": "evil.example.com", "X-Forwarded-For": "1.2.3.4"}, 200),
        ({"Connection": "mcp-session-id, host, content-length"}, 200),
        ({"Connection": "authorization", "Authorization": "Basic eA=="}, 200),
    ]  # fmt: skip
    for fields, status in stage.chance.sample(cases, len(cases)):
        name, data = raw_call(stage, session, fields=fields)
        with wire(stage) as opened:
            answer = opened.ask(data)
        # Credentials that are no key of ours are refused, where they are looked at.
        allowed = {status, 400, 401} if "Connection" in fields else {status}
        stage.require(answer.status in allowed, f"{fields}: {answer.status}")
        executed = name in stage.journal.read_text()
        stage.require(executed == (answer.status == 200), f"{fields}: executed {executed}")
    stage.recovered(0.5, session)


@plays("C17", "HTTP/1.0, HEAD, OPTIONS, TRACE, PUT, CONNECT, an unknown method, the absolute form")
def other_forms(stage: Stage) -> None:
    """Each as RFC 9110 and 9112 have it."""
    stage.serve(http_upstream(stage.http_server().url))
    session = stage.session()
    name, data = raw_call(stage, session, fields={"Connection": "keep-alive"})
    with wire(stage) as opened:
        served(stage, opened.ask(data.replace(b"HTTP/1.1", b"HTTP/1.0", 1)), name)
        stage.require(opened.has_ended, "the connection of an old client lives on")
    cases = [("HEAD", "/health", 200), ("HEAD", VICTIM, 405), ("OPTIONS", VICTIM, 204),
             ("OPTIONS", "*", 204), ("TRACE", VICTIM, 405), ("PUT", VICTIM, 405)]  # fmt: skip
    with wire(stage) as opened:
        for method, path, status in cases:
            answer = opened.ask(request(None, method, path=path, fields={"X-C": "canary"}), method)
            stage.require(answer.status == status, f"{method} {path}: {answer.status}")
            stage.require(b"canary" not in answer.body, "something is reflected")
    for data in (b"CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: 127.0.0.1:22\r\n\r\n",
                 b"BREW /mcp HTTP/1.1\r\nHost: localhost\r\n\r\n"):  # fmt: skip
        with wire(stage) as opened:
            stage.require(opened.ask(data).status == 501, f"{data[:10]!r}")
    name, data = raw_call(stage, session, fields={"Host": "elsewhere.example.com"})
    target = f"POST http://localhost{VICTIM}".encode()
    with wire(stage) as opened:
        served(stage, opened.ask(data.replace(f"POST {VICTIM}".encode(), target, 1)), name)
