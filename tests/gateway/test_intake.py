"""What is taken in while the proxy's own thread, memory or descriptors are short.

FLT-P5, P11, P12: nothing that frees something waits, and whoever waits is served, in order.
"""

from __future__ import annotations

import msgspec
import pytest

from proxy_actors.gateway.read_gate import WAIT_S_MAX, is_request
from proxy_actors.messages.metrics import ProcessFigures
from proxy_actors.messages.server import ConnectionEnded
from proxy_actors.policy.intake import LET_IN_MIN, IntakeLimits
from proxy_actors.transports.http_server import HttpServer
from tests.gateway.scene import Scene
from tests.sim.virtual import Answer, VirtualConnection, call, note, request

LIMITS = IntakeLimits(lag_s_max=0.1, memory_share_max=0.8, fds_share_max=0.9)
HEALTH = request(None, "GET", path="/health")
LATE_S = 0.2


class House:
    """A proxy whose loop is as late as is said, and clients that are connected already."""

    def __init__(self, clients: int = 1) -> None:
        self.scene = Scene(intake=LIMITS)
        self.session, self.other = self.scene.session(), self.scene.session()
        self.connections = [self.scene.do(self.scene.connection) for _ in range(clients)]
        self.scene.run(0.1)

    def look(self, lag_s: float, looks: int = 1) -> None:
        for _ in range(looks):
            (watch,) = self.scene.lag_watches
            watch(lag_s)
            self.scene.run(0.5)

    def start(self, connection: VirtualConnection, data: bytes, method: str = "POST") -> Answer:
        answer = Answer()

        def client() -> None:
            connection.send(data)
            connection.receive(method, answer)

        self.scene.spawn("client", client)
        return answer

    def call(self, number: int) -> Answer:
        data = request(call(number), session=self.session)
        return self.start(self.connections[number], data)

    def leave(self) -> None:
        for connection in self.connections:
            connection.close()
        self.scene.rest()


def test_requests_wait_unparsed_while_the_loop_is_late_and_are_let_in_in_order() -> None:
    house = House(3 * LET_IN_MIN)
    house.look(LATE_S)
    answers = []
    for number in range(3 * LET_IN_MIN):
        answers.append(house.call(number))
        house.scene.run(0.1)
    assert not any(answer.complete for answer in answers)
    house.look(LATE_S)
    assert [x.complete for x in answers] == [True] * LET_IN_MIN + [False] * 2 * LET_IN_MIN
    house.look(0.0, 2)
    assert [answer.status for answer in answers] == [200] * len(answers)
    house.look(0.0)
    assert not house.scene.plane.wiring.gate.closed
    house.leave()


def test_what_frees_something_or_looks_after_the_proxy_does_not_wait() -> None:
    house = House(5)
    house.look(LATE_S)
    session, other, start = house.session, house.other, house.start
    response = {"jsonrpc": "2.0", "id": 7, "result": {}}
    answers = [
        start(house.connections[0], HEALTH, "GET"),
        start(house.connections[1], request(note("notifications/cancelled"), session=session)),
        start(house.connections[2], request(response, session=session)),
        start(house.connections[3], request(None, "DELETE", other), "DELETE"),
    ]
    waits = house.start(house.connections[4], request(call(4), session=session))
    house.scene.run(1.0)
    assert [answer.status for answer in answers] == [200, 202, 202, 200]
    assert not waits.complete
    house.look(0.0, 2)
    assert waits.complete
    house.leave()


def test_nobody_is_accepted_while_the_loop_is_late() -> None:
    house = House()
    house.look(LATE_S)
    late = house.scene.do(house.scene.connection)
    house.connections.append(late)
    answer = house.start(late, HEALTH, "GET")
    house.scene.run(5.0)
    assert not answer.complete
    assert len(house.scene.plane.wiring.clients) == 1
    house.look(0.06)
    assert not answer.complete, "it is still later than the low mark"
    house.look(0.0)
    assert answer.status == 200
    house.leave()


def test_whoever_waits_too_long_goes_on_whatever_the_lag() -> None:
    house = House()
    house.look(LATE_S)
    answer = house.call(0)
    house.scene.run(WAIT_S_MAX - 0.5)
    assert not answer.complete
    house.scene.run(1.0)
    assert answer.status == 200
    house.leave()


def test_crash_of_the_listener_lets_all_in(monkeypatch: pytest.MonkeyPatch) -> None:
    house = House()
    house.look(LATE_S)
    answer = house.call(0)
    house.scene.run(0.5)

    def crash(server: HttpServer) -> None:
        monkeypatch.undo()
        raise LookupError("planted")

    monkeypatch.setattr(HttpServer, "_report", crash)
    house.scene.plane.server.tell(ConnectionEnded())
    house.scene.run(1.0)
    assert answer.status == 200
    house.scene.errors.clear()
    house.look(0.0)
    house.leave()


def test_drain_answers_those_who_wait() -> None:
    house = House()
    house.look(LATE_S)
    answer = house.call(0)
    house.scene.run(0.5)
    house.scene.plane.drain()
    house.scene.run(1.0)
    assert answer.status == 503
    assert answer.error["data"]["reason"] == "draining"
    assert house.scene.lag_watches == []


@pytest.mark.parametrize("short", ["rss_bytes", "fds"])
def test_process_short_of_memory_or_descriptors_refuses_connections_alone(
    short: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = House()
    scene, figures = house.scene, ProcessFigures(10, 10, 1, 0.0, (0, 0, 0), 0, 100, 100)

    def use(part: int) -> None:
        changed = msgspec.structs.replace(figures, **{short: part})
        monkeypatch.setattr(scene, "process_figures", lambda: changed)
        house.look(0.0, 2)

    use(95)
    late = scene.ask(HEALTH, method="GET")
    assert late.status == 503
    assert late.error["data"]["reason"] == "overloaded"
    assert late.field(b"retry-after") is not None
    answer = house.call(0)
    scene.run(1.0)
    assert answer.status == 200
    use(10)
    assert scene.ask(HEALTH, method="GET").status == 200
    house.leave()


@pytest.mark.parametrize(
    ("data", "waits"),
    [
        (b"POST /mcp HTTP/1.1\r\n", True),
        (b"POST /mcp HTTP/1.1\r\nHost: a\r\n\r\n", True),
        (request(call(1)), True),
        (request(note("notifications/cancelled", requestId=1)), False),
        (request({"jsonrpc": "2.0", "id": 1, "result": {}}), False),
        (request(None, "DELETE"), False),
        (request(None, "GET"), False),
        (b"\x16\x03\x01", False),
    ],
)
def test_guess_at_what_a_message_is(data: bytes, waits: bool) -> None:
    assert is_request(data) is waits
