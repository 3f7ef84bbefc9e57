"""What a new user meets first: the printed line, the first call, and a server that is not there."""

from __future__ import annotations

import shlex
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator

import pytest

from .proxy_process import ProxyProcess, running
from .waiting import PATIENCE_S, eventually

DEMO = (sys.executable, "-m", "proxy_actors.demo")
CALL = (sys.executable, "-m", "proxy_actors", "call")


@pytest.fixture
def demo() -> Iterator[ProxyProcess]:
    """What `make run` starts."""
    with running("--", *DEMO) as proxy:
        yield proxy


def test_the_answer_to_the_printed_line_names_the_demo_server(demo: ProxyProcess) -> None:
    """As curl reads it; that curl itself is installed is not taken for granted."""
    words = shlex.split(demo.line_to_try())
    given = dict(zip(words[:-1], words[1:]))
    fields = [value for flag, value in zip(words, words[1:]) if flag == "-H"]
    asked = urllib.request.Request(
        next(word for word in words if word.startswith("http://")),
        given["-d"].encode(),
        dict(field.split(": ", 1) for field in fields),
    )
    with urllib.request.urlopen(asked, timeout=PATIENCE_S) as answer:
        assert b'"proxy-actors-demo"' in answer.read()


def test_a_call_prints_what_the_tool_returned_and_nothing_else(demo: ProxyProcess) -> None:
    done = subprocess.run(
        [*CALL, demo.url, "add", "a=20", "b=22"], capture_output=True, timeout=PATIENCE_S
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"42\n", b"")


def test_the_log_tells_when_the_server_is_not_there_and_when_it_is() -> None:
    """Once each, however often the proxy looks."""
    looks_often = {"proxy_actors.policy.http_upstream.PROBE_INTERVAL_S": 0.01}
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))  # and does not listen yet
        port = server.getsockname()[1]
        with running(f"http://127.0.0.1:{port}/mcp", settings=looks_often) as proxy:
            eventually(lambda: "upstream_unreachable" in proxy.log())
            server.listen()
            eventually(lambda: "upstream_reached" in proxy.log())
            assert f"port {port}: Connection refused" in proxy.log()
            assert proxy.log().count("upstream_unreachable") == 1
