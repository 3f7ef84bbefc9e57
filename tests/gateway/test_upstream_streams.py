"""Event streams of an upstream that break are opened anew, and lose nothing that can be had.

MCP-S-17, S-18, S-21, X-3, X-5; faults N4 to N7.
"""

from __future__ import annotations

from typing import Any

import pytest

from proxy_actors.actors.event_stream import EventStream
from proxy_actors.gateway.http_source import HttpSource
from proxy_actors.messages.upstream import UpstreamDrained
from proxy_actors.policy.reconnect import ReconnectLimits
from tests.gateway.scene import Scene
from tests.scripted_streams import Resumption
from tests.sim.virtual import UPSTREAM, Answer, call, note, request

LIMITS = ReconnectLimits(base_s=1.0, cap_s=4.0, attempts_max=3, idle_s_max=30.0)
CUTS = ("reset", "close", "")


def resumable(**ways: Any) -> Scene:
    return Scene(resumption=Resumption(**ways), reconnect=LIMITS)


def came(answer: Answer) -> list[Any]:
    """What came, in short: the method of a message or the id of an answer."""
    return [x.get("method", x.get("id")) for x in answer.messages]


def resumptions(scene: Scene) -> list[str | None]:
    """What the server was asked to go on from."""
    return [x.field("last-event-id") for x in scene.server.seen if x.method == "GET"]


def standing(scene: Scene) -> Any:
    (session,) = scene.server.sessions.values()
    return session.standalone


def reading(scene: Scene, session: str) -> tuple[Answer, list[bool]]:
    """Read the standalone stream; the list is no longer empty when it has ended."""
    return sent(scene, request(None, "GET", session), "GET")


def sent(scene: Scene, data: bytes, method: str) -> tuple[Answer, list[bool]]:
    """Send a request, and read on; the list is no longer empty when the answer has ended."""
    answer = Answer()
    ended: list[bool] = []

    def client() -> None:
        line = scene.connection()
        line.send(data)
        line.receive(method, answer)
        ended.append(answer.complete)
        line.close()

    scene.spawn("reader", client)
    assert scene.run_until(lambda: bool(answer.status), 60.0)
    return answer, ended


PROGRESS = "notifications/progress"


@pytest.mark.parametrize("how", CUTS)
@pytest.mark.parametrize("retry_ms", [None, 2500])
def test_answer_goes_on_where_it_broke(how: str, retry_ms: int | None) -> None:
    """MCP-S-17: every event once, and the call executed once."""
    scene = resumable(retry_ms=retry_ms)
    cut = f"leave {how}"
    steps = ("sse", "note", cut, "note", "note", "pause 9", cut, "pause 9", "answer", "end")
    answer = scene.ask(request(call(7, *steps), session=scene.session()))
    assert came(answer) == [PROGRESS, PROGRESS, PROGRESS, 7]
    assert scene.server.executions[7] == 1
    assert len(resumptions(scene)) == 2
    scene.rest()


def test_server_that_polls_is_asked_again_when_it_said() -> None:
    """MCP-S-18, SEP-1699: not before, and no backoff on top."""
    assert 1.7 <= seconds_of_a_call("leave", retry_ms=1700) < 1.9


def test_server_that_fails_is_left_alone_for_longer_than_it_said() -> None:
    """The backoff comes on top for failures."""
    assert seconds_of_a_call("leave", retry_ms=0) < 0.2
    assert seconds_of_a_call("leave reset", retry_ms=0) > 0.2


def seconds_of_a_call(cut: str, retry_ms: int) -> float:
    """How long a call takes whose stream is cut once."""
    scene = resumable(retry_ms=retry_ms)
    session = scene.session()
    began_s = scene.now_s()
    answer = scene.ask(request(call(1, "sse", cut, "answer", "end"), session=session))
    assert came(answer) == [1]
    seconds = scene.now_s() - began_s
    scene.rest()
    return seconds


