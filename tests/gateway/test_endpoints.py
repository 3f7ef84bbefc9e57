"""Several servers behind one name: who gets a session, and what becomes of it when one is away.

RELIABILITY 1.3 and 1.5; FLT-N7, N16.
"""

from __future__ import annotations

from typing import Any

import pytest

from proxy_actors.config.upstreams import Checks, Endpoint, Outliers, Reconnect
from proxy_actors.errors import Executed, FailedError, Reason, RefusedError, Side
from proxy_actors.gateway.guarded import fault_of
from proxy_actors.messages.guard import Fault
from proxy_actors.messages.sessions import MoveSession
from proxy_actors.messages.upstream import UpstreamDrained
from proxy_actors.options import (
    Affinity,
    Balance,
    CheckKind,
    OnSessionLost,
    StdioMode,
    Transport,
)
from tests.gateway.channel_scene import COMMAND, OLD_URL, ChannelScene
from tests.gateway.endpoint_scene import EndpointScene
from tests.sim.virtual import Answer, VirtualConnection, call, note, request


def plain(method: str, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}


def test_sessions_are_spread_and_each_stays_where_it_is() -> None:
    scene = EndpointScene("a", "b", "c")
    sessions = [scene.session() for _ in range(6)]
    assert scene.spread("initialize") == {"a": 2, "b": 2, "c": 2}
    for n, session in enumerate(sessions * 2):
        assert scene.ask(call(n), session).status == 200
    assert scene.spread() == {"a": 4, "b": 4, "c": 4}
    assert not scene.errors


def test_weights_and_backups_are_those_of_the_configuration() -> None:
    scene = EndpointScene("a", "b", "spare", backups=("spare",))
    for _ in range(4):
        scene.session()
    assert scene.spread("initialize") == {"a": 2, "b": 2, "spare": 0}
    scene.take_out("a")
    scene.take_out("b")
    scene.session()
    assert scene.spread("initialize")["spare"] == 1


def test_one_principal_goes_where_it_went_before_by_hash() -> None:
    """Who shows no key is told apart by the address, which all clients here share."""
    scene = EndpointScene("a", "b", "c", balance=Balance.HASH)
    for _ in range(5):
        scene.session()
    assert sorted(scene.spread("initialize").values()) == [0, 0, 5]


def test_session_without_an_id_of_the_server_needs_no_home_where_that_is_said() -> None:
    scene = EndpointScene("a", "b", sessions=False, affinity=Affinity.NONE)
    session = scene.session()
    for n in range(6):
        assert scene.ask(call(n), session).status == 200
    assert scene.spread() == {"a": 3, "b": 3}


@pytest.mark.parametrize("steps", [("pause 5", "json"), ("sse", "note", "pause 5", "answer")])
def test_cancellation_goes_where_its_call_is(steps: tuple[str, ...]) -> None:
    """MCP-X-3: calls of a session without a home may be anywhere."""
    scene = EndpointScene("a", "b", sessions=False, affinity=Affinity.NONE)
    session = scene.session()
    for n in range(1, 5):
        data = request(call(n, *steps), session=session)
        scene.spawn("client", lambda data=data: VirtualConnection(scene).ask(data))
    scene.run(1.0)
    for n in range(1, 5):
        assert scene.ask(note("notifications/cancelled", requestId=n), session).status == 202
    for name in "ab":
        seen = [x.body for x in scene.servers[name].seen if x.method == "POST"]
        calls = [x["id"] for x in seen if x["method"] == "tools/call"]
        cancels = [x["params"]["requestId"] for x in seen if "cancel" in x["method"]]
        assert sorted(calls) == cancels and len(calls) == 2
    scene.run(60.0)
    assert not scene.errors


def test_session_with_an_id_has_a_home_whatever_is_said() -> None:
    scene = EndpointScene("a", "b", affinity=Affinity.NONE)
    session = scene.session()
    for n in range(4):
        assert scene.ask(call(n), session).status == 200
    assert sorted(scene.spread().values()) == [0, 4]


