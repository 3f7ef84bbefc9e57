"""Two real servers behind one name, one of which is killed: what becomes of clients' sessions.

FLT-N1, N7, N16; RELIABILITY 1.3. The official Python client is among those who see it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests
from peers.http_session import HttpSession, result
from peers.processes import Server, accepts, free_port, says_ready
from peers.upstreams import ROOT, SERVER_EVERYTHING, UPSTREAMS, on_port

SERVERS = ("everything", SERVER_EVERYTHING.name)
NAMES = ("one", "two")
PATIENCE_S = 30.0
# Lists the tools, says how many there are, and does so again for each line that it reads.
CLIENT = """
import asyncio, sys
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

async def main(url):
    async with Client(streamable_http_client(url), mode="legacy") as client:
        while True:
            print(len((await client.list_tools()).tools), flush=True)
            if not await asyncio.to_thread(sys.stdin.readline):
                return

asyncio.run(main(sys.argv[1]))
"""


class Stage(HttpSession):
    """Two servers of one kind, a proxy before them, and a session there."""

    def __init__(self, directory: Path, upstream: str, on_session_lost: str) -> None:
        self._directory = directory
        self._kind = UPSTREAMS[upstream].http
        self._ports = {name: free_port() for name in NAMES}
        self.servers = {name: self._start(name) for name in NAMES}
        port, file = free_port(), directory / "proxy.toml"
        endpoints = "\n".join(
            f'[upstreams.both.endpoints.{name}]\nurl = "http://127.0.0.1:{its}/mcp"'
            for name, its in self._ports.items()
        )
        file.write_text(f"""
            listen = "127.0.0.1:{port}"
            [upstreams.both]
            on-session-lost = "{on_session_lost}"
            [upstreams.both.checks]
            interval-s = 0.3
            fast-interval-s = 0.1
            down-interval-s = 0.3
            timeout-s = 2
            fall = 2
            {endpoints}
        """)
        command = [sys.executable, "-m", "proxy_actors", "run", "--config", str(file)]
        self.proxy = Server("proxy", "proxy", command, ROOT, directory / "proxy.log")
        self.proxy.wait_ready(partial(says_ready, port))
        super().__init__(f"http://127.0.0.1:{port}/mcp")
        self._ready = f"http://127.0.0.1:{port}/ready"

    def kill(self, name: str) -> None:
        """Kill a server, and wait until the proxy's log says that it is down."""
        downs = self._told("down", name)
        self.servers[name].stop_at_once()
        self._until(lambda: self._told("down", name) > downs)

    def start(self, name: str) -> None:
        """Start it anew, and wait until it is up."""
        ups = self._told("up", name)
        self.servers[name] = self._start(name)
        self._until(lambda: self._told("up", name) > ups)

    def stop(self) -> None:
        self.proxy.ask_to_stop()
        self.proxy.stop()
        for server in self.servers.values():
            server.stop_at_once()

    def list(self, session: str) -> int:
        """List the tools within a session; return the status."""
        self.session = session
        answer = self.post({"id": 1, "method": "tools/list"})
        if answer.status_code == 200:
            assert result(answer)["result"]["tools"]
        return answer.status_code

    def _told(self, what: str, name: str) -> int:
        return self._log().count(f"endpoint_{what} upstream=both endpoint={name} ")

    def _log(self) -> str:
        return (self._directory / "proxy.log").read_text(errors="replace")

    def _until(self, condition: Any) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline_s, self._log()
            requests.get(self._ready, timeout=5)

    def _start(self, name: str) -> Server:
        port = self._ports[name]
        log = self._directory / f"{name}.log"
        server = Server(name, "server", on_port(self._kind, port), ROOT, log)
        server.wait_ready(partial(accepts, port))
        return server


@pytest.fixture
def stage(request: pytest.FixtureRequest, node_parts: None, tmp_path: Path) -> Iterator[Stage]:
    upstream, on_session_lost = request.param
    stage = Stage(tmp_path, upstream, on_session_lost)
    yield stage
    stage.stop()


@pytest.mark.parametrize("stage", [(x, "end") for x in SERVERS], indirect=True, ids=str)
def test_sessions_of_a_killed_server_end_and_are_begun_anew_at_the_other(stage: Stage) -> None:
    """Those of the other never notice; the server that is back takes sessions again."""
    first, second = stage.open(), stage.open()
    assert (stage.list(first), stage.list(second)) == (200, 200)
    stage.kill("one")
    assert (stage.list(first), stage.list(second)) == (404, 200)
    third, fourth = stage.open(), stage.open()
    assert (stage.list(third), stage.list(fourth)) == (200, 200)
    stage.start("one")
    stage.kill("two")
    assert [stage.list(x) for x in (second, third, fourth)] == [404] * 3
    assert stage.list(stage.open()) == 200


@pytest.mark.parametrize("stage", [(x, "reinitialize") for x in SERVERS], indirect=True, ids=str)
def test_session_moves_from_server_to_server_where_that_is_allowed(stage: Stage) -> None:
    """The official client goes on as if nothing had happened, whichever server is killed."""
    with subprocess.Popen(
        [sys.executable, "-c", CLIENT, stage.url],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
    ) as client:
        assert client.stdin is not None and client.stdout is not None
        count = json.loads(client.stdout.readline())
        for gone, back in (("one", ""), ("two", "one"), ("one", "two")):
            if back:
                stage.start(back)
            stage.kill(gone)
            client.stdin.write("again\n")
            assert json.loads(client.stdout.readline()) == count
        client.stdin.close()
        assert client.wait(PATIENCE_S) == 0
