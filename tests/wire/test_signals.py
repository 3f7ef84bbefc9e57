"""A real proxy from its start to its end: signals, drains, exit statuses, upstreams that are late.

RELIABILITY 1.9; faults P1, P2, P23; MCP-S-20, S-22.
"""

from __future__ import annotations

import fcntl
import os
import resource
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGTERM, SIGUSR2, Signals

import pytest

from tests.sim.virtual import call, initialize, note, request
from tests.wire.proxy_process import SCRIPTED, ProxyProcess, running
from tests.wire.session_client import check_failure
from tests.wire.socket_upstream import SocketUpstream
from tests.wire.waiting import PATIENCE_S, eventually

HEALTH = request(None, "GET", path="/health")


@pytest.fixture
def upstream() -> Iterator[SocketUpstream]:
    with SocketUpstream() as upstream:
        yield upstream


@pytest.fixture
def proxy(upstream: SocketUpstream) -> Iterator[ProxyProcess]:
    with running(upstream.url) as proxy:
        yield proxy


@pytest.mark.parametrize("number", [SIGTERM, SIGINT])
def test_calls_that_run_are_answered_before_the_process_ends(
    proxy: ProxyProcess, upstream: SocketUpstream, number: Signals
) -> None:
    """P1: JSON and events; and the standalone stream is ended properly once they are over."""
    session = proxy.session_id()
    with proxy.wire() as plain, proxy.wire() as events, proxy.wire() as standalone:
        standalone.send(request(None, "GET", session))
        waiting = standalone.head()
        plain.send(request(call(1, "pause 1", "json"), session=session))
        events.send(
            request(call(2, "sse", "note", "pause 1", "note", "answer", "end"), session=session)
        )
        upstream.wait_for(1)
        streamed = events.head()
        assert events.more(streamed)
        proxy.signal(number)
        eventually(lambda: proxy.page("/ready") == 503)
        assert not waiting.complete
        upstream.resume()
        answer = plain.answer()
        assert (answer.status, answer.message["id"]) == (200, 1)
        assert not answer.keep_alive
        assert plain.has_ended
        while events.more(streamed):
            pass
        assert streamed.complete
        assert [message.get("id") for message in streamed.messages] == [None, None, 2]
        assert events.has_ended
        while standalone.more(waiting):
            pass
        assert waiting.complete
        assert standalone.has_ended
    assert proxy.wait() == 0
    assert upstream.server.executions == {None: 1, 1: 1, 2: 1}
    assert upstream.server.deleted == []  # stopping ends no session


def test_many_calls_and_streams_are_ended_in_one_drain(
    proxy: ProxyProcess, upstream: SocketUpstream
) -> None:
    """P1: all answered, every stream with its last chunk."""
    calls = range(1, 51)
    with ExitStack() as stack:
        streams = []
        for session in [proxy.session_id() for _ in range(100)]:
            wire = stack.enter_context(proxy.wire())
            wire.send(request(None, "GET", session))
            streams.append((wire, wire.head()))
        callers = []
        for n in calls:
            wire = stack.enter_context(proxy.wire())
            steps = ["pause 1", "json"] if n % 2 else ["sse", "note", "pause 1", "answer", "end"]
            wire.send(request(call(n, *steps), session=session))
            callers.append(wire)
        for n in calls:
            upstream.wait_for(n)
        proxy.signal(SIGTERM)
        eventually(lambda: proxy.page("/ready") == 503)
        upstream.resume()
        for n, wire in zip(calls, callers):
            answer = wire.answer()
            assert answer.complete
            assert answer.message["id"] == n
            assert "result" in answer.message
        for wire, answer in streams:
            assert answer.status == 200
            while wire.more(answer):
                pass
            assert answer.complete
    assert proxy.wait() == 0


def test_new_work_is_refused_while_running_calls_end(
    proxy: ProxyProcess, upstream: SocketUpstream
) -> None:
    """P1: 503 for what is new, wherever it comes; answers to a server's questions are taken."""
    session = proxy.session_id()
    late = request(call(2), session=session)
    opening = request(initialize())
    answers = request({"jsonrpc": "2.0", "id": "x", "result": {}}, session=session)
    with proxy.wire() as running, proxy.wire() as idle:
        wires = [proxy.wire() for _ in (late, opening, answers)]
        assert idle.ask(HEALTH, "GET").status == 200
        for wire, data in zip(wires, (late, opening, answers)):
            wire.send(data[:-1])
        running.send(request(call(1, "pause 1", "json"), session=session))
        upstream.wait_for(1)
        proxy.signal(SIGTERM)
        assert idle.has_ended
        eventually(lambda: proxy.page("/ready") == 503)
        for wire, data in zip(wires, (late, opening, answers)):
            wire.send(data[-1:])
        statuses = []
        for wire in wires:
            answer = wire.answer()
            statuses.append(answer.status)
            assert not answer.keep_alive
            assert wire.has_ended
            wire.close()
        assert statuses == [503, 503, 202]
        upstream.resume()
        assert running.answer().status == 200
    assert proxy.wait() == 0
    assert upstream.server.executions[2] == 0


