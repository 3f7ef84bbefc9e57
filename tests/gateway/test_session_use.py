"""A connection keeps the use of its session, and the registry takes it back.

What must hold is what held without keeping: MCP-S-4, S-7, Z-1; eviction takes the session that has
been unused for longest and is in no use.
"""

from __future__ import annotations

from typing import Any

import pytest

from proxy_actors.actors.base import Actor
from proxy_actors.actors.session_registry import SessionRegistry
from proxy_actors.messages.lifecycle import DescribeState
from proxy_actors.messages.sessions import BeginUse, EndUse, SetLogLevel
from proxy_actors.policy.sessions import SessionLimits
from tests.defects import Defect, planted
from tests.gateway.scene import Scene
from tests.sim.virtual import call, initialize, request


@pytest.fixture
def scene() -> Scene:
    return Scene()


@pytest.fixture
def uses_asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The uses that registries were told to begin and to end."""
    seen: list[Any] = []
    turn: Any = Actor._turn

    def noted(actor: Actor, mail: Any) -> None:
        if isinstance(actor, SessionRegistry) and isinstance(mail.message, (BeginUse, EndUse)):
            seen.append(mail.message)
        turn(actor, mail)

    monkeypatch.setattr(Actor, "_turn", noted)
    return seen


def open_uses(scene: Scene) -> Any:
    def ask() -> Any:
        return counted_uses(scene)

    return scene.do(ask)


def counted_uses(scene: Scene) -> Any:
    """What the registry counts as open, asked by a client's greenlet."""
    return scene.plane.registry.ask(DescribeState(), scene.now_s() + 1.0).detail["uses"]


def test_use_is_asked_for_once_and_ended_once(scene: Scene, uses_asked: list[Any]) -> None:
    session = scene.session()
    scene.ask(*(request(call(n), session=session) for n in range(1, 6)))
    scene.run(1.0)
    assert [type(message) for message in uses_asked] == [BeginUse, EndUse]
    assert sum(scene.server.executions[n] for n in range(1, 6)) == 5
    scene.rest()
    assert open_uses(scene) == 0


def test_deleted_session_is_404_on_a_connection_that_kept_it(scene: Scene) -> None:
    """MCP-S-7: at once, whoever ended it."""
    session = scene.session()

    def client() -> list[Any]:
        keeps, deletes = scene.connection(), scene.connection()
        before = keeps.ask(request(call(1), session=session)).status
        ended = deletes.ask(request(None, "DELETE", session), "DELETE").status
        after = keeps.ask(request(call(2), session=session)).status
        keeps.close()
        deletes.close()
        return [before, ended, after]

    assert scene.do(client) == [200, 200, 404]
    assert 2 not in calls_seen(scene), "the upstream was asked about an ended session"
    scene.rest()


def calls_seen(scene: Scene) -> list[Any]:
    """The ids of the requests that the upstream got."""
    return [seen.body["id"] for seen in scene.server.seen if seen.body and "id" in seen.body]


def test_session_deleted_during_a_call_is_404_for_the_next(scene: Scene) -> None:
    session = scene.session()

    def client() -> list[Any]:
        calls, deletes = scene.connection(), scene.connection()
        calls.send(request(call(1, "pause 10", "json"), session=session))
        scene.pass_time(5.0)
        deletes.ask(request(None, "DELETE", session), "DELETE")
        answers = [calls.receive().status, calls.ask(request(call(2), session=session)).status]
        calls.close()
        deletes.close()
        return answers

    assert scene.do(client)[1] == 404
    assert 2 not in calls_seen(scene)
    scene.rest()


def test_connection_may_change_its_session(scene: Scene, uses_asked: list[Any]) -> None:
    first, second = scene.session(), scene.session()

    def client() -> list[Any]:
        connection = scene.connection()
        answers = [
            connection.ask(request(call(n), session=session)).status
            for n, session in enumerate([first, second, "v1.0.unknown", first], 1)
        ]
        connection.close()
        return answers

    assert scene.do(client) == [200, 200, 404, 200]
    scene.run(1.0)
    begun = [x.exchange_id for x in uses_asked if isinstance(x, BeginUse)]
    ended = [x.exchange_id for x in uses_asked if isinstance(x, EndUse)]
    assert begun == ended and len(begun) == 4
    scene.rest()


