"""The policy of an event stream: rule by rule, and through every order of messages.

MCP-H-11, S-14, S-21, S-22, X-5, X-7. The second half plants defects, each of which is to be found.
"""

from __future__ import annotations

import math
from functools import partial

import pytest

from proxy_actors.errors import Executed, Reason
from proxy_actors.messages import stream as m
from proxy_actors.messages.stream import MessageKind, StreamEffect, StreamMessage
from proxy_actors.policy.event_stream import (
    CLIENT_ANSWER_S_MAX,
    PENDING_BYTES_MAX,
    UNCLAIMED_S_MAX,
    EventStreamPolicy,
)
from tests.defects import Defect, planted
from tests.policy.event_stream_model import ANSWER, ASKED, FAILED, NOTE, EventStreamSubject
from tests.policy.search import search


class Bench:
    """A policy and its clock."""

    def __init__(self, standalone: bool = False, call_s: float = 10.0) -> None:
        self.now_s = 100.0
        deadline_s = math.inf if standalone else self.now_s + call_s
        self.policy = EventStreamPolicy(standalone, deadline_s)
        self.armed = [x for x in self.policy.begin(self.now_s) if isinstance(x, m.WakeStream)]

    def tell(self, message: StreamMessage) -> list[StreamEffect]:
        effects = self.policy.handle(message, self.now_s)
        self.armed += [effect for effect in effects if isinstance(effect, m.WakeStream)]
        return effects

    def ring(self) -> list[StreamEffect]:
        """Let the latest timer ring."""
        self.now_s += self.armed[-1].after_s
        return self.tell(m.StreamDeadlineDue(self.armed[-1].generation))


def test_messages_before_the_subscriber_wait_for_it() -> None:
    """MCP-H-11: none is lost between the upstream's head and the client's."""
    bench = Bench()
    assert bench.tell(NOTE) == []
    assert bench.tell(m.Subscribe(1)) == [m.Push(NOTE.data)]


def test_answer_ends_the_stream() -> None:
    """MCP-S-22."""
    bench = Bench()
    bench.tell(m.Subscribe(1))
    assert bench.tell(ANSWER) == [m.Push(ANSWER.data), m.EndSubscriber(), m.Finish()]


def test_second_subscriber_is_refused() -> None:
    bench = Bench()
    bench.tell(m.Subscribe(1))
    assert bench.tell(m.Subscribe(2)) == [m.RefuseSubscriber()]
    assert bench.policy.subscriber_id == 1


def test_client_that_leaves_does_not_end_the_call() -> None:
    """MCP-S-21: it runs to its end, unheard."""
    bench = Bench()
    bench.tell(m.Subscribe(1))
    assert bench.tell(m.Unsubscribe(1)) == []
    assert bench.tell(NOTE) == [m.CountDropped()]
    assert bench.tell(ANSWER) == [m.CountDropped(), m.EndSubscriber(), m.Finish()]


def test_client_that_leaves_ends_its_standalone_stream() -> None:
    bench = Bench(standalone=True)
    bench.tell(m.Subscribe(1))
    assert bench.tell(m.Unsubscribe(1)) == [m.CloseSource(cancel=False), m.Finish()]


def test_standalone_stream_that_nobody_claims_is_given_up() -> None:
    """Else the session could never open another one."""
    bench = Bench(standalone=True)
    assert bench.armed[-1].after_s == UNCLAIMED_S_MAX
    assert bench.ring() == [m.CloseSource(cancel=False), m.Finish()]


def test_standalone_stream_that_was_claimed_stays() -> None:
    bench = Bench(standalone=True)
    bench.tell(m.Subscribe(1))
    assert bench.ring() == []


def test_source_that_ends_without_an_answer_is_a_failure() -> None:
    bench = Bench()
    bench.tell(m.Subscribe(1))
    failure, end, finish = bench.tell(m.SourceEnded())
    assert isinstance(failure, m.PushFailure)
    assert failure.reason is Reason.UPSTREAM_CLOSED
    assert failure.executed is Executed.UNKNOWN
    assert (end, finish) == (m.EndSubscriber(), m.Finish())


