"""Faults of servers over HTTP and of the network to them: RELIABILITY 6.3."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections import Counter

from chaos.fault_proxy import ANSWER, BlackHole, Cut, FaultProxy, Garbage, Slicer, SynHole
from chaos.ledger import ANSWERED, REFUSED
from chaos.name_server import FAILED, FOUND, NAME, NO_SUCH_NAME, SILENT, NameServer
from chaos.relay import CLOSE, RESET
from chaos.scorecard import plays
from chaos.servers import NO_BREAKERS, http_upstream
from chaos.stage import NotHere, Stage
from tests.certificates import Authority

UNREACHED = {"connect-failed", "circuit-open"}
# A breaker that has opened finds out no later that the server is back: cap-s, and a second for a
# client's request to be its probe.
BREAKER_S = 6.0
BROKEN = {"upstream-closed"}
NO_HTTP = {"upstream-protocol"}
LATE = {"upstream-timeout", "deadline"}


def drop_kept(stage: Stage, relay: FaultProxy) -> None:
    """Close the connections that are kept, and let the proxy notice."""
    relay.cut(CLOSE)
    stage.until(lambda: not relay.open, 2.0, "kept connections are closed")


@plays("N1", "the listener is closed and all connections are reset, under load; then it is back")
def refused(stage: Stage) -> None:
    """Told within 100 ms, and that nothing was executed."""
    relay = stage.before(stage.http_server().address)
    stage.serve(http_upstream(relay.url))
    session = stage.session()
    load = stage.load()
    relay.refuse()
    relay.cut(RESET)
    time.sleep(0.3)
    for _ in range(5):
        row = stage.call(session)
        stage.ends(row, UNREACHED, "no")
        stage.within(0.1, row.took_s, "refused")
    relay.accept()
    stage.recovered(BREAKER_S, session)
    load.stop()
    ended = {row.ended for row in load.rows}
    stage.require(ended <= {ANSWERED, *UNREACHED, *BROKEN}, f"load ended with {ended}")


@plays("N2", "a listener whose queue is full: SYNs are dropped")
def syn_hole(stage: Stage) -> None:
    """The connect is given up after 2 s, nothing was executed."""
    relay = stage.before(stage.http_server().address)
    stage.serve(http_upstream(relay.url))
    session = stage.session()
    relay.refuse()
    relay.cut(RESET)
    with SynHole(relay.address):
        for _ in range(2):
            row = stage.call(session)
            stage.ends(row, UNREACHED, "no")
            stage.within(2.5, row.took_s, "given up")
    relay.accept()
    stage.recovered(1.0, session)


@plays("N3", "connections that are open carry nothing any more, and nobody is told")
def half_open(stage: Stage) -> None:
    """504 at the deadline; no such connection is used again."""
    stage.deadline_s = 1.5
    relay = stage.before(stage.http_server().address)
    stage.serve(http_upstream(relay.url))
    session = stage.session()
    stage.ends(stage.call(session), {ANSWERED})
    relay.poison(BlackHole())
    for call in [stage.begin(session) for _ in range(4)]:
        row = call.row()
        stage.ends(row, LATE, "unknown")
        stage.figures["answered ms"] = round(row.took_s * 1e3)
    relay.toxics = ()  # what is open stays dead
    for _ in range(5):
        stage.ends(stage.call(session), {ANSWERED})


@plays("N4", "answers are reset, or end, after 0, 20, and 100 bytes")
def cut_answers(stage: Stage) -> None:
    """502, executed: unknown; a truncated answer is never a whole one."""
    relay = stage.before(stage.http_server().address)
    stage.serve(http_upstream(relay.url))
    session = stage.session()
    cases = [(after, way) for after in (0, 20, 100) for way in (RESET, CLOSE)]
    for after, way in stage.chance.sample(cases, len(cases)):
        drop_kept(stage, relay)
        relay.poison(Cut((ANSWER,), after, way))
        stage.ends(stage.call(session), BROKEN, "unknown")
        relay.heal()
        stage.recovered(1.0, session)
    drop_kept(stage, relay)
    relay.poison(Garbage((ANSWER,)))
    row = stage.call(session)
    if row.ended in BROKEN:  # on a kept connection, whose end the proxy had not seen yet
        row = stage.call(session)
    stage.ends(row, NO_HTTP, "unknown")
    relay.heal()
    stage.recovered(1.0, session)


@plays("N5", "streams without ids end in half an event; those with ids are reset four times")
def cut_streams(stage: Stage) -> None:
    """Half an event is nobody's; what has ids goes on without a gap and without a repetition."""
    stage.deadline_s = 15.0
    relay = stage.before(stage.http_server("ids").address)
    fast = "[upstreams.victim.reconnect]\nbase-s = 0.05\ncap-s = 0.2\nattempts-max = 20\n"
    stage.serve(http_upstream(relay.url, after=fast))
    session = stage.session()
    for _ in range(3):
        steps = ["sse", *["note", "pause 0.1"] * 20, "answer", "end"]
        call = stage.begin(session, "t", do=steps)
        for _ in range(4):
            time.sleep(stage.chance.uniform(0.1, 0.4))
            relay.cut(stage.chance.choice([RESET, CLOSE]))
        row = call.row()
        stage.ends(row, {ANSWERED})
        stage.require(row.notes == list(range(1, 21)), f"progress came as {row.notes}")