@pytest.mark.parametrize("first, second, settings", [
    ({"command": COMMAND}, {"command": COMMAND}, {"stdio": StdioMode.SESSION}),
    ({"url": OLD_URL}, {"url": "http://b.test/sse"}, {"transport": Transport.SSE}),
], ids=["process", "sse"])  # fmt: skip
def test_session_with_a_channel_has_a_home_whatever_is_said(
    first: Any, second: Any, settings: Any
) -> None:
    """It has no id of the server's, and yet is nowhere else."""
    scene = ChannelScene(
        endpoints={"a": Endpoint(**first), "b": Endpoint(**second)}, affinity=Affinity.NONE,
        checks=Checks(kind=CheckKind.OFF), **settings,
    )  # fmt: skip
    for n in range(4):
        assert scene.call(n).status == 200
    assert not scene.errors


def test_call_counts_at_its_endpoint_until_its_answer_has_ended() -> None:
    scene = EndpointScene("a", "b", balance=Balance.LEAST_PENDING)
    sessions = [scene.session(), scene.session()]
    steps = ("pause 5", "sse", "note 10", "pause 50", "answer")
    answers: list[Any] = []

    def client() -> None:
        answers.append(VirtualConnection(scene).ask(request(call(1, *steps), session=sessions[0])))

    scene.spawn("client", client)
    counts = []
    for seconds in (1.0, 25.0, 60.0):
        scene.run(seconds)
        counts.append(sorted((x.pending, x.streaming) for x in scene.states.values()))
    assert counts == [[(0, 0), (1, 0)], [(0, 0), (0, 1)], [(0, 0), (0, 0)]]
    assert [x.status for x in answers] == [200]
    scene.spawn("client", client)
    scene.run(10.0)
    (idle,) = [name for name, state in scene.states.items() if not state.active]
    before = scene.seen_by(idle, "initialize")
    for _ in range(2):
        scene.session()
    assert scene.seen_by(idle, "initialize") == before + 2


# An endpoint that cannot be used.


def test_session_stays_at_an_endpoint_that_serves_what_it_has() -> None:
    """Ejected, or draining: nothing new, and nothing lost."""
    scene = EndpointScene("a", "b")
    session = scene.session()
    scene.take_out("a", serves=True)
    assert scene.ask(call(1), session).status == 200
    scene.session()
    assert scene.spread() == {"a": 1, "b": 0}
    assert scene.spread("initialize") == {"a": 1, "b": 1}


def test_session_ends_when_its_endpoint_is_away_and_its_client_begins_anew_elsewhere() -> None:
    scene = EndpointScene("a", "b")
    session = scene.session()
    scene.take_out("a")
    assert scene.ask(call(1), session).status == 404
    scene.bring_back("a")
    assert scene.ask(call(1), session).status == 404  # for ever: it was told to the client
    scene.take_out("a")
    assert scene.ask(call(2), scene.session()).status == 200
    assert scene.spread() == {"a": 0, "b": 1}
    assert not scene.errors


def test_session_waits_where_there_is_no_other_endpoint() -> None:
    scene = EndpointScene("a", "b")
    session = scene.session()
    scene.take_out("a")
    scene.take_out("b")
    answer = scene.ask(call(1), session)
    data = answer.error["data"]
    assert (answer.status, data["reason"], data["executed"]) == (503, "upstream-unavailable", "no")
    assert answer.field(b"retry-after") is not None
    scene.bring_back("a")
    assert scene.ask(call(1), session).status == 200
    assert scene.spread() == {"a": 1, "b": 0}


