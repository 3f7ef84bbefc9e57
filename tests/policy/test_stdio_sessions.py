"""Who of those that share children hears of what, rule by rule."""

from __future__ import annotations

import json

import pytest

from proxy_actors.errors import INVALID_PARAMS, Executed, Reason
from proxy_actors.messages import stdio as m
from proxy_actors.messages import stdio_effects as e
from proxy_actors.messages.stdio_effects import SharedSessionsEffect
from proxy_actors.policy.stdio_sessions import (
    LIST_CHANGED,
    MISSED_BYTES_MAX,
    MISSED_MAX,
    SUBSCRIPTIONS_MAX,
    UPDATED,
    SharedSessionsMessage,
    SharedSessionsPolicy,
)
from proxy_actors.protocol.revisions import SET_LEVEL, SUBSCRIBE, UNSUBSCRIBE
from tests.policy.stdio_frames import (
    DESCRIBED,
    admitted,
    ended,
    member,
    notification,
    request,
    session,
)

URI = "test://a"
OK = b"{}"


class Bench:
    """A policy of one child that is ready, and of the sessions that are named."""

    def __init__(self, *keys: str, children: int = 1) -> None:
        self.policy = SharedSessionsPolicy(children)
        self.calls = 0
        for child in range(children):
            self.tell(m.ProcessReady(f"child {child}", DESCRIBED))
        for key in keys:
            self.tell(m.SessionSeen(session(key)))

    def tell(self, message: SharedSessionsMessage) -> list[SharedSessionsEffect]:
        return self.policy.handle(message)

    def notify(self, method: str, **params: object) -> list[SharedSessionsEffect]:
        return self.tell(m.NotificationReceived(notification(method, **params)))

    def submit(self, key: str, method: str, **params: object) -> list[SharedSessionsEffect]:
        """Submit the next call, all under the id 0."""
        self.calls += 1
        call = request(b"0", method, **params)
        return self.tell(m.SubmitCall(self.calls, key, call, 300.0))

    def ask(self, key: str, method: str, **params: object) -> e.AskChild:
        (asked,) = self.submit(key, method, **params)
        assert isinstance(asked, e.AskChild)
        return asked

    def set_level(self, key: str, level: str) -> e.AskChild:
        asked = self.ask(key, SET_LEVEL, level=level)
        self.answer(asked)
        return asked

    def subscribe(self, key: str, uri: str = URI) -> list[SharedSessionsEffect]:
        effects = self.submit(key, SUBSCRIBE, uri=uri)
        for effect in effects:
            if isinstance(effect, e.AskChild):
                self.answer(effect)
        return effects

    def answer(self, asked: e.AskChild, result: bytes | None = OK) -> list[SharedSessionsEffect]:
        return self.tell(m.OwnAnswered(asked.own_id, result))

    def open(self, *keys: str) -> None:
        for key in keys:
            self.tell(m.OpenStandalone(key))


def asked(effects: list[SharedSessionsEffect]) -> list[tuple[str, str, str]]:
    """Child, method and value of what the children are asked."""
    return [
        (effect.child, effect.method, next(iter(json.loads(effect.params).values())))
        for effect in effects
        if isinstance(effect, e.AskChild)
    ]


def heard(effects: list[SharedSessionsEffect]) -> list[str]:
    """Who is given something."""
    return [effect.session_key for effect in effects if isinstance(effect, e.EmitToSessionStream)]


# Notifications.


@pytest.mark.parametrize("method", LIST_CHANGED)
def test_every_session_hears_that_a_list_has_changed(method: str) -> None:
    bench = Bench("a", "b")
    bench.open("a", "b")
    assert heard(bench.notify(method)) == ["a", "b"]