def test_process_without_work_ends_as_soon_as_its_clients_do(proxy: ProxyProcess) -> None:
    session = proxy.session_id()
    with proxy.wire() as idle, proxy.wire() as standalone:
        assert idle.ask(HEALTH, "GET").status == 200
        standalone.send(request(None, "GET", session))
        answer = standalone.head()
        proxy.signal(SIGTERM)
        assert idle.has_ended
        while standalone.more(answer):
            pass
        assert answer.complete
    assert proxy.wait() == 0


@pytest.mark.parametrize("number", [SIGTERM, SIGINT])
def test_second_signal_ends_the_process_at_once(
    proxy: ProxyProcess, upstream: SocketUpstream, number: Signals
) -> None:
    """P2: in the middle of a drain that a call holds up."""
    session = proxy.session_id()
    with proxy.wire() as wire:
        wire.send(request(call(1, "pause 1", "json"), session=session))
        upstream.wait_for(1)
        proxy.signal(SIGTERM)
        eventually(lambda: proxy.page("/ready") == 503)
        proxy.signal(number)
        assert proxy.wait() == 1
        assert wire.answer().status is None


def test_call_that_outlasts_the_drain_is_answered_all_the_same(
    upstream: SocketUpstream,
) -> None:
    """P1: with an error under its id that says that it may have been executed."""
    settings = {"proxy_actors.service.DRAIN_S_MAX": 0.1}
    with running(upstream.url, settings=settings) as proxy:
        session = proxy.session_id()
        with proxy.wire() as plain, proxy.wire() as events:
            plain.send(request(call(1, "pause 1", "json"), session=session))
            events.send(request(call(2, "sse", "note", "pause 1", "answer"), session=session))
            streamed = events.head()
            assert events.more(streamed)
            upstream.wait_for(1)
            proxy.signal(SIGTERM)
            answer = plain.answer()
            while events.more(streamed):
                pass
            assert plain.has_ended and events.has_ended
        assert (answer.status, answer.message["id"]) == (502, 1)
        assert streamed.complete
        assert streamed.message["id"] == 2
        for failed in (answer, streamed):
            assert failed.error["data"]["executed"] == "unknown"
        assert proxy.wait() == 0
        upstream.resume()


def test_call_of_a_process_that_outlasts_the_drain_is_answered_too() -> None:
    settings = {"proxy_actors.service.DRAIN_S_MAX": 0.1}
    with running("--", *SCRIPTED, settings=settings) as proxy:
        session = proxy.session()
        assert session.call("echo").status == 200
        silent = session.begin("silence", id=7)
        proxy.signal(SIGTERM)
        check_failure(silent.answer(), 502, "process-exited", "unknown", id=7)
        assert proxy.wait() == 0


def test_blocked_log_keeps_it_neither_from_serving_nor_from_ending(
    upstream: SocketUpstream, tmp_path: Path
) -> None:
    """What waits to be written holds locks that the interpreter's own end would wait for."""
    file = tmp_path / "config.toml"
    file.write_text(f"""
        [upstreams.web]
        url = "{upstream.url}"
        [logs]
        access = true
    """)
    reading, writing = os.pipe()
    try:
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
        with running("--config", str(file), stderr=writing) as proxy:
            with proxy.wire() as wire:
                for _ in range(200):
                    assert wire.ask(HEALTH, "GET").status == 200
            assert select.select([], [writing], [], 0)[1] == [], "there is room, nothing is blocked"
    finally:
        os.close(reading)
        os.close(writing)


def test_hangup_changes_nothing(proxy: ProxyProcess, upstream: SocketUpstream) -> None:
    """P2: there is no configuration to read again."""
    session = proxy.session_id()
    with proxy.wire() as wire:
        wire.send(request(call(1, "pause 1", "json"), session=session))
        upstream.wait_for(1)
        proxy.signal(SIGHUP)
        upstream.resume()
        answer = wire.answer()
        assert (answer.status, answer.keep_alive) == (200, True)
        assert wire.ask(HEALTH, "GET").status == 200


def test_actors_are_written_to_the_log_when_asked_for(proxy: ProxyProcess) -> None:
    """Every one with its mailbox and restarts, and no session's id."""
    session = proxy.session_id()
    with proxy.wire() as wire:
        wire.send(request(None, "GET", session))
        assert wire.head().status == 200
        proxy.signal(SIGUSR2)
        kinds = {"Root", "HttpUpstream", "ConnectionPool", "SessionRegistry", "HttpServer",
                 "EventStream"}
        eventually(lambda: all(f"kind={kind} incarnation=1 mailbox=" in proxy.log()
                               for kind in kinds))
        assert "restarts" in proxy.log()
        assert session not in proxy.log()