@plays("N6", "an event stream falls silent, on a connection that stays")
def silent_stream(stage: Stage) -> None:
    """It is opened anew after `idle-s-max`, and goes on where it was."""
    stage.deadline_s = 15.0
    relay = stage.before(stage.http_server("ids").address)
    fast = "[upstreams.victim.reconnect]\nbase-s = 0.05\ncap-s = 0.2\nidle-s-max = 1\n"
    stage.serve(http_upstream(relay.url, after=fast))
    session = stage.session()
    steps = ["sse", *["note", "pause 0.1"] * 10, "answer", "end"]
    call = stage.begin(session, "t", do=steps)
    time.sleep(0.4)
    relay.poison(BlackHole())
    time.sleep(0.3)
    relay.toxics = ()
    row = call.row()
    stage.ends(row, {ANSWERED})
    stage.require(row.notes == list(range(1, 11)), f"progress came as {row.notes}")
    stage.figures["answered ms"] = round(row.took_s * 1e3)


@plays("N7", "the server is killed and started again under load; both values of `on-session-lost`")
def lost_sessions(stage: Stage) -> None:
    """By drawn setting 404 once and a new session, or the same one goes on."""
    way = stage.chance.choice(["end", "reinitialize"])
    stage.figures["on-session-lost"] = way
    server = stage.http_server()
    stage.serve(http_upstream(server.url, after=NO_BREAKERS, on_session_lost=way))
    session = stage.session()
    stage.ends(stage.call(session), {ANSWERED})
    load = stage.load()
    for _ in range(2):
        time.sleep(0.3)
        server.kill()
        server.start()
        ended = {"session-lost", "upstream-closed", REFUSED, ANSWERED}
        row = stage.call(session)
        stage.ends(row, ended)
        if way == "end":
            stage.require(stage.call(session).status == 404, "a lost session is half alive")
            session = stage.session()
        stage.recovered(1.0, session)
    load.stop()
    ended = {row.ended for row in load.rows}
    allowed = {ANSWERED, REFUSED, "session-lost", *UNREACHED, *BROKEN}
    stage.require(ended <= allowed, f"load ended with {ended}")


@plays("N8", "five 500s, 503 and 429 with Retry-After, 401 and 403, in a drawn order, under load")
def statuses(stage: Stage) -> None:
    """Each is told as what it is, to who has met it, and to nobody else."""
    server = stage.http_server()
    stage.serve(http_upstream(server.url))
    session = stage.session()
    load = stage.load()
    steps = [["500"]] * 5 + [["503 Retry-After: 2"], ["429 Retry-After: 1"], ["401"], ["403"]]
    told = Counter()
    for step in stage.chance.sample(steps, len(steps)):
        row = stage.call(session, "t", do=step)
        told[f"{step[0][:3]} as {row.status}"] += 1
        stage.require(row.outcome != ANSWERED, f"{step} was answered")
    stage.figures["told"] = ", ".join(f"{n} x {how}" for how, n in sorted(told.items()))
    stage.recovered(0.5, session)
    load.stop()
    stage.require({row.ended for row in load.rows} == {ANSWERED}, "others were disturbed")


@plays("N9", "answers come byte by byte: in time, and not; events come one by one")
def slow_server(stage: Stage) -> None:
    """What comes in time is whole; what does not is 504; events are not held back."""
    stage.deadline_s = 3.0
    relay = stage.before(stage.http_server().address)
    stage.serve(http_upstream(relay.url))
    session = stage.session()
    relay.poison(Slicer((ANSWER,), 1, 0.005))
    stage.ends(stage.call(session), {ANSWERED})
    relay.poison(Slicer((ANSWER,), 1, 0.1))
    row = stage.call(session)
    stage.ends(row, LATE, "unknown")
    stage.figures["late ms"] = round(row.took_s * 1e3)
    relay.heal()
    began_s = time.monotonic()
    pending = session.begin("t", "events", do=["sse", "note", "pause 1", "answer", "end"])
    stage.require(pending.event()["method"] == "notifications/progress", "no event")
    stage.within(0.3, time.monotonic() - began_s, "first event")
    pending.answer()
    stage.recovered(1.0, session)


