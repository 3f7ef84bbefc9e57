"""Connections of clients over time: slow ones, idle ones, greedy ones, and those of a drain.

RELIABILITY 2.1, limits, and 1.9; HTTP-H16 to H19, F7, F8; faults C2, C4, C5, C10, C16, P1. In
virtual time, with the bounds of production.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from proxy_actors.errors import ConnectError
from proxy_actors.policy.stream_limits import StreamLimits
from proxy_actors.gateway.client_table import ClientTable
from proxy_actors.gateway.handle import READ_BYTES_MAX
from proxy_actors.gateway.wiring import ConnectionLimits
from proxy_actors.messages.lifecycle import DescribeState, Stop
from proxy_actors.messages.server import ConnectionEnded, ServerDrained
from proxy_actors.messages.upstream import UpstreamDrained
from proxy_actors.transports.http_server import REFUSE_S_MAX, REFUSING_MAX, HttpServer
from proxy_actors.world.sim_streams import PIPE_BYTES_MAX
from tests.defects import Defect, planted
from tests.gateway.scene import Scene
from tests.sim.virtual import Answer, VirtualConnection, call, initialize, note, request

LIMITS = ConnectionLimits()
HEALTH = request(None, "GET", path="/health")
GRAIN_S = 0.2


@pytest.fixture
def scene() -> Scene:
    return Scene()


def trickled(
    scene: Scene, data: bytes, size: int, every_s: float, first: bytes = b""
) -> tuple[Answer, float]:
    """Send piece by piece as long as there is no answer; return it, and how long it all took."""

    def client() -> tuple[Answer, float]:
        connection, answer = scene.connection(), Answer()
        began_s = scene.now_s()
        scene.spawn("reader", lambda: connection.receive(answer=answer))
        connection.send(first)
        for at in range(0, len(data), size):
            if answer.status is not None:
                break
            connection.send(data[at : at + size])
            scene.pass_time(every_s)
        while answer.status is None:
            scene.pass_time(GRAIN_S)
        took_s = scene.now_s() - began_s
        connection.close()
        return answer, took_s

    answered: tuple[Answer, float] = scene.do(client)
    scene.rest()
    return answered


# Slow ones.


@pytest.mark.parametrize(("size", "every_s"), [(1, 1.0), (1, 9.0), (4, 3.0)])
def test_head_that_trickles_is_408_when_its_time_is_up(
    scene: Scene, size: int, every_s: float
) -> None:
    """C4: however steadily it comes."""
    answer, took_s = trickled(scene, request(initialize()), size, every_s)
    assert (answer.status, answer.keep_alive) == (408, False)
    assert LIMITS.head_s_max <= took_s <= LIMITS.head_s_max + every_s + GRAIN_S


def test_head_that_is_slow_but_in_time_is_served(scene: Scene) -> None:
    data = request(initialize())
    answer, _ = trickled(scene, data, len(data) // 9, 1.0)
    assert answer.status == 200


@pytest.mark.parametrize(
    ("bytes_a_second", "status"),
    [(LIMITS.body_rate_min // 2, 408), (LIMITS.body_rate_min * 2, 200)],
)
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_body_must_come_at_a_least_rate(
    scene: Scene, bytes_a_second: int, status: int, chunked: bool
) -> None:
    """C4: after a grace, so that small bodies may take their time."""
    body = json.dumps(initialize()).encode().ljust(60_000)
    fields: dict[str, str | None] = {"Content-Length": str(len(body))}
    if chunked:
        fields = {"Content-Length": None, "Transfer-Encoding": "chunked"}
    head = request(None, fields=fields)
    sent = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if chunked else body
    answer, took_s = trickled(scene, sent, bytes_a_second, 1.0, first=head)
    assert answer.status == status
    assert took_s > LIMITS.body_grace_s


def test_chunks_of_one_byte_that_trickle_are_408(scene: Scene) -> None:
    """C4: what frames a body is no part of it."""
    fields: dict[str, str | None] = {"Content-Length": None, "Transfer-Encoding": "chunked"}
    sent = b"1;%s\r\nx\r\n" % (b"x" * 8) * 1000
    answer, took_s = trickled(scene, sent, 14, 0.5, first=request(None, fields=fields))
    assert answer.status == 408
    assert took_s <= LIMITS.body_grace_s + 2.0


def test_slow_clients_hold_up_nobody_else(scene: Scene) -> None:
    """C4: and each is told."""
    slow = [Answer() for _ in range(300)]

    def crawl(answer: Answer) -> None:
        connection = scene.connection()
        connection.send(HEALTH[:20])
        connection.receive(answer=answer)
        connection.close()

    for answer in slow:
        scene.spawn("slow", lambda answer=answer: crawl(answer))
    scene.run(1.0)
    began_s = scene.now_s()
    assert scene.ask(HEALTH, method="GET").status == 200
    assert scene.now_s() - began_s < 0.2
    scene.rest()
    assert {answer.status for answer in slow} == {408}


# Idle ones, and those that go on for ever.


def test_idle_connection_is_ended_after_its_time(scene: Scene) -> None:
    """Before its first request and between two; without an answer to nothing."""

    def client(first: bytes) -> tuple[Answer, float]:
        connection = scene.connection()
        began_s = scene.now_s()
        if first:
            assert connection.ask(first, "GET").status == 200
        answer = connection.receive()
        connection.close()
        return answer, scene.now_s() - began_s

    for first in (b"", HEALTH, HEALTH + b"\r\n"):
        answer, took_s = scene.do(lambda first=first: client(first))
        assert answer.status is None
        assert LIMITS.idle_s_max <= took_s <= LIMITS.idle_s_max + 1.0
    scene.rest()


def test_connection_ends_after_its_last_request() -> None:
    scene = Scene(limits=ConnectionLimits(requests_max=2))

    def client() -> list[Answer]:
        connection = scene.connection()
        connection.send(HEALTH * 3)
        answers = [connection.receive("GET") for _ in range(3)]
        connection.close()
        return answers

    answers = scene.do(client)
    assert [answer.status for answer in answers] == [200, 200, None]
    assert [answer.keep_alive for answer in answers[:2]] == [True, False]
    scene.rest()


# Greedy ones.


def test_look_ahead_is_bounded_while_a_request_is_answered(scene: Scene) -> None:
    """C10, HTTP-H17: the kernel's buffers fill up, and not the proxy's."""
    session = scene.session()

    def client() -> int:
        connection = VirtualConnection(scene, patience_s=30.0)
        connection.send(request(call(1, "pause 60", "json"), session=session))
        began_s, sent = scene.now_s(), 0
        while scene.now_s() < began_s + 30.0:
            connection.send(HEALTH)
            sent += len(HEALTH)
        connection.close()
        return sent

    sent = scene.do(client)
    assert PIPE_BYTES_MAX < sent <= PIPE_BYTES_MAX + READ_BYTES_MAX + len(HEALTH)
    scene.rest()


@pytest.mark.parametrize("steps", [["large 1000000", "json"],
                                   ["sse", *["note 100000"] * 10, "pause 60", "answer", "end"]],
                         ids=["answer", "events"])
def test_client_that_does_not_read_is_left_when_its_time_is_up(
    scene: Scene, steps: list[str]
) -> None:
    """C2, C5: its call is executed all the same, and everything lent comes back."""
    session = scene.session()

    def client() -> float:
        connection = scene.connection()
        connection.send(request(call(1, *steps), session=session))
        while not scene.server.executions[1]:
            scene.pass_time(GRAIN_S)
        began_s = scene.now_s()
        while len(scene.plane.wiring.clients):
            scene.pass_time(GRAIN_S)
        connection.close()
        return scene.now_s() - began_s

    took_s = scene.do(client)
    share_s = 1_000_000 / LIMITS.write_rate_min
    assert LIMITS.write_s_max <= took_s <= LIMITS.write_s_max + share_s + 1.0
    scene.rest()
    assert scene.server.executions[1] == 1


def test_stream_of_a_client_that_falls_behind_is_visibly_cut(scene: Scene) -> None:
    """C2, HTTP-F7: what it has not read is bounded; it never sees a last chunk."""
    session = scene.session()
    notes = 2 * StreamLimits().unread_bytes_max // 1_000_000
    steps = ["sse", *["note 1000000"] * notes, "answer", "end"]

    def client() -> Answer:
        connection = scene.connection()
        connection.send(request(call(1, *steps), session=session))
        while scene.plane.table.leases or not scene.server.executions[1]:
            scene.pass_time(GRAIN_S)
        answer = connection.receive()
        connection.close()
        return answer

    answer = scene.do(client)
    assert answer.status == 200
    assert not answer.complete
    assert 0 < len(answer.messages) < len(steps) - 3
    scene.rest()
    assert scene.server.executions[1] == 1


def test_client_that_reads_slowly_but_steadily_gets_all(scene: Scene) -> None:
    """The time for a large answer grows with it."""
    session = scene.session()

    def client() -> int:
        connection = scene.connection()
        connection.send(request(call(1, "large 2000000", "json"), session=session))
        received = 0
        while received < 2_000_000:
            data = connection.stream.read(20_000, scene.now_s() + 1000.0)
            assert data
            received += len(data)
            scene.pass_time(0.8)
        connection.close()
        return received

    assert scene.do(client) >= 2_000_000
    scene.rest()


@pytest.mark.parametrize("flood", [REFUSING_MAX, 3 * REFUSING_MAX])
def test_so_many_of_a_flood_are_told_and_the_rest_is_closed_at_once(flood: int) -> None:
    """C12: what cannot be served holds no more descriptors and greenlets than are bounded."""
    scene = Scene(limits=ConnectionLimits(connections_max=1))
    first = scene.do(scene.connection)
    scene.run(0.1)
    before = len(scene.live)
    connections: list[VirtualConnection] = []
    for _ in range(flood):
        scene.spawn("flood", lambda: connections.append(scene.connection()))
    scene.run(0.2)
    told = figures(scene)
    assert told["refusing"] == len(scene.live) - before == REFUSING_MAX
    assert (told["refused"], told["untold"]) == (flood, flood - REFUSING_MAX)
    answers = [scene.do(connection.receive).status for connection in connections]
    assert Counter(answers) == Counter({503: REFUSING_MAX, None: flood - REFUSING_MAX})
    scene.run(2 * REFUSE_S_MAX)
    assert figures(scene)["refusing"] == 0, "who stays is not waited for"
    later = scene.do(scene.connection)
    assert scene.do(later.receive).status == 503, "there is room to tell it again"
    assert scene.do(lambda: first.ask(HEALTH, "GET")).status == 200
    for connection in (first, later, *connections):
        connection.close()
    scene.rest()


def figures(scene: Scene) -> dict[str, Any]:
    server = scene.plane.server
    told = scene.do(lambda: server.ask(DescribeState(), scene.now_s() + 1.0))
    return dict(told.detail)


# Half ones.


@pytest.mark.parametrize("steps", [["json"], ["pause 60", "json"],
                                   ["sse", "note", "pause 60", "note", "answer", "end"]],
                         ids=" ".join)
def test_client_that_has_ended_its_side_gets_its_answer(scene: Scene, steps: list[str]) -> None:
    """C16."""
    session = scene.session()

    def client() -> Answer:
        connection = scene.connection()
        connection.send(request(call(1, *steps), session=session))
        connection.half_close()
        answer = connection.receive()
        assert connection.receive().status is None
        connection.close()
        return answer

    answer = scene.do(client)
    assert answer.complete
    assert answer.message["id"] == 1
    scene.rest()


# Crashes.


@pytest.mark.parametrize("seed", range(10))
def test_crash_of_the_listener_loses_no_connection(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that are served go on, and those that come meanwhile wait for the next incarnation."""
    scene = Scene(seed)
    session = scene.session()
    crashed = scene.plane.server.ref

    def crash(server: HttpServer) -> None:
        monkeypatch.undo()
        raise LookupError("planted")

    def client() -> list[Answer]:
        before = scene.connection()
        before.send(request(call(1, "pause 5", "json"), session=session))
        scene.pass_time(1.0)
        monkeypatch.setattr(HttpServer, "_report", crash)
        scene.plane.server.tell(ConnectionEnded())
        while scene.plane.server.ref is crashed:
            scene.pass_time(0.001)
        after = scene.connection()
        answers = [after.ask(HEALTH, "GET"), before.receive()]
        before.close()
        after.close()
        return answers

    assert [answer.status for answer in scene.do(client)] == [200, 200]
    assert scene.plane.server.starts == 2
    scene.rest()