def test_half_an_event_is_nobodys() -> None:
    """FLT-N5: what a cut leaves of an event is dropped, and comes whole from the next one."""
    scene = resumable()
    steps = ("sse", "note", "half-event", "leave reset", "note", "answer", "end")
    answer = scene.ask(request(call(1, *steps), session=scene.session()))
    assert came(answer) == [PROGRESS, PROGRESS, 1]
    scene.rest()


def test_call_whose_server_names_no_place_is_not_sent_again() -> None:
    """FLT-N4: the client is told that it may have been executed, and it was, once."""
    scene = Scene(reconnect=LIMITS)
    answer = scene.ask(request(call(1, "sse", "note", "reset"), session=scene.session()))
    assert answer.error["data"]["executed"] == "unknown"
    assert answer.error["data"]["retryable"] is False
    assert scene.server.executions[1] == 1
    assert resumptions(scene) == []
    scene.rest()


def test_spent_budget_is_an_error_and_the_upstream_hears_of_it() -> None:
    scene = resumable(refusals=[503, 500, 503])
    session = scene.session()
    answer = scene.ask(request(call(1, "sse", "note", "leave reset"), session=session))
    assert came(answer) == [PROGRESS, 1]
    data = answer.error["data"]
    assert (data["executed"], data["retryable"]) == ("unknown", False)
    assert len(resumptions(scene)) == LIMITS.attempts_max
    assert scene.ask(request(call(2), session=session)).status == 200
    scene.rest()


def test_call_whose_stream_cannot_be_opened_anew_was_sent_all_the_same() -> None:
    """RELIABILITY 1.11: that no connection can be had then is no reason that says so."""
    scene = resumable()
    session = scene.session()
    answers: list[Answer] = []

    def client() -> None:
        message = call(1, "sse", "note", "pause 1", "leave reset", "pause 100")
        answers.append(scene.connection().ask(request(message, session=session)))

    scene.spawn("client", client)
    assert scene.run_until(lambda: scene.server.executions[1] == 1, 10.0)
    scene.listeners.pop(UPSTREAM)
    assert scene.run_until(lambda: bool(answers), 60.0)
    data = answers[0].error["data"]
    assert (data["reason"], data["executed"], data["retryable"]) == (
        "upstream-closed", "unknown", False
    )
    assert "could not be connected to" in answers[0].error["message"]
    scene.rest()


def test_attempts_count_until_an_event_comes() -> None:
    """A server that lets go of each connection before it says anything has not recovered."""
    scene = resumable(unknown=200)
    session = scene.session()

    def forget() -> None:
        scene.pass_time(0.5)
        (one,) = scene.server.sessions.values()
        one.streams.clear()

    steps = ("sse", "note", "pause 1", "leave reset", "pause 100")
    scene.spawn("forget", forget)
    answer = scene.ask(request(call(1, *steps), session=session))
    assert came(answer) == [PROGRESS, 1]
    assert answer.error["data"]["executed"] == "unknown"
    assert len(resumptions(scene)) == LIMITS.attempts_max
    scene.rest()


@pytest.mark.parametrize("primes_again", [True, False])
def test_an_event_without_data_is_one(primes_again: bool) -> None:
    """MCP-S-19: a server that says where the stream is has recovered, and may let go again."""
    scene = resumable(primes_again=primes_again)
    lets_go = ["leave", "pause 9"] * (LIMITS.attempts_max + 2)
    answer = scene.ask(
        request(call(1, "sse", "note", *lets_go, "answer", "end"), session=scene.session())
    )
    assert came(answer) == [PROGRESS, 1]
    assert ("result" in answer.message) is primes_again
    scene.rest()


def test_answer_that_is_no_message_is_not_fetched_again() -> None:
    """It would come again as it came."""
    scene = resumable()
    bad = 'event {"jsonrpc":"2.0","id":1}'
    answer = scene.ask(request(call(1, "sse", "note", bad, "end"), session=scene.session()))
    assert answer.error["data"]["reason"] == "upstream-protocol"
    assert resumptions(scene) == []
    scene.rest()