@pytest.mark.parametrize("sessions", [True, False])
def test_session_is_opened_anew_elsewhere_where_that_is_allowed(sessions: bool) -> None:
    """Level and subscriptions go with it; the call that finds out is not lost, nor sent twice."""
    lost = OnSessionLost.REINITIALIZE
    scene = EndpointScene("a", "b", sessions=sessions, on_session_lost=lost)
    session = scene.session()
    scene.ask(plain("logging/setLevel", level="debug"), session)
    scene.ask(plain("resources/subscribe", uri="file:///a"), session)
    scene.take_out("a")
    assert scene.ask(call(1), session).status == 200
    assert scene.spread() == {"a": 0, "b": 1}
    for method in ("initialize", "logging/setLevel", "resources/subscribe"):
        assert scene.seen_by("b", method) == 1, method
    assert scene.servers["b"].executions[1] == 1
    scene.bring_back("a")
    assert scene.ask(call(2), session).status == 200
    assert scene.spread() == {"a": 0, "b": 2}  # it does not go back by itself
    assert not scene.errors


def test_session_may_move_back_and_forth() -> None:
    """What an endpoint remembers of a session that has left it is of no use later."""
    scene = EndpointScene("a", "b", on_session_lost=OnSessionLost.REINITIALIZE)
    session = scene.session()
    for n, (out, back) in enumerate([("a", "b"), ("b", "a")] * 3):
        scene.bring_back(back)
        scene.take_out(out)
        assert scene.ask(call(n), session).status == 200
    assert scene.spread() == {"a": 3, "b": 3}
    assert scene.spread("initialize") == {"a": 4, "b": 3}
    assert not scene.errors


def test_many_that_find_out_at_once_open_one_session_elsewhere() -> None:
    scene = EndpointScene("a", "b", on_session_lost=OnSessionLost.REINITIALIZE)
    session = scene.session()
    scene.take_out("a")
    answers: list[Any] = []

    def client(n: int) -> None:
        answers.append(VirtualConnection(scene).ask(request(call(n), session=session)))

    for n in range(20):
        scene.spawn("client", lambda n=n: client(n))  # type: ignore[misc]
    scene.run(60.0)
    assert [x.status for x in answers] == [200] * 20
    assert scene.seen_by("b", "initialize") == 1
    assert scene.spread() == {"a": 0, "b": 20}


def test_stream_of_a_session_that_moves_ends_and_is_opened_where_it_is_now() -> None:
    scene = EndpointScene("a", "b", on_session_lost=OnSessionLost.REINITIALIZE)
    session = scene.session()
    answers = [Answer(), Answer()]

    def read(answer: Answer) -> None:
        connection = VirtualConnection(scene)
        connection.send(request(None, "GET", session=session))
        connection.receive("GET", answer)

    scene.spawn("reader", lambda: read(answers[0]))
    scene.run(1.0)
    assert answers[0].status == 200
    scene.take_out("a")
    assert scene.ask(call(1), session).status == 200
    scene.run(5.0)
    assert answers[0].complete
    scene.spawn("reader", lambda: read(answers[1]))
    scene.run(1.0)
    (moved,) = scene.servers["b"].sessions.values()
    assert moved.standalone is not None
    moved.standalone.put(note("news"))
    scene.run(1.0)
    assert answers[1].messages[-1]["method"] == "news"
    assert not scene.errors


def test_stream_of_before_does_not_fetch_a_session_back_that_has_moved() -> None:
    """It breaks in the moment between the move and its end."""
    scene = EndpointScene(
        "a", "b", resumes=True, on_session_lost=OnSessionLost.REINITIALIZE
    )
    session = scene.session()

    def read() -> None:
        VirtualConnection(scene).ask(request(None, "GET", session=session), "GET")

    scene.spawn("reader", read)
    scene.run(1.0)
    (row,) = scene.store.rows()
    elsewhere = scene.app.wiring.routes.by_name["default"].homes
    (b,) = [key for key, slot in elsewhere.items() if slot.name.endswith("/b")]
    move = MoveSession(row.session.key, row.session.place, (b, "of-b"))
    scene.do(lambda: scene.app.wiring.registry.ask(move, scene.now_s() + 1.0))
    scene.servers["a"].lose_sessions()
    scene.run(60.0)
    assert scene.spread("initialize") == {"a": 1, "b": 0}
    (row,) = scene.store.rows()
    assert row.session.place == (b, "of-b")
    assert not scene.errors