# Drains.


def drain(scene: Scene) -> None:
    scene.plane.drain()


def drained(scene: Scene) -> set[type]:
    return {type(message) for message in scene.plane.mail} & {ServerDrained, UpstreamDrained}


@pytest.fixture
def called(scene: Scene) -> Iterator[list[tuple[VirtualConnection, Answer]]]:
    """A plain call and a stream that are underway when the drain comes."""
    session = scene.session()
    underway: list[tuple[VirtualConnection, Answer]] = []

    def client() -> None:
        for n, steps in ((1, ["pause 10", "json"]), (2, ["sse", "note", "pause 20", "answer"])):
            underway.append(scene.begin(request(call(n, *steps), session=session)))
        scene.pass_time(1.0)

    scene.do(client)
    yield underway
    scene.rest()


def test_calls_that_run_are_answered_in_a_drain(
    scene: Scene, called: list[tuple[VirtualConnection, Answer]]
) -> None:
    """P1: and told that their connections end."""
    drain(scene)
    scene.run(60.0)
    for n, (connection, answer) in enumerate(called, 1):
        assert answer.complete
        assert answer.message["id"] == n
        assert "result" in answer.message
        connection.close()
    (_, plain), (_, _) = called
    assert not plain.keep_alive
    assert drained(scene) == {ServerDrained, UpstreamDrained}