def test_subscribers_hear_of_a_resource_and_nobody_else() -> None:
    """MCP-N-7."""
    bench = Bench("a", "b", "c")
    bench.open("a", "b", "c")
    bench.subscribe("a")
    bench.subscribe("c")
    assert heard(bench.notify(UPDATED, uri=URI)) == ["a", "c"]
    assert bench.notify(UPDATED, uri="test://other") == [
        e.DropFrame("notification that concerns nobody")
    ]


@pytest.mark.parametrize("subscribed", ["test://a", "test://a/", "test://a/b", "test://a/b/c"])
def test_subscriber_hears_of_what_is_within_its_resource(subscribed: str) -> None:
    """2025-11-25 server/resources: the URI may be of a part of what was subscribed to."""
    bench = Bench("a")
    bench.open("a")
    bench.subscribe("a", subscribed)
    assert heard(bench.notify(UPDATED, uri="test://a/b/c")) == ["a"]


def test_subscriber_of_many_parts_hears_once() -> None:
    """MCP-H-11."""
    bench = Bench("a")
    bench.open("a")
    for uri in ("test://a", "test://a/b"):
        bench.subscribe("a", uri)
    assert heard(bench.notify(UPDATED, uri="test://a/b")) == ["a"]


@pytest.mark.parametrize("uri", ["test://ab", "test://", "test://a?b", "Test://a/b"])
def test_resource_that_is_only_named_alike_is_another(uri: str) -> None:
    bench = Bench("a")
    bench.open("a")
    bench.subscribe("a")
    assert heard(bench.notify(UPDATED, uri=uri)) == []


def test_log_message_goes_to_the_only_session_there_is() -> None:
    bench = Bench("a")
    bench.open("a")
    assert heard(bench.notify("notifications/message", level="info", data="x")) == ["a"]


def test_log_message_that_could_be_anybodys_goes_to_nobody() -> None:
    """It may say what another client has asked for."""
    bench = Bench("a", "b")
    bench.open("a", "b")
    assert heard(bench.notify("notifications/message", level="emergency", data="x")) == []
    bench.tell(ended("b"))
    assert heard(bench.notify("notifications/message", level="info", data="x")) == ["a"]


def test_log_message_that_could_be_about_an_ended_sessions_call_goes_to_nobody() -> None:
    """THR-T4: the call of a session runs on when the session has ended."""
    bench = Bench("a", "b")
    bench.open("a")
    bench.tell(ended("b"))
    frame = notification("notifications/message", level="info", data="x")
    (dropped,) = bench.tell(m.NotificationReceived(frame, frozenset({"a", "b"})))
    assert isinstance(dropped, e.DropFrame)
    (told,) = bench.tell(m.NotificationReceived(frame, frozenset({"a"})))
    assert isinstance(told, e.EmitToSessionStream)


def test_session_is_shown_log_messages_from_its_level_on() -> None:
    bench = Bench("a")
    bench.open("a")
    bench.set_level("a", "warning")
    levels = ("debug", "notice", "warning", "alert", "unheard-of")
    shown = [x for x in levels if heard(bench.notify("notifications/message", level=x))]
    assert shown == ["warning", "alert", "unheard-of"]


@pytest.mark.parametrize("method", ["notifications/elicitation/complete", "notifications/else"])
def test_what_names_nobody_goes_to_the_only_session_there_is(method: str) -> None:
    """MCP-S-27: and never to another client than the one it is for."""
    bench = Bench("a")
    bench.open("a")
    assert heard(bench.notify(method)) == ["a"]
    bench.tell(m.SessionSeen(session("b")))
    assert heard(bench.notify(method)) == []


# Streams.


def test_what_a_session_has_missed_is_given_to_its_stream_once_a_kind() -> None:
    bench = Bench("a")
    bench.subscribe("a")
    tools, prompts, _ = LIST_CHANGED
    for method in (tools, prompts, tools):
        bench.notify(method)
    bench.notify(UPDATED, uri=URI)
    start, *given = bench.tell(m.OpenStandalone("a"))
    assert start == e.StartSessionStream("a")
    methods = [member(x.data, "method") for x in given if isinstance(x, e.EmitToSessionStream)]
    assert methods == [f'"{x}"'.encode() for x in (tools, prompts, UPDATED)]


