"""Figures on their way to a real socket: whole, readable, in packets that a network carries."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from proxy_actors.errors import ConnectError
from proxy_actors.metrics import Figure, Kind
from proxy_actors.transports.statsd_sink import PACKET_BYTES_MAX, StatsdSink

PATIENCE_S = 30.0


class Server:
    """Receives packets."""

    def __init__(self, family: socket.AddressFamily, address: str) -> None:
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._socket.bind((address, 0))
        self._socket.settimeout(PATIENCE_S)
        self.address = address
        self.port: int = self._socket.getsockname()[1]

    def packet(self) -> str:
        return self._socket.recv(65_536).decode("ascii")

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=[(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")], ids=["4", "6"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    server = Server(*request.param)
    yield server
    server.close()


@pytest.fixture
def sink(server: Server) -> Iterator[StatsdSink]:
    sink = StatsdSink(server.address, server.port, "a.b")
    yield sink
    sink.close()


@pytest.mark.parametrize(
    ("figure", "line"),
    [
        (Figure("n", Kind.COUNTER, (3.0,)), "a.b.n:3|c"),
        (Figure("n", Kind.COUNTER, (1e17,)), "a.b.n:100000000000000000|c"),
        (Figure("n", Kind.COUNTER, (0.6251,)), "a.b.n:0.625|c"),
        (Figure("n", Kind.GAUGE, (0.0,)), "a.b.n:0|g"),
        (Figure("n", Kind.GAUGE, (2.5,)), "a.b.n:2.5|g"),
        (Figure("n", Kind.TIMER, (1.25,)), "a.b.n:1.250|ms"),
        (Figure("n", Kind.TIMER, (0.0001, 2.0)), "a.b.n:0.000|ms\na.b.n:2.000|ms"),
        (Figure("n", Kind.TIMER, (7.0,), 0.25), "a.b.n:7.000|ms|@0.25"),
        # Python would write 2**-20 with an exponent, where statsd stops reading.
        (Figure("n", Kind.TIMER, (7.0,), 2**-20), "a.b.n:7.000|ms|@0.00000095367431640625"),
    ],
)
def test_figure_is_written_as_statsd_reads_it(
    server: Server, sink: StatsdSink, figure: Figure, line: str
) -> None:
    assert sink.send([figure]) == (0, "")
    assert server.packet() == line


def test_packets_are_full_and_fit(server: Server, sink: StatsdSink) -> None:
    """No figure is lost, doubled or cut; nearly no room is wasted."""
    figures = [Figure(f"name.of.{n}", Kind.COUNTER, (n,)) for n in range(1000)]
    assert sink.send(figures) == (0, "")
    lines: list[str] = []
    sizes = []
    while len(lines) < len(figures):
        packet = server.packet()
        sizes.append(len(packet))
        lines += packet.split("\n")
    assert lines == [f"a.b.name.of.{n}:{n}|c" for n in range(1000)]
    assert max(sizes) <= PACKET_BYTES_MAX
    assert min(sizes[:-1]) > PACKET_BYTES_MAX - 30


def test_nothing_to_send_sends_nothing(server: Server, sink: StatsdSink) -> None:
    assert sink.send([]) == (0, "")
    sink.send([Figure("n", Kind.COUNTER, (1,))])
    assert server.packet() == "a.b.n:1|c"


def test_server_that_goes_and_comes_back_loses_no_packet_after_that(
    server: Server, sink: StatsdSink
) -> None:
    """A refusal shows at the next packet; that one is sent all the same."""
    figure = Figure("n", Kind.COUNTER, (1,))
    server.close()
    assert sink.send([figure]) == (0, "")
    lost, error = sink.send([figure])
    assert "refused" in error
    again = socket.socket(socket.AF_INET6 if ":" in server.address else socket.AF_INET,
                          socket.SOCK_DGRAM)
    with again:
        again.bind((server.address, server.port))
        again.settimeout(PATIENCE_S)
        lost, error = sink.send([figure])
        assert lost == 0
        assert again.recv(100) == b"a.b.n:1|c"
        assert sink.send([figure]) == (0, "")


def test_packet_that_the_kernel_does_not_take_is_counted(sink: StatsdSink) -> None:
    """It never waits; a packet beyond what UDP can carry is one that the kernel refuses."""
    lost, error = sink.send([Figure("n" * 70_000, Kind.COUNTER, (1,))])
    assert (lost, bool(error)) == (1, True)
    assert not sink._client._sock.getblocking()


def test_address_that_there_is_no_way_to_is_told() -> None:
    with pytest.raises(ConnectError, match="cannot send to"):
        StatsdSink("255.255.255.255", 8125, "a")


def test_sink_can_be_closed_twice(sink: StatsdSink) -> None:
    sink.close()
    sink.close()
