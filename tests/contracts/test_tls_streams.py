"""The contracts of byte streams, kept by TLS sessions too, and what is true of those alone.

DESIGN 5: tickets, ragged ends, deadlines of handshakes; RELIABILITY N18.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from proxy_actors.errors import ConnectError, ConnectFault, StreamClosedError
from proxy_actors.transports import tls_stream
from proxy_actors.transports.tls_stream import TlsStream
from proxy_actors.world.base import ByteStream, Listener, TlsClient, TlsServer, World
from proxy_actors.world.gevent_world import GeventWorld
from tests.certificates import LOCAL_NAMES, Authority
from tests.contracts.staging import SHORT_S, Box, connected, pass_time, read_exactly, soon
from tests.contracts.suites import CONTRACTS, Contract
from tests.contracts.test_gevent_world import keep

STREAM_CONTRACTS = {name: x for name, x in CONTRACTS.items() if name.startswith("suite_stream")}


class TlsWorld(GeventWorld):
    """A world in which everybody speaks TLS."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        authority = Authority(directory)
        certificate, key = map(str, authority.issue(*LOCAL_NAMES))
        self._server = TlsServer(certificate, key)
        self._client = TlsClient(str(authority.path))

    def listen(
        self,
        host: str,
        port: int,
        accept: Callable[[ByteStream], None] | None = None,
        tls: TlsServer | None = None,
    ) -> Listener:
        def serve(stream: ByteStream) -> None:
            stream.handshake(soon(self))
            assert accept is not None
            accept(stream)

        return super().listen(host, port, serve, self._server)

    def connect(
        self, host: str, port: int, deadline_s: float, tls: TlsClient | None = None
    ) -> ByteStream:
        return super().connect(host, port, deadline_s, self._client)


@pytest.mark.parametrize("contract", STREAM_CONTRACTS.values(), ids=STREAM_CONTRACTS.keys())
def test_tls_stream_keeps(contract: Contract, tmp_path: Path) -> None:
    keep(contract, TlsWorld(tmp_path))


@contextmanager
def sessions(world: World) -> Iterator[tuple[TlsStream, TlsStream]]:
    """Both ends of a connection, of which TLS itself can be asked."""
    with connected(world) as (near, far):
        assert isinstance(near, TlsStream) and isinstance(far, TlsStream)
        yield near, far


def test_tickets_are_no_data_and_no_reason_to_give_a_connection_up(tmp_path: Path) -> None:
    """A server of TLS 1.3 sends two as soon as it can: each fresh connection is readable."""

    def inspect(world: World) -> None:
        with sessions(world) as (near, far):
            pass_time(world)
            assert near._inner._ahead, "no ticket has come: nothing is shown"
            assert not near._inner.looks_quiet
            assert near.looks_quiet
            assert near.is_quiet()
            assert not near._inner._ahead
            assert near.looks_quiet
            far.write((b"data",), soon(world))
            pass_time(world)
            assert not near.looks_quiet
            assert read_exactly(world, near, 4) == b"data"
            assert near.looks_quiet and near.is_quiet()

    keep(inspect, TlsWorld(tmp_path))


