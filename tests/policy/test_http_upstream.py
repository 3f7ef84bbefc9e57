"""The policy of an HTTP upstream: rule by rule, and through every order of what can happen.

MCP-S-6, S-9, S-28, X-3, X-7. The second half plants defects, each of which is to be found.
"""

from __future__ import annotations

from functools import partial

import pytest

from proxy_actors.errors import ConnectFault
from proxy_actors.messages import http_upstream as m
from proxy_actors.messages.http_upstream import HttpUpstreamEffect
from proxy_actors.messages.sessions import EndReason, SessionEnded
from proxy_actors.messages.stream import RequestOpened, StreamAbandoned, StreamOver
from proxy_actors.messages.upstream import DrainUpstream
from proxy_actors.policy.http_upstream import PROBE_INTERVAL_S, HttpUpstreamPolicy, _Session
from tests.defects import Defect, planted
from tests.policy.http_upstream_model import HttpUpstreamSubject, session
from tests.policy.search import search


def with_call(policy: HttpUpstreamPolicy, name: str = "s1", key: str = "a") -> HttpUpstreamPolicy:
    policy.enter_call(name, key, b"1")
    return policy


def with_standalone(policy: HttpUpstreamPolicy, key: str = "a") -> HttpUpstreamPolicy:
    assert policy.reserve_standalone(key, 5)
    policy.enter_standalone("get", key)
    return policy


def test_answer_reaches_the_stream_that_asked() -> None:
    """It comes on another connection of the client (MCP-X-7)."""
    policy = with_call(HttpUpstreamPolicy())
    policy.handle(RequestOpened("s1", b"7"))
    assert policy.handle(m.ClientAnswered("a", b"7")) == [m.TellAnswered("s1", b"7")]
    assert policy.handle(m.ClientAnswered("a", b"7")) == []


def test_answer_of_another_session_reaches_nobody() -> None:
    policy = with_call(HttpUpstreamPolicy())
    policy.handle(RequestOpened("s1", b"7"))
    assert policy.handle(m.ClientAnswered("b", b"7")) == []


def test_ids_differ_by_their_json_type() -> None:
    """MCP-G-1."""
    policy = with_call(HttpUpstreamPolicy())
    policy.handle(RequestOpened("s1", b"7"))
    assert policy.handle(m.ClientAnswered("a", b'"7"')) == []


def test_cancellation_reaches_the_stream_of_the_call() -> None:
    """MCP-X-3."""
    policy = with_call(HttpUpstreamPolicy())
    assert policy.handle(m.ClientCancelled("a", b"1")) == [m.TellCancelled("s1")]
    assert policy.handle(m.ClientCancelled("a", b"2")) == []


def test_second_standalone_stream_is_refused_while_one_is_being_opened_or_open() -> None:
    """MCP-S-28; the open one has a name, as it may be without a reader."""
    policy = HttpUpstreamPolicy()
    assert policy.reserve_standalone("a", 1)
    assert not policy.reserve_standalone("a", 2)
    assert policy.standing("a") is None
    policy.enter_standalone("get", "a")
    assert not policy.reserve_standalone("a", 3)
    assert policy.standing("a") == "get"
    policy.handle(m.StreamStopped("get"))
    assert policy.reserve_standalone("a", 4)


def test_release_frees_the_own_reservation_only() -> None:
    """Who was refused releases too, since its refusal may have been lost."""
    policy = HttpUpstreamPolicy()
    policy.reserve_standalone("a", 1)
    policy.handle(m.ReleaseStandalone("a", 2))
    assert not policy.reserve_standalone("a", 2)
    policy.handle(m.ReleaseStandalone("a", 1))
    assert policy.reserve_standalone("a", 2)


def test_late_release_leaves_the_open_stream_its_place() -> None:
    policy = with_standalone(HttpUpstreamPolicy())
    policy.handle(m.ReleaseStandalone("a", 5))
    assert not policy.reserve_standalone("a", 6)


def test_standalone_stream_that_is_over_makes_room_for_another() -> None:
    """What is left of it can be fetched meanwhile, until the session ends."""
    policy = with_standalone(HttpUpstreamPolicy())
    assert policy.handle(StreamOver("get")) == []
    assert policy.standing("a") is None
    assert policy.reserve_standalone("a", 6)
    told = policy.handle(SessionEnded(session("a", None), EndReason.DELETED))
    assert told == [m.TellClose("get")]


def test_session_that_ends_takes_its_streams_along_and_is_deleted_upstream() -> None:
    """MCP-S-6."""
    policy = with_standalone(with_call(HttpUpstreamPolicy()))
    with_call(policy, "other", "b")
    assert policy.handle(SessionEnded(session("a"), EndReason.EXPIRED)) == [
        m.TellClose("s1"), m.TellClose("get"), m.DeleteUpstreamSession("up", "2025-11-25")
    ]