def test_notification_and_answer_go_to_where_the_session_is_whatever_its_state() -> None:
    scene = EndpointScene("a", "b")
    session = scene.session()
    scene.take_out("a")
    cancelled = {
        "jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 9},
    }  # fmt: skip
    assert scene.ask(cancelled, session).status == 202
    assert scene.seen_by("a", "notifications/cancelled") == 1


def test_end_of_a_session_is_told_to_its_endpoint() -> None:
    scene = EndpointScene("a", "b")
    sessions = [scene.session(), scene.session()]
    assert scene.ask(None, sessions[1], "DELETE").status == 200
    scene.run(5.0)
    assert [len(x.sessions) for x in scene.servers.values()] == [1, 0]


def test_drain_ends_when_every_endpoint_has_drained() -> None:
    scene = EndpointScene("a", "b")
    session = scene.session()
    answers: list[Any] = []
    scene.spawn("client", lambda: answers.append(scene_call(scene, session)))
    scene.run(1.0)
    scene.app.drain()
    scene.run(1.0)
    assert not [x for x in scene.mail if isinstance(x, UpstreamDrained)]
    scene.run(10.0)
    assert [x.status for x in answers] == [200]
    drained = [x.upstream for x in scene.mail if isinstance(x, UpstreamDrained)]
    assert drained == ["upstream/default"]


def scene_call(scene: EndpointScene, session: str) -> Any:
    connection = VirtualConnection(scene)
    return connection.ask(request(call(1, "pause 5", "json"), session=session))


def test_stream_that_is_given_up_counts_against_its_endpoint() -> None:
    """Its call began well: who looks at the beginnings of answers alone would never know."""
    scene = EndpointScene(
        "a", "b", resumes=True, reconnect=Reconnect(attempts_max=2),
        outliers=Outliers(consecutive_failures=1),
    )  # fmt: skip
    resumption = scene.servers["a"].resumption
    assert resumption is not None
    resumption.refusals.extend([503, 503])
    answer = scene.ask(call(1, "sse", "note", "leave reset"), scene.session())
    assert answer.status == 200 and answer.error["data"]["executed"] == "unknown"
    scene.run(1.0)
    assert {name: x.takes for name, x in scene.states.items()} == {"a": False, "b": True}


# What is an endpoint's fault.


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (FailedError(Reason.CONNECT_FAILED, ""), Fault.CONNECT),
        (FailedError(Reason.UPSTREAM_CLOSED, ""), Fault.RESET),
        (FailedError(Reason.UPSTREAM_TIMEOUT, ""), Fault.TIMEOUT),
        (FailedError(Reason.UPSTREAM_PROTOCOL, ""), Fault.PROTOCOL),
        (FailedError(Reason.UPSTREAM_PROTOCOL, "", answered=500), Fault.STATUS),
        (FailedError(Reason.UPSTREAM_UNAVAILABLE, "", answered=503), Fault.GATEWAY),
        (FailedError(Reason.UPSTREAM_PROTOCOL, "", answered=501), None),
        (FailedError(Reason.UPSTREAM_PROTOCOL, "", answered=401), None),
        (FailedError(Reason.RATE_LIMITED, "", answered=429), None),
        (FailedError(Reason.PROCESS_EXITED, "", executed=Executed.UNKNOWN), Fault.EXIT),
        (FailedError(Reason.PROCESS_EXITED, ""), None),
        (FailedError(Reason.SESSION_LOST, ""), None),
        (FailedError(Reason.POOL_EXHAUSTED, ""), None),
        (FailedError(Reason.DEADLINE, "", side=Side.PROXY), None),
        (FailedError(Reason.UPSTREAM_TIMEOUT, "", side=Side.PROXY), None),
        (RefusedError(400, ""), None),
    ],
)
def test_what_counts_against_an_endpoint(error: Any, fault: Fault | None) -> None:
    """RELIABILITY 1.1: never a 4xx, what the application answered, or what the proxy did."""
    assert fault_of(error) is fault
