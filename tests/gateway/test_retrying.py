"""What is sent again in the whole proxy, and what its client is told where nothing is.

RELIABILITY 1.3, 1.7, 1.11; FLT-N1, N4, N8, N9. The rules alone are tried in tests/policy.
"""

from __future__ import annotations

from typing import Any

import pytest

from proxy_actors.actors.meters import UpstreamMeters
from proxy_actors.config.resilience import Retries, Timeouts
from tests.gateway.endpoint_scene import EndpointScene
from tests.plane import UPSTREAM
from tests.sim.virtual import Answer, VirtualConnection, call, initialize, note, request

FREELY = ("ping", "tools/list", "prompts/list", "resources/list", "resources/templates/list",
          "logging/setLevel", "resources/subscribe")  # fmt: skip
ONCE = ("resources/read", "prompts/get", "completion/complete")
# What leaves it open whether the request was executed.
PERHAPS = (["reset"], ["close"], ["head", "half", "reset"], ["500"], ["502"], ["503"], ["garbage"])
LOOK = {"name": "t", "annotations": {"readOnlyHint": True}}


def plain(method: str, id: Any = 1, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": id, "method": method, "params": params}


def meters(scene: EndpointScene) -> UpstreamMeters:
    return scene.app.wiring.routes.by_name[UPSTREAM].meters


def ids(scene: EndpointScene, method: str, name: str = "a") -> list[Any]:
    """The ids under which a server has seen a method."""
    return [
        x.body["id"] for x in scene.servers[name].seen
        if isinstance(x.body, dict) and x.body.get("method") == method
    ]


def opened(scene: EndpointScene) -> str:
    """Open a session, and let its connection be closed: none that is idle is used then.

    One that is found closed has a rule of its own (FLT-N12, tests/gateway/test_connections.py).
    """
    session = scene.session()
    scene.run(60.0)
    return session


def told(answer: Answer) -> tuple[int, str, str]:
    data = answer.error["data"]
    return answer.status, data["reason"], data["executed"]


@pytest.mark.parametrize("steps", PERHAPS, ids=" ".join)
@pytest.mark.parametrize("method", [*FREELY, *ONCE])
def test_what_does_no_harm_is_sent_again(method: str, steps: list[str]) -> None:
    """FLT-N4: under an id of its own, as the server may be busy with the first."""
    scene = EndpointScene("a")
    session = opened(scene)
    scene.servers["a"].firsts[method] = [steps]
    answer = scene.ask(plain(method, level="debug", uri="file:///a"), session)
    assert (answer.status, answer.message["id"]) == (200, 1)
    first, second = ids(scene, method)
    assert first == 1 and first != second
    assert meters(scene).retries == 1
    assert not scene.errors


@pytest.mark.parametrize("method, tries", [("tools/list", 3), ("resources/read", 2)])
def test_number_of_tries_is_bounded(method: str, tries: int) -> None:
    scene = EndpointScene("a")
    session = opened(scene)
    scene.servers["a"].firsts[method] = [["reset"]] * 9
    answer = scene.ask(plain(method, uri="file:///a"), session)
    assert told(answer) == (502, "upstream-closed", "unknown")
    assert len(ids(scene, method)) == len(set(ids(scene, method))) == tries


@pytest.mark.parametrize("steps", PERHAPS, ids=" ".join)
def test_call_that_may_have_been_executed_is_never_sent_again(steps: list[str]) -> None:
    scene = EndpointScene("a")
    session = opened(scene)
    scene.servers["a"].firsts["tools/call"] = [steps]
    answer = scene.ask(call(7), session)
    assert answer.status in (502, 503)
    assert answer.error["data"]["executed"] == "unknown"
    assert not answer.error["data"]["retryable"]
    scene.run(60.0)
    assert scene.servers["a"].executions[7] == 1
    assert scene.seen_by("a") == 1


@pytest.mark.parametrize("trusts, changed, status", [
    (False, False, 502), (True, False, 200), (True, True, 502),
])  # fmt: skip
def test_tool_is_called_again_where_it_is_believed_to_read(
    trusts: bool, changed: bool, status: int
) -> None:
    """What the server has said of its tools holds until it says that the list is another."""
    scene = EndpointScene("a", retries=Retries(trust_annotations=trusts))
    session = opened(scene)
    scene.servers["a"].tools = [LOOK]
    assert scene.ask(plain("tools/list"), session).message["result"]["tools"] == [LOOK]
    if changed:
        news = '{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}'
        scene.ask(call(1, "sse", f"event {news}", "answer", "end"), session)
    scene.servers["a"].firsts["tools/call"] = [["reset"]]
    assert scene.ask(call(7), session).status == status


@pytest.mark.parametrize("refusal", ["429 Retry-After: 1", "503 Retry-After: 1"])
def test_server_that_asks_to_wait_a_little_is_waited_for(refusal: str) -> None:
    """FLT-N8: calls too, as it has not taken them; from 1 to 1.5 times what it asks."""
    scene = EndpointScene("a")
    session = opened(scene)
    scene.servers["a"].firsts["tools/call"] = [[refusal]]
    began_s = scene.now_s()
    assert scene.ask(call(7), session).status == 200
    assert 1.0 <= scene.now_s() - began_s <= 1.6
    assert scene.servers["a"].executions[7] == 1
    assert ids(scene, "tools/call") == [7, 7], "nothing is busy with it: it needs no other id"


@pytest.mark.parametrize("refusal, status", [
    ("429 Retry-After: 10", 429), ("503 Retry-After: 10", 503), ("429 Retry-After: 100000", 429),
])  # fmt: skip
def test_client_is_told_of_a_server_that_asks_to_wait_for_long(refusal: str, status: int) -> None:
    scene = EndpointScene("a")
    session = opened(scene)
    scene.servers["a"].firsts["tools/call"] = [[refusal]]
    answer = scene.ask(call(7), session)
    assert answer.status == status
    after = answer.field(b"retry-after")
    assert after in (b"10", b"300"), "the bound of what is believed"
    assert answer.error["data"]["executed"] == "no"
    assert scene.seen_by("a") == 1


def test_session_is_opened_at_another_endpoint_when_one_is_gone() -> None:
    """FLT-N1: within the same request."""
    scene = EndpointScene("a", "b")
    scene.run(60.0)  # connections of the start are closed
    scene.listeners.pop(("a.test", 80))
    began_s = scene.now_s()
    for _ in range(4):
        assert scene.ask(initialize()).status == 200
    assert scene.spread("initialize") == {"a": 0, "b": 4}
    assert scene.now_s() - began_s < 0.5


def test_call_is_sent_again_when_it_never_left() -> None:
    """FLT-N1: and the server is back in between."""
    scene = EndpointScene("a", retries=Retries(base_ms=10_000, cap_ms=10_000))
    session = opened(scene)
    listener = scene.listeners.pop(("a.test", 80))
    answers: list[Answer] = []
    scene.spawn("client", lambda: answers.append(ask(scene, call(7), session)))
    assert scene.run_until(lambda: meters(scene).errors is not None and waits(scene), 10.0)
    scene.listeners[("a.test", 80)] = listener
    assert scene.run_until(lambda: bool(answers), 60.0)
    assert answers[0].status == 200
    assert scene.servers["a"].executions[7] == 1


def test_connection_that_is_not_opened_in_time_is_not_waited_for_twice() -> None:
    """FLT-N2: where there is no other endpoint."""
    scene = EndpointScene("a")
    session = opened(scene)
    connection = scene.do(lambda: VirtualConnection(scene))

    def hole(host: str, port: int, deadline_s: float, tls: Any = None) -> Any:
        scene.pass_time(100.0, deadline_s)

    scene.connect = hole  # type: ignore[method-assign]
    began_s = scene.now_s()
    answer = scene.do(lambda: connection.ask(request(call(7), session=session)))
    assert told(answer) == (502, "connect-failed", "no")
    assert scene.now_s() - began_s < 2.5


def waits(scene: EndpointScene) -> bool:
    forwarder: Any = scene.app.wiring.routes.by_name[UPSTREAM].forwarder
    return bool(forwarder._retrier._budget.active)


def ask(scene: EndpointScene, message: Any, session: str) -> Answer:
    connection = VirtualConnection(scene)
    answer = connection.ask(request(message, session=session))
    connection.close()
    return answer


GONE = "gone"
UNKNOWN = (502, "upstream-closed", "unknown")


@pytest.mark.parametrize("tries, expected", [
    ([GONE], (502, "connect-failed", "no")),
    (["429 Retry-After: 1", GONE], (502, "connect-failed", "no")),
    (["429 Retry-After: 1", "429 Retry-After: 9"], (429, "rate-limited", "no")),
    (["reset", GONE], UNKNOWN),
    (["500", GONE], (502, "upstream-protocol", "unknown")),
    (["reset", "429 Retry-After: 9"], UNKNOWN),
    (["reset", "503 Retry-After: 9"], UNKNOWN),
    (["reset", "500"], (502, "upstream-protocol", "unknown")),
    (["reset", "404"], (404, "session-lost", "unknown")),
    (["429 Retry-After: 1", "404"], (404, "session-lost", "no")),
], ids=str)  # fmt: skip
def test_client_is_told_of_the_try_that_may_have_been_executed(
    tries: list[str], expected: tuple[int, str, str]
) -> None:
    """RELIABILITY 1.11: of one try, so that the reason and what is known of it agree."""
    scene = EndpointScene("a")
    session = opened(scene)
    sent = [[step] for step in tries if step != GONE]
    scene.servers["a"].firsts["resources/read"] = [["pause 1", *steps] for steps in sent]
    answers: list[Answer] = []
    message = plain("resources/read", uri="file:///a")
    scene.spawn("client", lambda: answers.append(ask(scene, message, session)))
    if GONE in tries:
        assert scene.run_until(lambda: len(ids(scene, "resources/read")) == len(sent), 10.0)
        scene.listeners.pop(("a.test", 80))
    assert scene.run_until(lambda: bool(answers), 60.0)
    assert told(answers[0]) == expected
    assert answers[0].error["data"]["retryable"] is (expected[1:] in [
        ("connect-failed", "no"), ("rate-limited", "no"),
    ])  # fmt: skip
    assert len(ids(scene, "resources/read")) == len(sent)
    assert not scene.errors


def test_retries_are_bounded_by_what_is_in_flight() -> None:
    """Where everything fails, two in three are told at once, and the server has little more."""
    budget = Retries(budget_percent=0.0, budget_min=1, base_ms=1000, cap_ms=1000)
    scene = EndpointScene("a", retries=budget)
    session = opened(scene)
    scene.servers["a"].firsts["tools/list"] = [["500"]] * 100
    answers: list[Answer] = []
    for n in range(10):
        scene.spawn(
            "client", lambda n=n: answers.append(ask(scene, plain("tools/list", n), session))
        )
    assert scene.run_until(lambda: len(answers) == 10, 60.0)
    assert {x.status for x in answers} == {502}
    assert len(ids(scene, "tools/list")) <= 10 + 2
    assert meters(scene).retries_refused >= 9


def test_answer_that_has_begun_is_never_begun_again() -> None:
    scene = EndpointScene("a")
    session = opened(scene)
    scene.servers["a"].firsts["tools/list"] = [["sse", "note", "note", "reset"]]
    answer = scene.ask(plain("tools/list"), session)
    assert answer.status == 200
    assert len(ids(scene, "tools/list")) == 1


def test_try_that_is_late_is_cancelled_under_its_own_id_and_sent_again() -> None:
    """FLT-N9. The whole call's deadline holds over all tries."""
    scene = EndpointScene("a", retries=Retries(per_try_timeout_s=2.0), call_timeout_s=5.0)
    session = opened(scene)
    scene.servers["a"].firsts["tools/list"] = [["pause 100"]]
    began_s = scene.now_s()
    answer = scene.ask(plain("tools/list", id=1), session)
    assert (answer.status, answer.message["id"]) == (200, 1)
    assert 2.0 <= scene.now_s() - began_s < 2.5
    scene.run(1.0)
    assert cancelled(scene) == [1]
    scene.servers["a"].firsts["tools/list"] = [["pause 100"]] * 9
    began_s = scene.now_s()
    answer = scene.ask(plain("tools/list", id=2), session)
    assert told(answer) == (504, "upstream-timeout", "unknown")
    assert 4.9 <= scene.now_s() - began_s < 5.2
    scene.run(1.0)
    tried = ids(scene, "tools/list")[2:]
    assert len(tried) == 3 and sorted(map(str, cancelled(scene)[1:])) == sorted(map(str, tried))


def cancelled(scene: EndpointScene) -> list[Any]:
    return [
        x.body["params"]["requestId"] for x in scene.servers["a"].seen
        if isinstance(x.body, dict) and x.body.get("method") == "notifications/cancelled"
    ]


def test_stream_of_another_try_is_answered_under_the_clients_id() -> None:
    """The answer comes as a stream, breaks, and goes on; the client knows nothing of it."""
    scene = EndpointScene("a", resumes=True)
    session = scene.session()
    again = ["sse", "note", "leave close", "note", "answer"]
    scene.servers["a"].firsts["tools/list"] = [["reset"], again]
    answer = scene.ask(plain("tools/list", id="mine"), session)
    assert answer.status == 200
    assert [x.get("id") for x in answer.messages] == [None, None, "mine"]
    assert "result" in answer.messages[-1]


def begun(scene: EndpointScene, message: Any, session: str, tries: int) -> list[Answer]:
    """Send a request, and let as many tries of it be seen by a server; return what comes of it."""
    answers: list[Answer] = []
    scene.spawn("client", lambda: answers.append(ask(scene, message, session)))
    assert scene.run_until(lambda: len(ids(scene, message["method"])) == tries, 60.0)
    return answers


@pytest.mark.parametrize("steps", [["pause 5", "json"], ["sse", "note", "pause 5", "answer"]])
def test_cancellation_names_the_try_in_hand(steps: list[str]) -> None:
    """MCP-X-3: by the id that it has at the server, be it answered at once or on a stream."""
    scene = EndpointScene("a")
    session = opened(scene)
    scene.servers["a"].firsts["tools/list"] = [["reset"], steps]
    answers = begun(scene, plain("tools/list", id=1), session, tries=2)
    scene.run(1.0)
    note_ = note("notifications/cancelled", requestId=1, reason="why not")
    assert scene.ask(note_, session).status == 202
    assert cancelled(scene) == [ids(scene, "tools/list")[-1]] != [1]
    assert scene.servers["a"].seen[-1].body["params"]["reason"] == "why not"
    assert scene.run_until(lambda: bool(answers), 60.0)
    assert not scene.errors


def test_cancellation_of_a_first_try_names_what_the_client_has_named() -> None:
    """Also where an id is used again whose call of before had another at the server."""
    scene = EndpointScene("a")
    session = opened(scene)
    stream = ["sse", "note", "answer", "end"]
    scene.servers["a"].firsts["tools/list"] = [["reset"], stream, ["pause 5", "json"]]
    assert scene.ask(plain("tools/list", id=1), session).status == 200
    begun(scene, plain("tools/list", id=1), session, tries=3)
    scene.ask(note("notifications/cancelled", requestId=1), session)
    assert cancelled(scene) == [1]


@pytest.mark.parametrize("again", [
    Retries(base_ms=10_000, cap_ms=10_000), Retries(per_try_timeout_s=2.0),
], ids=["in a wait", "in a try"])  # fmt: skip
def test_what_its_client_has_cancelled_is_not_sent_again(again: Retries) -> None:
    scene = EndpointScene("a", retries=again)
    session = opened(scene)
    first = ["pause 9", "json"] if again.per_try_timeout_s else ["reset"]
    scene.servers["a"].firsts["tools/list"] = [first]
    answers = begun(scene, plain("tools/list", id=1), session, tries=1)
    scene.ask(note("notifications/cancelled", requestId=1), session)
    assert scene.run_until(lambda: bool(answers), 60.0)
    assert ids(scene, "tools/list") == [1]
    assert told(answers[0])[2] == "unknown"
    assert not waits(scene), "its place among the retries is free"
    assert scene.ask(plain("tools/list", id=2), session).status == 200


def test_first_byte_has_a_timeout_of_its_own() -> None:
    scene = EndpointScene("a", timeouts=Timeouts(first_byte_s=3.0))
    session = scene.session()
    began_s = scene.now_s()
    answer = scene.ask(call(7, "pause 100", "json"), session)
    assert told(answer) == (504, "upstream-timeout", "unknown")
    assert 3.0 <= scene.now_s() - began_s < 3.2
    assert scene.ask(call(8, "sse", "pause 9", "answer", "end"), session).status == 200


def test_session_has_to_be_opened_in_time_whatever_is_tried() -> None:
    scene = EndpointScene("a", timeouts=Timeouts(initialize_s=4.0))
    scene.servers["a"].openings += ["pause 100"] * 9
    began_s = scene.now_s()
    answer = scene.ask(initialize())
    assert told(answer) == (504, "upstream-timeout", "unknown")
    assert 4.0 <= scene.now_s() - began_s < 4.2


def test_nothing_is_sent_again_where_that_is_off() -> None:
    scene = EndpointScene("a", retries=Retries(attempts_max=0))
    session = opened(scene)
    scene.servers["a"].firsts["tools/list"] = [["reset"]]
    assert scene.ask(plain("tools/list"), session).status == 502
    assert len(ids(scene, "tools/list")) == 1


def test_notifications_are_sent_once() -> None:
    scene = EndpointScene("a")
    session = opened(scene)
    scene.servers["a"].firsts["notifications/x"] = [["reset"]]
    assert scene.ask(note("notifications/x"), session).status == 502
    assert scene.seen_by("a", "notifications/x") == 1