def test_drain_waits_for_the_calls_that_run(
    scene: Scene, called: list[tuple[VirtualConnection, Answer]]
) -> None:
    drain(scene)
    scene.run(5.0)
    assert drained(scene) == set()
    scene.run(60.0)
    assert drained(scene) == {ServerDrained, UpstreamDrained}
    for connection, _ in called:
        connection.close()


def test_drain_ends_idle_connections_and_takes_no_new_ones(scene: Scene) -> None:
    def client() -> list[Answer]:
        connection = scene.connection()
        connection.ask(HEALTH, "GET")
        drain(scene)
        ended = connection.receive()
        connection.close()
        return [ended]

    assert [answer.status for answer in scene.do(client)] == [None]
    assert scene.plane.address not in scene.listeners
    scene.run(10.0)
    assert drained(scene) == {ServerDrained, UpstreamDrained}


def test_request_that_crosses_the_drain_on_an_idle_connection_is_answered(scene: Scene) -> None:
    """P1: a connection that is closed at once would take it along, and nobody could say so."""
    session = scene.session()

    def client() -> Answer:
        connection = scene.connection()
        connection.ask(HEALTH, "GET")
        connection.send(request(call(1), session=session))
        drain(scene)
        answer = connection.receive()
        connection.close()
        return answer

    answer = scene.do(client)
    assert (answer.status, answer.error["data"]["reason"]) == (503, "draining")
    assert not answer.keep_alive
    scene.rest()


