"""Faults of clients: RELIABILITY 6.4, how they come, wait and leave."""

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
from chaos.load import VICTIM
from chaos.scorecard import plays
from chaos.servers import http_upstream, stdio_upstream
from chaos.stage import Stage
from proxy_actors.transports.heap import TRIM_S
from tests.sim.virtual import Answer, call, request
from tests.wire.http_client import Wire
from tests.wire.session_client import Session, SessionClient

HEALTH = request(None, "GET", path="/health")
MEGABYTE = 1 << 20
LISTENERS = 3000
LIMITS = "proxy_actors.gateway.wiring.ConnectionLimits"
IMPATIENT = {LIMITS: {"write_s_max": 1.0, "write_rate_min": 10**9}}
CHANGED = '{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}\n'


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
    """Each is cut off within bounds; memory is bounded and given back, others do not notice."""
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
    stage.until(
        lambda: rss_bytes(stage.proxy.pid) - before < 20 * MEGABYTE, 2 * TRIM_S, "memory is back"
    )


@plays("C3", f"{LISTENERS} idle streams, one broadcast, and a reset of all at once")
def listeners(stage: Stage) -> None:
    """Cheap, told within 2 s, and gone within 10 s."""
    top = f"[http]\nconnections-max = {2 * LISTENERS}\n[sessions]\nsessions-max = {2 * LISTENERS}\n"
    top += f"[rate-limits]\ninitialize-rate = 100_000\ninitialize-burst = {2 * LISTENERS}\n"
    stage.serve(stdio_upstream("shared", stage.journal), top=top)
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
    stage.require(each < 25_000, "streams are not cheap")
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
    stage.within(0.05, time.monotonic() - began_s, "accepted")


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


@plays("C11", "100 calls in flight under one id, of as many sessions; one id twice in one session")
def same_ids(stage: Stage) -> None:
    """Each client gets its own answer; the second of one session is refused or answered."""
    stage.deadline_s = 8.0
    stage.serve(stdio_upstream("shared", stage.journal))
    answers: dict[int, Any] = {}
    play = stage.chance.randrange(10**12)

    def ask(n: int, session: Session) -> None:
        answer = session.begin("hold", 7, n=f"same-{play}-{n}", count=100, mark=n).answer()
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
    first = sessions[0].begin("silence", 8, n=f"first-{play}")
    time.sleep(0.2)
    second = other.call("echo", 8, n=f"second-{play}")
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