def test_process_may_open_whatever_it_is_allowed_and_its_server_what_it_was() -> None:
    """C12: the bound on connections is the proxy's own, whatever the shell's soft limit is."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    few, most = 251, before[1]
    server = ["--", "sh", "-c", "echo may open $(ulimit -Sn) >&2; exec cat"]
    resource.setrlimit(resource.RLIMIT_NOFILE, (few, most))
    try:
        with running(*server) as proxy:
            assert resource.prlimit(proxy.process.pid, resource.RLIMIT_NOFILE) == (most, most)
            eventually(lambda: f"may open {few}" in proxy.log())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_port_in_use_is_told_in_one_line(upstream: SocketUpstream) -> None:
    """P23: EX_UNAVAILABLE, so that a service manager tries again."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = start(upstream.url, f"127.0.0.1:{port}")
    assert (done.returncode, done.stdout) == (69, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"proxy-actors: cannot listen on '127.0.0.1' port {port}: ")
    assert "in use" in line
    assert upstream.server.seen == []


@pytest.mark.parametrize(
    ("listen", "told"),
    [("192.0.2.1:0", "no such address"), ("nowhere.invalid:0", "nowhere.invalid")],
)
def test_what_cannot_be_served_is_told_in_one_line(listen: str, told: str) -> None:
    """P23."""
    done = start("http://127.0.0.1:1/mcp", listen)
    assert (done.returncode, done.stdout) == (69, "")
    (line,) = done.stderr.splitlines()
    assert told in line


def start(url: str, listen: str) -> subprocess.CompletedProcess[str]:
    """Start a proxy that cannot run."""
    command = [sys.executable, "-m", "proxy_actors", "run", "--listen", listen, url]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)


def test_proxy_starts_without_its_upstream_and_finds_it_later() -> None:
    """/ready tells; calls are refused meanwhile, and the process lives."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    with running(f"http://127.0.0.1:{listening.getsockname()[1]}/mcp") as proxy:
        eventually(lambda: proxy.page("/ready") == 503)
        assert proxy.page("/health") == proxy.page("/admin/health") == 200
        with proxy.wire() as wire:
            answer = wire.ask(request(initialize()))
        assert (answer.status, answer.error["data"]["reason"]) == (502, "connect-failed")
        with SocketUpstream(listening=listening) as upstream:
            proxy.wait_ready()
            assert upstream.server.seen == []  # a probe is a connection, not a request
            session = proxy.session_id()
            with proxy.wire() as wire:
                assert wire.ask(request(call(1), session=session)).status == 200


def test_readiness_is_over_in_a_drain(proxy: ProxyProcess, upstream: SocketUpstream) -> None:
    """RELIABILITY 1.9: whoever asks on a connection that still stands."""
    session = proxy.session_id()
    ready = request(None, "GET", path="/ready")
    with proxy.wire() as running, proxy.wire() as asking:
        running.send(request(call(1, "pause 1", "json"), session=session))
        upstream.wait_for(1)
        asking.send(ready[:-1])
        proxy.signal(SIGTERM)
        eventually(lambda: proxy.page("/ready") == 503)
        asking.send(ready[-1:])
        assert asking.answer("GET").status == 503
        upstream.resume()
        assert running.answer().status == 200
    assert proxy.wait() == 0


def test_notification_reaches_its_stream_to_the_last(
    proxy: ProxyProcess, upstream: SocketUpstream
) -> None:
    """RELIABILITY 1.9: what the upstream said before the end of the stream is not lost."""
    session = proxy.session_id()
    with proxy.wire() as running, proxy.wire() as standalone:
        standalone.send(request(None, "GET", session))
        answer = standalone.head()
        running.send(request(call(1, "sse", "note", "pause 1", "answer", "end"), session=session))
        assert running.more(running.head())
        proxy.signal(SIGTERM)
        eventually(lambda: proxy.page("/ready") == 503)
        (own,) = upstream.server.sessions.values()
        assert own.standalone is not None
        own.standalone.put(note("notifications/tools/list_changed"))
        while not answer.messages:  # what comes first is no message, but an id
            assert standalone.more(answer)
        upstream.resume()
        while standalone.more(answer):
            pass
        assert [x["method"] for x in answer.messages] == ["notifications/tools/list_changed"]
        assert answer.complete
    assert proxy.wait() == 0


@pytest.mark.parametrize("mode", ["session", "shared", "pool"])
def test_drain_does_not_wait_for_listeners_of_processes(mode: str) -> None:
    """MCP-S-20: a standalone stream has no end of its own; its client is told to come back."""
    settings = {"proxy_actors.service.DRAIN_S_MAX": 10 * PATIENCE_S}
    with running("--stdio", mode, "--", *SCRIPTED, settings=settings) as proxy:
        listener = proxy.session().listen()
        assert listener.head().status == 200
        proxy.signal(SIGTERM)
        body = listener.head().read()
        assert body.count(b"retry: 1000\n") == 2
        listener.leave()
        assert proxy.wait() == 0
