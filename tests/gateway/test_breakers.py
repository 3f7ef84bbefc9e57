"""Circuit breakers and the bound on what is in flight, in the whole proxy.

RELIABILITY 1.2, 1.11; FLT-N1, N2, N8, U2. The rules alone are tried in tests/policy.
"""

from __future__ import annotations

import logging
from typing import Any

import pytest

from proxy_actors.config.resilience import Breaker, Retries
from proxy_actors.config.upstreams import Outliers
from proxy_actors.metrics import BREAKER_CLOSED, BREAKER_OPENED
from proxy_actors.policy.breakers import CLIENT_S
from tests.gateway.endpoint_scene import EndpointScene
from tests.plane import UPSTREAM
from tests.sim.virtual import Answer, VirtualConnection, call, initialize, note, request

DEFAULT = Breaker()
# A breaker opens for half of its bound on the average; a test wants it open for long.
LONG = Breaker(base_s=1000.0, cap_s=1000.0)
NO_RETRIES = Retries(attempts_max=0)
NO_OUTLIERS = Outliers(consecutive_failures=0)


def scene_of(*names: str, **settings: Any) -> EndpointScene:  # Any: those of the upstream
    settings.setdefault("breaker", LONG)
    settings.setdefault("retries", NO_RETRIES)
    settings.setdefault("outliers", NO_OUTLIERS)
    return EndpointScene(*(names or ("a",)), **settings)


def tool(n: int, name: str, *steps: str) -> dict[str, Any]:
    message = call(n, *steps)
    message["params"]["name"] = name
    return message


def plain(method: str, id: Any = 1) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": id, "method": method, "params": {}}


def refused(answer: Answer) -> bool:
    """Whether a breaker has refused it, as the error contract has it."""
    if answer.status != 503:
        return False
    data = answer.error["data"]
    assert (data["reason"], data["executed"], data["retryable"]) == ("circuit-open", "no", True)
    assert answer.message["id"] is not None and data["retryAfterMs"] >= 0
    assert int(answer.field(b"retry-after") or b"") * 1000 >= data["retryAfterMs"]
    return True


def fail(scene: EndpointScene, session: str, times: int = 5, step: str = "500") -> None:
    for n in range(times):
        assert not refused(scene.ask(call(n, step), session))


def test_server_that_fails_is_left_alone_and_calls_are_refused_at_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    scene = scene_of()
    session = scene.session()
    with caplog.at_level(logging.INFO, "proxy_actors.health"):
        fail(scene, session)
    assert "breaker_changed upstream=default endpoint=a tool='-' state=open" in caplog.text
    seen, began_s = len(scene.servers["a"].seen), scene.now_s()
    for message in (call(9), plain("tools/list")):
        assert refused(scene.ask(message, session))
    assert refused(scene.ask(initialize()))
    assert len(scene.servers["a"].seen) == seen
    assert scene.now_s() - began_s < 0.1
    rows = scene.app.wiring.routes.by_name[UPSTREAM].meters.take(UPSTREAM)
    assert {row.values for row in rows if row.metric is BREAKER_OPENED} == {(2,)}, "and its tool's"


@pytest.mark.parametrize("step", ["401", "429", "404", "400", "error 200 -32000", "501"])
def test_what_the_application_says_opens_nothing(step: str) -> None:
    """FLT-N8."""
    scene = scene_of()
    session = scene.session()
    for n in range(20):
        answer = scene.ask(call(n, step), session)
        if answer.status == 404:
            session = scene.session()
        assert not refused(answer)
    assert not scene.states["a"].gated


def test_server_that_is_back_is_found_out_without_a_client() -> None:
    """FLT-N1: five connects are refused, no more; then the proxy asks by itself."""
    scene = scene_of(breaker=DEFAULT)
    session = scene.session()
    scene.run(60.0)
    listener = scene.listeners.pop(("a.test", 80))
    answers = [scene.ask(call(n), session) for n in range(5)]
    assert {(x.status, x.error["data"]["reason"]) for x in answers} == {(502, "connect-failed")}
    assert scene.states["a"].gated and refused(scene.ask(call(9), session))
    scene.run(120.0)
    assert scene.states["a"].gated, "it is away"
    scene.listeners[("a.test", 80)] = listener
    assert scene.run_until(lambda: not scene.states["a"].gated, 60.0 + CLIENT_S + 1.0)
    assert scene.ask(call(10), session).status == 200
    assert scene.servers["a"].executions[10] == 1
    scene.run(60.0)
    assert set(scene.servers["a"].sessions) == {"up-1"}, "the probe has left a session"
    assert not scene.errors


def test_one_slow_tool_is_refused_and_the_others_are_not() -> None:
    """An upstream's slow call never evicts it for everybody."""
    scene = scene_of("a", "b", call_timeout_s=2.0)
    session = scene.session()
    for n in range(5):
        answer = scene.ask(tool(n, "slow", "pause 100"), session)
        assert answer.error["data"]["reason"] == "upstream-timeout"
    assert refused(scene.ask(tool(9, "slow", "json"), session))
    for n in range(10, 20):
        assert scene.ask(tool(n, "quick"), session).status == 200
    assert scene.ask(plain("tools/list"), session).status == 200
    [home] = [x for x in scene.states.values() if x.gated]
    assert home.takes and home.serves


