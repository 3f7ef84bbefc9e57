"""Faults of the process itself: RELIABILITY 6.5, what is not the machine's."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing

from chaos.ledger import ANSWERED, CUT
from chaos.load import VICTIM
from chaos.relay import RESET
from chaos.scorecard import plays
from chaos.servers import http_upstream, stdio_upstream
from chaos.stage import Stage
from chaos.stdio_rows import gone
from proxy_actors.storage.open import FILE_NAME
from tests.sim.virtual import request
from tests.wire.http_client import Wire

LISTENERS = 200


def listeners(stage: Stage, path: str, count: int) -> list[Wire]:
    """Clients that listen, each in a session of its own."""
    wires = []
    for _ in range(count):
        session = stage.session(path)
        wire = Wire(stage.proxy.address)
        wire.send(request(None, "GET", session=session.id, path=path))
        stage.require(wire.head().status == 200, "a stream could not be opened")
        wires.append(wire)
    return wires


@plays("P1", f"TERM with 50 calls of 1.5 s and {LISTENERS} streams in flight")
def terminated(stage: Stage) -> None:
    """All calls are answered, streams are told to come back, exit 0 within the grace."""
    stage.isolated = stage.controlled = False
    stage.serve(http_upstream(stage.http_server().url))
    wires = listeners(stage, "/mcp/bystander", LISTENERS)
    session = stage.session()
    calls = [stage.begin(session, "t", do=["pause 1.5", "json"]) for _ in range(50)]
    stage.until(lambda: stage.journal.read_text().count("\n") >= 55, 5.0, "in flight")
    stage.unwatch()
    pids = stage.proxy.descendants()
    began_s = time.monotonic()
    stage.proxy.signal(signal.SIGTERM)
    for call in calls:
        stage.ends(call.row(), {ANSWERED})
    told = sum(b"retry:" in wire.rest() for wire in wires)
    for wire in wires:
        wire.close()
    status = stage.proxy.wait()
    stage.within(10.0, time.monotonic() - began_s, "ended")
    stage.figures["told to come back"] = told
    stage.require(status == 0, f"exit status {status}")
    stage.require(gone(pids), "somebody is left")


@plays("P2", "HUP, then TERM twice with a call in flight")
def second_signal(stage: Stage) -> None:
    """HUP changes nothing (files are read at the start alone); the second TERM ends it at once."""
    stage.isolated = stage.controlled = False
    stage.ledger.cut_is_fair = True
    stage.serve(http_upstream(stage.http_server().url))
    session = stage.session()
    stage.proxy.signal(signal.SIGHUP)
    stage.ends(stage.call(session), {ANSWERED})
    call = stage.begin(session, "t", do=["pause 5", "json"])
    stage.until(lambda: "\n" in stage.journal.read_text(), 2.0, "in flight")
    stage.unwatch()
    pids = stage.proxy.descendants()
    stage.proxy.signal(signal.SIGTERM)
    stage.until(lambda: " draining seconds_max" in stage.proxy.log(), 2.0, "it drains")
    began_s = time.monotonic()
    stage.proxy.signal(signal.SIGTERM)
    status = stage.proxy.wait()
    stage.within(1.0, time.monotonic() - began_s, "ended")
    stage.require(status == 1, f"exit status {status}")
    stage.ends(call.row(), {CUT})
    stage.until(lambda: gone(pids), 2.0, "nobody is left")


@plays("P3", "`kill -9` of the proxy under load, and a start on the same state, three times")
def killed_proxy(stage: Stage) -> None:
    """Sessions go on within 2 s, nothing is executed twice, the file is sound."""
    stage.isolated = stage.controlled = stage.footed = False
    stage.ledger.cut_is_fair = True
    state = stage.directory / "state"
    stage.serve(http_upstream(stage.http_server().url), words=("--state-dir", str(state)))
    load = stage.load(clients=4)
    sessions = [stage.session().id for _ in range(5)]
    for _ in range(3):
        time.sleep(stage.chance.uniform(0.2, 0.6))
        stage.kill_proxy()
        copy = stage.directory / "copy"
        shutil.copytree(state, copy)
        with closing(sqlite3.connect(copy / FILE_NAME)) as database:
            sound = database.execute("PRAGMA integrity_check").fetchall()
        shutil.rmtree(copy)
        stage.require(sound == [("ok",)], f"integrity_check says {sound}")
        began_s = time.monotonic()
        stage.restart()
        stage.figures["started ms"] = round(1e3 * (time.monotonic() - began_s))
        for id in sessions:
            session = stage.known_session(id)
            stage.recovered(2.0, session)
            stage.require(stage.call(session).outcome == ANSWERED, "a session has not gone on")
    load.stop()
    stage.figures["load"] = dict(Counter(row.ended for row in load.rows))


@plays("P4", "TERM under load and a start on the socket that is kept, as a manager does, 3 times")
def handed_over(stage: Stage) -> None:
    """No connection is refused, no call fails, no session is lost."""
    stage.isolated = stage.controlled = stage.footed = False
    listening = stage.enter(socket.create_server(("127.0.0.1", 0), backlog=1000))
    words = ("--state-dir", str(stage.directory / "state"))
    victim = http_upstream(stage.http_server().url)
    stage.serve(victim, words=words, listening=listening)
    load = stage.load(clients=8)
    stage.unwatch()
    longest_s = 0.0
    for _ in range(3):
        time.sleep(stage.chance.uniform(0.2, 0.6))
        began_s = time.monotonic()
        stage.proxy.signal(signal.SIGTERM)
        stage.require(stage.proxy.wait() == 0, "the process did not end as it should")
        stage.restart()
        longest_s = max(longest_s, time.monotonic() - began_s)
        served = len(load.rows)
        stage.until(lambda: len(load.rows) > served + 16, 5.0, "load goes on")
    load.stop()
    ended = Counter(row.ended for row in load.rows)
    stage.figures["restart ms"] = round(1e3 * longest_s)
    stage.figures["load"] = dict(ended)
    stage.require(set(ended) == {ANSWERED}, f"calls failed: {dict(ended)}")
    stage.require(not load.reopened, "sessions were lost")


def crashing(stage: Stage, act: str) -> dict[str, str]:
    """The environment of a proxy whose USR1 does this."""
    stage.errors |= {"actor_crashed"}
    return {"CHAOS_FRAGILE": act, "CHAOS_SEED": str(stage.seed)}


PATIENT = {"proxy_actors.policy.supervision.Budget": {"restarts_max": 1000, "period_s": 1.0}}


@plays("P15", "40 times a drawn actor fails in its next turn, under load")
def crashed_actors(stage: Stage) -> None:
    """Only what it owned fails; supervisors bring back what there was."""
    stage.isolated = stage.controlled = False
    stage.serve(
        http_upstream(stage.http_server().url), module="chaos.fragile", settings=PATIENT,
        env=crashing(stage, "crash"),
    )
    load = stage.load(clients=4)
    for _ in range(40):
        stage.proxy.signal(signal.SIGUSR1)
        time.sleep(stage.chance.uniform(0.02, 0.15))
    stage.recovered(2.0)
    load.stop()
    stage.figures["load"] = dict(Counter(row.ended for row in load.rows))
    crashed = stage.proxy.log().count("actor_crashed")
    stage.figures["crashes"] = crashed


@plays("P16", "one actor after another handles nothing for 1 s, with room for 8, under load")
def full_mailboxes(stage: Stage) -> None:
    """Who finds a box full is refused at once; all goes on; the proxy ends as it should."""
    stage.isolated = stage.controlled = False
    # Those that many clients ask at once. Calls and sessions ask no other one.
    actors = ("registry", "limiter", "upstream/victim/pool")
    stage.serve(
        http_upstream(stage.http_server().url, "connections-max = 8"), module="chaos.fragile",
        env={**crashing(stage, "deaf"), "CHAOS_DEAF": " ".join((*actors, actors[-1]))},
    )
    stage.errors.clear()
    stage.ledger.at_its_limits = True
    load = stage.load(clients=30)
    clients = [stage.client() for _ in range(30)]
    for name in actors:
        rows, refused = len(load.rows), Counter[str]()
        stage.proxy.signal(signal.SIGUSR1)
        time.sleep(0.1)
        opening = [(client, client.begin_session(path=VICTIM)) for client in clients]
        time.sleep(0.4)
        began_s = time.monotonic()
        stage.require(stage.proxy.page("/health") == 200, f"no health while {name} is deaf")
        stage.within(0.2, time.monotonic() - began_s, "health")
        for client, pending in opening:
            answer = pending.answer()
            stage.require(answer.status in (200, 503), f"initialize told {answer.status}")
            if answer.status == 200:
                client.adopt(answer, VICTIM)
            else:
                refused["initialize"] += 1
        stage.recovered(2.0)
        late_s = [row.took_s for row in load.rows[rows:] if row.ended == "overloaded"]
        refused["calls"] = len(late_s)
        stage.figures[f"{name} refused"] = dict(refused)
        stage.require(refused["initialize"] >= 15, f"the box of {name} was never full")
        stage.within(0.2, max(late_s, default=0.0), "refused after")
    load.stop()
    ended = {row.ended for row in load.rows}
    stage.require(ended == {ANSWERED, "overloaded"}, f"load ended with {ended}")
    stage.ledger.cut_is_fair = True
    stage.load(clients=30)
    stage.unwatch()
    stage.proxy.signal(signal.SIGUSR1)
    time.sleep(0.2)
    began_s = time.monotonic()
    stage.proxy.signal(signal.SIGTERM)
    stage.require(stage.proxy.wait() == 0, "the process did not end as it should")
    stage.within(2.5, time.monotonic() - began_s, "ended")


@plays("P17", "Timeout, GreenletExit, MemoryError, RecursionError, SystemExit in drawn actors")
def base_exceptions(stage: Stage) -> None:
    """Only that actor is started anew."""
    stage.isolated = stage.controlled = False
    stage.serve(
        stdio_upstream("shared", stage.journal), module="chaos.fragile", settings=PATIENT,
        env=crashing(stage, "crash"),
    )
    for _ in range(12):
        stage.proxy.signal(signal.SIGUSR1)
        time.sleep(0.1)
        stage.recovered(6.0)
    stage.figures["crashes"] = stage.proxy.log().count("actor_crashed")


@plays("P18", "the hub is blocked for 2 s by a call that never switches")
def blocked_hub(stage: Stage) -> None:
    """Nobody's call fails of it, all goes on, and the log says what has blocked it."""
    stage.isolated = stage.controlled = False
    stage.suspended_s = 2.0
    stage.serve(
        http_upstream(stage.http_server().url), module="chaos.fragile",
        env=crashing(stage, "block"),
    )
    stage.errors.clear()
    load = stage.load(clients=3)
    time.sleep(0.2)
    stage.proxy.signal(signal.SIGUSR1)
    time.sleep(2.5)
    stage.recovered(0.5)
    load.stop()
    stage.require({row.ended for row in load.rows} == {ANSWERED}, "calls failed")
    told = [line for line in stage.proxy.log().splitlines() if " loop_blocked " in line]
    stage.require(len(told) == 1 and "fragile.py" in told[0], f"the log says {told}")


