"""Event streams that outlive the proxy: real processes, real signals, a real disk.

MCP-S-15, S-16, S-21, S-22; faults P2, P3, C1. A client comes back with the last id that it has seen
and gets exactly what followed, as far as it was written down; a call that had not ended by then is
answered with an error that says that it may have been executed.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from proxy_actors.protocol.sse import Event, SseDecoder
from proxy_actors.storage.open import STREAMS_FILE_NAME
from tests.sim.virtual import Answer, call, note, request
from tests.wire.http_client import Wire
from tests.wire.proxy_process import SCRIPTED, ProxyProcess, running
from tests.wire.socket_upstream import SocketUpstream
from tests.wire.waiting import PATIENCE_S, eventually

SEEDS = range(12)
EVENTS_MAX = 120
NUMBERED = "notifications/numbered"
ENDS = {signal.SIGTERM: 0, signal.SIGKILL: -signal.SIGKILL}


@pytest.fixture
def upstream() -> Iterator[SocketUpstream]:
    with SocketUpstream() as upstream:
        yield upstream


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def configured(tmp_path: Path, server: str, streams: str = "") -> str:
    file = tmp_path / "config.toml"
    file.write_text(f"""
        state-dir = "{tmp_path / "state"}"
        [streams]
        store = "sqlite"
        {streams}
        [upstreams.default]
        {server}
    """)
    return str(file)


def end(proxy: ProxyProcess, how: signal.Signals) -> None:
    proxy.signal(how)
    assert proxy.wait() == ENDS[how]


def numbered(n: int) -> dict[str, Any]:
    return note(NUMBERED, i=n)


def steps(count: int, *after: str) -> list[str]:
    return ["sse", *(f"event {json.dumps(numbered(n))}" for n in range(1, count + 1)), *after]


def events(answer: Answer) -> list[Event]:
    return SseDecoder(1 << 24).feed(answer.body)


def came(*answers: Answer) -> list[object]:
    """The numbers of what came, and what ended it: "answer" or an error's reason."""
    found: list[object] = []
    for answer in answers:
        for message in answer.messages:
            if message.get("method") == NUMBERED:
                found.append(message["params"]["i"])
            elif "result" in message:
                found.append("answer")
            elif "error" in message:
                found.append(message["error"]["data"]["executed"])
    return found


def last_id(answer: Answer) -> str:
    id = events(answer)[-1].id
    assert id
    return id.decode()


def resume(wire: Wire, session: str, id: str) -> Answer:
    return wire.ask(request(None, "GET", session, fields={"Last-Event-ID": id}), "GET")


def stored(state: Path, id: str) -> list[str]:
    """What the file holds of a stream, as it was left, in a copy."""
    copy = state.with_name("copy")
    shutil.copytree(state, copy)
    try:
        with closing(sqlite3.connect(copy / STREAMS_FILE_NAME)) as database:
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            rows = database.execute(
                "SELECT number, event.data FROM event JOIN stream ON event.stream = serial "
                "WHERE id = ? ORDER BY number", (id.rpartition(".")[0],),
            ).fetchall()
    finally:
        shutil.rmtree(copy)
    assert [number for number, _ in rows] == list(range(1, len(rows) + 1))
    return [data.decode() for _, data in rows]


