"""A listener whose socket another process will have: all is served until it does.

RELIABILITY 1.9; faults P4, P15. In virtual time.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from proxy_actors.messages.server import HandOver, ListenerHandedOver, ServerDrained
from proxy_actors.transports.http_server import HAND_OVER_S_MAX
from tests.gateway.legacy_client import LegacyClient
from tests.gateway.scene import Scene
from tests.sim.virtual import Answer, VirtualConnection, call, initialize, request

HEALTH = request(None, "GET", path="/health")


@pytest.fixture
def scene() -> Scene:
    return Scene()


def hand_over(scene: Scene) -> None:
    """Begin as the application does."""
    scene.plane.wiring.draining = scene.plane.wiring.handing_over = True
    scene.plane.server.tell(HandOver())


def told(scene: Scene, kind: type) -> int:
    return sum(isinstance(message, kind) for message in scene.plane.mail)


def listens(scene: Scene) -> bool:
    return scene.plane.address in scene.listeners


@pytest.fixture
def running(scene: Scene) -> Iterator[Answer]:
    """What a call of 10 s is answered with; it has begun a second ago."""
    session = scene.session()

    def client() -> tuple[VirtualConnection, Answer]:
        begun = scene.begin(request(call(1, "pause 10", "json"), session=session))
        scene.pass_time(1.0)
        return begun

    connection, answer = scene.do(client)
    yield answer
    connection.close()
    scene.rest()


def test_new_calls_are_served_until_those_of_before_are_answered(
    scene: Scene, running: Answer
) -> None:
    """P4: each on its last connection; nobody is refused."""
    hand_over(scene)
    scene.run(1.0)
    opened = scene.ask(request(initialize()))
    assert (opened.status, opened.keep_alive) == (200, False)
    session = (opened.field(b"mcp-session-id") or b"").decode()
    answer = scene.ask(request(call(2, "json"), session=session))
    assert ("result" in answer.message, answer.keep_alive) == (True, False)
    assert told(scene, ListenerHandedOver) == 0
    scene.run(12.0)
    assert "result" in running.message
    assert (told(scene, ListenerHandedOver), told(scene, ServerDrained)) == (1, 0)
    assert not listens(scene)


def test_answer_to_a_question_of_a_call_of_before_is_taken(scene: Scene) -> None:
    """MCP-S-23: its client has no other way to send it than a new connection."""
    answer, accepted = scene.call_that_asks(lambda: hand_over(scene))
    assert accepted.status == 202
    assert "result" in answer.message
    scene.run(1.0)
    assert told(scene, ListenerHandedOver) == 1
    scene.rest()


def test_idle_connections_end_when_the_listener_has_gone(scene: Scene) -> None:
    """Not before: who sends on one is served, and told that it ends."""

    def client() -> tuple[Answer, Answer]:
        used, idle = scene.connection(), scene.connection()
        for connection in (used, idle):
            connection.ask(HEALTH, "GET")
        hand_over(scene)
        served, ended = used.ask(HEALTH, "GET"), idle.receive()
        for connection in (used, idle):
            connection.close()
        return served, ended

    served, ended = scene.do(client)
    assert (served.status, served.keep_alive) == (200, False)
    assert ended.status is None
    scene.run(1.0)
    assert told(scene, ListenerHandedOver) == 1
    scene.rest()


def test_stream_that_listens_is_not_waited_for(scene: Scene) -> None:
    """It would not end: the drain sends its client elsewhere."""
    session = scene.session()

    def client() -> None:
        connection, answer = scene.begin(request(None, "GET", session=session))
        while answer.status is None:
            scene.pass_time(0.1)
        hand_over(scene)
        scene.pass_time(1.0)
        assert told(scene, ListenerHandedOver) == 1
        assert not answer.complete
        connection.close()

    scene.do(client)
    scene.rest()


@pytest.mark.parametrize("dies", [False, True])
@pytest.mark.parametrize("late", [False, True])
def test_call_of_a_client_of_http_and_sse_holds_the_listener(
    scene: Scene, late: bool, dies: bool
) -> None:
    """MCP-S-23, L-3: its POST has been answered, but what its server asks has not.

    So does one that has come `late`, while one of before was served.
    """

    def client() -> dict[str, object]:
        legacy = LegacyClient(scene)
        legacy.initialize()
        if late:
            assert legacy.post(call(2, "pause 2", "json")).status == 202
            hand_over(scene)
            scene.pass_time(1.0)
        assert legacy.post(call(1, "sse", "ask", "answer", "end")).status == 202
        question = legacy.message(lambda x: "method" in x and "id" in x)
        if not late:
            hand_over(scene)
        if dies:
            scene.kill_listener()
        scene.pass_time(5.0)
        assert (listens(scene), told(scene, ListenerHandedOver)) == (True, 0)
        reply = {"jsonrpc": "2.0", "id": question["id"], "result": {"action": "accept"}}
        assert legacy.post(reply).status == 202
        answer: dict[str, object] = legacy.reply(1)
        scene.pass_time(1.0)
        assert (listens(scene), told(scene, ListenerHandedOver)) == (False, 1)
        legacy.close()
        return answer

    assert "result" in scene.do(client)
    scene.rest()


def test_client_of_http_and_sse_that_listens_is_not_waited_for(scene: Scene) -> None:
    def client() -> None:
        legacy = LegacyClient(scene)
        legacy.initialize()
        hand_over(scene)
        scene.pass_time(1.0)
        assert (listens(scene), told(scene, ListenerHandedOver)) == (False, 1)
        legacy.close()

    scene.do(client)
    scene.rest()


def test_call_of_a_client_of_http_and_sse_holds_the_listener_for_a_bounded_time(
    scene: Scene,
) -> None:
    """And is answered on its stream, which ends after that."""

    def client() -> dict[str, object]:
        legacy = LegacyClient(scene)
        legacy.initialize()
        assert legacy.post(call(1, "pause 1", "json")).status == 202
        hand_over(scene)
        assert legacy.post(call(2, "pause 25", "json")).status == 202
        scene.pass_time(HAND_OVER_S_MAX - 1.0)
        assert legacy.reply(1)
        assert (listens(scene), told(scene, ListenerHandedOver)) == (True, 0)
        scene.pass_time(2.0)
        assert (listens(scene), told(scene, ListenerHandedOver)) == (False, 1)
        answer: dict[str, object] = legacy.reply(2)
        legacy.until(lambda: legacy.gone)
        legacy.close()
        return answer

    assert "result" in scene.do(client)
    scene.rest()


def test_client_of_http_and_sse_is_sent_elsewhere_as_the_listener_goes(scene: Scene) -> None:
    """What it would send comes to the other process, which does not know its stream."""

    def client() -> None:
        legacy = LegacyClient(scene)
        legacy.initialize()
        connection, answer = scene.connection(), Answer()
        connection.ask(HEALTH, "GET")
        hand_over(scene)
        while listens(scene):
            scene.pass_time(0.01)
        connection.send(request(call(1, "pause 5", "json"), session=session))
        scene.spawn("reader", lambda: connection.receive("POST", answer))
        scene.pass_time(1.0)
        assert (legacy.gone, told(scene, ListenerHandedOver)) == (True, 0)
        while not answer.complete:
            scene.pass_time(1.0)
        connection.close()
        legacy.close()

    session = scene.session()
    scene.do(client)
    scene.rest()


def test_call_that_comes_as_the_listener_goes_is_answered_before_the_drain(scene: Scene) -> None:
    """P4: on a connection that has not been told yet; the drain would refuse it."""
    session = scene.session()

    def client() -> Answer:
        connection, answer = scene.connection(), Answer()
        connection.ask(HEALTH, "GET")
        hand_over(scene)
        while listens(scene):
            scene.pass_time(0.01)
        assert told(scene, ListenerHandedOver) == 0
        connection.send(request(call(1, "pause 3", "json"), session=session))
        scene.spawn("reader", lambda: connection.receive("POST", answer))
        while not told(scene, ListenerHandedOver):
            scene.pass_time(0.01)
        connection.close()
        return answer

    answer = scene.do(client)
    assert ("result" in answer.message, answer.keep_alive) == (True, False)
    scene.rest()


@pytest.mark.parametrize("dies", [False, True])
def test_call_that_takes_long_holds_the_listener_for_a_bounded_time(
    scene: Scene, dies: bool
) -> None:
    """And is answered in the drain that follows."""
    session = scene.session()

    def client() -> Answer:
        connection, answer = scene.begin(request(call(1, "pause 25", "json"), session=session))
        scene.pass_time(1.0)
        hand_over(scene)
        if dies:
            scene.kill_listener()
        scene.pass_time(HAND_OVER_S_MAX - 1.0)
        assert (listens(scene), told(scene, ListenerHandedOver)) == (True, 0)
        scene.pass_time(2.0)
        assert (listens(scene), told(scene, ListenerHandedOver)) == (False, 1)
        scene.plane.wiring.handing_over = False
        scene.plane.drain()
        while not answer.complete:
            scene.pass_time(1.0)
        connection.close()
        return answer

    assert "result" in scene.do(client).message
    scene.run(1.0)
    assert told(scene, ServerDrained) == 1
    scene.rest()


def test_client_whose_stream_had_begun_may_send_once_more(scene: Scene) -> None:
    """The head of its answer could not tell that the connection ends: its next call is served."""
    session = scene.session()

    def client() -> list[Answer]:
        script = call(1, "sse", "note", "pause 3", "answer")
        connection, answer = scene.begin(request(script, session=session))
        while not answer.messages:
            scene.pass_time(0.1)
        hand_over(scene)
        while not answer.complete:
            scene.pass_time(0.001)
        assert answer.keep_alive
        answers = [connection.ask(request(call(2, "json"), session=session))]
        connection.close()
        return answers

    (second,) = scene.do(client)
    assert ("result" in second.message, second.keep_alive) == (True, False)
    scene.rest()


@pytest.mark.parametrize("after_s", [0.0, 1.0, 9.1])
def test_listener_that_is_started_anew_goes_on_with_the_hand_over(
    scene: Scene, running: Answer, after_s: float
) -> None:
    """P15: before it has heard of it, while calls run, and when the socket has been left."""
    scene.plane.wiring.draining = scene.plane.wiring.handing_over = True
    if after_s:
        scene.plane.server.tell(HandOver())
    scene.run(after_s)
    scene.kill_listener()
    scene.run(0.1)
    assert scene.plane.server.starts == 2
    if listens(scene):
        assert scene.ask(request(initialize())).status == 200
    scene.run(60.0)
    assert "result" in running.message
    assert told(scene, ListenerHandedOver) >= 1
    assert not listens(scene)
