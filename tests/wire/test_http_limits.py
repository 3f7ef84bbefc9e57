"""Bounds on clients' connections on real sockets: who exceeds one gets its status, and room again.

RELIABILITY 2.1, limits; faults C2, C4, C5, C7, C12. Each bound is lowered until it can be waited
for; what the bounds of production do over time is shown in `tests/gateway`, in virtual time.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import select
import socket
import weakref
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy_actors.gateway.wiring import ConnectionLimits
from tests.sim.virtual import Answer, call, initialize, request
from tests.wire.http_client import Wire
from tests.wire.proxy_process import running
from tests.wire.plane_thread import PlaneThread
from tests.wire.socket_upstream import SocketUpstream
from tests.wire.waiting import eventually

SOON_S = 0.1
HEALTH = request(None, "GET", path="/health")
BEGUN = request(None, fields={"Content-Length": "100000"}) + b"x" * 50_000
CALLS = request(call(1), session="SESSION") + request(
    call(2, "sse", "note", "answer", "end"), session="SESSION"
)


@pytest.fixture
def upstream() -> Iterator[SocketUpstream]:
    with SocketUpstream() as upstream:
        yield upstream


def reason_of(answer: Answer) -> str:
    reason: str = answer.error["data"]["reason"]
    return reason


@pytest.mark.parametrize(
    ("limits", "sent"),
    [
        (ConnectionLimits(head_s_max=SOON_S), b"G"),
        (ConnectionLimits(head_s_max=SOON_S), b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-"),
        (ConnectionLimits(body_grace_s=SOON_S), request(None, fields={"Content-Length": "9"})),
        (
            ConnectionLimits(body_grace_s=SOON_S),
            request(None, fields={"Content-Length": None, "Transfer-Encoding": "chunked"}) + b"5\r",
        ),
    ],
    ids=["first byte", "head", "body", "chunk"],
)
def test_request_that_stays_away_is_408(
    upstream: SocketUpstream, limits: ConnectionLimits, sent: bytes
) -> None:
    """C4: slowloris, many of them at once; others are served meanwhile."""
    with PlaneThread(upstream.url, limits) as plane:
        slow = [plane.wire() for _ in range(50)]
        for wire in slow:
            wire.send(sent)
        with plane.wire() as good:
            assert good.ask(HEALTH, "GET").status == 200
        for wire in slow:
            answer = wire.answer()
            assert (answer.status, answer.keep_alive) == (408, False)
            assert wire.has_ended
            wire.close()
        plane.rest()


def test_body_that_trickles_is_408(upstream: SocketUpstream) -> None:
    """C4: each byte comes in time, and all of them too slowly."""
    limits = ConnectionLimits(body_grace_s=SOON_S, body_rate_min=100_000)
    with PlaneThread(upstream.url, limits) as plane, plane.wire() as wire:
        wire.send(request(None, fields={"Content-Length": "1000000"}))
        while not select.select([wire.socket], [], [], 0.005)[0]:
            wire.send(b"x")
        assert wire.answer().status == 408


def test_idle_connection_is_ended_without_a_word(upstream: SocketUpstream) -> None:
    """A client that sends a request just then knows that it was not served."""
    with PlaneThread(upstream.url, ConnectionLimits(idle_s_max=SOON_S)) as plane:
        with plane.wire() as fresh, plane.wire() as used:
            assert used.ask(HEALTH, "GET").keep_alive
            assert fresh.has_ended
            assert used.has_ended


def test_last_request_of_a_connection_says_so(upstream: SocketUpstream) -> None:
    limits = ConnectionLimits(requests_max=3)
    with PlaneThread(upstream.url, limits) as plane, plane.wire() as wire:
        wire.send(HEALTH * 4)
        assert [wire.answer("GET").keep_alive for _ in range(3)] == [True, True, False]
        assert wire.has_ended


@pytest.mark.parametrize(
    "limits",
    [ConnectionLimits(connections_max=2), ConnectionLimits(per_address_max=2)],
    ids=["all", "address"],
)
def test_connection_too_many_is_503_until_another_has_ended(
    upstream: SocketUpstream, limits: ConnectionLimits
) -> None:
    """C12: told without a request; those that were there first are served."""
    with PlaneThread(upstream.url, limits) as plane:
        first, second = plane.wire(), plane.wire()
        assert first.ask(HEALTH, "GET").status == 200
        assert second.ask(HEALTH, "GET").status == 200
        for _ in range(20):
            with plane.wire() as third:
                answer = third.answer()
                assert (answer.status, answer.keep_alive) == (503, False)
                assert reason_of(answer) == "overloaded"
                assert answer.field(b"retry-after") == b"1"
                assert third.has_ended
        first.close()
        eventually(lambda: len(plane.plane.wiring.clients) == 1)
        with plane.wire() as third:
            assert third.ask(HEALTH, "GET").status == 200
        assert second.ask(HEALTH, "GET").status == 200
        second.close()


def test_address_is_counted_apart_from_others(upstream: SocketUpstream) -> None:
    with PlaneThread(upstream.url, ConnectionLimits(per_address_max=1)) as plane:
        with plane.wire() as first, plane.wire() as second:
            assert first.ask(HEALTH, "GET").status == 200
            assert second.answer().status == 503
            other = Wire(plane.address, source="127.0.0.2")
            assert other.ask(HEALTH, "GET").status == 200
            other.close()


def test_bodies_of_all_connections_together_are_bounded(upstream: SocketUpstream) -> None:
    """A body that finds no room is refused; the others are served, and room comes back."""
    limits = ConnectionLimits(body_bytes_total_max=100_000)
    with PlaneThread(upstream.url, limits) as plane:
        session = plane.session()
        half = json.dumps(call(1)).encode().ljust(60_000)
        with plane.wire() as first, plane.wire() as second:
            whole = request(half, session=session)
            first.send(whole[:-1])
            eventually(lambda: plane.plane.wiring.bodies._held >= len(half) - 1)
            second.send_what_is_taken(whole)
            answer = second.answer()
            assert (answer.status, answer.keep_alive) == (503, False)
            assert reason_of(answer) == "overloaded"
            assert second.has_ended
            first.send(whole[-1:])
            assert first.answer().status == 200
        plane.rest()
        with plane.wire() as third:
            assert third.ask(whole).status == 200


def test_client_that_reads_no_answer_is_left(upstream: SocketUpstream) -> None:
    """C5: more than both ends of a connection hold; the call was executed all the same."""
    limits = ConnectionLimits(write_s_max=SOON_S, write_rate_min=10**9)
    with PlaneThread(upstream.url, limits) as plane:
        session = plane.session()
        wire = Wire(plane.address, receive_bytes=4096)
        wire.send(request(call(1, "large 12000000", "json"), session=session))
        upstream.wait_for(1)
        plane.rest()
        assert not wire.answer().complete
        wire.close()


def test_client_that_reads_no_events_is_left_and_its_stream_visibly_cut(
    upstream: SocketUpstream,
) -> None:
    """C2, HTTP-F7: without a last chunk."""
    limits = ConnectionLimits(write_s_max=SOON_S, write_rate_min=10**9)
    steps = ["sse", *["note 1000000"] * 12, "answer", "end"]
    with PlaneThread(upstream.url, limits) as plane:
        session = plane.session()
        wire = Wire(plane.address, receive_bytes=4096)
        wire.send(request(call(1, *steps), session=session))
        upstream.wait_for(1)
        plane.rest()
        answer = wire.answer()
        assert answer.status == 200
        assert not answer.complete
        wire.close()


def test_peer_that_never_ends_its_refused_request_is_not_waited_for(
    upstream: SocketUpstream,
) -> None:
    """HTTP-H16: it is read for a while, so that it sees its answer, and not for ever."""
    with PlaneThread(upstream.url, ConnectionLimits(linger_s_max=SOON_S)) as plane:
        with plane.wire() as wire:
            wire.send(b"GET / HTTP/9.9\r\n\r\n")
            assert wire.answer().status == 505
            plane.rest()


def test_flood_of_connections_leaves_nothing_behind(upstream: SocketUpstream) -> None:
    """C12: half of them vanish at once, half have asked before; whoever comes then is served."""
    with PlaneThread(upstream.url, ConnectionLimits(connections_max=100)) as plane:
        wires = [plane.wire() for _ in range(400)]
        for wire in wires[::2]:
            wire.send_what_is_taken(request(initialize()))
        for wire in wires:
            wire.reset()
        plane.rest()
        eventually(lambda: served_anew(plane))  # the kernel may have had some of them still
        eventually(lambda: not plane.plane.table.leases)


@pytest.mark.parametrize("sent", [b"", HEALTH, BEGUN, CALLS], ids=["idle", "one", "half", "calls"])
def test_connection_that_has_ended_is_freed_at_once(upstream: SocketUpstream, sent: bytes) -> None:
    """P11: with what it has buffered, and not when the collector of cycles comes by."""
    with PlaneThread(upstream.url) as plane:
        session = plane.session()
        clients = plane.plane.wiring.clients
        gc.disable()
        try:
            with plane.wire() as wire:
                wire.send(sent.replace(b"SESSION", session.encode()))
                connection = weakref.ref(eventually(lambda: next(iter(clients._connections), None)))
                if sent == HEALTH:
                    assert wire.answer("GET").status == 200
                elif sent == CALLS:
                    assert wire.answer().status == wire.answer().status == 200
            eventually(lambda: connection() is None)
        finally:
            gc.enable()


def served_anew(plane: PlaneThread) -> bool:
    with plane.wire() as wire:
        return wire.ask(HEALTH, "GET").status == 200


@pytest.mark.parametrize("percent", [0, 90])
def test_process_out_of_descriptors_serves_whom_it_has_and_recovers(
    upstream: SocketUpstream, tmp_path: Path, percent: int
) -> None:
    """P5: whoever finds no room is let go at once, and is not left hanging.

    Where the mark is looked at just after all room has been taken, all who took it are refused.
    """
    file = tmp_path / "limits.toml"
    file.write_text(f"""
        [upstreams.web]
        url = "{upstream.url}"
        [overload]
        fds-percent = {percent}
    """)
    with running("--config", str(file)) as proxy, proxy.wire() as first:
        assert first.ask(HEALTH, "GET").status == 200
        pid = proxy.process.pid
        room = len(os.listdir(f"/proc/{pid}/fd")) + 20
        _, most = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (room, most))
        with contextlib.ExitStack() as stack:
            others = [stack.enter_context(proxy.wire()) for _ in range(100)]
            answered = Counter(map(health_of, others))
            assert answered.keys() <= ({200, None, 503} if percent else {200, None})
            assert 0 < answered[200] + answered[503] < 30
            assert first.ask(HEALTH, "GET").status == 200
        eventually(lambda: proxy.page("/health") == 200)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (most, most))
        session = proxy.session_id()
        assert first.ask(request(call(1), session=session)).status == 200


def health_of(wire: Wire) -> int | None:
    """Ask for it; return the status, or None where the connection was closed without one."""
    try:
        return wire.ask(HEALTH, "GET").status
    except ConnectionError:
        return None


def test_small_answers_are_not_held_back(upstream: SocketUpstream) -> None:
    """TCP_NODELAY towards clients and upstreams: the sockets of the data plane have it set."""
    with PlaneThread(upstream.url) as plane:
        session = plane.session()
        wire = plane.wire()
        assert wire.ask(request(call(1), session=session)).status == 200
        streams = [
            *(client._stream for client in plane.plane.wiring.clients._connections),
            *plane.plane.table.streams.values(),
        ]
        assert len(streams) == 2
        for stream in streams:
            connection = stream._socket
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        wire.close()
