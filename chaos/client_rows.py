"""Faults of clients: RELIABILITY 6.4, C1 to C17."""

from __future__ import annotations

import hashlib
import select
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from chaos.footing import rss_bytes
from chaos.ledger import ANSWERED
from chaos.scorecard import plays
from chaos.servers import http_upstream, stdio_upstream
from chaos.stage import VICTIM, Stage
from tests.sim.virtual import Answer, call, request
from tests.wire.http_client import Wire
from tests.wire.session_client import Session, SessionClient
from tests.wire.smuggling import SESSION, payloads

NOT_RUN: dict[str, str] = {}

HEALTH = request(None, "GET", path="/health")
MEGABYTE = 1 << 20
LISTENERS = 400
LIMITS = "proxy_actors.gateway.wiring.ConnectionLimits"
IMPATIENT = {LIMITS: {"write_s_max": 1.0, "write_rate_min": 10**9}}
CHANGED = '{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}\n'

POISON: tuple[bytes, ...] = (
    b"", b"{", b"nope", b"[" * 100_000, b'{"a":' * 100_000, b"7", b"null", b'"x"', b"[]",
    b'{"jsonrpc":"2.0","id":1,"method":"ping"}\xff', b'{"jsonrpc":"1.0","id":1,"method":"ping"}',
    b'{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}', b'{"jsonrpc":"2.0","id":{},"method":"a"}',
    b'{"jsonrpc":"2.0","id":1e999,"method":"ping"}', b'{"jsonrpc":"2.0","id":1,"method":7}',
    b'{"jsonrpc":"2.0","id":true,"method":"ping"}', b'{"jsonrpc":"2.0","id":1}',
    b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]', b'{"jsonrpc":"2.0","id":1.5,"method":"ping"}',
)  # fmt: skip


def raw_call(
    stage: Stage, session: Session, *steps: str, fields: dict[str, str | None] = {}
) -> tuple[str, bytes]:
    """The bytes of a call that nobody's ledger has, and what the journal calls it."""
    name = f"raw-{stage.chance.randrange(10**12)}"
    message: Any = call(name, *steps)  # type: ignore[arg-type]
    return name, request(message, session=session.id, path=VICTIM, fields=fields)


@contextmanager
def wire(stage: Stage, **options: Any) -> Iterator[Wire]:
    """A connection that sends whatever bytes it is given."""
    with Wire(stage.proxy.address, **options) as opened:
        yield opened


def served(stage: Stage, answer: Answer, name: str) -> None:
    """Judge: the answer to a call that was made by hand."""
    stage.require(answer.complete and answer.status == 200, f"{name}: {answer.status}")
    stage.require(name in answer.body.decode(), f"{name}: {answer.body[:200]!r}")


@plays("C1", "clients leave by FIN and by RST in the middle of calls, plain ones and streams")
def leaving(stage: Stage) -> None:
    """Their calls run to the end, once, and what they had on loan comes back."""
    stage.serve(http_upstream(stage.http_server().url))
    session = stage.session()
    names = []
    for n in range(20):
        steps = (["pause 0.3", "json"], ["sse", "note", "pause 0.3", "answer", "end"])[n % 2]
        name, data = raw_call(stage, session, *steps)
        names.append(name)
        opened = Wire(stage.proxy.address)
        opened.send(data)
        time.sleep(stage.chance.uniform(0.02, 0.1))
        stage.chance.choice([Wire.close, Wire.reset])(opened)
    time.sleep(0.5)
    executed = Counter(stage.journal.read_text().split())
    stage.require(all(executed[name] == 1 for name in names), "not each of them once")
    stage.recovered(0.5, session)


@plays("C2", "five clients that read nothing of streams of 20 MB, with small buffers")
def slow_readers(stage: Stage) -> None:
    """Each is cut off within bounds; memory is bounded, others do not notice."""
    stage.serve(http_upstream(stage.http_server().url), settings=IMPATIENT)
    session = stage.session()
    before = rss_bytes(stage.proxy.pid)
    wires = [Wire(stage.proxy.address, receive_bytes=4096) for _ in range(5)]
    for opened in wires:
        _, data = raw_call(stage, session, "sse", *["note 100000"] * 200, "answer", "end")
        opened.send(data)
    most = 0
    for _ in range(20):
        most = max(most, rss_bytes(stage.proxy.pid) - before)
        time.sleep(0.15)
    stage.figures["rss at most MB"] = round(most / MEGABYTE)
    stage.require(most < 5 * 16 * MEGABYTE, "memory is not bounded")
    whole = [opened.answer().complete for opened in wires]
    stage.require(not any(whole), "a client that read nothing was served to the end")
    for opened in wires:
        opened.close()
    stage.recovered(0.5, session)


