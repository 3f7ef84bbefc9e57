"""A server of HTTP+SSE on real sockets, behind a proxy that is a process of its own.

MCP-L-2, D-5; PROTOCOL sections 3, 8.1 and 12.3; faults U1, U4.
"""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import Any

import pytest

from tests.certificates import LOCAL_NAMES, Authority
from tests.sim.virtual import call
from tests.wire.legacy_listener import Listener
from tests.wire.proxy_process import ProxyProcess, running
from tests.wire.session_client import Session, check_failure
from tests.wire.socket_upstream import OldUpstream
from tests.wire.waiting import eventually

LARGE = 3_000_000
SOON = {"proxy_actors.gateway.sse_pipes.ENDPOINT_S_MAX": 0.2}
SMALL = {"proxy_actors.gateway.sse_pipes.EVENT_BYTES_MAX": 100_000}
TRANSPORTS = ("sse", "auto")


@pytest.fixture
def upstream() -> Iterator[OldUpstream]:
    with OldUpstream() as upstream:
        yield upstream


@pytest.fixture
def proxy(upstream: OldUpstream) -> Iterator[ProxyProcess]:
    with running("--transport", "sse", upstream.url, settings=SMALL) as proxy:
        yield proxy


def begin(session: Session, n: int, *steps: str, post: str = "202") -> Any:
    """Call the tool that does what it is told."""
    return session.begin("t", n, n=n, do=list(steps) or ["answer"], post=post.split(","))


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_clients_of_both_transports_are_served(upstream: OldUpstream, transport: str) -> None:
    """MCP-L-2, D-5, S-23: with questions of the server, and answers larger than any buffer."""
    with running("--transport", transport, upstream.url) as proxy:
        session = proxy.session()
        asking = begin(session, 1, "ask", "answer")
        id = asking.event()["id"]
        answer = json.dumps({"jsonrpc": "2.0", "id": id, "result": {"action": "decline"}})
        assert session.post(answer.encode()).answer().status == 202
        assert asking.answer().message["result"]["content"][0]["text"] == "n=1"
        large = begin(session, 2, f"large {LARGE}", "answer").answer()
        assert large.message["result"]["content"][0]["text"] == "x" * LARGE
        with proxy.wire() as wire:
            listener = Listener(proxy, wire)
            listener.initialize()
            assert listener.post(call(3, f"large {LARGE}", "answer")).status == 202
            listener.until(lambda: len(listener.messages) == 2)
            assert listener.messages[-1]["result"]["content"][0]["text"] == "x" * LARGE
        eventually(lambda: len(upstream.old.sessions) == 1)
        assert session.delete().status == 200
        eventually(lambda: not upstream.old.sessions)


@pytest.mark.parametrize("end", ["end", "close", "reset", "nonsense", "flood 200000"])
def test_end_of_the_stream_ends_calls_in_flight_and_the_session(
    proxy: ProxyProcess, upstream: OldUpstream, end: str
) -> None:
    """FLT-U1: with a farewell, without one, by a reset, by nonsense, by more than may be."""
    session = proxy.session()
    pending = begin(session, 1, "nothing")
    streaming = begin(session, 2, "log", "nothing")
    upstream.wait_for(1)
    upstream.wait_for(2)
    broken = begin(session, 3, end)
    reason = "upstream-protocol" if end.startswith(("nonsense", "flood")) else "upstream-closed"
    for id, call_in_flight in ((1, pending), (3, broken)):
        answer = call_in_flight.answer()
        status = answer.status if answer.status == 200 else 502
        check_failure(answer, status, reason, "unknown", id)
    assert streaming.answer().message["error"]["data"]["executed"] == "unknown"
    assert begin(session, 4).answer().status == 404
    again = proxy.session()
    assert begin(again, 5).answer().status == 200
    eventually(lambda: upstream.old.links >= 1)
    again.delete()
    eventually(lambda: not upstream.old.sessions)