@pytest.mark.parametrize("seed", SEEDS)
def test_call_is_read_on_after_a_kill(
    seed: int, tmp_path: Path, state: Path, upstream: SocketUpstream
) -> None:
    """Every number once, in order, to all that was written down; then the answer, or an error."""
    chance = random.Random(seed)
    config = configured(tmp_path, f'url = "{upstream.url}"')
    count = chance.randrange(1, EVENTS_MAX)
    ends = chance.random() < 0.5
    reads = chance.randrange(count + 1)
    script = steps(count, *(["answer", "end"] if ends else ["pause 1"]))
    with running("--config", config) as proxy, proxy.wire() as wire:
        session = proxy.session_id()
        wire.send(request(call(1, *script), session=session))
        before = wire.head()
        while len(before.messages) < reads or not events(before):
            assert wire.more(before)
        if chance.random() < 0.5:
            wire.close()  # the rest is read by nobody
        if chance.random() < 0.5:
            id = last_id(before)
            eventually(lambda: len(stored(state, id)) >= count + ends)
        end(proxy, signal.SIGKILL)
    id, seen = last_id(before), came(before)
    kept = stored(state, id)
    with running("--config", config) as proxy, proxy.wire() as wire:
        after = resume(wire, session, id)
        again = resume(wire, session, id)
        end(proxy, signal.SIGTERM)
    if "answer" in seen:  # nothing followed it, as far as anybody can know
        assert {after.status, again.status} == ({410} if len(kept) > count else {200})
        return
    assert after.complete and came(after) == came(again)
    got = came(before, after)
    numbers = [x for x in got if isinstance(x, int)]
    assert numbers == list(range(1, len(numbers) + 1))
    answered = len(kept) > count
    assert len(numbers) == max(len(seen), len(kept) - answered)
    assert got[len(numbers):] == ["answer" if answered else "unknown"]
    ids = [event.id for event in events(before) + events(after) if event.data]
    assert len(set(ids)) == len(ids)
    assert upstream.server.executions[1] == 1


def test_answer_waits_for_a_client_over_an_orderly_restart(
    tmp_path: Path, state: Path, upstream: SocketUpstream
) -> None:
    """The drain ends the call, nobody reads it, and the next process has it."""
    config = configured(tmp_path, f'url = "{upstream.url}"')
    with running("--config", config) as proxy, proxy.wire() as wire:
        session, other = proxy.session_id(), proxy.session_id()
        wire.send(request(call(1, *steps(3, "pause 1", "answer", "end")), session=session))
        before = wire.head()
        while len(before.messages) < 2:
            assert wire.more(before)
        wire.close()
        proxy.signal(signal.SIGTERM)
        upstream.resume()
        assert proxy.wait() == 0
    with running("--config", config) as proxy, proxy.wire() as wire:
        assert resume(wire, other, last_id(before)).status == 410, "it is not that session's"
        after = resume(wire, session, last_id(before))
        assert came(before, after) == [1, 2, 3, "answer"]
        assert resume(wire, session, last_id(after)).status == 410
        end(proxy, signal.SIGTERM)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_standalone_stream_goes_on_after_a_restart(
    how: signal.Signals, tmp_path: Path, state: Path, upstream: SocketUpstream
) -> None:
    """What the client has missed, then what the session's next stream carries; ids lead on."""
    config = configured(tmp_path, f'url = "{upstream.url}"')
    server = upstream.server

    def standing() -> Any:
        (own,) = server.sessions.values()
        return own.standalone

    with running("--config", config) as proxy, proxy.wire() as wire:
        session = proxy.session_id()
        wire.send(request(None, "GET", session))
        before = wire.head()
        standing().put(numbered(1))
        while not before.messages:
            assert wire.more(before)
        wire.close()
        standing().put(numbered(2))
        standing().put(numbered(3))
        id = last_id(before)
        eventually(lambda: len(stored(state, id)) == 3)
        end(proxy, how)
    with running("--config", config) as proxy:
        for more in (4, 5):
            with proxy.wire() as wire:
                field = {"Last-Event-ID": last_id(before)}
                wire.send(request(None, "GET", session, fields=dict(field)))
                after = wire.head()
                while not events(after):
                    assert wire.more(after)
                standing().put(numbered(more))
                while more not in came(after):
                    assert wire.more(after)
            assert came(after) == list(range(before.messages[-1]["params"]["i"] + 1, more + 1))
            before = after
        end(proxy, signal.SIGKILL)