def test_kept_session_makes_room_like_an_unused_one() -> None:
    """The connection that keeps it is idle: the session is in no use."""
    scene = Scene(session_limits=SessionLimits(sessions_max=2))
    kept = scene.session()

    def client() -> list[Any]:
        connection, other = scene.connection(), scene.connection()
        connection.ask(request(call(1), session=kept))
        opened = [other.ask(request(initialize())).status for _ in range(2)]
        after = connection.ask(request(call(2), session=kept)).status
        connection.close()
        other.close()
        return [*opened, after]

    assert scene.do(client) == [200, 200, 404]
    scene.rest()


def test_session_in_use_makes_no_room() -> None:
    scene = Scene(session_limits=SessionLimits(sessions_max=1))
    session = scene.session()

    def client() -> list[Any]:
        connection, other = scene.connection(), scene.connection()
        connection.ask(request(call(1), session=session))
        connection.send(request(call(2, "pause 10", "json"), session=session))
        scene.pass_time(5.0)
        refused = other.ask(request(initialize())).status
        answer = connection.receive().status
        connection.close()
        other.close()
        return [refused, answer]

    assert scene.do(client) == [503, 200]
    scene.rest()


def test_kept_session_expires_like_an_unused_one() -> None:
    limits = SessionLimits(idle_timeout_s=60.0, flush_interval_s=10.0)
    scene = Scene(session_limits=limits)
    session = scene.session()

    def client() -> list[Any]:
        connection = scene.connection()
        first = connection.ask(request(call(1), session=session)).status
        scene.pass_time(50.0)
        second = connection.ask(request(call(2), session=session)).status
        connection.close()
        held = scene.connection()
        third = held.ask(request(call(3), session=session)).status
        scene.pass_time(74.0)
        fourth = held.ask(request(call(4), session=session)).status
        held.close()
        return [first, second, third, fourth]

    assert scene.do(client) == [200, 200, 200, 404]
    scene.rest()


def test_what_changes_of_a_session_is_seen_by_the_next_request(
    scene: Scene, uses_asked: list[Any]
) -> None:
    session = scene.session()

    def client() -> None:
        connection = scene.connection()
        connection.ask(request(call(1), session=session))
        (row,) = scene.plane.uses._rows.values()
        scene.plane.registry.tell(SetLogLevel(row.session.key, "error"))
        scene.pass_time(1.0)
        connection.ask(request(call(2), session=session))
        (row,) = scene.plane.uses._rows.values()
        assert row.session.log_level == "error"
        connection.close()

    scene.do(client)
    assert len([x for x in uses_asked if isinstance(x, BeginUse)]) == 2
    scene.rest()


def test_crash_of_the_registry_takes_every_use_back(scene: Scene) -> None:
    """One that is open then, too: the new incarnation does not count it."""
    session = scene.session()

    def client() -> list[Any]:
        connection = scene.connection()
        connection.send(request(call(1, "pause 10", "json"), session=session))
        scene.pass_time(5.0)
        crash(scene)
        first = connection.receive().status
        second = connection.ask(request(call(2), session=session)).status
        assert counted_uses(scene) == 1, "a session is used that the registry believes unused"
        connection.close()
        return [first, second]

    assert scene.do(client) == [200, 200]
    scene.errors.clear()
    scene.rest()
    assert open_uses(scene) == 0


def crash(scene: Scene) -> None:
    ref = scene.plane.registry.ref
    assert ref is not None
    ref.tell(SetLogLevel([], "no key"))  # type: ignore[arg-type]  # which it cannot handle


DEFECTS = [
    Defect("kept through an end", SessionRegistry, "_submit",
           "self._uses.revoke(write.key)", "pass"),
    Defect("kept when room is wanted", SessionRegistry, "_take_back_uses",
           "case m.CreateSession(_, upstream) if self._policy.needs_room(message.owner, upstream):",
           "case m.Confirm():"),
    Defect("kept through a crash", SessionRegistry, "on_start", "self._uses.clear()", "pass"),
]


@pytest.mark.parametrize("defect", DEFECTS, ids=str)
def test_these_tests_find_what_is_planted(defect: Defect) -> None:
    tests = {
        "kept through an end": lambda: test_deleted_session_is_404_on_a_connection_that_kept_it(
            Scene()
        ),
        "kept when room is wanted": test_kept_session_makes_room_like_an_unused_one,
        "kept through a crash": lambda: test_crash_of_the_registry_takes_every_use_back(
            Scene()
        ),
    }
    with planted(defect), pytest.raises(AssertionError):
        tests[defect.name]()