def test_failure_of_the_source_is_told_as_it_is() -> None:
    bench = Bench()
    bench.tell(m.Subscribe(1))
    assert bench.tell(FAILED)[0] == m.PushFailure(
        Reason.UPSTREAM_CLOSED, "gone", Executed.UNKNOWN
    )


def test_end_of_the_source_of_a_cancelled_call_is_no_failure() -> None:
    """Servers answer a cancelled call with nothing at all."""
    bench = Bench()
    bench.tell(m.Subscribe(1))
    bench.tell(m.CallCancelled())
    assert bench.tell(m.SourceEnded()) == [m.EndSubscriber(), m.Finish()]


def test_end_of_the_session_answers_the_call() -> None:
    bench = Bench()
    bench.tell(m.Subscribe(1))
    close, failure, *_ = bench.tell(m.CloseStream())
    assert close == m.CloseSource(cancel=False)
    assert isinstance(failure, m.PushFailure)
    assert failure.reason is Reason.SESSION_LOST


def test_call_that_takes_too_long_is_answered_and_cancelled() -> None:
    """MCP-X-5."""
    bench = Bench()
    bench.tell(m.Subscribe(1))
    close, failure, *_ = bench.ring()
    assert close == m.CloseSource(cancel=True)
    assert isinstance(failure, m.PushFailure)
    assert failure.reason is Reason.UPSTREAM_TIMEOUT


def test_clock_stands_still_while_the_client_is_asked() -> None:
    """MCP-X-7: 4 s have run before, so 6 s are left after, however long the answer took."""
    bench = Bench()
    bench.tell(m.Subscribe(1))
    bench.now_s += 4.0
    bench.tell(ASKED[0])
    stale = bench.armed[0]
    bench.now_s += 600.0
    assert bench.tell(m.StreamDeadlineDue(stale.generation)) == []
    assert bench.tell(m.RequestAnswered(b"7")) == [
        m.WakeStream(6.0, bench.armed[-1].generation)
    ]


def test_clock_stands_still_until_the_last_of_several_answers() -> None:
    bench = Bench()
    bench.tell(m.Subscribe(1))
    bench.tell(ASKED[0])
    bench.tell(ASKED[1])
    assert bench.tell(m.RequestAnswered(b"7")) == []
    assert isinstance(bench.tell(m.RequestAnswered(b"8"))[0], m.WakeStream)


def test_clock_does_not_stand_still_for_ever() -> None:
    """MCP-X-5: there is a hard maximum."""
    bench = Bench()
    bench.tell(m.Subscribe(1))
    bench.tell(ASKED[0])
    assert bench.armed[-1].after_s == CLIENT_ANSWER_S_MAX
    assert isinstance(bench.ring()[1], m.PushFailure)


def test_request_that_nobody_gets_does_not_stop_the_clock() -> None:
    """Its answer would never come."""
    bench = Bench()
    bench.tell(m.Subscribe(1))
    bench.tell(m.Unsubscribe(1))
    assert bench.tell(ASKED[0]) == [m.CountDropped()]


def test_cancelled_call_runs_out_of_time_in_silence() -> None:
    bench = Bench()
    bench.tell(m.Subscribe(1))
    bench.tell(m.CallCancelled())
    assert bench.ring() == [m.CloseSource(cancel=False), m.EndSubscriber(), m.Finish()]


def test_what_waits_is_bounded_but_the_answer_always_waits() -> None:
    bench = Bench()
    large = bytes(PENDING_BYTES_MAX)
    assert bench.tell(m.EventReceived(large, MessageKind.NOTIFICATION)) == []
    assert bench.tell(NOTE) == [m.CountDropped()]
    bench.tell(m.EventReceived(large, MessageKind.RESPONSE, b"1", final=True))
    assert bench.tell(m.Subscribe(1)) == [
        m.Push(large), m.Push(large), m.EndSubscriber(), m.Finish()
    ]


SUBJECTS = {
    "call": EventStreamSubject,
    "call watched by another": partial(EventStreamSubject, watched=False),
    "standalone": partial(EventStreamSubject, standalone=True),
}


