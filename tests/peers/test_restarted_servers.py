"""Real HTTP servers that are killed and started anew: what their clients' sessions become.

MCP-S-5; fault N7. The servers say in two ways that a session is unknown: 404, and a 400 whose text
says it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from peers.http_session import HttpSession, result
from peers.processes import Server, accepts, free_port, says_ready
from peers.upstreams import ROOT, SERVER_EVERYTHING, UPSTREAMS, on_port

SERVERS = ("everything", SERVER_EVERYTHING.name)


class Stage(HttpSession):
    """A real server, a proxy before it, and a session there."""

    def __init__(self, directory: Path, upstream: str, on_session_lost: str) -> None:
        self._directory = directory
        self._port = free_port()
        self._command = on_port(UPSTREAMS[upstream].http, self._port)
        self.server = self._start_server()
        file = directory / "proxy.toml"
        port = free_port()
        file.write_text(f"""
            version = 1
            listen = "127.0.0.1:{port}"
            [upstreams.one]
            url = "http://127.0.0.1:{self._port}/mcp"
            on-session-lost = "{on_session_lost}"
        """)
        command = [sys.executable, "-m", "proxy_actors", "run", "--config", str(file)]
        self.proxy = Server("proxy", "proxy", command, ROOT, directory / "proxy.log")
        self.proxy.wait_ready(partial(says_ready, port))
        super().__init__(f"http://127.0.0.1:{port}/mcp/one")

    def restart(self) -> None:
        """Kill the server, and start it anew in the same place."""
        self.server.stop_at_once()
        self.server = self._start_server()

    def stop(self) -> None:
        self.proxy.ask_to_stop()
        self.proxy.stop()
        self.server.stop_at_once()

    def _start_server(self) -> Server:
        log = self._directory / "server.log"
        server = Server("server", "server", self._command, ROOT, log)
        server.wait_ready(partial(accepts, self._port))
        return server


@pytest.fixture
def stage(request: pytest.FixtureRequest, node_parts: None, tmp_path: Path) -> Iterator[Stage]:
    upstream, on_session_lost = request.param
    stage = Stage(tmp_path, upstream, on_session_lost)
    stage.open()
    yield stage
    stage.stop()


@pytest.mark.parametrize("stage", [(x, "end") for x in SERVERS], indirect=True, ids=str)
def test_client_of_a_restarted_server_begins_anew(stage: Stage) -> None:
    """Whatever it asks for, it is told that its session has ended; a new one is served."""
    assert result(stage.post({"id": 1, "method": "tools/list"}))["result"]["tools"]
    stage.restart()
    assert [stage.post({"id": n, "method": "tools/list"}).status_code for n in (2, 3)] == [404] * 2
    stage.open()
    assert result(stage.post({"id": 4, "method": "tools/list"}))["result"]["tools"]


@pytest.mark.parametrize("stage", [(x, "reinitialize") for x in SERVERS], indirect=True, ids=str)
def test_session_at_a_restarted_server_goes_on_where_that_is_allowed(stage: Stage) -> None:
    """A call is refused once and not sent again; a list is fetched from the new session."""
    stage.restart()
    called = stage.post({"id": 1, "method": "tools/call", "params": {"name": "echo"}})
    fault = result(called)["error"]["data"]
    assert (called.status_code, fault["executed"], fault["retryable"]) == (502, "no", True)
    assert result(stage.post({"id": 2, "method": "tools/list"}))["result"]["tools"]
    stage.restart()
    assert result(stage.post({"id": 3, "method": "tools/list"}))["result"]["tools"]
