"""Real servers that fail, die and hang: who is used meanwhile, and how they come back.

FLT-N1, N8, N16, N17, U2, U4.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.sim.virtual import call, request
from tests.wire.proxy_process import SCRIPTED, ProxyProcess, running
from tests.wire.socket_upstream import SocketUpstream
from tests.wire.waiting import eventually

CHECKS = """
    [upstreams.{0}.checks]
    interval-s = 0.1
    fast-interval-s = 0.1
    down-interval-s = 0.1
    timeout-s = 1
"""


@pytest.fixture
def upstreams() -> Iterator[dict[str, SocketUpstream]]:
    with SocketUpstream() as one, SocketUpstream() as two:
        yield {"one": one, "two": two}


def web(directory: Path, upstreams: dict[str, SocketUpstream], more: str) -> str:
    """Write the configuration of these endpoints, which have no breakers; return where."""
    more += "\n[upstreams.web.breaker]\nenabled = false\n"
    endpoints = "\n".join(
        f'[upstreams.web.endpoints.{name}]\nurl = "{upstream.url}"'
        for name, upstream in upstreams.items()
    )
    file = directory / "config.toml"
    file.write_text(f"{endpoints}\n{more}")
    return str(file)


def events(proxy: ProxyProcess, name: str) -> list[str]:
    """What was logged of an event, behind its name."""
    return re.findall(rf" {name} upstream=\w+ (.*)", proxy.log())


def ready(proxy: ProxyProcess) -> Any:
    with proxy.wire() as wire:
        return json.loads(wire.ask(request(None, "GET", path="/ready"), "GET").body)


def fail(proxy: ProxyProcess, session: str, times: int = 5) -> None:
    with proxy.wire() as wire:
        for n in range(times):
            assert wire.ask(request(call(n, "500"), session=session)).status == 502


def homes(proxy: ProxyProcess, upstreams: dict[str, SocketUpstream]) -> dict[str, str]:
    """Open a session at each endpoint."""
    found: dict[str, str] = {}
    for _ in upstreams:
        before = {name: len(x.server.sessions) for name, x in upstreams.items()}
        session = proxy.session_id()
        [home] = [name for name, x in upstreams.items() if len(x.server.sessions) > before[name]]
        found[home] = session
    return found


def test_server_that_fails_is_ejected_for_longer_each_time_and_comes_back(
    tmp_path: Path, upstreams: dict[str, SocketUpstream]
) -> None:
    """FLT-N8, N17."""
    more = """
        [upstreams.web.checks]
        kind = "off"
        [upstreams.web.outliers]
        interval-s = 0.1
        base-ejection-s = 0.5
        max-ejection-s = 1
    """
    with running("--config", web(tmp_path, upstreams, more)) as proxy:
        proxy.wait_ready()
        session = homes(proxy, upstreams)["one"]
        for times in range(1, 4):
            fail(proxy, session)
            eventually(lambda t=times: len(events(proxy, "endpoint_unejected")) == t)
        ejected = events(proxy, "endpoint_ejected")
    assert len(ejected) == 3
    for line in ejected:  # how often of late, an interval without failures takes one off
        shown = re.fullmatch(
            r"endpoint=one cause=consecutive-failures seconds=([\d.]+) multiplier=(\d)", line
        )
        assert shown and float(shown[1]) == min(0.5 * int(shown[2]), 1.0)


def test_ejected_server_keeps_its_session_and_gets_no_new_one_nor_is_the_last_one_ejected(
    tmp_path: Path, upstreams: dict[str, SocketUpstream]
) -> None:
    """FLT-N16: one of two, then both."""
    more = '[upstreams.web.checks]\nkind = "off"'
    with running("--config", web(tmp_path, upstreams, more)) as proxy:
        proxy.wait_ready()
        sessions = homes(proxy, upstreams)
        fail(proxy, sessions["one"])
        assert ready(proxy)["endpoints"]["web"] == {"one": "serving", "two": "ready"}
        before = len(upstreams["one"].server.sessions)
        for _ in range(4):
            proxy.session_id()
        assert len(upstreams["one"].server.sessions) == before
        with proxy.wire() as wire:
            assert wire.ask(request(call(7), session=sessions["one"])).status == 200
        fail(proxy, sessions["two"])
        assert ready(proxy)["endpoints"]["web"] == {"one": "serving", "two": "ready"}
        assert len(events(proxy, "endpoint_not_ejected")) == 1


def test_server_that_dies_is_down_and_is_used_again_when_it_is_back(tmp_path: Path) -> None:
    """FLT-N1, N16: found out by the proxy itself; the checks leave nothing at the servers."""
    with SocketUpstream() as one, ExitStack() as stack:
        with SocketUpstream() as two:
            config = web(tmp_path, {"one": one, "two": two}, CHECKS.format("web"))
            proxy = stack.enter_context(running("--config", config))
            for each in (one, two):
                eventually(lambda: len(each.server.sessions) == 1)  # that of the checks
            assert ready(proxy)["endpoints"]["web"] == {"one": "ready", "two": "ready"}
        eventually(lambda: events(proxy, "endpoint_down"))
        assert ready(proxy)["endpoints"]["web"] == {"one": "ready", "two": "not ready"}
        assert ready(proxy)["status"] == "ready"
        before = len(one.server.sessions)
        for _ in range(4):
            proxy.session_id()
        assert len(one.server.sessions) == before + 4
        with SocketUpstream(listening=bound(two.port)) as two:
            eventually(lambda: events(proxy, "endpoint_up"))
            assert ready(proxy)["endpoints"]["web"] == {"one": "ready", "two": "ready"}
            stack.close()
            assert not two.server.sessions and len(one.server.sessions) == before + 3


def bound(port: int) -> socket.socket:
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("127.0.0.1", port))
    return listening


@pytest.mark.parametrize("mode", ["shared", "pool"])
def test_process_that_hangs_idle_is_found_out_and_started_anew(tmp_path: Path, mode: str) -> None:
    """FLT-U4: nobody calls it, so nobody but a check can find out."""
    file = tmp_path / "config.toml"
    children = "children = 1" if mode == "pool" else ""
    file.write_text(f"""
        [upstreams.demo]
        command = {json.dumps(SCRIPTED)}
        stdio = "{mode}"
        {children}
        {CHECKS.format("demo").replace("timeout-s = 1", "timeout-s = 0.3")}
        kind = "ping"
    """)
    settings = {"proxy_actors.policy.liveness.PING_S": 2.0}
    with running("--config", str(file), settings=settings) as proxy:
        proxy.wait_ready()
        [child] = proxy.children()
        os.kill(child, signal.SIGSTOP)
        eventually(lambda: events(proxy, "endpoint_down"))
        assert proxy.page("/ready") == 503
        eventually(lambda: child not in proxy.children())
        eventually(lambda: events(proxy, "endpoint_up"))
        assert proxy.session_id()
        proxy.end_sessions()


def test_process_that_does_not_start_is_down(tmp_path: Path) -> None:
    """FLT-U2, U3, beside one that does."""
    file = tmp_path / "config.toml"
    file.write_text(f"""
        [upstreams.demo.endpoints.good]
        command = {json.dumps(SCRIPTED)}
        [upstreams.demo.endpoints.bad]
        command = ["/bin/false"]
        {CHECKS.format("demo")}
    """)
    with running("--config", str(file)) as proxy:
        proxy.wait_ready()
        eventually(lambda: events(proxy, "endpoint_down"))
        for _ in range(4):
            assert proxy.session_id()
        assert [line.split()[0] for line in events(proxy, "endpoint_down")] == ["endpoint=bad"]
        proxy.end_sessions()