def test_what_is_decrypted_is_not_forgotten_inside_the_session(tmp_path: Path) -> None:
    """The socket is never readable for it again."""

    def inspect(world: World) -> None:
        with sessions(world) as (near, far):
            far.write((b"0123456789",), soon(world))
            assert near.read(1, soon(world)) == b"0"
            assert near._inner.is_quiet()
            assert not near.looks_quiet
            assert not near.is_quiet()
            assert read_exactly(world, near, 9) == b"123456789"
            assert near.is_quiet()

    keep(inspect, TlsWorld(tmp_path))


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_records_may_come_in_pieces_of_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Handshake, tickets, data and farewell, both ways."""
    monkeypatch.setattr(tls_stream, "READ_BYTES_MAX", size)

    def inspect(world: World) -> None:
        sent = bytes(range(256)) * 8 * size
        with sessions(world) as (near, far):
            for one, other in ((near, far), (far, near)):
                world.spawn("writer", lambda: one.write((sent,), soon(world)))
                assert read_exactly(world, other, len(sent)) == sent
            near.close()
            assert far.read(1, soon(world)) == b""

    keep(inspect, TlsWorld(tmp_path))


@pytest.mark.parametrize("sent", [b"", b"some, and then nothing"])
def test_end_without_a_farewell_is_an_error(tmp_path: Path, sent: bytes) -> None:
    """RFC 8446 section 6.1: anybody on the way can end a connection, only the peer a session."""

    def inspect(world: World) -> None:
        with sessions(world) as (near, far):
            if sent:
                far.write((sent,), soon(world))
            far._inner.close()
            assert read_exactly(world, near, len(sent)) == sent
            for _ in range(2):
                with pytest.raises(StreamClosedError, match="within the TLS session"):
                    near.read(1, soon(world))
            assert not near.is_quiet()

    keep(inspect, TlsWorld(tmp_path))


def test_farewell_without_an_end_is_an_end_of_input(tmp_path: Path) -> None:
    """And the other direction lives on (RFC 8446 section 6.1)."""

    def inspect(world: World) -> None:
        with sessions(world) as (near, far):
            far._end_output()
            pass_time(world)
            assert not near.looks_quiet and not near.is_quiet()
            assert near.read(1, soon(world)) == b""
            near.write((b"still here",), soon(world))
            assert read_exactly(world, far, 10) == b"still here"

    keep(inspect, TlsWorld(tmp_path))


def test_farewell_is_a_departure_though_the_connection_lasts(tmp_path: Path) -> None:
    """Many a peer says it and waits half a minute for ours before it closes."""

    def inspect(world: World) -> None:
        box = Box(world)
        with sessions(world) as (near, far), sessions(world) as (other, other_far):
            near.on_departure(lambda: tell(box, "near"))
            pass_time(world)
            assert box.mail == []  # tickets are no departure
            far._end_output()
            assert box.wait_for(1) == ["near"]
            near.on_departure(lambda: tell(box, "again"))
            assert box.wait_for(2) == ["near", "again"]
            other.on_departure(lambda: tell(box, "other"))
            other.on_departure(None)
            other_far._end_output()
            far.close()
            pass_time(world)
            assert box.mail == ["near", "again"]
            assert near.read(1, soon(world)) == b""

    keep(inspect, TlsWorld(tmp_path))


def tell(box: Box, message: str) -> None:
    box.tell(message)


def test_closing_under_a_writer_is_no_farewell(tmp_path: Path) -> None:
    """It cuts the session off: what came is what was sent, and no end."""

    def inspect(world: World) -> None:
        with sessions(world) as (near, far):
            ended = world.waiter()

            def write() -> None:
                try:
                    near.write((b"x" * (64 * 1024 * 1024),), soon(world))
                except StreamClosedError as error:
                    ended.set(error)

            world.spawn("writer", write)
            pass_time(world)
            near.close()
            assert isinstance(ended.wait(soon(world)), StreamClosedError)
            with pytest.raises(StreamClosedError):
                while data := far.read(65_536, soon(world)):
                    assert not data.strip(b"x")

    keep(inspect, TlsWorld(tmp_path))


def test_tampered_record_breaks_the_session_and_the_peer_is_told(tmp_path: Path) -> None:
    def inspect(world: World) -> None:
        with sessions(world) as (near, far):
            pass_time(world)
            assert near.is_quiet()
            far._inner.write((b"\x17\x03\x03\x00\x20" + bytes(32),), soon(world))
            with pytest.raises(StreamClosedError, match="bad record mac|decryption failed"):
                near.read(1, soon(world))
            near.close()
            with pytest.raises(StreamClosedError, match="alert"):
                far.read(1, soon(world))

    keep(inspect, TlsWorld(tmp_path))


def test_wait_for_a_handshake_ends_at_the_deadline_of_the_connect(tmp_path: Path) -> None:
    """N18: TCP may be there long before TLS is."""

    def inspect(world: World) -> None:
        accepted: list[ByteStream] = []
        listener = GeventWorld.listen(tls_world, "127.0.0.1", 0, accepted.append)
        with pytest.raises(ConnectError, match="in time") as caught:
            world.connect(*listener.address, world.now_s() + SHORT_S)
        assert caught.value.fault is ConnectFault.TIMEOUT
        (far,) = accepted
        assert far.read(3, soon(world)) == b"\x16\x03\x01"  # a ClientHello was sent
        far.close()
        listener.close()

    tls_world = TlsWorld(tmp_path)
    keep(inspect, tls_world)


@pytest.mark.parametrize(
    ("names", "asked", "fits"),
    [
        (("other.test",), "other.test", True),
        (("*.other.test",), "a.other.test", True),
        (("other.test",), "", False),
        (("127.0.0.1",), "", True),
        (("localhost",), "", False),
        ((), "common.test", False),
    ],
)
def test_name_in_the_certificate_must_be_the_one_asked_for(
    tmp_path: Path, names: tuple[str, ...], asked: str, fits: bool
) -> None:
    """RFC 9110 section 4.3.4: by subjectAltName, never by the common name."""

    def inspect(world: World) -> None:
        accepted: list[ByteStream] = []

        def accept(stream: ByteStream) -> None:
            accepted.append(stream)
            try:
                stream.handshake(soon(world))
            except StreamClosedError:
                assert not fits

        listener = world.listen("127.0.0.1", 0, accept, TlsServer(certificate, key))
        tls = TlsClient(str(authority.path), server_name=asked)
        try:
            world.connect(*listener.address, soon(world), tls).close()
            assert fits
        except ConnectError as error:
            assert not fits and error.fault is ConnectFault.CERTIFICATE_NAME
        pass_time(world)
        accepted[0].close()
        listener.close()

    authority = Authority(tmp_path)
    certificate, key = map(str, authority.issue(*names, file="server", common_name="common.test"))
    keep(inspect, GeventWorld())
