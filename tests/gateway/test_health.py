"""Endpoints that fail, in the whole proxy: who is ejected, who is down, and who comes back.

RELIABILITY 1.1, 1.4; FLT-N8, N16, N17.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from proxy_actors.config.upstreams import Checks, Outliers
from proxy_actors.messages.guard import CallFailed, Fault
from proxy_actors.messages.health import OperatorState
from proxy_actors.options import CheckKind
from proxy_actors.policy.health import EndpointHealth
from tests.gateway.endpoint_scene import EndpointScene
from tests.plane import UPSTREAM
from tests.sim.virtual import VirtualConnection, call, initialize, request

ALL, SERVES, NONE = (True, True), (False, True), (False, False)
PING = Checks(kind=CheckKind.PING, interval_s=10.0, down_interval_s=10.0, spread=0.0)


def used(scene: EndpointScene, name: str) -> tuple[bool, bool]:
    state = scene.states[name]
    return state.takes, state.serves


def known(scene: EndpointScene, name: str) -> EndpointHealth:
    meters = scene.app.wiring.routes.by_name[UPSTREAM].meters
    return next(x._known for x in meters.endpoints if x._known.state.name == name)


def sessions(scene: EndpointScene) -> dict[str, str]:
    """Open a session at each endpoint, and return them by their homes."""
    found: dict[str, str] = {}
    for _ in scene.servers:
        before = scene.spread("initialize")
        session = scene.session()
        [(home, _)] = (Counter(scene.spread("initialize")) - Counter(before)).items()
        found[home] = session
    return found


def fail(scene: EndpointScene, session: str, times: int, step: str = "500") -> None:
    for n in range(times):
        scene.ask(call(n, step), session)


# Calls that fail.


def test_fifth_failure_in_a_row_ejects_for_thirty_seconds() -> None:
    """FLT-N8: the session that is there stays, new ones go elsewhere."""
    scene = EndpointScene("a", "b")
    home = sessions(scene)
    fail(scene, home["a"], 4)
    assert used(scene, "a") == ALL
    assert scene.ask(call(1), home["a"]).status == 200
    fail(scene, home["a"], 5)
    assert used(scene, "a") == SERVES
    before = scene.spread("initialize")
    for _ in range(4):
        scene.session()
    assert scene.spread("initialize") == {"a": before["a"], "b": before["b"] + 4}
    assert scene.ask(call(1), home["a"]).status == 200
    began_s = scene.now_s()
    assert scene.run_until(lambda: scene.states["a"].takes, 100.0)
    assert 29.0 < scene.now_s() - began_s <= 30.0
    assert not scene.errors


@pytest.mark.parametrize("step", ["500", "503 Retry-After: 1", "garbage", "reset", "no-json"])
def test_what_the_endpoint_failed_counts(step: str) -> None:
    scene = EndpointScene("a", "b")
    fail(scene, sessions(scene)["a"], 5, step)
    assert used(scene, "a") == SERVES


@pytest.mark.parametrize(
    "step", ["401", "403", "429 Retry-After: 1", "400", "error 200 -32000", "tool-error", "501"]
)
def test_what_is_no_failure_of_the_endpoint_does_not_count(step: str) -> None:
    """FLT-N8: neither credentials and limits, nor what an application or its tools say."""
    scene = EndpointScene("a", "b")
    session = sessions(scene)["a"]
    for n in range(10):
        steps = (step, "json") if step == "tool-error" else (step,)
        scene.ask(call(n, *steps), session)
    assert used(scene, "a") == ALL and not known(scene, "a").ejection.times


def test_server_that_is_gone_is_ejected_by_calls_that_find_no_connection() -> None:
    """FLT-N1."""
    scene = EndpointScene("a", "b")
    session = sessions(scene)["a"]
    scene.run(60.0)  # idle connections are closed
    scene.listeners.pop(("a.test", 80))
    answers = [scene.ask(call(n), session) for n in range(5)]
    assert {(x.status, x.error["data"]["executed"]) for x in answers} == {(502, "no")}
    assert used(scene, "a") == SERVES


def test_second_of_two_stays_and_all_but_one_of_five_are_not_ejected() -> None:
    """FLT-N16."""
    two = EndpointScene("a", "b")
    for session in sessions(two).values():
        fail(two, session, 5)
    assert [used(two, name) for name in "ab"] == [SERVES, ALL]
    five = EndpointScene(*"abcde")
    for name, session in sessions(five).items():
        if name != "e":
            fail(five, session, 5)
    assert [used(five, name) for name in "abcde"] == [SERVES, SERVES, ALL, ALL, ALL]
    before = five.spread("initialize")
    for _ in range(6):
        five.session()
    after = five.spread("initialize")
    assert {name: after[name] - before[name] for name in after} == {
        "a": 0, "b": 0, "c": 2, "d": 2, "e": 2,
    }  # fmt: skip


def test_endpoint_is_given_little_at_first_when_it_is_back() -> None:
    """FLT-N16: slow start."""
    scene = EndpointScene("a", "b", slow_start_s=100.0)
    fail(scene, sessions(scene)["a"], 5)
    assert scene.run_until(lambda: scene.states["a"].takes, 100.0)
    before = scene.spread("initialize")
    for _ in range(11):
        scene.session()
    after = scene.spread("initialize")
    assert (after["a"] - before["a"], after["b"] - before["b"]) == (1, 10)


def test_host_that_flaps_is_ejected_for_longer_each_time_and_forgiven_in_the_end() -> None:
    """FLT-N17."""
    scene = EndpointScene("a", "b", outliers=Outliers(base_ejection_s=20.0, max_ejection_s=60.0))
    session = sessions(scene)["a"]

    def ejected_s() -> float:
        fail(scene, session, 5)
        began_s = scene.now_s()
        assert scene.run_until(lambda: scene.states["a"].takes, 400.0)
        return scene.now_s() - began_s

    for least_s in (20.0, 40.0, 60.0, 60.0, 60.0):  # and up to a sweep longer
        assert least_s - 1.0 <= ejected_s() <= least_s + 10.0
    assert scene.run_until(lambda: known(scene, "a").ejection.multiplier == 0, 100.0)
    assert 19.0 <= ejected_s() <= 30.0


def test_guard_that_is_killed_forgets_no_ejection() -> None:
    scene = EndpointScene("a", "b")
    home = sessions(scene)
    fail(scene, home["a"], 5)
    scene.set("b", OperatorState.DRAIN)
    starts = scene.guard.starts
    scene.do(lambda: scene.guard.deliver(CallFailed("nobody", "", Fault.STATUS, 0.1)))
    assert scene.run_until(lambda: scene.guard.starts > starts, 10.0)
    scene.run(1.0)
    assert [used(scene, name) for name in "ab"] == [SERVES, SERVES]
    scene.run(60.0)
    assert [used(scene, name) for name in "ab"] == [ALL, SERVES]


# Checks.


def test_ping_has_a_session_of_its_own_for_as_long_as_the_server_knows_it() -> None:
    scene = EndpointScene("a", "b", checks=PING)
    scene.run(60.0)
    server = scene.servers["a"]
    assert scene.seen_by("a", "initialize") == 1
    assert scene.seen_by("a", "notifications/initialized") == 1
    pings = scene.seen_by("a", "ping")
    assert pings >= 5
    server.lose_sessions()
    scene.run(30.0)
    assert scene.seen_by("a", "initialize") == 2
    assert known(scene, "a").checked.failed == 0
    scene.app.drain()
    scene.run(30.0)
    assert server.sessions == {}, "a session of checks is left behind"
    assert not scene.errors


def test_checks_are_not_counted_as_calls_and_do_not_wait_behind_them() -> None:
    scene = EndpointScene("a", "b", checks=PING)
    scene.run(60.0)
    rows = scene.app.wiring.meters.take()
    assert not [row for row in rows if "method" in row.metric.template]
    told = {
        row.metric.template.rpartition("endpoint.{endpoint}.")[2]: row.values[0]
        for row in rows
        if row.labels == (UPSTREAM, "a")
    }
    assert told["state"] == 2 and told["checks.well"] >= 5 and "checks.failed" not in told


@pytest.mark.parametrize("step", ["500", "pause 100", "garbage", "reset"])
def test_endpoint_whose_pings_fail_is_down_and_comes_up_again(step: str) -> None:
    scene = EndpointScene("a", "b", checks=PING)
    home = sessions(scene)
    scene.run(20.0)
    scene.servers["a"].pinged = [step]
    assert scene.run_until(lambda: used(scene, "a") == NONE, 60.0)
    assert scene.ask(call(1), home["a"]).status == 404  # it begins anew, elsewhere
    scene.servers["a"].pinged = None
    assert scene.run_until(lambda: used(scene, "a") == ALL, 60.0)
    assert used(scene, "b") == ALL
    assert not scene.errors


def test_server_that_was_never_there_is_down_at_once_and_up_when_it_comes() -> None:
    """FLT-N1, U13: the first check decides alone."""
    scene = EndpointScene("a", "b", checks=PING)
    scene.listeners.pop(("a.test", 80))
    assert scene.run_until(lambda: used(scene, "a") == NONE, 60.0)
    for _ in range(3):
        scene.session()
    assert scene.spread("initialize")["b"] >= 3


def test_server_that_refuses_our_credentials_is_alive_and_gets_nothing_new() -> None:
    scene = EndpointScene("a", "b", checks=PING)
    scene.run(5.0)
    home = sessions(scene)
    scene.servers["a"].pinged = ["401"]
    assert scene.run_until(lambda: used(scene, "a") == SERVES, 60.0)
    assert known(scene, "a").status.value == "unusable"
    assert scene.ask(call(1), home["a"]).status == 200


def test_path_is_checked_where_that_is_said() -> None:
    checks = Checks(kind=CheckKind.HTTP, path="/health", fall=1, rise=1)
    scene = EndpointScene("a", "b", checks=checks)
    scene.run(30.0)
    assert used(scene, "a") == ALL
    assert scene.spread("initialize") == {"a": 0, "b": 0}
    for status, expected in ((503, NONE), (204, ALL), (403, SERVES), (302, NONE), (200, ALL)):
        scene.servers["a"].health = status
        assert scene.run_until(lambda e=expected: used(scene, "a") == e, 30.0), status


def test_connection_is_checked_where_that_is_said() -> None:
    """FLT-N2: nobody answers, or nobody is there."""
    scene = EndpointScene("a", "b", checks=Checks(kind=CheckKind.TCP))
    scene.run(30.0)
    assert used(scene, "a") == ALL and scene.servers["a"].seen == []
    listener = scene.listeners.pop(("a.test", 80))
    assert scene.run_until(lambda: used(scene, "a") == NONE, 60.0)
    scene.listeners["a.test", 80] = listener
    assert scene.run_until(lambda: used(scene, "a") == ALL, 60.0)


def test_old_server_is_no_failure_where_it_may_be_one() -> None:
    scene = EndpointScene("a", "b", checks=PING)
    for server in scene.servers.values():
        server.openings = ["405"] * 100
    scene.run(60.0)
    assert used(scene, "a") == ALL


def test_ready_says_how_each_endpoint_is() -> None:
    scene = EndpointScene("a", "b", "c", checks=PING)
    scene.run(20.0)
    scene.set("b", OperatorState.DRAIN)
    scene.set("c", OperatorState.MAINT)
    assert ready(scene)["endpoints"] == {
        UPSTREAM: {"a": "ready", "b": "serving", "c": "not ready"}
    }
    scene.set("a", OperatorState.MAINT)
    scene.set("b", OperatorState.MAINT)
    assert ready(scene)["upstreams"] == {UPSTREAM: "not ready"}


def ready(scene: EndpointScene) -> Any:
    def client() -> Any:
        answer = VirtualConnection(scene).ask(request(None, "GET", path="/ready"), "GET")
        return json.loads(answer.body)

    return scene.do(client)


def test_answer_that_is_no_failure_begins_the_count_anew() -> None:
    """Envoy: whatever is below 500 is a success."""
    scene = EndpointScene("a", "b")
    session = sessions(scene)["a"]
    for _ in range(5):
        fail(scene, session, 4)
        assert scene.ask(call(0, "429"), session).status == 429
    assert used(scene, "a") == ALL


def test_no_panic_gives_sessions_to_what_the_operator_took_out() -> None:
    """Two of three: what is left is used, and nothing beside it."""
    scene = EndpointScene("a", "b", "c")
    for name in ("a", "b"):
        scene.set(name, OperatorState.DRAIN)
    for _ in range(4):
        scene.session()
    assert scene.spread("initialize") == {"a": 0, "b": 0, "c": 4}


def test_only_endpoint_may_be_drained_and_taken_out_too() -> None:
    scene = EndpointScene("a")
    session = scene.session()
    scene.set("a", OperatorState.DRAIN)
    assert scene.ask(initialize()).status == 503
    assert scene.ask(call(1), session).status == 200
    scene.set("a", OperatorState.MAINT)
    answer = scene.ask(call(2), session)
    assert (answer.status, answer.error["data"]["executed"]) == (503, "no")
    scene.set("a", OperatorState.READY)
    assert scene.ask(call(3), session).status == 200
    assert scene.spread() == {"a": 2}


def test_only_endpoint_that_is_down_is_not_waited_for() -> None:
    """FLT-U3, N2: refused at once."""
    scene = EndpointScene("a", checks=PING)
    session = scene.session()
    scene.run(20.0)
    scene.servers["a"].pinged = ["pause 1000"]
    assert scene.run_until(lambda: used(scene, "a") == NONE, 60.0)
    began_s = scene.now_s()
    assert scene.ask(call(1, "pause 1000"), session).status == 503
    assert scene.now_s() - began_s < 0.5