def test_session_that_the_upstream_lost_is_not_deleted_there() -> None:
    policy = HttpUpstreamPolicy()
    assert policy.handle(SessionEnded(session("a"), EndReason.LOST)) == []


def test_session_without_an_id_is_not_deleted_upstream() -> None:
    """MCP-S-6: a server without sessions has none to end."""
    policy = HttpUpstreamPolicy()
    assert policy.handle(SessionEnded(session("a", None), EndReason.DELETED)) == []


def test_drain_closes_a_standalone_stream_once_no_call_can_need_it() -> None:
    policy = with_standalone(with_call(HttpUpstreamPolicy()))
    with_standalone_b = policy.reserve_standalone("b", 6)
    assert with_standalone_b
    policy.enter_standalone("get-b", "b")
    assert policy.handle(DrainUpstream()) == [m.TellClose("get-b")]
    assert policy.handle(m.StreamStopped("s1")) == [m.TellClose("get")]


def test_standalone_stream_opened_in_a_drain_is_closed() -> None:
    policy = HttpUpstreamPolicy()
    policy.reserve_standalone("a", 1)
    policy.handle(DrainUpstream())
    assert policy.enter_standalone("get", "a") == [m.TellClose("get")]


def test_failed_connects_are_followed_by_one_probe() -> None:
    """MCP-P-1: readiness comes back without an operator."""
    policy = HttpUpstreamPolicy()
    assert policy.begin() == [m.Probe()]
    _, first = policy.handle(m.UpstreamReached(False, "refused"))
    [second] = policy.handle(m.UpstreamReached(False, "refused"))
    assert first == m.WakeForProbe(PROBE_INTERVAL_S, 1)
    assert second == m.WakeForProbe(PROBE_INTERVAL_S, 2)
    assert policy.handle(m.ProbeDue(1)) == []
    assert policy.handle(m.ProbeDue(2)) == [m.Probe()]
    assert policy.reached is False
    policy.handle(m.UpstreamReached(True))
    assert policy.reached is True


def test_only_a_change_of_being_reachable_is_reported() -> None:
    """An upstream that was there from the start is no news, nor is the second failure in a row."""
    policy = HttpUpstreamPolicy()
    heard = [
        [effect for effect in policy.handle(message) if isinstance(effect, m.ReportReach)]
        for message in (
            m.UpstreamReached(True),
            m.UpstreamReached(False, "refused"),
            m.UpstreamReached(False, "no route"),
            m.UpstreamReached(True),
            m.UpstreamReached(True),
        )
    ]
    assert heard == [[], [m.ReportReach(False, "refused")], [], [m.ReportReach(True, "")], []]
    assert HttpUpstreamPolicy().handle(m.UpstreamReached(False, "refused"))[0] == m.ReportReach(
        False, "refused"
    )


def test_another_cause_of_not_being_reachable_is_reported_too() -> None:
    """N18: who mends the address learns that the certificate is wrong as well."""
    policy = HttpUpstreamPolicy()
    refused = m.UpstreamReached(False, "refused by 1", ConnectFault.REFUSED)
    expired = m.UpstreamReached(False, "expired", ConnectFault.CERTIFICATE_DATE)
    heard = [
        ([x.why for x in policy.handle(message) if isinstance(x, m.ReportReach)], policy.fault)
        for message in (
            refused,
            refused,
            m.UpstreamReached(False),  # a probe that got no connection does not know why
            expired,
            m.UpstreamReached(True),
        )
    ]
    assert heard == [
        (["refused by 1"], ConnectFault.REFUSED),
        ([], ConnectFault.REFUSED),
        ([], ConnectFault.REFUSED),
        (["expired"], ConnectFault.CERTIFICATE_DATE),
        ([""], None),
    ]


def test_streams_that_are_given_up_have_the_upstream_probed_once_at_a_time() -> None:
    """Whether it can be reached is for a connection to say; and many streams may break at once."""
    policy = HttpUpstreamPolicy()
    policy.begin()
    policy.handle(m.UpstreamReached(True))
    abandoned = StreamAbandoned("some stream", "it broke")
    assert [policy.handle(abandoned) for _ in range(3)] == [[m.Probe()], [], []]
    assert policy.reached is True
    policy.handle(m.UpstreamReached(True))
    assert policy.handle(abandoned) == [m.Probe()]


def test_news_of_a_session_opened_anew_wait_for_its_stream() -> None:
    policy = HttpUpstreamPolicy()
    news = (b"tools", b"prompts")
    outcome = m.RenewalEnded("a", session("a"), news)
    assert policy.handle(outcome) == []
    policy.reserve_standalone("a", 1)
    told: list[HttpUpstreamEffect] = [m.TellNews("one", data) for data in news]
    assert policy.enter_standalone("one", "a") == told
    assert policy.handle(outcome) == [*told, m.TellBreak("one")]