@pytest.mark.parametrize("name", SUBJECTS)
def test_stream_keeps_its_rules_in_every_order_of_messages(name: str) -> None:
    """One subscriber or counted; one end; the clock; an end always comes."""
    findings = search(SUBJECTS[name])
    assert findings.violation is None, (findings.violation, findings.trace)
    assert findings.states > 15


POLICY = EventStreamPolicy
DEFECTS = [
    Defect("what waits is forgotten", POLICY, "_deliver", "self._pending.append(event.data)", "0"),
    Defect("what waits is pushed again", POLICY, "_subscribe", "self._pending.clear()", "pass"),
    Defect("what nobody gets is not counted", POLICY, "_received",
           "if not self._deliver(event, effects):\n        effects.append(m.CountDropped())",
           "if not self._deliver(event, effects):\n        pass"),
    Defect("messages follow the end", POLICY, "_received", "if self._over:", "if False:"),
    Defect("an answer does not end the stream", POLICY, "_received",
           "if event.final:", "if False:"),
    Defect("a second subscriber takes over", POLICY, "_subscribe",
           "if self._subscriber_id is not None:", "if False:"),
    Defect("anyone unsubscribes", POLICY, "_unsubscribe",
           "if subscriber_id != self._subscriber_id:", "if False:"),
    Defect("a client that leaves ends the call", POLICY, "_unsubscribe",
           "if self._standalone and", "if"),
    Defect("a standalone stream outlives its client", POLICY, "_unsubscribe",
           "self._give_up(effects)", "pass"),
    Defect("a source ends without a word", POLICY, "_source_ended",
           "self._fail(reason, text, executed, effects)", "pass"),
    Defect("a cancelled call fails", POLICY, "_source_ended",
           " and not self._cancelled", ""),
    Defect("a source ends twice", POLICY, "_source_ended", "if self._over:", "if False:"),
    Defect("an ended session leaves its call unanswered", POLICY, "_close",
           "self._fail(Reason.SESSION_LOST, text, Executed.UNKNOWN, effects)", "pass"),
    Defect("a stream is closed twice", POLICY, "_close", "if self._over:", "if False:"),
    Defect("the clock goes on while the client is asked", POLICY, "_request_opened",
           "self._wake(CLIENT_ANSWER_S_MAX, effects)", "pass"),
    Defect("the second request starts the standstill anew", POLICY, "_request_opened",
           "self._remaining_s is None and", ""),
    Defect("any answer starts the clock", POLICY, "_answered",
           "if not self._open_requests:", "if True:"),
    Defect("the clock starts with all of its time", POLICY, "_resume_clock",
           "self._wake(self._remaining_s, effects)", "self._wake(10.0, effects)"),
    Defect("an answer wakes what is over", POLICY, "_resume_clock",
           " and not self._over", ""),
    Defect("a stale timer counts", POLICY, "handle",
           "if generation == self._generation:", "if True:"),
    Defect("a cancelled call is cancelled again", POLICY, "_time_is_up",
           "cancel=not self._cancelled", "cancel=True"),
    Defect("a claimed standalone stream is given up", POLICY, "_time_is_up",
           "elif not self._claimed:", "else:"),
    Defect("a standalone stream waits for ever", POLICY, "begin",
           "UNCLAIMED_S_MAX if self._standalone else self._deadline_s - now_s",
           "self._deadline_s - now_s"),
    Defect("an end that nobody saw is not kept", POLICY, "_end", "if self._claimed:", "if True:"),
    Defect("an end that nobody sees is kept for ever", POLICY, "_end",
           "self._wake(UNCLAIMED_S_MAX, effects)", "pass"),
    Defect("a client that left is told", POLICY, "_fail",
           "self._subscriber_id is not None or not self._claimed", "True"),
]


@pytest.mark.parametrize("defect", DEFECTS, ids=str)
def test_planted_defect_is_found(defect: Defect) -> None:
    """What the search would say if the stream were wrong."""
    with planted(defect):
        found = next((x for x in map(search, SUBJECTS.values()) if x.violation), None)
    assert found is not None
    assert len(found.trace) <= 8