@pytest.mark.parametrize("status", [400, 405, 404])
def test_server_that_will_not_go_on_is_not_asked_again(status: int) -> None:
    scene = resumable(refusals=[status])
    session = scene.session()
    answer = scene.ask(request(call(1, "sse", "note", "leave reset"), session=session))
    assert answer.error["data"]["executed"] == "unknown"
    assert len(resumptions(scene)) == 1
    lost = scene.ask(request(call(2), session=session))
    assert lost.status == (404 if status == 404 else 200)
    scene.rest()


def test_server_that_believes_the_connection_open_is_asked_again() -> None:
    scene = resumable(refusals=[409, 409])
    steps = ("sse", "note", "leave reset", "answer", "end")
    answer = scene.ask(request(call(1, *steps), session=scene.session()))
    assert came(answer) == [PROGRESS, 1]
    assert len(resumptions(scene)) == 3
    scene.rest()


def test_answer_that_broke_before_its_first_message_goes_on() -> None:
    scene = resumable()
    answer = scene.ask(
        request(call(1, "sse", "leave reset", "note", "answer", "end"), session=scene.session())
    )
    assert came(answer) == [PROGRESS, 1]
    assert scene.server.executions[1] == 1
    scene.rest()


def test_deadline_of_a_call_runs_on_while_its_stream_is_away() -> None:
    """MCP-X-5: it is cancelled at the server as well."""
    scene = resumable(retry_ms=400_000)
    answer = scene.ask(
        request(call(1, "sse", "note", "leave", "pause 900"), session=scene.session())
    )
    assert answer.error["data"]["reason"] == "upstream-timeout"
    scene.run(1.0)
    told = [x.body for x in scene.server.seen if x.body and x.method == "POST"]
    assert told[-1]["method"] == "notifications/cancelled"
    scene.rest()


def test_stream_that_ends_while_it_is_opened_anew_is_not_read() -> None:
    """MCP-X-5: the call's time is up before the server answers; nothing stays open for it."""
    scene = resumable(after_s=10.0)
    spoken = ["note", "pause 27"] * 11
    steps = ["sse", *spoken, "leave", "pause 100", "answer", "end"]
    answer, ended = sent(scene, request(call(1, *steps), session=scene.session()), "POST")
    assert scene.run_until(lambda: bool(ended), 310.0)
    assert answer.error["data"]["reason"] == "upstream-timeout"
    assert len(resumptions(scene)) == 1
    scene.run(20.0)
    assert "leases" not in scene.plane.leftovers()
    scene.rest()


def test_cancelled_call_is_not_fetched() -> None:
    """MCP-X-3, X-4: the client does not want the rest."""
    scene = resumable(retry_ms=5000)
    session = scene.session()
    data = request(call(1, "sse", "note", "leave", "pause 20", "answer"), session=session)
    answer, ended = sent(scene, data, "POST")
    told = note("notifications/cancelled", requestId=1)
    assert scene.ask(request(told, session=session)).status == 202
    assert scene.run_until(lambda: ended == [True], 30.0)
    assert came(answer) == [PROGRESS]
    scene.rest()


@pytest.mark.parametrize("how", CUTS)
def test_standalone_stream_goes_on(how: str) -> None:
    """What the server says while it is cut comes as well, where it has ids."""
    scene = resumable()
    session = scene.session()
    answer, ended = reading(scene, session)
    for number in range(4):
        standing(scene).put(note("n", number=number))
        scene.run(0.5)
        link = standing(scene).link
        cut(standing(scene), how)
        standing(scene).put(note("n", number=number + 100))
        assert scene.run_until(lambda: standing(scene).link not in (None, link), 60.0)
    scene.run(1.0)
    found = [x["params"]["number"] for x in answer.messages]
    assert found == [0, 100, 1, 101, 2, 102, 3, 103]
    assert not ended
    assert scene.ask(request(None, "DELETE", session), method="DELETE").status == 200
    assert scene.run_until(lambda: ended == [True], 30.0)
    scene.rest()


def cut(stream: Any, how: str) -> None:
    link = stream.link
    if how == "reset":
        link.reset()
    elif how == "close":
        link.close()
    else:
        stream.let_go()