def test_log_messages_are_not_kept() -> None:
    bench = Bench("a")
    effects = bench.notify("notifications/message", level="info", data="x")
    assert effects == [e.DropFrame("notification without a stream to its client")]


def test_what_is_missed_is_bounded_in_number_and_size_but_for_lists() -> None:
    bench = Bench("a")
    bench.subscribe("a")
    for number in range(MISSED_MAX):
        assert bench.notify(UPDATED, uri=f"{URI}/{number}") == []
    dropped = [e.DropFrame("notification without a stream to its client")]
    assert bench.notify(UPDATED, uri=f"{URI}/more") == dropped
    assert bench.notify(LIST_CHANGED[0]) == []
    assert bench.notify(LIST_CHANGED[1], _meta={"filler": "x" * MISSED_BYTES_MAX}) == dropped


def test_session_has_one_stream_however_often_it_asks() -> None:
    """MCP-S-28: it may be without a reader; where it is not, the stream itself refuses."""
    bench = Bench("a")
    bench.open("a")
    assert bench.tell(m.OpenStandalone("a")) == [e.JoinSessionStream("a")]
    bench.policy.stream_ended("a")
    assert bench.tell(m.OpenStandalone("a")) == [e.StartSessionStream("a")]


def test_stream_of_a_session_that_has_ended_is_refused() -> None:
    """MCP-S-4."""
    bench = Bench("a")
    bench.open("a")
    assert bench.tell(ended("a")) == [e.CloseSessionStream("a")]
    assert bench.tell(m.OpenStandalone("a")) == [e.RefuseSessionStream()]


def test_session_that_has_ended_is_not_known_again() -> None:
    """Its mail may have been on its way: one that is kept would be one session too many."""
    bench = Bench("a", "b")
    bench.open("a")
    bench.tell(ended("b"))
    assert bench.tell(m.SessionSeen(session("b", level="debug"))) == []
    assert bench.policy.sessions == 1
    (failed,) = bench.submit("b", SET_LEVEL, level="debug")
    assert failed == e.FailOwn(1, Reason.SESSION_LOST, "the session has ended", Executed.NO)


# The log level.


def test_children_get_the_most_verbose_level_that_anybody_wants() -> None:
    bench = Bench("a", "b")
    levels = [("a", "error"), ("b", "info"), ("a", "alert"), ("b", "emergency"), ("a", "debug")]
    told = [asked([bench.set_level(key, level)])[0][2] for key, level in levels]
    assert told == ["error", "info", "info", "alert", "debug"]


def test_level_that_is_asked_for_counts_before_it_is_answered() -> None:
    """Else the second to ask would undo the first."""
    bench = Bench("a", "b")
    first = bench.ask("a", SET_LEVEL, level="debug")
    second = bench.ask("b", SET_LEVEL, level="error")
    assert asked([first, second])[1][2] == "debug"


def test_level_is_less_verbose_again_when_who_wanted_it_has_gone() -> None:
    bench = Bench("a", "b")
    bench.set_level("a", "debug")
    bench.set_level("b", "error")
    assert asked(bench.tell(ended("a"))) == [("child 0", SET_LEVEL, "error")]


def test_level_that_the_server_refuses_is_not_the_sessions() -> None:
    bench = Bench("a")
    bench.open("a")
    ask = bench.ask("a", SET_LEVEL, level="emergency")
    fault = b'{"code":-32601,"message":"no"}'
    (answer,) = bench.tell(m.OwnAnswered(ask.own_id, None, fault))
    assert answer == e.AnswerOwn(1, b'{"jsonrpc":"2.0","id":0,"error":%b}' % fault)
    assert heard(bench.notify("notifications/message", level="info")) == ["a"]