@plays("C3", f"{LISTENERS} idle streams, one broadcast, and a reset of all at once")
def listeners(stage: Stage) -> None:
    """Cheap, told within 2 s, and gone within 10 s."""
    stage.serve(stdio_upstream("shared", stage.journal))
    clients = stage.client()
    wires = []
    before = rss_bytes(stage.proxy.pid)
    for _ in range(LISTENERS):
        session = clients.session(path=VICTIM)
        opened = Wire(stage.proxy.address)
        opened.send(request(None, "GET", session=session.id, path=VICTIM))
        stage.require(opened.head().status == 200, "no stream")
        wires.append(opened)
    each = (rss_bytes(stage.proxy.pid) - before) / LISTENERS
    stage.figures["kB each, session and all"] = round(each / 1000, 1)
    began_s = time.monotonic()
    caller = stage.session()
    stage.ends(stage.call(caller, "say", text=CHANGED), {ANSWERED})
    for opened in wires:
        while b"list_changed" not in opened.socket.recv(4096):
            pass
    stage.within(2.0, time.monotonic() - began_s, "broadcast")
    for opened in wires:
        opened.reset()
    began_s = time.monotonic()
    with wire(stage) as other:
        stage.require(other.ask(HEALTH, "GET").status == 200, "not accepted")
    stage.within(0.2, time.monotonic() - began_s, "accepted")


@plays("C4", "300 connections that send a byte of a head, of a body, or of a chunk now and then")
def slow_loris(stage: Stage) -> None:
    """408 at the bound, for each; good clients fare well."""
    top = "[http]\nhead-s-max = 1\nbody-grace-s = 1\n"
    stage.serve(http_upstream(stage.http_server().url), top=top)
    starts = (
        b"G", b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-",
        request(None, fields={"Content-Length": "1000"}),
        request(None, fields={"Content-Length": None, "Transfer-Encoding": "chunked"}) + b"5\r",
    )  # fmt: skip
    load = stage.load()
    wires = [Wire(stage.proxy.address) for _ in range(300)]
    for n, opened in enumerate(wires):
        opened.send(starts[n % len(starts)])
    began_s = time.monotonic()
    while time.monotonic() - began_s < 0.8:
        for opened in wires:
            opened.send_what_is_taken(b"x")
        time.sleep(0.3)
    statuses = Counter(opened.answer().status for opened in wires)
    stage.figures["statuses"] = dict(statuses)
    for opened in wires:
        opened.close()
    load.stop()
    # A byte too many makes the framing of some wrong before they are late.
    stage.require(set(statuses) <= {408, 400, 501}, f"{dict(statuses)}")
    stage.require(statuses[408] >= 150, f"{dict(statuses)}")
    stage.require({row.ended for row in load.rows} == {ANSWERED}, "good clients were disturbed")


@plays("C5", "three clients that do not read their answers of 6 MB")
def unread_answers(stage: Stage) -> None:
    """They are left, with a truncated answer; their calls were executed."""
    stage.serve(http_upstream(stage.http_server().url), settings=IMPATIENT)
    session = stage.session()
    wires = [Wire(stage.proxy.address, receive_bytes=4096) for _ in range(3)]
    for opened in wires:
        opened.send(raw_call(stage, session, "large 6000000", "json")[1])
        time.sleep(0.3)
    time.sleep(2.5)
    stage.require(not any(opened.answer().complete for opened in wires), "served to the end")
    for opened in wires:
        opened.close()
    stage.recovered(0.5, session)


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


@plays("C11", "100 calls in flight under one id, of as many sessions; one id twice in one session")
def same_ids(stage: Stage) -> None:
    """Each client gets its own answer; the second of one session is refused or answered."""
    stage.deadline_s = 8.0
    stage.serve(stdio_upstream("shared", stage.journal))
    answers: dict[int, Any] = {}

    def ask(n: int, session: Session) -> None:
        answer = session.begin("hold", 7, n=f"same-{n}", count=100, mark=n).answer()
        answers[n] = answer

    sessions = [stage.session() for _ in range(100)]
    threads = [
        threading.Thread(target=ask, args=item, daemon=True) for item in enumerate(sessions)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30.0)
    marks = {n: answer.value["mark"] for n, answer in answers.items()}
    stage.require(marks == {n: n for n in range(100)}, "an answer went to another client")
    other = Session(stage.client(), sessions[0].id, VICTIM)
    first = sessions[0].begin("silence", 8, n="first")
    time.sleep(0.2)
    second = other.call("echo", 8, n="second")
    stage.figures["twice in one session"] = second.status
    stage.require(second.status in (200, 400, 409), f"the second: {second.status}")
    first.leave()