def test_stream_of_shared_processes_outlives_the_proxy(tmp_path: Path, state: Path) -> None:
    config = configured(
        tmp_path, f'command = {json.dumps(SCRIPTED)}\nstdio = "shared"', "age-s-max = 600"
    )
    told = json.dumps(
        {"jsonrpc": "2.0", "method": "notifications/progress",
         "params": {"progressToken": "<token>", "progress": 1}}
    ).replace('"<token>"', "<token>") + "\n"
    ask = {
        "jsonrpc": "2.0", "id": "a", "method": "tools/call",
        "params": {"name": "say", "arguments": {"text": told, "then": "silence"},
                   "_meta": {"progressToken": "t"}},
    }  # fmt: skip
    with running("--config", config) as proxy, proxy.wire() as wire:
        session = proxy.session_id()
        wire.send(request(ask, session=session))
        before = wire.head()
        while not before.messages:
            assert wire.more(before)
        id = last_id(before)
        eventually(lambda: len(stored(state, id)) == 1)
        end(proxy, signal.SIGKILL)
    with running("--config", config) as proxy, proxy.wire() as wire:
        after = resume(wire, session, id)
        error = after.message["error"]
        assert after.message["id"] == "a"
        assert error["data"]["executed"] == "unknown" and not error["data"]["retryable"]
        assert error["data"]["upstream"] == "default"
        primed = resume(wire, session, f"{id.rpartition('.')[0]}.0")
        assert [x.get("method") for x in primed.messages] == ["notifications/progress", None]
        end(proxy, signal.SIGTERM)


def test_what_is_over_for_good_is_not_kept(
    tmp_path: Path, state: Path, upstream: SocketUpstream
) -> None:
    """Rows go with their rings: by number, by the end of the session, and a while after the end."""
    config = configured(tmp_path, f'url = "{upstream.url}"', "events-max = 5\nage-s-max = 1")
    with running("--config", config) as proxy, proxy.wire() as wire:
        session = proxy.session_id()
        wire.send(request(call(1, *steps(20, "pause 1", "answer", "end")), session=session))
        answer = wire.head()
        while not answer.messages:
            assert wire.more(answer)
        wire.close()

        def numbers() -> list[int]:
            copy = state.with_name("copy")
            shutil.copytree(state, copy)
            with closing(sqlite3.connect(copy / STREAMS_FILE_NAME)) as database:
                rows = database.execute("SELECT number FROM event ORDER BY number").fetchall()
            shutil.rmtree(copy)
            return [number for (number,) in rows]

        eventually(lambda: numbers() == [16, 17, 18, 19, 20])
        upstream.resume()
        eventually(lambda: numbers() == [])
        end(proxy, signal.SIGTERM)


def test_streams_go_on_from_memory_without_a_disk(
    tmp_path: Path, state: Path, upstream: SocketUpstream
) -> None:
    """FLT-P3: it is logged once, and clients come back as ever."""
    config = configured(tmp_path, f'url = "{upstream.url}"')
    with running("--config", config) as proxy, proxy.wire() as wire:
        session = proxy.session_id()
        for file in state.glob(f"{STREAMS_FILE_NAME}*"):
            file.unlink()
        proxy.errors.add("stream_write_failed")
        answer = wire.ask(request(call(1, *steps(5, "answer", "end")), session=session))
        first = events(answer)[1].id
        assert first
        after = resume(wire, session, first.decode())
        assert came(after) == [2, 3, 4, 5, "answer"]
        eventually(lambda: "stream_write_failed" in proxy.log())
        wire.ask(request(call(2, *steps(5, "answer", "end")), session=session))
        end(proxy, signal.SIGTERM)
        assert proxy.log().count("stream_write_failed") == 1


def test_store_without_a_directory_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('[streams]\nstore = "sqlite"\n[upstreams.a]\nurl = "http://127.0.0.1:1/"\n')
    command = [sys.executable, "-m", "proxy_actors", "run", "--config", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert (done.returncode, done.stdout) == (78, "")
    assert "state-dir" in done.stderr and "Traceback" not in done.stderr