@pytest.mark.parametrize("params", [{}, {"level": "loud"}, {"level": 3}, {"level": None}])
def test_level_that_is_none_is_refused(params: dict[str, object]) -> None:
    (answer,) = Bench("a").submit("a", SET_LEVEL, **params)
    assert isinstance(answer, e.AnswerOwn)
    assert member(answer.data, "error", "code") == str(INVALID_PARAMS).encode()
    assert member(answer.data, "id") == b"0"


# Subscriptions.


def test_children_are_asked_by_the_first_subscriber_alone() -> None:
    """MCP-N-7."""
    bench = Bench("a", "b")
    first = bench.ask("a", SUBSCRIBE, uri=URI)
    assert bench.answer(first) == [e.AnswerOwn(1, b'{"jsonrpc":"2.0","id":0,"result":{}}')]
    second = bench.submit("b", SUBSCRIBE, uri=URI)
    assert second == [e.AnswerOwn(2, b'{"jsonrpc":"2.0","id":0,"result":{}}')]


def test_children_are_asked_by_the_last_subscriber_to_leave() -> None:
    """MCP-N-7."""
    bench = Bench("a", "b")
    bench.subscribe("a")
    bench.subscribe("b")
    assert isinstance(bench.submit("a", UNSUBSCRIBE, uri=URI)[0], e.AnswerOwn)
    (last,) = bench.submit("b", UNSUBSCRIBE, uri=URI)
    assert asked([last]) == [("child 0", UNSUBSCRIBE, URI)]


def test_end_of_the_last_subscribers_session_unsubscribes() -> None:
    bench = Bench("a", "b")
    for uri in (URI, "test://b"):
        bench.subscribe("a", uri)
    bench.subscribe("b")
    assert asked(bench.tell(ended("a"))) == [("child 0", UNSUBSCRIBE, "test://b")]


def test_who_subscribes_while_the_last_one_leaves_is_subscribed() -> None:
    """The children hear of the two in that order."""
    bench = Bench("a", "b")
    bench.subscribe("a")
    bench.ask("a", UNSUBSCRIBE, uri=URI)
    assert asked(bench.submit("b", SUBSCRIBE, uri=URI)) == [("child 0", SUBSCRIBE, URI)]


def test_subscription_that_comes_after_the_end_of_its_session_is_undone() -> None:
    bench = Bench("a")
    ask = bench.ask("a", SUBSCRIBE, uri=URI)
    assert asked(bench.tell(ended("a"))) == [("child 0", UNSUBSCRIBE, URI)]
    assert asked(bench.answer(ask)) == []


def test_subscription_is_the_sessions_even_if_nobody_waits_for_its_answer() -> None:
    bench = Bench("a")
    ask = bench.ask("a", SUBSCRIBE, uri=URI)
    bench.tell(m.AbandonCall(1))
    assert bench.answer(ask) == []
    assert asked(bench.tell(ended("a"))) == [("child 0", UNSUBSCRIBE, URI)]


def test_number_of_subscriptions_is_bounded() -> None:
    bench = Bench("a")
    for number in range(SUBSCRIPTIONS_MAX):
        bench.subscribe("a", f"test://{number}")
    (refusal,) = bench.submit("a", SUBSCRIBE, uri=URI)
    assert isinstance(refusal, e.AnswerOwn)
    assert member(refusal.data, "error", "code") == str(INVALID_PARAMS).encode()


# Children.


def test_ask_is_answered_when_the_last_child_has_answered() -> None:
    bench = Bench("a", children=2)
    first, second = bench.submit("a", SUBSCRIBE, uri=URI)
    assert isinstance(first, e.AskChild) and isinstance(second, e.AskChild)
    assert bench.answer(first) == []
    assert isinstance(bench.answer(second)[0], e.AnswerOwn)


