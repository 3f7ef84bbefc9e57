"""A session that the HTTP server has lost: it ends, or it is opened anew where that is allowed.

MCP-S-5; RELIABILITY 1.3, fault N7. A call is never sent twice.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.gateway.scene import Scene
from tests.gateway.test_upstream_streams import LIMITS, came, reading, standing
from tests.scripted_streams import Resumption
from tests.sim.virtual import Answer, call, note, request

REPLAYED = ("ping", "tools/list", "prompts/list", "resources/read", "logging/setLevel")


@pytest.fixture
def scene() -> Scene:
    return Scene(renews=True)


def ask(scene: Scene, session: str, message: dict[str, Any]) -> Answer:
    return scene.ask(request(message, session=session))


def plain(method: str, id: int = 1, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": id, "method": method, "params": params}


def told(scene: Scene, method: str) -> list[Any]:
    """The params of what the server was sent under this name."""
    return [
        x.body.get("params") for x in scene.server.seen
        if isinstance(x.body, dict) and x.body.get("method") == method
    ]


def test_session_ends_unless_it_may_be_opened_anew() -> None:
    """The default: never a silent change of a server that kept something."""
    scene = Scene()
    session = scene.session()
    scene.server.lose_sessions()
    for _ in range(2):
        assert ask(scene, session, plain("tools/list")).status == 404
    assert len(told(scene, "initialize")) == 1
    scene.rest()


@pytest.mark.parametrize("method", REPLAYED)
def test_what_does_no_harm_is_sent_again_in_a_new_session(scene: Scene, method: str) -> None:
    session = scene.session()
    scene.server.lose_sessions()
    answer = ask(scene, session, plain(method, level="debug", uri="file:///a"))
    assert (answer.status, answer.message["id"]) == (200, 1)
    first, second = told(scene, "initialize")
    assert first == second
    assert len(told(scene, "notifications/initialized")) == 1
    assert ask(scene, session, call(2)).status == 200
    assert len(told(scene, "initialize")) == 2
    scene.rest()


def test_call_is_not_sent_again_and_its_client_is_told(scene: Scene) -> None:
    session = scene.session()
    scene.server.lose_sessions()
    answer = ask(scene, session, call(1))
    data = answer.error["data"]
    assert (answer.status, data["reason"]) == (502, "session-lost")
    assert (data["executed"], data["retryable"]) == ("no", True)
    assert scene.server.executions[1] == 0
    assert ask(scene, session, call(2)).status == 200
    scene.rest()


def test_level_and_subscriptions_are_said_again(scene: Scene) -> None:
    session = scene.session()
    ask(scene, session, plain("logging/setLevel", level="debug"))
    ask(scene, session, plain("resources/subscribe", uri="file:///a"))
    ask(scene, session, plain("resources/subscribe", uri="file:///b"))
    ask(scene, session, plain("resources/unsubscribe", uri="file:///a"))
    scene.server.lose_sessions()
    scene.server.seen.clear()
    assert ask(scene, session, plain("ping")).status == 200
    assert told(scene, "logging/setLevel") == [{"level": "debug"}]
    assert told(scene, "resources/subscribe") == [{"uri": "file:///b"}]
    scene.rest()


def test_client_hears_on_its_stream_that_all_may_be_different(scene: Scene) -> None:
    """Under the capabilities of the server, which has tools alone."""
    session = scene.session()
    answer, _ = reading(scene, session)
    old = standing(scene)
    scene.server.lose_sessions()
    assert old._ended
    assert ask(scene, session, plain("ping")).status == 200
    scene.run(10.0)
    assert came(answer) == ["notifications/tools/list_changed"]
    standing(scene).put(note("news"))
    scene.run(1.0)
    assert came(answer) == ["notifications/tools/list_changed", "news"]


def test_stream_that_finds_out_itself_goes_on_in_the_new_session() -> None:
    scene = Scene(renews=True, resumption=Resumption())
    session = scene.session()
    answer, _ = reading(scene, session)
    scene.server.lose_sessions()
    scene.run(20.0)
    standing(scene).put(note("news"))
    scene.run(1.0)
    assert came(answer)[-1] == "news"
    assert len(told(scene, "initialize")) == 2


def test_many_that_find_out_at_once_open_one_session(scene: Scene) -> None:
    session = scene.session()
    scene.server.lose_sessions()
    answers: list[Answer] = []

    def client() -> None:
        line = scene.connection()
        answers.append(line.ask(request(plain("tools/list"), session=session)))
        line.close()

    for _ in range(10):
        scene.spawn("client", client)
    assert scene.run_until(lambda: len(answers) == 10, 60.0)
    assert [x.status for x in answers] == [200] * 10
    assert len(told(scene, "initialize")) == 2
    scene.rest()


@pytest.mark.parametrize(("refused", "statuses"), [
    ("503", (503, 200)), ("reset", (502, 200)), ("404", (502, 200)),
    ("error 200 -32603", (404, 404)), ("error 400 -32602", (404, 404)),
])
def test_server_that_opens_no_new_session_is_told_of_truthfully(
    scene: Scene, refused: str, statuses: tuple[int, int]
) -> None:
    """One that cannot for now is asked again by the next request; one that will not, no more."""
    session = scene.session()
    scene.server.openings = [refused]
    scene.server.lose_sessions()
    first = ask(scene, session, plain("tools/list"))
    second = ask(scene, session, plain("tools/list"))
    assert (first.status, second.status) == statuses
    assert len(told(scene, "initialize")) == (3 if statuses[1] == 200 else 2)
    scene.rest()


@pytest.mark.parametrize("renews", [True, False])
def test_cut_call_of_a_lost_session_is_not_looked_for_elsewhere(renews: bool) -> None:
    scene = Scene(renews=renews, resumption=Resumption(), reconnect=LIMITS)
    session = scene.session()

    def lose() -> None:
        scene.pass_time(0.5)
        scene.server.lose_sessions()

    scene.spawn("loss", lose)
    steps = ("sse", "note", "pause 1", "leave reset", "pause 9", "answer")
    answer = ask(scene, session, call(1, *steps))
    assert answer.error["data"]["executed"] == "unknown"
    assert answer.error["data"]["reason"] == "session-lost"
    scene.rest()


def test_end_of_the_session_ends_the_new_one_at_the_server(scene: Scene) -> None:
    session = scene.session()
    scene.server.lose_sessions()
    assert ask(scene, session, plain("ping")).status == 200
    (new,) = scene.server.sessions
    assert scene.ask(request(None, "DELETE", session), method="DELETE").status == 200
    scene.run(1.0)
    assert scene.server.deleted == [new]
    scene.rest()


def test_level_set_after_the_stream_was_opened_is_said_again_when_that_finds_out() -> None:
    """What is said again is what the session has now."""
    scene = Scene(renews=True, resumption=Resumption(), reconnect=LIMITS)
    session = scene.session()
    answer, _ = reading(scene, session)
    ask(scene, session, plain("logging/setLevel", level="debug"))
    scene.server.lose_sessions()
    scene.server.seen.clear()
    scene.run(20.0)
    assert told(scene, "logging/setLevel") == [{"level": "debug"}]
    standing(scene).link.reset()
    scene.run(20.0)
    standing(scene).put(note("news"))
    scene.run(1.0)
    assert came(answer)[-1] == "news"
    asked = [x.field("last-event-id") for x in scene.server.seen if x.method == "GET"]
    assert asked[0] and not any(id == asked[0] for id in asked[1:])  # it was of the old session


def test_server_with_odd_capabilities_is_opened_anew_like_any_other(scene: Scene) -> None:
    session = scene.session()
    scene.server.capabilities = None
    for n in (1, 2):
        scene.server.lose_sessions()
        assert ask(scene, session, plain("tools/list", n)).status == 200
    scene.rest()


def test_client_that_has_no_stream_yet_hears_the_news_on_its_first(scene: Scene) -> None:
    session = scene.session()
    scene.server.lose_sessions()
    assert ask(scene, session, plain("ping")).status == 200
    answer, _ = reading(scene, session)
    scene.run(1.0)
    assert came(answer) == ["notifications/tools/list_changed"]


def test_renewal_that_takes_too_long_was_no_execution(scene: Scene) -> None:
    session = scene.session()
    scene.server.openings = ["pause 100"]
    scene.server.lose_sessions()
    answer = ask(scene, session, call(1))
    data = answer.error["data"]
    assert (data["executed"], data["retryable"]) == ("no", True), answer
    assert ask(scene, session, plain("ping")).status == 200


def test_subscription_answered_by_a_stream_is_said_again(scene: Scene) -> None:
    session = scene.session()
    message = plain("resources/subscribe", uri="file:///a")
    message["params"]["_meta"] = {"do": ["sse", "note", "answer", "end"]}
    ask(scene, session, message)
    ask(scene, session, plain("logging/setLevel"))  # without a level, and accepted
    scene.server.lose_sessions()
    scene.server.seen.clear()
    ask(scene, session, plain("ping"))
    assert told(scene, "resources/subscribe") == [{"uri": "file:///a"}]
    scene.rest()