def test_standalone_stream_without_ids_is_opened_anew() -> None:
    scene = Scene(reconnect=LIMITS)
    answer, ended = reading(scene, scene.session())
    standing(scene).put(note("one"))
    scene.run(0.5)
    standing(scene).end()
    scene.run(5.0)
    standing(scene).put(note("two"))
    scene.run(1.0)
    assert came(answer) == ["one", "two"]
    assert resumptions(scene) == [None, None]
    assert not ended


def test_standalone_stream_that_is_given_up_is_visibly_cut() -> None:
    """The client sees that it was not to end, and finds the way to a new one when there is one."""
    scene = resumable(refusals=[503] * 3)
    session = scene.session()
    answer, ended = reading(scene, session)
    standing(scene).put(note("one"))
    scene.run(0.5)
    standing(scene).link.reset()
    assert scene.run_until(lambda: bool(ended), 60.0)
    assert (came(answer), ended) == (["one"], [False])
    reading(scene, session)


@pytest.mark.parametrize("scene", [resumable(), Scene(reconnect=LIMITS)], ids=["ids", "none"])
def test_silent_stream_is_opened_anew(scene: Scene) -> None:
    """FLT-N6."""
    session = scene.session()
    answer, _ = reading(scene, session)
    before = len(resumptions(scene))
    standing(scene).put(note("one"))
    scene.run(LIMITS.idle_s_max * 0.9)
    standing(scene).put(note("two"))
    scene.run(LIMITS.idle_s_max * 0.9)
    assert len(resumptions(scene)) == before
    scene.run(LIMITS.idle_s_max * 0.3)
    assert len(resumptions(scene)) == before + 1
    standing(scene).put(note("three"))
    scene.run(2.0)
    assert came(answer) == ["one", "two", "three"]


def test_idle_streams_hold_no_greenlet() -> None:
    """Neither towards the server nor towards the client; what comes goes past all the same."""
    scene = Scene(reconnect=LIMITS)
    answers = [reading(scene, scene.session())[0] for _ in range(5)]
    for session in scene.server.sessions.values():
        session.standalone.put(note("one"))
    scene.run(2.0)
    assert [came(answer) for answer in answers] == [["one"]] * 5
    tasks = scene.tasks()
    assert (tasks["reader"], tasks["connection"]) == (5, 5)  # the clients', and the server's
    assert not {"stream reader", "actor EventStream"} & tasks.keys()


