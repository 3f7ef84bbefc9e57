"""Neither open streams nor calls that wait for their clients keep anything from being served.

The two dead ends of a bounded pool, at its full bounds: every connection is taken by somebody who
waits for what can only come through another.
"""

from __future__ import annotations

import hashlib
from collections import Counter

import pytest

from proxy_actors.gateway.keys import Identity, Keyring
from proxy_actors.policy.pool_limits import PoolLimits
from proxy_actors.policy.reconnect import ReconnectLimits
from tests.gateway.scene import Scene
from tests.sim.virtual import Answer, VirtualConnection, call, initialize, request

KEYRING = Keyring(
    {hashlib.sha256(name.encode()).digest(): Identity(name) for name in ("ann", "bob")}
)
MAX = PoolLimits().connections_max


class Crowd:
    """A proxy with as many sessions as there may be calls at once, and more."""

    def __init__(self, limits: PoolLimits, sessions: int) -> None:
        self.scene = Scene(pool=limits)
        self.sessions = [self.scene.session() for _ in range(sessions)]
        self.connections: list[VirtualConnection] = []

    def start(self, data: bytes, method: str = "POST") -> Answer:
        """Send a request on a connection of its own; the answer fills as it comes."""
        answer = Answer()

        def client() -> None:
            connection = self.scene.connection()
            self.connections.append(connection)
            connection.send(data)
            connection.receive(method, answer)

        self.scene.spawn("client", client)
        return answer

    def leave(self) -> None:
        for connection in self.connections:
            connection.close()
        self.scene.rest()


def test_max_sessions_each_with_a_standing_stream_still_complete_calls() -> None:
    """MCP-S-8: streams draw from a budget of their own."""
    crowd = Crowd(PoolLimits(), MAX)
    streams = [crowd.start(request(None, "GET", x), "GET") for x in crowd.sessions]
    crowd.scene.run(5.0)
    assert [x.status for x in streams] == [200] * MAX
    assert len(crowd.scene.plane.table.leases) == MAX
    answers = [
        crowd.start(request(call(n, "pause 1", "json"), session=x))
        for n, x in enumerate(crowd.sessions)
    ]
    crowd.scene.run(5.0)
    assert [(x.status, x.message["id"]) for x in answers] == [(200, n) for n in range(MAX)]
    assert not any(x.complete for x in streams)
    crowd.leave()


@pytest.mark.parametrize(
    ("calls", "streams_max"), [(MAX, PoolLimits().streams_max), (MAX + 1, 1)]
)
def test_max_calls_all_waiting_for_their_clients_still_complete(
    calls: int, streams_max: int
) -> None:
    """MCP-S-23: what a client answers draws from a reserve.

    With room for one stream, all the others are at the expense of the calls' budget: it is spent.
    """
    crowd = Crowd(PoolLimits(streams_max=streams_max), calls)
    answers = [
        crowd.start(request(call(n, "sse", "ask", "answer", "end"), session=x))
        for n, x in enumerate(crowd.sessions)
    ]
    crowd.scene.run(5.0)
    assert [[y["method"] for y in x.messages] for x in answers] == [["elicitation/create"]] * calls
    assert len(crowd.scene.plane.table.leases) == calls
    replies = [
        crowd.start(
            request({"jsonrpc": "2.0", "id": f"ask-{n}-0", "result": {}}, session=x)
        )
        for n, x in enumerate(crowd.sessions)
    ]
    crowd.scene.run(5.0)
    assert [x.status for x in replies] == [202] * calls
    assert all(x.complete for x in answers)
    assert [x.message["id"] for x in answers] == list(range(calls))
    assert all("result" in x.message for x in answers)
    crowd.leave()


def test_client_of_many_streams_leaves_one_to_the_next() -> None:
    """All that it has are opened anew when they break, also when others have the rest by then."""
    limits = PoolLimits(connections_max=1, reserve=1, streams_max=4)
    scene = Scene(keyring=KEYRING, pool=limits, reconnect=ReconnectLimits(base_s=1.0, cap_s=4.0))

    def listen(name: str) -> Answer:
        fields = {"Authorization": f"Bearer {name}"}
        session = scene.ask(request(initialize(), fields=fields)).field(b"mcp-session-id")
        assert session is not None
        get = request(None, "GET", session.decode(), fields=fields)
        connections.append(scene.do(lambda: scene.begin(get, "GET")))
        scene.run(1.0)
        return connections[-1][1]

    def owners() -> Counter[str]:
        return Counter(row.owner.name for row in scene.plane.table.leases.values())

    connections: list[tuple[VirtualConnection, Answer]] = []
    answers = [listen("ann") for _ in range(5)]
    assert [x.status for x in answers] == [200, 200, 200, 429, 429]
    refused = answers[-1]
    assert (refused.error["data"]["reason"], refused.field(b"retry-after")) == (
        "rate-limited", b"1",
    )
    assert listen("bob").status == 200
    assert owners() == {"ann": 3, "bob": 1}
    for session in scene.server.sessions.values():
        if session.standalone is not None:
            session.standalone.end()
    scene.run(20.0)
    assert owners() == {"ann": 3, "bob": 1}
    assert not any(x.complete for x in answers[:3])
    for connection, _ in connections:
        connection.close()
    scene.rest()


def test_session_with_all_connections_and_a_queue_does_not_keep_another_waiting() -> None:
    """Both are anonymous and of one address, so that shares are their sessions'."""
    crowd = Crowd(PoolLimits(connections_max=2, reserve=1), 2)
    hog, other = crowd.sessions
    calls = [crowd.start(request(call(n, "pause 1", "json"), session=hog)) for n in range(8)]
    crowd.scene.run(0.5)
    late = [crowd.start(request(call(n, "pause 1", "json"), session=other)) for n in range(2)]
    crowd.scene.run(2.8)
    assert [x.status for x in late] == [200, 200], "one of the two connections is theirs"
    assert sum(x.complete for x in calls) == 4
    crowd.scene.run(5.0)
    assert [x.status for x in calls] == [200] * 8
    crowd.leave()


def test_calls_that_cannot_be_served_in_time_are_refused_at_once() -> None:
    """They are told when to come back; the queue is as long as can be served within the wait."""
    crowd = Crowd(PoolLimits(connections_max=1, reserve=1), 1)
    (session,) = crowd.sessions
    answers = [
        crowd.start(request(call(n, "pause 0.2", "json"), session=session)) for n in range(20)
    ]
    crowd.scene.run(3.0)
    late = [
        crowd.start(request(call(100 + n, "pause 0.2", "json"), session=session))
        for n in range(40)
    ]
    crowd.scene.run(0.1)
    refused = [x for x in late if x.complete]
    assert 10 <= len(refused) <= 30
    assert {x.error["data"]["reason"] for x in refused} == {"overloaded"}
    assert {x.error["data"]["executed"] for x in refused} == {"no"}
    assert all(x.field(b"retry-after") for x in refused)
    crowd.scene.run(10.0)
    served = [x.status for x in late if x not in refused]
    assert served.count(200) >= len(served) - 3, "who was let in is served, but for a rough guess"
    assert [x.status for x in answers] == [200] * 20
    crowd.leave()
