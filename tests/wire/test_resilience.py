"""A server that is gone and comes back, and one that closes connections, on real sockets.

FLT-N1, N12: what clients are told, that the breaker opens and closes by itself, and that no call is
executed twice.
"""

from __future__ import annotations

import socket
from pathlib import Path

from tests.wire.proxy_process import ProxyProcess, running
from tests.wire.session_client import Session, check_failure
from tests.wire.socket_upstream import SocketUpstream
from tests.wire.waiting import eventually


def reserved(port: int) -> socket.socket:
    """Bind a port again."""
    return socket.create_server(("127.0.0.1", port))


def call(session: Session, n: int) -> tuple[int, str]:
    """Call a tool; return the status and the reason of what went wrong."""
    answer = session.call("t", n, n=n)
    if answer.status == 200:
        return 200, ""
    reason: str = answer.message["error"]["data"]["reason"]
    check_failure(answer, answer.status, reason, "no", n)
    return answer.status, reason


def at_rest(proxy: ProxyProcess) -> bool:
    """Whether no connection is open."""
    pool = proxy.pool()
    return pool["idle"] == pool["leased"] == pool["opening"] == 0


def test_breaker_of_a_server_that_refuses_connections_opens_and_closes(tmp_path: Path) -> None:
    """FLT-N1. Nothing is executed twice, and nobody has to do anything for it to come back."""
    file = tmp_path / "config.toml"
    first = SocketUpstream()
    file.write_text(f"""
        [upstreams.default]
        url = "{first.url}"
        [upstreams.default.breaker]
        base-s = 0.2
        cap-s = 0.5
        [upstreams.default.retries]
        attempts-max = 1
    """)
    with running("--config", str(file)) as proxy:
        with first:
            proxy.wait_ready()
            session = Session(proxy, proxy.session_id())
            assert call(session, 0) == (200, "")
        eventually(lambda: at_rest(proxy))
        told = [call(session, n) for n in range(1, 41)]
        assert told[:3] == [(502, "connect-failed")] * 3, "five tries"
        assert set(told[3:]) == {(503, "circuit-open")}
        with SocketUpstream(listening=reserved(first.port)) as back:
            back.server = first.server  # it knows its sessions still
            numbers = iter(range(100, 100_000))
            eventually(lambda: call(session, next(numbers)) == (200, ""))
            executions = [n for x, n in back.server.executions.items() if x is not None]
            assert executions == [1, 1], "the first call and the last"


def test_call_is_not_repeated_on_a_connection_that_was_closed_and_a_list_is() -> None:
    """FLT-N12: the server closes a connection just when something comes on it again."""
    with SocketUpstream() as upstream, running(upstream.url) as proxy:
        proxy.wait_ready()
        session = Session(proxy, proxy.session_id())
        for n in range(1, 5):  # a fifth would open the breaker of the tool
            upstream.server.firsts["tools/list"] = [["reset"]]
            assert session.send("tools/list", id=n).answer().status == 200
            upstream.server.firsts["tools/call"] = [["reset"]]
            answer = session.call("t", n, n=n)
            check_failure(answer, 502, "upstream-closed", "unknown", n)
            assert upstream.server.executions[n] == 1
