"""A real proxy serves whether its statsd server is there, unknown, or swallows everything."""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.sim.virtual import call, request
from tests.wire.proxy_process import ProxyProcess, running
from tests.wire.socket_upstream import SocketUpstream
from tests.wire.waiting import PATIENCE_S, eventually

CALLS = 20


@contextmanager
def datagram_socket() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound:
        bound.bind(("127.0.0.1", 0))
        bound.settimeout(PATIENCE_S)
        yield bound


def address_of(bound: socket.socket) -> str:
    return f"127.0.0.1:{bound.getsockname()[1]}"


@pytest.fixture
def upstream() -> Iterator[SocketUpstream]:
    with SocketUpstream() as upstream:
        yield upstream


def serves(proxy: ProxyProcess) -> None:
    """Have it serve a session and some calls."""
    session = proxy.session_id()
    with proxy.wire() as wire:
        for n in range(CALLS):
            assert wire.ask(request(call(n), session=session)).status == 200


def ends_well(proxy: ProxyProcess) -> None:
    proxy.process.terminate()
    assert proxy.wait() == 0, proxy.log()
    assert "Traceback" not in proxy.log()


def test_figures_come_and_the_last_of_them_at_the_end(upstream: SocketUpstream) -> None:
    """What was counted in the last moment is sent before the process ends."""
    with datagram_socket() as statsd:
        with running("--statsd", address_of(statsd), upstream.url) as proxy:
            serves(proxy)
            ends_well(proxy)
        statsd.settimeout(0.0)
        packets = []
        try:
            while True:
                packets.append(statsd.recv(65_536))
        except BlockingIOError:
            pass
    lines = b"\n".join(packets).decode("ascii").split("\n")
    form = re.compile(r"proxy_actors(\.[\w-]+)+:[\d.]+\|(c|g|ms)(\|@[\d.]+)?")
    assert all(map(form.fullmatch, lines)), lines
    name = "proxy_actors.upstream.default.method.tools_call.requests:"
    assert sum(int(x[len(name):-2]) for x in lines if x.startswith(name)) == CALLS


def test_server_that_is_not_there_harms_nothing(upstream: SocketUpstream) -> None:
    """That is told, once. A socket with a peer takes its port and refuses everybody else."""
    with datagram_socket() as bound, datagram_socket() as peer:
        bound.connect(peer.getsockname())
        with running("--statsd", address_of(bound), upstream.url) as proxy:
            serves(proxy)
            eventually(lambda: "statsd_not_reached error=" in proxy.log())
            serves(proxy)
            ends_well(proxy)
            assert proxy.log().count("statsd_") == 1, proxy.log()


def test_server_whose_name_nobody_knows_harms_nothing(upstream: SocketUpstream) -> None:
    with running("--statsd", "nowhere.invalid:8125", upstream.url) as proxy:
        serves(proxy)
        eventually(lambda: "statsd_not_reached error=" in proxy.log())
        serves(proxy)
        ends_well(proxy)
        assert proxy.log().count("statsd_") == 1, proxy.log()


def test_resolver_that_does_not_answer_harms_nothing(
    upstream: SocketUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RFC 5737: nobody has this address. Where there is a way to it, the look-up never ends."""
    monkeypatch.setenv("GEVENTARES_SERVERS", "192.0.2.1")
    with running("--statsd", "statsd.example:8125", upstream.url) as proxy:
        serves(proxy)
        ends_well(proxy)
        assert proxy.log().count("statsd_") <= 1, proxy.log()


def test_server_that_swallows_everything_harms_nothing(upstream: SocketUpstream) -> None:
    """It never reads: when its buffer is full, the kernel drops what comes, without a word."""
    with datagram_socket() as statsd:
        statsd.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        with running("--statsd", address_of(statsd), upstream.url) as proxy:
            eventually(lambda: drops(statsd) > 0)
            serves(proxy)
            ends_well(proxy)
            assert "statsd_" not in proxy.log(), proxy.log()


def drops(bound: socket.socket) -> int:
    """How many packets the kernel has dropped for want of room, proc(5)."""
    inode = str(os.fstat(bound.fileno()).st_ino)
    with open("/proc/self/net/udp", encoding="ascii") as table:
        rows = [line.split() for line in table]
    return next(int(row[-1]) for row in rows if inode in row)


def test_file_says_where_figures_go(tmp_path: Path) -> None:
    """Under the prefix and as often as it says."""
    file = tmp_path / "config.toml"
    with datagram_socket() as statsd:
        file.write_text(f"""
            [upstreams.demo]
            command = ["{sys.executable}", "-m", "proxy_actors.demo"]
            [metrics]
            statsd = "{address_of(statsd)}"
            prefix = "of.${{NOBODY:-me}}"
            flush-interval-s = 0.1
        """)
        with running("--config", str(file)) as proxy:
            for _ in range(3):
                assert statsd.recv(65_536).startswith(b"of.me.")
            ends_well(proxy)