@pytest.mark.parametrize("post", ["break", "reset", "handle,reset", "500"])
def test_request_that_is_not_accepted_fails_alone(
    proxy: ProxyProcess, upstream: OldUpstream, post: str
) -> None:
    """FLT-U4: it may have been executed, unless its answer says how it was."""
    session = proxy.session()
    if post.startswith("handle"):
        answer = begin(session, 1, "nothing", post=post).answer()
    else:
        answer = begin(session, 1, post=post).answer()
    reason = "upstream-protocol" if post == "500" else "upstream-closed"
    check_failure(answer, 502, reason, "unknown", 1)
    assert begin(session, 2).answer().status == 200
    assert upstream.old.executions[1] == post.startswith("handle")


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_message_endpoint_at_another_origin_is_never_connected_to(
    upstream: OldUpstream, transport: str
) -> None:
    """MCP-L-2: not even at another port of the same host."""
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        elsewhere.setblocking(False)
        port = elsewhere.getsockname()[1]
        upstream.old.endpoint = f"http://127.0.0.1:{port}/messages?session={{id}}"
        with running("--transport", transport, upstream.url) as proxy:
            refused = proxy.begin_session().answer()
            check_failure(refused, 502, "upstream-protocol", "no")
            assert "another origin" in refused.message["error"]["message"]
            eventually(lambda: "endpoint_refused" in proxy.log())  # by a thread of its own
        with pytest.raises(BlockingIOError):
            elsewhere.accept()
    assert {seen.target for seen in upstream.old.seen} == {"/sse"}


@pytest.mark.parametrize("greeting", ["", "message"])
def test_server_that_never_names_its_endpoint_is_given_up(
    upstream: OldUpstream, greeting: str
) -> None:
    """MCP-L-2."""
    upstream.old.greeting = greeting
    with running("--transport", "sse", upstream.url, settings=SOON) as proxy:
        refused = proxy.begin_session().answer()
        if greeting:
            check_failure(refused, 502, "upstream-protocol", "no")
        else:
            check_failure(refused, 504, "upstream-timeout", "no")
        eventually(lambda: not upstream.old.links)


def test_server_of_neither_transport_is_told_of_as_such(upstream: OldUpstream) -> None:
    """MCP-P-1, D-5."""
    upstream.old.refusal = 404
    upstream.old.stream_status = 404
    with running(upstream.url) as proxy:
        check_failure(proxy.begin_session().answer(), 502, "upstream-protocol", "unknown")


def test_server_that_is_an_old_one_after_all_is_found_in_tls(
    tmp_path: Path,
) -> None:
    """MCP-L-2: the endpoint is relative to the URL, whatever that is."""
    authority = Authority(tmp_path)
    certificate, key = authority.issue(*LOCAL_NAMES)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with OldUpstream(tls=context) as upstream:
        file = tmp_path / "proxy.toml"
        file.write_text(
            f"[upstreams.default]\nurl = '{upstream.url}'\ntls.ca = '{authority.path}'\n"
        )
        with running("--config", str(file)) as proxy:
            session = proxy.session()
            assert begin(session, 1).answer().message["result"]["content"][0]["text"] == "n=1"
            session.delete()
            eventually(lambda: not upstream.old.sessions)


def test_session_does_not_outlive_the_proxy(upstream: OldUpstream, tmp_path: Path) -> None:
    """PROTOCOL section 12.3: the server's session ended with its stream."""
    words = ("--state-dir", str(tmp_path / "state"), "--transport", "sse", upstream.url)
    with running(*words) as proxy:
        id = proxy.session().id
        eventually(lambda: upstream.old.sessions)
        proxy.signal(SIGKILL)
        proxy.wait()
    eventually(lambda: not upstream.old.sessions)
    with running(*words) as proxy:
        assert begin(Session(proxy, id), 1).answer().status == 404
        assert begin(proxy.session(), 2).answer().status == 200


def test_stop_waits_for_calls_and_ends_idle_sessions_at_once(upstream: OldUpstream) -> None:
    """DESIGN 4."""
    with running("--transport", "sse", upstream.url) as proxy:
        idle = proxy.session()
        first = upstream.session
        busy = proxy.session()
        running_call = begin(busy, 1, "pause 5", "answer")
        upstream.wait_for(1)
        proxy.signal(SIGTERM)
        eventually(lambda: first.ended)
        assert len(upstream.old.sessions) == 1
        upstream.resume()
        assert running_call.answer().message["result"]["content"][0]["text"] == "n=1"
        assert proxy.wait() == 0
        assert idle.id != busy.id
    eventually(lambda: not upstream.old.links)


def test_file_of_a_client_names_old_servers(upstream: OldUpstream, tmp_path: Path) -> None:
    """As clients write it."""
    file = tmp_path / "mcp.json"
    file.write_text(json.dumps({"mcpServers": {"a": {"type": "sse", "url": upstream.url}}}))
    with running("--mcp-json", str(file)) as proxy:
        assert begin(proxy.session(), 1).answer().status == 200
    assert [seen.method for seen in upstream.old.seen].count("GET") == 1
    assert upstream.old.seen[0].method == "GET"