def test_calls_that_change_something_are_no_probes_and_pass_when_ours_has_succeeded() -> None:
    scene = scene_of(breaker=DEFAULT)
    session = scene.session()
    fail(scene, session)
    answers: list[Answer] = []
    for n in range(100, 200):
        answers.append(scene.ask(call(n), session))
        if answers[-1].status == 200:
            break
        assert refused(answers[-1])
        scene.run(0.1)
    assert answers[-1].status == 200
    assert scene.seen_by("a", "ping") in (1, 2), "for the server's breaker and for the tool's"
    executed = [n for n in scene.servers["a"].executions if isinstance(n, int) and n >= 100]
    assert len(executed) == 1, "one was sent as a probe"


def test_read_is_a_probe() -> None:
    scene = scene_of(breaker=DEFAULT)
    session = scene.session()
    fail(scene, session)
    for _ in range(100):
        if scene.ask(plain("tools/list"), session).status == 200:
            break
        scene.run(0.01)
    assert scene.states["a"].gated, "the tool's own is for a call to find out"
    assert scene.ask(plain("resources/list"), session).status == 200
    assert scene.seen_by("a", "ping") == 0


def test_what_is_no_new_request_always_passes() -> None:
    scene = scene_of()
    session = scene.session()
    fail(scene, session)
    assert refused(scene.ask(call(9), session))
    response = {"jsonrpc": "2.0", "id": "ask-1", "result": {}}
    cancel = note("notifications/cancelled", requestId=1)
    for message in (note("notifications/x"), cancel, response):
        assert scene.ask(message, session).status == 202
    assert scene.ask(None, session, "DELETE").status == 200
    scene.run(1.0)
    assert scene.servers["a"].deleted == ["up-1"]


def test_new_sessions_go_elsewhere_while_a_breaker_is_open() -> None:
    scene = scene_of("a", "b")
    session = scene.session()
    fail(scene, session)
    [home] = [name for name, state in scene.states.items() if state.gated]
    before = scene.spread("initialize")
    for _ in range(4):
        scene.session()
    assert scene.seen_by(home, "initialize") == before[home]
    assert refused(scene.ask(call(9), session)), "a session stays where it is"


def test_breaker_closes_and_slow_start_follows() -> None:
    scene = scene_of("a", "b", breaker=DEFAULT, slow_start_s=100.0)
    session = scene.session()
    fail(scene, session)
    [home] = [state for state in scene.states.values() if state.gated]
    assert scene.run_until(lambda: not home.gated, 30.0)
    assert home.takes and home.taken_up_s is not None
    rows = scene.app.wiring.routes.by_name[UPSTREAM].meters.take(UPSTREAM)
    assert {row.values for row in rows if row.metric is BREAKER_CLOSED} == {(2,)}


def test_session_that_fails_to_open_counts() -> None:
    """FLT-U2."""
    scene = scene_of()
    scene.servers["a"].openings += ["500"] * 5
    for _ in range(5):
        assert scene.ask(initialize()).status == 502
    assert refused(scene.ask(initialize()))


def test_requests_beyond_the_bound_are_refused_at_once() -> None:
    scene = scene_of(requests_max=3)
    session = scene.session()
    answers: list[Answer] = []

    def client(n: int) -> None:
        connection = VirtualConnection(scene)
        answers.append(connection.ask(request(call(n, "pause 5", "json"), session=session)))
        connection.close()

    for n in range(3):
        scene.spawn("client", lambda n=n: client(n))
    assert scene.run_until(lambda: scene.states["a"].pending == 3, 2.0)
    began_s = scene.now_s()
    answer = scene.ask(call(9), session)
    assert (answer.status, answer.error["data"]["reason"]) == (503, "overloaded")
    assert scene.now_s() - began_s < 0.1
    assert scene.ask(note("notifications/x"), session).status == 202
    assert scene.run_until(lambda: len(answers) == 3, 20.0)
    assert {x.status for x in answers} == {200}
    assert scene.ask(call(10), session).status == 200


def test_nothing_is_refused_where_breakers_are_off() -> None:
    scene = scene_of(breaker=Breaker(enabled=False))
    session = scene.session()
    fail(scene, session, 50)
    assert not scene.states["a"].gated and not scene.states["a"].watched


def test_retry_that_a_breaker_refuses_is_told_as_what_failed() -> None:
    scene = scene_of(retries=Retries())
    session = scene.session()
    scene.servers["a"].firsts["tools/list"] = [["500"]] * 100
    reasons = [scene.ask(plain("tools/list"), session).error["data"]["reason"] for _ in range(3)]
    assert reasons == ["upstream-protocol", "upstream-protocol", "circuit-open"]
    assert scene.seen_by("a", "tools/list") == 5
