"""The HTTP+SSE transport on real sockets, of a proxy that is a process of its own.

MCP-L-1, L-3 to L-5; SSE-S9; RELIABILITY 1.9; faults C5, P1.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from signal import SIGKILL, SIGTERM
from urllib.parse import urljoin, urlsplit

import pytest
import requests
from sseclient import SSEClient

from tests.sim.virtual import call, initialize
from tests.wire.http_client import Wire
from tests.wire.legacy_listener import Listener
from tests.wire.proxy_process import ProxyProcess, running
from tests.wire.socket_upstream import SocketUpstream
from tests.wire.waiting import PATIENCE_S, eventually

UNREAD_BYTES = 300_000
SETTINGS = {
    "proxy_actors.gateway.wiring.ConnectionLimits": {"write_s_max": 0.2},
    "proxy_actors.gateway.event_writer.KEEP_ALIVE_S": 0.1,
}


@pytest.fixture
def upstream() -> Iterator[SocketUpstream]:
    with SocketUpstream() as upstream:
        yield upstream


@pytest.fixture
def proxy(upstream: SocketUpstream, tmp_path: Path) -> Iterator[ProxyProcess]:
    file = tmp_path / "proxy.toml"
    file.write_text(
        f"[streams]\nbytes-max = {2 * UNREAD_BYTES}\n[upstreams.default]\nurl = '{upstream.url}'\n"
    )
    with running("--config", str(file), settings=SETTINGS) as proxy:
        yield proxy


def test_client_of_another_hand_reads_the_stream(proxy: ProxyProcess) -> None:
    """MCP-L-1, L-3, L-4: sseclient over requests, which share no code with the proxy."""
    url = f"http://127.0.0.1:{proxy.address[1]}/sse"
    with requests.get(
        url, headers={"Accept": "text/event-stream"}, stream=True, timeout=PATIENCE_S
    ) as stream:
        events = SSEClient(stream).events()
        endpoint = next(events)
        assert endpoint.event == "endpoint"
        target = urljoin(url, endpoint.data)
        assert urlsplit(target)[:3] == ("http", f"127.0.0.1:{proxy.address[1]}", "/messages")
        for n, body in enumerate([initialize("2024-11-05"), call(1, id="\u00e9\u2028 1"), call(2)]):
            answer = requests.post(target, json=body, timeout=PATIENCE_S)
            assert (answer.status_code, answer.content) == (202, b"")
            event = next(events)
            assert (event.event, event.id, event.retry) == ("message", None, None)
            assert json.loads(event.data)["id"] == body["id"], n


def test_events_leave_one_by_one_and_comments_keep_the_stream_alive(
    proxy: ProxyProcess, upstream: SocketUpstream
) -> None:
    """SSE-S9, MCP-H-14: what the server has said is there before it says more."""
    with proxy.wire() as wire:
        listener = Listener(proxy, wire)
        listener.initialize()
        steps = ("sse", "note", "pause 1", "note", "answer", "end")
        assert listener.post(call(1, *steps)).status == 202
        listener.until(lambda: len(listener.messages) == 2)
        beats = listener.answer.body.count(b": keep-alive\n\n")
        listener.until(lambda: listener.answer.body.count(b": keep-alive\n\n") > beats + 1)
        upstream.resume()
        listener.until(lambda: len(listener.messages) == 4)
        assert listener.messages[-1]["id"] == 1


@pytest.mark.parametrize("leave", [Wire.close, Wire.reset, Wire.end])
def test_session_ends_when_its_client_leaves(
    proxy: ProxyProcess, upstream: SocketUpstream, leave: Callable[[Wire], None]
) -> None:
    """MCP-L-5: with a farewell, without one, or by ending its half."""
    with proxy.wire() as wire:
        listener = Listener(proxy, wire)
        listener.initialize()
        leave(wire)
        eventually(lambda: upstream.server.deleted)
        assert listener.post(call(1)).status == 404
    assert not upstream.server.executions[1]


def test_client_that_does_not_read_is_cut(
    proxy: ProxyProcess, upstream: SocketUpstream
) -> None:
    """C5: its session ends with its stream; others are not held up."""
    with Wire(proxy.address, receive_bytes=4096) as slow, proxy.wire() as other:
        stalled, listener = Listener(proxy, slow), Listener(proxy, other)
        stalled.initialize()
        listener.initialize()
        for n in range(30):
            stalled.post(call(n, f"large {UNREAD_BYTES // 2}", "json"))
        assert listener.post(call(100)).status == 202
        listener.until(lambda: listener.messages[-1]["id"] == 100)
        eventually(lambda: upstream.server.deleted)
        with suppress(ConnectionError):
            while slow.more(stalled.answer):
                pass
        assert not stalled.answer.complete


def test_stop_lets_the_call_end_and_then_the_stream(
    proxy: ProxyProcess, upstream: SocketUpstream
) -> None:
    """P1: a client loses no answer, and sees the stream end as it should."""
    with proxy.wire() as wire, proxy.wire() as idle:
        listener, bystander = Listener(proxy, wire), Listener(proxy, idle)
        listener.initialize()
        bystander.initialize()
        assert listener.post(call(1, "pause 1", "json")).status == 202
        upstream.wait_for(1)
        proxy.signal(SIGTERM)
        while idle.more(bystander.answer):
            pass
        assert bystander.answer.complete
        assert not listener.answer.complete
        upstream.resume()
        listener.until(lambda: len(listener.messages) == 2)
        assert listener.messages[-1]["id"] == 1
        while wire.more(listener.answer):
            pass
        assert listener.answer.complete
    assert proxy.wait() == 0


def test_session_of_a_stream_does_not_outlive_the_process(
    upstream: SocketUpstream, tmp_path: Path
) -> None:
    """It could not be used: nobody can have its stream again."""
    words = ("--state-dir", str(tmp_path), upstream.url)
    with running(*words) as proxy:
        with proxy.wire() as wire:
            Listener(proxy, wire).initialize()
            proxy.session_id()
            proxy.signal(SIGKILL)
            proxy.wait()
    (file,) = tmp_path.glob("*.sqlite")
    with sqlite3.connect(file) as store:
        (count,) = store.execute("select count(*) from session").fetchone()
    store.close()
    assert count == 1