def test_ask_goes_well_if_a_child_ends_and_another_answers() -> None:
    """The one that replaces it is told anew."""
    bench = Bench("a", children=2)
    _, second = bench.submit("a", SUBSCRIBE, uri=URI)
    assert isinstance(second, e.AskChild)
    assert bench.tell(m.ProcessGone("child 0", "killed")) == []
    (answer,) = bench.answer(second)
    assert isinstance(answer, e.AnswerOwn)
    assert member(answer.data, "result") == b"{}"


@pytest.mark.parametrize("reason", [Reason.PROCESS_EXITED, Reason.UPSTREAM_TIMEOUT])
def test_ask_that_no_child_answers_fails(reason: Reason) -> None:
    bench = Bench("a")
    ask = bench.ask("a", SUBSCRIBE, uri=URI)
    failed, *_ = bench.tell(m.OwnAnswered(ask.own_id, reason=reason))
    assert isinstance(failed, e.FailOwn)
    assert (failed.call_id, failed.reason, failed.executed) == (1, reason, Executed.UNKNOWN)


def test_ask_while_no_child_is_ready_was_not_executed() -> None:
    bench = Bench("a")
    bench.tell(m.ProcessGone("child 0", "killed"))
    (failed,) = bench.submit("a", SET_LEVEL, level="info")
    assert isinstance(failed, e.FailOwn)
    assert failed.reason is Reason.UPSTREAM_UNAVAILABLE
    assert failed.executed is Executed.NO


def test_child_that_is_started_anew_is_told_level_and_subscriptions() -> None:
    """Those that are asked for and not answered yet, too; the other children know."""
    bench = Bench("a", "b", children=2)
    for effect in bench.submit("a", SET_LEVEL, level="info"):
        assert isinstance(effect, e.AskChild)
        bench.answer(effect)
    bench.submit("b", SUBSCRIBE, uri=URI)
    bench.tell(m.ProcessGone("child 0", "killed"))
    effects = bench.tell(m.ProcessReady("child 2", DESCRIBED))
    assert asked(effects) == [("child 2", SET_LEVEL, "info"), ("child 2", SUBSCRIBE, URI)]


def test_every_session_hears_of_new_lists_when_a_child_is_started_anew() -> None:
    """Open streams at once, the others when they open; not for the first start of each child."""
    bench = Bench("a", "b", children=2)
    bench.open("a")
    bench.tell(m.ProcessGone("child 0", "killed"))
    assert heard(bench.tell(m.ProcessReady("child 2", DESCRIBED))) == ["a"] * len(LIST_CHANGED)
    assert heard(bench.tell(m.OpenStandalone("b"))) == ["b"] * len(LIST_CHANGED)


def test_process_that_only_runs_is_asked_nothing() -> None:
    """Before the handshake nothing may be said (2025-11-25 basic/lifecycle)."""
    bench = Bench("a")
    bench.tell(m.ProcessReady("child 1"))
    assert len(bench.submit("a", SET_LEVEL, level="info")) == 1


def test_session_of_an_earlier_process_brings_its_level_and_subscriptions() -> None:
    """What the registry has stored, for sessions outlive the proxy."""
    bench = Bench("a")
    bench.subscribe("a")
    stored = session("b", level="error", subscriptions=(URI, "test://b"))
    assert asked(bench.tell(m.SessionSeen(stored))) == [
        ("child 0", SUBSCRIBE, "test://b"), ("child 0", SET_LEVEL, "error")
    ]
    bench.open("b")
    assert heard(bench.notify(UPDATED, uri="test://b")) == ["b"]
    assert bench.tell(m.SessionSeen(stored)) == []


def test_frames_pass_to_streams_as_they_came() -> None:
    """MCP-G-8."""
    bench = Bench("a")
    bench.open("a")
    raw = b'{"jsonrpc": "2.0",  "method": "notifications/tools/list_changed", "x": 1e400}'
    assert bench.tell(m.NotificationReceived(admitted(raw))) == [
        e.EmitToSessionStream("a", raw)
    ]
