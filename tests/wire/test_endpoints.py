"""Several real servers behind one name: processes and sockets, and a proxy that is started anew.

FLT-P3: a session stays at its endpoint over a restart.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sim.virtual import call, request
from tests.wire.proxy_process import ProxyProcess, running
from tests.wire.socket_upstream import SocketUpstream

DEMO = json.dumps([sys.executable, "-m", "proxy_actors.demo"])


@pytest.fixture
def upstreams() -> Iterator[tuple[SocketUpstream, SocketUpstream]]:
    with SocketUpstream() as one, SocketUpstream() as two:
        yield one, two


def called(upstream: SocketUpstream) -> list[int]:
    """Which calls a server has executed."""
    return sorted(n for n in upstream.server.executions if n is not None)


def ask(proxy: ProxyProcess, n: int, session: str) -> int | None:
    with proxy.wire() as wire:
        return wire.ask(request(call(n), session=session)).status


def test_sessions_stay_at_their_endpoints_over_a_restart_of_the_proxy(
    tmp_path: Path, upstreams: tuple[SocketUpstream, SocketUpstream]
) -> None:
    one, two = upstreams
    file = tmp_path / "config.toml"
    file.write_text(f"""
        state-dir = "{tmp_path}/state"
        [upstreams.web.endpoints.one]
        url = "{one.url}"
        [upstreams.web.endpoints.two]
        url = "{two.url}"
    """)
    with running("--config", str(file)) as proxy:
        proxy.wait_ready()
        sessions = [proxy.session_id() for _ in range(4)]
        assert {ask(proxy, n, session) for n, session in enumerate(sessions)} == {200}
        before = called(one), called(two)
        assert before == ([0, 2], [1, 3])
    with running("--config", str(file)) as proxy:
        proxy.wait_ready()
        assert {ask(proxy, n + 4, session) for n, session in enumerate(sessions)} == {200}
        assert (called(one), called(two)) == ([0, 2, 4, 6], [1, 3, 5, 7])


@pytest.mark.parametrize("mode", ["session", "shared", "pool"])
def test_processes_are_endpoints_in_every_mode(tmp_path: Path, mode: str) -> None:
    """Each says who it is by a variable of its own."""
    file = tmp_path / "config.toml"
    children = "children = 1" if mode == "pool" else ""
    file.write_text(f"""
        [upstreams.demo]
        stdio = "{mode}"
        {children}
        env = {{ DEMO_NAME = "neither" }}
        [upstreams.demo.endpoints.one]
        command = {DEMO}
        env = {{ DEMO_NAME = "one" }}
        [upstreams.demo.endpoints.two]
        command = {DEMO}
        env = {{ DEMO_NAME = "two" }}
    """)
    with running("--config", str(file)) as proxy:
        proxy.wait_ready()
        environments = Counter(
            entry
            for pid in proxy.children()
            for entry in Path(f"/proc/{pid}/environ").read_text().split("\0")
            if entry.startswith("DEMO_NAME")
        )
        for _ in range(4):
            session = proxy.session_id()
            with proxy.wire() as wire:
                ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
                assert wire.ask(request(ping, session=session)).status == 200
        proxy.end_sessions()
    assert environments == {"DEMO_NAME=one": 1, "DEMO_NAME=two": 1}