@plays("C12", "700 connections; `connections-max` is 100")
def flood(stage: Stage) -> None:
    """No more than that; who was there is served, and others when there is room."""
    top = "[http]\nconnections-max = 100\n"
    stage.serve(http_upstream(stage.http_server().url), top=top)
    session = stage.session()
    wires = [Wire(stage.proxy.address) for _ in range(700)]
    stage.figures["descriptors at most"] = stage.proxy.fds()
    took_s = stage.until(lambda: stage.proxy.fds() < 200, 5.0, "those too many are let go")
    stage.figures["let go ms"] = round(took_s * 1e3)
    refused = 0
    for opened in wires[-100:]:
        if select.select([opened.socket], [], [], 1.0)[0]:
            refused += opened.answer().status in (503, None)
    stage.figures["of the last 100 refused"] = refused
    for opened in wires:
        opened.close()
    stage.recovered(3.0, session)


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


@plays("C14", "20 clients at once at a bucket of 20 with 10 a second")
def limits(stage: Stage) -> None:
    """Never more than burst + rate x time."""
    rule = '[[rate-limits.rules]]\nname = "r"\nkey = "all"\nmethod = "tools/call"\nrate = 10\n'
    stage.serve(
        http_upstream(stage.http_server().url, after=rule + 'burst = 20\nupstream = "victim"\n'),
    )
    time.sleep(1.0)
    sessions = [stage.session() for _ in range(20)]
    began_s = time.monotonic()
    calls = [stage.begin(session) for session in sessions for _ in range(10)]
    rows = [call.row() for call in calls]
    took_s = time.monotonic() - began_s
    ended = Counter(row.ended for row in rows)
    stage.figures["in s"] = round(took_s, 2)
    stage.require(set(ended) == {ANSWERED, "rate-limited"}, f"{dict(ended)}")
    stage.require(ended[ANSWERED] <= 20 + 10 * took_s + 1, f"{ended[ANSWERED]} in {took_s:.2f} s")
    stage.require(all(row.status in (200, 429) for row in rows), "another status")


@plays("C15", "the session of another key, of nobody, one that has ended, and guesses")
def hijacked(stage: Stage) -> None:
    """404, whatever it is, and its owner goes on."""
    keys = {"ann": "key-of-ann-for-a-scenario", "eve": "key-of-eve-for-a-scenario"}
    tables = "".join(
        f'[[keys]]\nid = "{id}"\nsha256 = "{hashlib.sha256(key.encode()).hexdigest()}"\n'
        for id, key in keys.items()
    )
    stage.serve(http_upstream(stage.http_server().url, after=tables))

    def client(id: str) -> SessionClient:
        return stage.client_with({"Authorization": f"Bearer {keys[id]}"})

    owner = client("ann").session(path=VICTIM)
    ended = client("ann").session(path=VICTIM)
    stage.require(ended.delete().status == 200, "not ended")
    guesses = [owner.id[:-1] + "A", "v1.0." + "0" * 32, "up-1", "x" * 1000]
    thieves = [Session(client("eve"), owner.id, VICTIM), Session(stage.client(), owner.id, VICTIM)]
    thieves += [Session(client("ann"), id, VICTIM) for id in (ended.id, *guesses)]
    for thief in thieves:
        before = stage.journal.read_text()
        statuses = [thief.call("t", n="stolen").status, thief.listen().answer().status]
        statuses.append(thief.delete().status)
        stage.require(set(statuses) <= {404, 400}, f"{statuses}")
        stage.require("stolen" not in stage.journal.read_text()[len(before):], "executed")
    stage.ends(stage.call(owner), {ANSWERED})


@plays("C16", "clients end their side behind a call of each kind, and wait")
def half_closed(stage: Stage) -> None:
    """They still get the answer."""
    stage.serve(http_upstream(stage.http_server().url))
    session = stage.session()
    for steps in (["json"], ["pause 0.3", "json"],
                  ["sse", "note", "pause 0.3", "answer", "end"]):  # fmt: skip
        for _ in range(3):
            name, data = raw_call(stage, session, *steps)
            with wire(stage) as opened:
                opened.send(data)
                opened.end()
                served(stage, opened.answer(), name)


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
