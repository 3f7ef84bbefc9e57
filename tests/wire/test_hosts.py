"""Where a real proxy listens, and by which names it may be called there.

MCP-H-2 to H-5, HTTP-F8, THR-T3: on every path and method, before anything reaches the upstream. The
rules themselves are shown in `tests/gateway/test_origins.py`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.sim.virtual import Answer, call, initialize, request
from tests.wire.proxy_process import ProxyProcess, running
from tests.wire.socket_upstream import SocketUpstream

LISTEN = ["127.0.0.1:0", "[::1]:0", "127.0.0.2:0", "0.0.0.0:0"]
OWN = {
    "127.0.0.1:0": ["127.0.0.1", "localhost", "[::1]", "LOCALHOST"],
    "[::1]:0": ["[::1]", "localhost", "127.0.0.1", "[0:0::1]"],
    "127.0.0.2:0": ["127.0.0.2", "localhost"],
    "0.0.0.0:0": ["127.0.0.1", "localhost", "192.168.7.7", "[fe80::7]"],
}
FOREIGN = {
    "127.0.0.1:0": ["evil.example.com", "127.0.0.2", "192.168.7.7", "localhost.evil.example.com"],
    "[::1]:0": ["evil.example.com", "[::2]", "127.0.0.2"],
    "127.0.0.2:0": ["evil.example.com", "127.0.0.3"],
    "0.0.0.0:0": ["evil.example.com", "localhost.evil.example.com", "127.0.0.1.evil.example.com"],
}
REQUESTS = [("POST", "/mcp"), ("GET", "/mcp"), ("DELETE", "/mcp"), ("OPTIONS", "/mcp"),
            ("GET", "/health"), ("GET", "/ready"), ("GET", "/admin/health"), ("GET", "/nowhere")]


@pytest.fixture(scope="module")
def upstream() -> Iterator[SocketUpstream]:
    with SocketUpstream() as upstream:
        yield upstream


@pytest.fixture(scope="module", params=LISTEN)
def listen(request: pytest.FixtureRequest) -> str:
    listen: str = request.param
    return listen


@pytest.fixture(scope="module")
def proxy(upstream: SocketUpstream, listen: str) -> Iterator[ProxyProcess]:
    with running(upstream.url, listen=listen) as proxy:
        yield proxy


def ask(proxy: ProxyProcess, method: str, path: str, fields: dict[str, str | None]) -> Answer:
    body = initialize() if method == "POST" else None
    with proxy.wire() as wire:
        return wire.ask(request(body, method, path=path, fields=fields), method)


def test_proxy_serves_where_it_listens(
    proxy: ProxyProcess, upstream: SocketUpstream, listen: str
) -> None:
    """MCP-H-4: there, over either family of addresses, and it says so."""
    host, port = proxy.address
    assert host == listen.rpartition(":")[0].strip("[]")
    assert f"listening host={host} port={port}" in proxy.log()
    session = proxy.session_id()
    with proxy.wire() as wire:
        assert wire.ask(request(call(1), session=session)).status == 200
    peer = upstream.server.seen[-1].field("x-forwarded-for")
    assert peer == ("::1" if ":" in host else "127.0.0.1")


def test_own_names_are_served_with_any_port(proxy: ProxyProcess, listen: str) -> None:
    for name in OWN[listen]:
        for host in (name, f"{name}:{proxy.address[1]}", f"{name}:1"):
            for origin in (None, f"http://{name}", f"https://{name}:3000"):
                answer = ask(proxy, "POST", "/mcp", {"Host": host, "Origin": origin})
                assert answer.status == 200, (host, origin)


@pytest.mark.parametrize(("method", "path"), REQUESTS)
def test_foreign_names_are_421_and_foreign_pages_403(
    proxy: ProxyProcess, upstream: SocketUpstream, listen: str, method: str, path: str
) -> None:
    """MCP-H-2, H-3, H-5: an error without an id, and the upstream sees nothing of it."""
    seen = len(upstream.server.seen)
    for name in FOREIGN[listen]:
        refused = ask(proxy, method, path, {"Host": name})
        assert (refused.status, refused.keep_alive) == (421, False), name
        assert "id" not in refused.message
        refused = ask(proxy, method, path, {"Host": "localhost", "Origin": f"http://{name}"})
        assert refused.status == 403, name
        assert "id" not in refused.message
    for origin in ("null", "", "localhost", "file://", "http://localhost@evil.example.com"):
        assert ask(proxy, method, path, {"Origin": origin}).status == 403, origin
    assert len(upstream.server.seen) == seen