def test_who_comes_while_calls_of_before_run_is_answered(
    scene: Scene, called: list[tuple[VirtualConnection, Answer]]
) -> None:
    """P1: new work is refused; when the calls have ended, nobody is answered any more."""
    session = scene.session()
    drain(scene)
    scene.run(5.0)
    answer = scene.ask(request(call(9), session=session))
    assert (answer.status, answer.error["data"]["reason"]) == (503, "draining")
    assert scene.ask(request(None, "GET", path="/ready"), method="GET").status == 503
    idle = scene.do(scene.connection)
    scene.run(60.0)
    assert scene.plane.address not in scene.listeners
    assert not idle.stream.is_quiet(), "it is open still"
    assert drained(scene) == {ServerDrained, UpstreamDrained}
    for connection, _ in called:
        connection.close()
    idle.close()


def test_question_of_a_call_that_runs_is_answered_in_a_drain(scene: Scene) -> None:
    """P1, MCP-S-23: a drain acts on new requests, not on answers that a server waits for."""
    answer, accepted = scene.call_that_asks(lambda: drain(scene))
    assert (accepted.status, accepted.keep_alive) == (202, False)
    assert "result" in answer.message
    scene.rest()
    assert drained(scene) == {ServerDrained, UpstreamDrained}


def test_drain_that_leaves_its_listener_at_once_is_found() -> None:
    """By the test before this one."""
    defect = Defect("answers to a server's questions find no listener", ClientTable,
                    "begin_drain", "{x for x in self._connections if not x.idle}", "set()")
    with planted(defect), pytest.raises(ConnectError):
        test_question_of_a_call_that_runs_is_answered_in_a_drain(Scene())