def test_news_of_a_session_that_has_ended_are_nobodys() -> None:
    policy = HttpUpstreamPolicy()
    policy.handle(m.RenewalEnded("a", session("a"), (b"tools",)))
    policy.handle(SessionEnded(session("a"), EndReason.DELETED))
    policy.reserve_standalone("a", 1)
    assert policy.enter_standalone("one", "a") == []


SUBJECTS = {
    "two sessions": HttpUpstreamSubject,
    "one session": partial(HttpUpstreamSubject, ("a",), ids=2),
    "a sloppy session": partial(HttpUpstreamSubject, ("a",), sloppy=True),
    "drain": partial(HttpUpstreamSubject, ("a",), drains=True),
    "streams that are over": partial(HttpUpstreamSubject, ("a",), drains=True, overs=1),
}


@pytest.mark.parametrize("name", SUBJECTS)
def test_index_keeps_its_rules_in_every_order(name: str) -> None:
    """Who is meant is told, nobody else; nothing is left behind; a drain ends everything."""
    findings = search(SUBJECTS[name])
    assert findings.violation is None, (findings.violation, findings.trace)
    assert findings.states >= 40


POLICY, SESSION = HttpUpstreamPolicy, _Session
DEFECTS = [
    Defect("an answer is told twice", POLICY, "_answered",
           "session.by_request.pop(request_id, None)", "session.by_request.get(request_id)"),
    Defect("requests outlive their stream", SESSION, "end",
           "del self.by_request[request_id]", "pass"),
    Defect("calls outlive their stream", SESSION, "end",
           "del self.by_call[call_id]", "pass"),
    Defect("of two calls with one id the first end forgets both", SESSION, "end",
           "and self.by_call.get(call_id) == stream:", "and True:"),
    Defect("a standalone stream outlives itself", SESSION, "end",
           "self.standalone = None", "pass"),
    Defect("any request of the session is forgotten", SESSION, "end",
           "if name == stream]", "]"),
    Defect("a stream that is over carries on", POLICY, "_over", "session.end(stream)", "pass"),
    Defect("a stream that is over is not known", POLICY, "_over",
           "session.over[stream] = None", "pass"),
    Defect("a stream that is over stays known", POLICY, "_stopped",
           "session.over.pop(stream, None)", "pass"),
    Defect("sessions with streams that are over are forgotten", POLICY, "_forget_if_empty",
           " and not session.over", ""),
    Defect("a session leaves what is over", POLICY, "_session_ended",
           "(*session.streams, *session.over)", "session.streams"),
    Defect("a drain waits for who may come back", POLICY, "_drain",
           "effects += self._close_over(session)", "pass"),
    Defect("what is over in a drain waits for who may come back", POLICY, "_over",
           "*self._close_over(session), ", ""),
    Defect("the end of the last call leaves the standalone stream", POLICY, "_over",
           ", *self._close_if_draining(key)", ""),
    Defect("anybody's stream can be joined", POLICY, "standing",
           "self._sessions.get(session_key)", "next(iter(self._sessions.values()), None)"),
    Defect("sessions are never forgotten", POLICY, "_forget_if_empty",
           "del self._sessions[session_key]", "pass"),
    Defect("sessions are forgotten early", POLICY, "_forget_if_empty",
           " and not session.streams", ""),
    Defect("anyone releases", POLICY, "_release",
           "session.standalone == exchange_id", "isinstance(session.standalone, int)"),
    Defect("a reservation is taken over", POLICY, "reserve_standalone",
           "return session.standalone == exchange_id", "return True"),
    Defect("a session leaves its calls", POLICY, "_session_ended",
           "(*session.streams, *session.over)", "session.over"),
    Defect("a session leaves its standalone stream", POLICY, "_session_ended",
           "effects.append(m.TellClose(session.standalone))", "pass"),
    Defect("a drain forgets what opens late", POLICY, "enter_standalone",
           "*self._close_if_draining(session_key)", ""),
    Defect("a drain forgets what waited for a call", POLICY, "_stopped",
           "*self._close_if_draining(key), ", ""),
    Defect("what is opened for who has left stays", POLICY, "enter_standalone",
           "if session.ended:", "if False:"),
    Defect("a drain ends while a call waits for its stream", POLICY, "_finish_drain",
           "any(session.streams for session in self._sessions.values())", "False"),
    Defect("a drain ends more than once", POLICY, "_finish_drain", "self._drained = True", "pass"),
    Defect("a drain does not end with a call that was away", POLICY, "_over",
           ", *self._finish_drain()", ""),
    Defect("a drain does not end with a call that crashed", POLICY, "_stopped",
           ", *self._finish_drain()", ""),
]


@pytest.mark.parametrize("defect", DEFECTS, ids=str)
def test_planted_defect_is_found(defect: Defect) -> None:
    """What the search would say if the index were wrong."""
    with planted(defect):
        assert any(search(subject).violation for subject in SUBJECTS.values())