@plays("P19", "the registry fails again and again, beyond the budget of the root")
def escalation(stage: Stage) -> None:
    """The process ends by itself, with a status that is not 0, and leaves nobody behind."""
    stage.isolated = stage.controlled = stage.footed = False
    stage.ledger.cut_is_fair = True
    stage.serve(
        stdio_upstream("shared", stage.journal), module="chaos.fragile",
        env=crashing(stage, "registry"),
    )
    pids = stage.proxy.descendants()
    stage.unwatch()
    for _ in range(20):
        if stage.proxy.lives:
            stage.proxy.signal(signal.SIGUSR1)
            time.sleep(0.1)
    status = stage.proxy.wait()
    stage.figures["exit status"] = status
    stage.require(status == 1, f"exit status {status}")
    stage.until(lambda: gone(pids), 2.0, "nobody is left")


@plays("P23", "a second proxy on the same port, and one on an address that is not ours")
def port_taken(stage: Stage) -> None:
    """One line each, and the first one does not notice."""
    url = stage.http_server().url
    stage.serve(http_upstream(url))
    taken = "{}:{}".format(*stage.proxy.address)
    for listen in (taken, "192.0.2.1:80"):
        second = subprocess.run(
            [sys.executable, "-m", "proxy_actors", "run", "--listen", listen, url],
            capture_output=True, text=True, timeout=30,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
        said = [line for line in second.stderr.split("\n") if line.startswith("proxy-actors:")]
        stage.require(second.returncode != 0 and len(said) == 1, f"{listen}: {second.stderr}")
        stage.figures[listen.split(":")[0]] = second.returncode
    stage.recovered(0.5)


@plays("P24", f"{LISTENERS} streams are cut at once while their server refuses; then it accepts")
def storm(stage: Stage) -> None:
    """They come back spread by jitter, all of them, and not twice."""
    relay = stage.before(stage.http_server("ids").address)
    base = "[upstreams.victim.reconnect]\nbase-s = 2\ncap-s = 2\nattempts-max = 20\n"
    stage.serve(http_upstream(relay.url, after=base))
    wires = listeners(stage, "/mcp/victim", LISTENERS)
    relay.refuse()
    relay.cut(RESET)
    time.sleep(1.0)
    before = len(relay.times_s)
    relay.accept()
    stage.until(lambda: len(relay.times_s) - before >= LISTENERS, 8.0, "all are back")
    time.sleep(1.0)
    times = [when - relay.times_s[before] for when in relay.times_s[before:]]
    in_a_tenth = Counter(int(when * 10) for when in times)
    stage.figures.update({"at most in 0.1 s": max(in_a_tenth.values()), "came": len(times)})
    stage.require(max(in_a_tenth.values()) <= LISTENERS // 5, f"a herd: {dict(in_a_tenth)}")
    stage.require(len(times) <= LISTENERS * 1.1, "they come more than once")
    for wire in wires:
        wire.close()