def test_listener_that_is_started_anew_in_a_drain_goes_on_with_it(
    scene: Scene, called: list[tuple[VirtualConnection, Answer]]
) -> None:
    """P15: before it has heard of the drain, and after."""
    scene.plane.wiring.draining = True
    scene.kill_listener()
    scene.run(1.0)
    drain(scene)
    scene.kill_listener()
    scene.run(1.0)
    assert scene.plane.server.starts == 3
    assert scene.ask(request(initialize())).status == 503
    scene.run(60.0)
    assert drained(scene) == {ServerDrained, UpstreamDrained}
    for connection, answer in called:
        assert "result" in answer.message
        connection.close()


@pytest.mark.parametrize(
    ("body", "status"), [(call(1), 503), (initialize(), 503), (note("notifications/x"), 202)]
)
def test_request_underway_when_the_drain_comes_is_refused_if_it_is_new_work(
    scene: Scene, body: Any, status: int
) -> None:
    """P1; what belongs to a call that runs (answers, cancellations) still passes."""
    session = None if body["method"] == "initialize" else scene.session()
    data = request(body, session=session)

    def client() -> Answer:
        connection = scene.connection()
        connection.send(data[:-1])
        scene.pass_time(1.0)
        drain(scene)
        scene.pass_time(1.0)
        connection.send(data[-1:])
        answer = connection.receive()
        connection.close()
        return answer

    answer = scene.do(client)
    assert (answer.status, answer.keep_alive) == (status, False)
    if status == 503:
        assert answer.error["data"]["reason"] == "draining"
        assert answer.error["data"]["executed"] == "no"
        assert scene.server.executions[1] == 0
    scene.rest()


@pytest.mark.parametrize("drains", [True, False])
@pytest.mark.parametrize("seed", range(10))
def test_calls_that_a_stop_cuts_short_are_answered(seed: int, drains: bool) -> None:
    """P1: when the time for a drain is up, or the tree gives up; nobody is left without a word."""
    scene = Scene(seed)
    session = scene.session()
    scripts = [["pause 60", "json"], ["sse", "note", "pause 60", "answer"], ["sse", "pause 60"]]

    def client() -> list[Answer]:
        connections = [scene.connection() for _ in scripts]
        answers = [Answer() for _ in scripts]
        for n, steps in enumerate(scripts):
            connection, answer = connections[n], answers[n]
            connection.send(request(call(n, *steps), session=session))
            scene.spawn("reader", lambda c=connection, a=answer: c.receive(answer=a))
        scene.pass_time(12.0)
        if drains:
            drain(scene)
            scene.pass_time(1.0)
        scene.plane.root.tell(Stop())
        while scene.plane.root.ref is not None:
            scene.pass_time(GRAIN_S)
        for connection in connections:
            connection.close()
        return answers

    for n, answer in enumerate(scene.do(client)):
        assert answer.complete, n
        assert answer.message["id"] == n
        assert answer.error["data"]["executed"] == "unknown"
    scene.rest()


def test_standalone_stream_is_ended_properly_in_a_drain(scene: Scene) -> None:
    """RELIABILITY 1.9: at the border of an event, with its last chunk."""
    session = scene.session()

    def client() -> Answer:
        connection, answer = scene.begin(request(None, "GET", session), "GET")
        while answer.status is None:
            scene.pass_time(GRAIN_S)
        (upstream,) = scene.server.sessions.values()
        assert upstream.standalone is not None
        upstream.standalone.put(note("notifications/tools/list_changed"))
        scene.pass_time(1.0)
        drain(scene)
        scene.pass_time(1.0)
        connection.close()
        return answer

    answer = scene.do(client)
    assert answer.complete
    assert [message["method"] for message in answer.messages] == [
        "notifications/tools/list_changed"
    ]
    scene.rest()
    assert drained(scene) == {ServerDrained, UpstreamDrained}
    assert list(scene.plane.store.rows())  # the session goes on after a restart