def test_events_wait_where_they_are_for_room_in_a_full_box(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """PYK-P6: the loop reads no more meanwhile, and waits for nothing itself."""
    wait, waits = HttpSource._tell_when_room, []

    def noted(source: HttpSource, event: Any) -> None:
        waits.append(event)
        wait(source, event)

    monkeypatch.setattr(HttpSource, "_tell_when_room", noted)
    monkeypatch.setattr(EventStream, "mail_max", 1)
    scene = Scene(reconnect=LIMITS)
    steps = ("sse", *["note"] * 200, "answer", "end")
    answer = scene.ask(request(call(1, *steps), session=scene.session()))
    assert came(answer) == [PROGRESS] * 200 + [1]
    assert waits, "there was room all along: nothing is shown"
    scene.rest()


def test_end_of_the_session_ends_the_wait() -> None:
    scene = resumable(retry_ms=60_000)
    session = scene.session()
    _, ended = reading(scene, session)
    standing(scene).let_go()
    scene.run(1.0)
    assert scene.ask(request(None, "DELETE", session), method="DELETE").status == 200
    assert scene.run_until(lambda: ended == [True], 5.0)
    scene.rest()


def test_call_whose_stream_is_away_outlives_a_drain() -> None:
    """The upstream is drained when its last call is over, with a connection or without."""
    scene = resumable(retry_ms=3000)
    steps = ("sse", "note", "leave", "pause 1", "answer", "end")
    data = request(call(1, *steps), session=scene.session())
    answer, ended = sent(scene, data, "POST")
    scene.run(0.5)
    scene.plane.drain()
    scene.run(1.0)
    assert not any(isinstance(x, UpstreamDrained) for x in scene.plane.mail)
    assert scene.run_until(lambda: bool(ended), 30.0)
    assert came(answer) == [PROGRESS, 1]
    scene.run(1.0)
    assert any(isinstance(x, UpstreamDrained) for x in scene.plane.mail)
    assert scene.server.executions[1] == 1


def test_streams_that_are_cut_now_and_then_are_not_given_up() -> None:
    """A balancer that cuts what was silent for a minute, for hours."""
    scene = Scene(reconnect=LIMITS)
    answer, ended = reading(scene, scene.session())
    for _ in range(3 * LIMITS.attempts_max):
        scene.run(20.0)
        standing(scene).link.reset()
        scene.run(5.0)
    standing(scene).put(note("news"))
    scene.run(1.0)
    assert (came(answer), ended) == (["news"], [])


def test_readiness_is_for_connections_to_say() -> None:
    """A server that answers calls and has no stream for anybody can be reached."""
    scene = resumable(refusals=[403] * 9)
    answer, ended = reading(scene, scene.session())
    standing(scene).link.reset()
    ready = []
    while not ended:
        scene.run(0.5)
        ready.append(scene.ask(request(None, "GET", path="/ready"), method="GET").status)
    assert set(ready) == {200}


def test_a_wait_that_the_server_asked_for_once_is_over_with_it() -> None:
    """Retry-After is about one attempt; `retry` of the stream about all."""
    scene = resumable(refusals=["503 Retry-After: 50"])
    session = scene.session()
    steps = ("sse", "note", "leave reset", "note", "pause 60", "leave reset", "answer", "end")
    began_s = scene.now_s()
    answer = scene.ask(request(call(1, *steps), session=session))
    assert came(answer) == [PROGRESS, PROGRESS, 1]
    assert 60.0 < scene.now_s() - began_s < 75.0


def test_garbage_of_before_does_not_keep_a_call_from_going_on() -> None:
    scene = resumable(retry_ms=100)
    steps = ("sse", "event nonsense", "note", "leave", "answer", "end")
    answer = scene.ask(request(call(1, *steps), session=scene.session()))
    assert came(answer) == [PROGRESS, 1]


def test_person_may_think_for_longer_than_a_stream_may_be_silent() -> None:
    """MCP-X-7: the server that asks cannot say anything meanwhile."""
    scene = resumable()
    session = scene.session()
    scene.server.signal = patient(scene.server)
    answer, ended = sent(scene, request(call(1, "sse", "ask", "answer", "end"), session=session),
                         "POST")
    scene.run(5 * LIMITS.idle_s_max)
    assert resumptions(scene) == []
    reply = {"jsonrpc": "2.0", "id": "ask-1-0", "result": {"action": "accept"}}
    assert scene.ask(request(reply, session=session)).status == 202
    assert scene.run_until(lambda: bool(ended), 30.0)
    assert came(answer) == ["elicitation/create", 1]


def patient(server: Any) -> Any:
    """Signals of a server that waits for as long as it takes."""
    make = server.signal

    def signal() -> Any:
        made = make()
        wait = made.wait
        made.wait = lambda seconds: wait(10_000.0)
        return made

    return signal


def test_end_of_the_session_while_its_stream_is_being_opened_ends_it() -> None:
    scene = Scene(reconnect=LIMITS)
    session = scene.session()
    scene.server.slow_s = 2.0
    answer, ended = Answer(), []

    def client() -> None:
        line = scene.connection()
        line.send(request(None, "GET", session))
        line.receive("GET", answer)
        ended.append(answer.complete)
        line.close()

    scene.spawn("reader", client)
    scene.run(0.5)
    assert scene.ask(request(None, "DELETE", session), method="DELETE").status == 200
    assert scene.run_until(lambda: bool(ended), 10.0)
    scene.rest()


def test_no_stream_is_asked_of_a_server_that_says_204() -> None:
    """SSE-S10."""
    scene = resumable(refusals=[204])
    answer = scene.ask(
        request(call(1, "sse", "note", "leave reset"), session=scene.session())
    )
    assert answer.error["data"]["executed"] == "unknown"
    assert len(resumptions(scene)) == 1