@plays("N12", "kept connections are closed at drawn moments, under load of calls and lists")
def stale_connections(stage: Stage) -> None:
    """Lists are repeated and never fail; a call is not executed twice."""
    relay = stage.before(stage.http_server().address)
    stage.serve(http_upstream(relay.url, after=NO_BREAKERS))
    session = stage.session()
    load = stage.load(clients=3, pause_s=0.0)
    lists = Counter()
    cuts, began_s = 0, time.monotonic()
    while time.monotonic() - began_s < 2.0:
        lists[session.send("tools/list", id="l").answer().status] += 1
        time.sleep(stage.chance.uniform(0.0, 0.02))
        if stage.chance.random() < 0.3:
            cuts += relay.cut(CLOSE)
    load.stop()
    stage.figures.update({"cut": cuts, "lists": dict(lists)})
    ended = {row.ended for row in load.rows}
    stage.require(ended <= {ANSWERED, *BROKEN}, f"load ended with {ended}")
    stage.require(lists.keys() == {200}, f"lists were answered with {dict(lists)}")
    stage.recovered(1.0, session)


@plays("N13", "an own name server: no such name, a failure, silence, and the name again")
def names(stage: Stage) -> None:
    """The others' p99 does not notice; where the name servers fail the last address is used."""
    server = stage.http_server()
    try:
        name_server = NameServer()
    except PermissionError:
        raise NotHere("port 53 of the loopback cannot be had") from None
    with name_server:
        stage.serve(
            http_upstream(f"http://{NAME}:{server.port}/mcp"),
            env={"GEVENTARES_SERVERS": name_server.address},
        )
        session = stage.session()
        stage.ends(stage.call(session), {ANSWERED})
        for says in [*stage.chance.sample([FAILED, SILENT], 2), NO_SUCH_NAME]:
            name_server.says = says
            time.sleep(0.8)  # the kept connection is closed
            calls = [stage.begin(session) for _ in range(3)]
            for call in calls:
                row = call.row()
                stage.ends(row, UNREACHED if says == NO_SUCH_NAME else {ANSWERED}, "no")
                stage.within(3.5, row.took_s, says)
        name_server.says = FOUND
        stage.recovered(6.0, session)
        stage.figures["asked"] = name_server.asked


@plays("N18", "servers with an expired certificate, another name's, an unknown authority's, none")
def bad_tls(stage: Stage) -> None:
    """Refused with a cause that operators are told; a handshake that stalls has 2 s."""
    ours, theirs = Authority(stage.directory), Authority(stage.directory, "theirs")
    shown = {
        "expired": ours.issue("127.0.0.1", file="expired", days=-1),
        "named": ours.issue("other.example", file="named"),
        "unknown": theirs.issue("127.0.0.1", file="unknown"),
        "stalled": None,
    }
    listeners = {name: socket.create_server(("127.0.0.1", 0)) for name in shown}
    tables = [
        f'[upstreams.{name}]\nurl = "https://127.0.0.1:{listener.getsockname()[1]}/mcp"\n'
        f'[upstreams.{name}.tls]\nca = "{ours.path}"\n'
        for name, listener in listeners.items()
    ]
    for name, files in shown.items():
        if files is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*files)
            threading.Thread(
                target=_shake_hands, args=(listeners[name], context), daemon=True
            ).start()
    try:
        stage.serve(http_upstream(stage.http_server().url, after="".join(tables)))
        for name in shown:
            began_s = time.monotonic()
            answer = stage.initialize(f"/mcp/{name}")
            stage.within(2.5, time.monotonic() - began_s, name)
            data = answer.message["error"]["data"]
            told = (answer.status, data["reason"], data["executed"])
            stage.require(told == (502, "connect-failed", "no"), f"{name}: {told}")
        causes = stage.client().get("/ready").message["causes"]
        stage.figures["causes"] = " ".join(causes.values())
        stage.require(len(set(causes.values())) == 4, f"/ready says {causes}")
        stage.recovered(0.5)
    finally:
        for listener in listeners.values():
            listener.close()


def _shake_hands(listener: socket.socket, context: ssl.SSLContext) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        try:
            connection.settimeout(5.0)
            with context.wrap_socket(connection, server_side=True) as tls:
                tls.recv(1)
        except OSError:
            pass
