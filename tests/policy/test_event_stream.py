"""The policy of an event stream: rule by rule, and through every order of messages.

MCP-H-11, S-14, S-16, S-21, S-22, X-5, X-7. The second half plants defects, each to be found.
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
    GONE,
    TAKEN,
    EventStreamPolicy,
)
from proxy_actors.policy.replay_ring import ReplayRing
from proxy_actors.policy.ring_budget import RingBudget
from proxy_actors.policy.stream_limits import StreamLimits
from tests.defects import Defect, planted
from tests.policy.event_stream_model import (
    ANSWER,
    ASKED,
    FAILED,
    KEY,
    NOTE,
    EventStreamSubject,
)
from tests.policy.search import search

LIMITS = StreamLimits()


def come(subscriber_id: int = 1, after: int | None = None) -> m.Subscribe:
    return m.Subscribe(subscriber_id, KEY, after)


class Bench:
    """A policy and its clock."""

    def __init__(self, standalone: bool = False, call_s: float = 10.0) -> None:
        self.now_s = 100.0
        deadline_s = math.inf if standalone else self.now_s + call_s
        self.policy = EventStreamPolicy(standalone, deadline_s, KEY)
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
    assert bench.tell(come()) == [m.AcceptSubscriber(0), m.Push((NOTE.data,))]


def test_answer_ends_the_stream() -> None:
    """MCP-S-22."""
    bench = Bench()
    bench.tell(come())
    push, end, over, wake = bench.tell(ANSWER)
    assert (push, end, over) == (m.Push((ANSWER.data,)), m.EndSubscriber(), m.AnnounceOver())
    assert isinstance(wake, m.WakeStream)
    assert bench.ring() == [m.Finish()]


@pytest.mark.parametrize("reads", [True, False], ids=["read", "unread"])
@pytest.mark.parametrize(
    "events", [(NOTE, NOTE), (NOTE, ASKED[0], NOTE), (ASKED[0], ASKED[1], ANSWER)]
)
def test_events_that_come_at_once_are_like_those_that_come_one_by_one(
    events: tuple[m.EventReceived, ...], reads: bool
) -> None:
    """But they are pushed at once too."""
    apart, at_once = Bench(), Bench()
    if reads:
        apart.tell(come())
        at_once.tell(come())
    several = [effect for event in events for effect in apart.tell(event)]
    effects = at_once.tell(m.EventsReceived(events))
    pushes = [effect for effect in several if isinstance(effect, m.Push)]
    assert [x for x in effects if not isinstance(x, m.Push)] == [
        x for x in several if not isinstance(x, m.Push)
    ]
    assert [x for x in effects if isinstance(x, m.Push)] == (
        [m.Push(tuple(data for push in pushes for data in push.messages))] if pushes else []
    )
    assert at_once.tell(come(2, after=0)) == apart.tell(come(2, after=0))
    assert at_once.ring() == apart.ring()


def test_second_subscriber_is_refused() -> None:
    bench = Bench()
    bench.tell(come())
    assert bench.tell(come(2)) == [m.RefuseSubscriber(TAKEN)]
    assert bench.policy.subscriber_id == 1


def test_answer_waits_for_a_client_that_has_left_and_comes_back() -> None:
    """MCP-S-16, S-21: the call runs to its end, and the client gets exactly what followed."""
    bench = Bench()
    bench.tell(come())
    bench.tell(NOTE)
    assert bench.tell(m.Unsubscribe(1)) == []
    assert bench.tell(NOTE) == []
    over, wake = bench.tell(ANSWER)
    assert over == m.AnnounceOver()
    assert isinstance(wake, m.WakeStream)
    assert wake.after_s == LIMITS.age_s_max
    assert bench.tell(come(2, after=1)) == [
        m.AcceptSubscriber(1), m.Push((NOTE.data, ANSWER.data)), m.EndSubscriber()
    ]


def test_client_may_come_back_more_than_once() -> None:
    """What it had got the first time may not have arrived."""
    bench = Bench()
    bench.tell(come())
    bench.tell(NOTE)
    bench.tell(ANSWER)
    for number in (2, 3):
        effects = bench.tell(come(number, after=1))
        assert effects[-2:] == [m.Push((ANSWER.data,)), m.EndSubscriber()]
        assert bench.tell(m.Unsubscribe(number)) == []


def test_client_that_comes_back_takes_the_place_of_its_old_self() -> None:
    """Its old connection may look alive for a long time."""
    bench = Bench()
    bench.tell(come())
    bench.tell(NOTE)
    assert bench.tell(come(2, after=0)) == [
        m.CutSubscriber(1), m.AcceptSubscriber(0), m.Push((NOTE.data,))
    ]
    assert bench.tell(m.Unsubscribe(1)) == []
    assert bench.policy.subscriber_id == 2


@pytest.mark.parametrize("after", [1, 3, 10**17])
def test_client_that_names_what_never_was_is_refused(after: int) -> None:
    bench = Bench()
    bench.tell(come())
    bench.tell(m.Unsubscribe(1))
    assert bench.tell(come(2, after)) == [m.RefuseSubscriber(GONE)]


def test_stream_of_another_session_is_as_good_as_none() -> None:
    """MCP-S-16: not even whether it has a reader is told."""
    bench = Bench()
    bench.tell(NOTE)
    assert bench.tell(m.Subscribe(1, "theirs", 0)) == [m.RefuseSubscriber(GONE)]
    assert bench.tell(m.Subscribe(1, "theirs")) == [m.RefuseSubscriber(GONE)]
    assert bench.policy.subscriber_id is None


def test_client_that_has_the_answer_gets_no_stream_to_poll() -> None:
    bench = Bench()
    bench.tell(come())
    bench.tell(ANSWER)
    assert bench.tell(come(2, after=1)) == [m.RefuseSubscriber(GONE)]


def test_standalone_stream_waits_for_its_client_and_then_ends() -> None:
    bench = Bench(standalone=True)
    bench.tell(come())
    bench.tell(NOTE)
    bench.tell(m.Unsubscribe(1))
    assert bench.tell(NOTE) == []
    assert bench.tell(come(2, after=1)) == [m.AcceptSubscriber(1), m.Push((NOTE.data,))]
    bench.tell(m.Unsubscribe(2))
    assert bench.ring() == [m.CloseSource(cancel=False), m.Finish()]


def test_client_that_does_not_say_where_it_was_gets_what_nobody_has_got() -> None:
    """It may not know of ids; it must not get a message twice."""
    bench = Bench(standalone=True)
    bench.tell(come())
    bench.tell(NOTE)
    bench.tell(m.Unsubscribe(1))
    bench.tell(ASKED[0])
    assert bench.tell(come(2)) == [m.AcceptSubscriber(1), m.Push((ASKED[0].data,))]


def test_standalone_stream_that_nobody_claims_is_given_up() -> None:
    """Else the session could never open another one."""
    bench = Bench(standalone=True)
    assert bench.armed[-1].after_s == LIMITS.age_s_max
    assert bench.ring() == [m.CloseSource(cancel=False), m.Finish()]


def test_standalone_stream_that_was_claimed_stays() -> None:
    bench = Bench(standalone=True)
    bench.tell(come())
    assert bench.ring() == []


def test_source_that_ends_without_an_answer_is_a_failure() -> None:
    bench = Bench()
    bench.tell(come())
    failure, *end, _ = bench.tell(m.SourceEnded())
    assert isinstance(failure, m.PushFailure)
    assert failure.reason is Reason.UPSTREAM_CLOSED
    assert failure.executed is Executed.UNKNOWN
    assert end == [m.EndSubscriber(), m.AnnounceOver()]


def test_failure_of_the_source_is_told_as_it_is() -> None:
    bench = Bench()
    bench.tell(come())
    assert bench.tell(FAILED)[0] == m.PushFailure(
        Reason.UPSTREAM_CLOSED, "gone", Executed.UNKNOWN
    )


def test_end_of_the_source_of_a_cancelled_call_is_no_failure() -> None:
    """Servers answer a cancelled call with nothing at all."""
    bench = Bench()
    bench.tell(come())
    bench.tell(m.CallCancelled())
    assert bench.tell(m.SourceEnded())[:-1] == [m.EndSubscriber(), m.AnnounceOver()]


def test_end_of_the_session_answers_the_call() -> None:
    bench = Bench()
    bench.tell(come())
    close, failure, *_, finish = bench.tell(m.CloseStream())
    assert finish == m.Finish()
    assert close == m.CloseSource(cancel=False)
    assert isinstance(failure, m.PushFailure)
    assert failure.reason is Reason.SESSION_LOST


def test_call_that_takes_too_long_is_answered_and_cancelled() -> None:
    """MCP-X-5."""
    bench = Bench()
    bench.tell(come())
    close, failure, *_ = bench.ring()
    assert close == m.CloseSource(cancel=True)
    assert isinstance(failure, m.PushFailure)
    assert failure.reason is Reason.UPSTREAM_TIMEOUT


def test_clock_stands_still_while_the_client_is_asked() -> None:
    """MCP-X-7: 4 s have run before, so 6 s are left after, however long the answer took."""
    bench = Bench()
    bench.tell(come())
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
    bench.tell(come())
    bench.tell(ASKED[0])
    bench.tell(ASKED[1])
    assert bench.tell(m.RequestAnswered(b"7")) == []
    assert isinstance(bench.tell(m.RequestAnswered(b"8"))[0], m.WakeStream)


def test_clock_does_not_stand_still_for_ever() -> None:
    """MCP-X-5: there is a hard maximum."""
    bench = Bench()
    bench.tell(come())
    bench.tell(ASKED[0])
    assert bench.armed[-1].after_s == CLIENT_ANSWER_S_MAX
    assert isinstance(bench.ring()[1], m.PushFailure)


def test_request_that_nobody_gets_does_not_stop_the_clock() -> None:
    """Its answer may never come; who comes back in time can answer it."""
    bench = Bench()
    bench.tell(come())
    bench.tell(m.Unsubscribe(1))
    assert bench.tell(ASKED[0]) == [m.AnnounceRequest(b"7")]
    bench.now_s += 4.0
    bench.tell(come(after=0))
    assert bench.armed[-1].after_s == CLIENT_ANSWER_S_MAX - 4.0
    assert bench.tell(m.RequestAnswered(b"7")) == [
        m.WakeStream(6.0, bench.armed[-1].generation)
    ]


def test_clock_goes_on_when_the_client_that_is_asked_leaves() -> None:
    """It may never come back; its call ends by its deadline, not an hour later."""
    bench = Bench()
    bench.tell(come())
    bench.tell(ASKED[0])
    bench.now_s += 600.0
    assert bench.tell(m.Unsubscribe(1)) == [m.WakeStream(10.0, bench.armed[-1].generation)]
    close, failure, *_ = bench.ring()
    assert close == m.CloseSource(cancel=True)
    assert isinstance(failure, m.PushFailure)
    assert failure.reason is Reason.UPSTREAM_TIMEOUT


def test_client_that_comes_and_goes_is_not_waited_for_longer() -> None:
    """MCP-X-5: the maximum counts from the question, however often it has left since."""
    bench = Bench()
    bench.tell(come())
    bench.tell(ASKED[0])
    bench.now_s += 600.0
    bench.tell(m.Unsubscribe(1))
    bench.now_s += 1.0
    bench.tell(come(2, after=1))
    assert bench.armed[-1].after_s == CLIENT_ANSWER_S_MAX - 601.0


def test_who_watches_the_clock_instead_hears_of_the_client() -> None:
    bench = Bench(call_s=math.inf)
    assert bench.tell(come()) == [m.AcceptSubscriber(0)], "its first coming is no news"
    assert bench.tell(m.Unsubscribe(1)) == [m.AnnounceClient(here=False)]
    assert bench.tell(come(2, after=0)) == [m.AcceptSubscriber(0), m.AnnounceClient(here=True)]
    bench.tell(ANSWER)
    assert bench.tell(m.Unsubscribe(2)) == [], "the call is over"


def test_cancelled_call_runs_out_of_time_in_silence() -> None:
    bench = Bench()
    bench.tell(come())
    bench.tell(m.CallCancelled())
    assert bench.ring()[:-1] == [
        m.CloseSource(cancel=False), m.EndSubscriber(), m.AnnounceOver()
    ]


def test_what_waits_is_bounded_but_the_newest_always_waits() -> None:
    """An event that is missing from the middle is never passed over in silence."""
    bench = Bench()
    large = bytes(LIMITS.bytes_max)
    bench.tell(come())
    bench.tell(m.Unsubscribe(1))
    assert bench.tell(NOTE) == []
    assert bench.tell(m.EventReceived(large, MessageKind.NOTIFICATION)) == [m.CountDropped(1)]
    bench.tell(m.EventReceived(large + large, MessageKind.RESPONSE, b"1", final=True))
    assert bench.tell(come(2, after=0)) == [m.RefuseSubscriber(GONE)]
    assert bench.tell(come(2, after=1)) == [m.RefuseSubscriber(GONE)]
    assert m.Push((large + large,)) in bench.tell(come(2, after=2))


def test_first_reader_gets_all_though_there_is_no_room() -> None:
    """MCP-S-16: it could not be told of a gap. Once it has come, only the newest is kept."""
    ring = ReplayRing(LIMITS, RingBudget(1))
    policy = EventStreamPolicy(False, 110.0, KEY, ring=ring)
    policy.handle(m.EventsReceived((ASKED[0], NOTE)), 100.0)
    effects = policy.handle(come(), 100.0)
    assert m.AcceptSubscriber(0) in effects
    assert m.Push((ASKED[0].data, NOTE.data)) in effects
    assert (ring.first, ring.last) == (2, 2)


def test_ring_is_not_there_before_the_first_event() -> None:
    ring = ReplayRing(LIMITS)
    assert ring._events is None
    assert (ring.first, ring.last) == (1, 0)
    assert ring.since(0) == []
    assert ring.since(1) is None


def test_old_events_are_not_sent_again() -> None:
    ring = ReplayRing(StreamLimits(age_s_max=10.0))
    for at_s in (0.0, 5.0, 12.0):
        ring.append(b"%d" % at_s, at_s)
    assert ring.since(0) is None
    assert ring.since(1) == [b"5", b"12"]
    ring.expire(1000.0)
    assert ring.since(1) is None
    assert ring.since(2) == [b"12"]


SUBJECTS = {
    "standalone": partial(EventStreamSubject, standalone=True),
    "call that asks twice": partial(EventStreamSubject, asks=2, ages=False),
    "call watched by another": partial(EventStreamSubject, watched=False),
    "call": EventStreamSubject,
}


@pytest.mark.parametrize("name", SUBJECTS)
def test_stream_keeps_its_rules_in_every_order_of_messages(name: str) -> None:
    """Exactly what followed, to one subscriber; one end; the clock; an end always comes."""
    findings = search(SUBJECTS[name])
    assert findings.violation is None, (findings.violation, findings.trace)
    assert findings.states > 15


POLICY, RING = EventStreamPolicy, ReplayRing
DEFECTS = [
    Defect("a message gets the number of the one before", RING, "append",
           "self.last += 1", "pass"),
    Defect("a replay begins one too early", RING, "since", "number + 1 -", "number -"),
    Defect("a replay begins one too late", RING, "since", "number + 1 -", "number + 2 -"),
    Defect("a gap is passed over", RING, "since",
           "if not self.first - 1 <= number", "if not 0 <= number"),
    Defect("the oldest message cannot be had", RING, "since",
           "self.first - 1 <= number", "self.first <= number"),
    Defect("what is to come is promised", RING, "since", "<= self.last:", "<= self.last + 1:"),
    Defect("the ring is one too large", RING, "expire",
           "len(events) > limits.events_max", "len(events) > limits.events_max + 1"),
    Defect("the newest message is dropped as well", RING, "expire",
           "len(events) > 1 and", "events and"),
    Defect("old messages are kept", RING, "expire",
           "or now_s - events[0][0] > limits.age_s_max", ""),
    Defect("messages are as old as the stream", RING, "append", "(now_s, data)", "(0.0, data)"),
    Defect("what is read is taken", POLICY, "_subscribe", "self._ring.is_read(now_s)", "pass"),
    Defect("what nobody reads is not taken", POLICY, "_unsubscribe",
           "self._ring.is_unread(self._over)", "pass"),
    Defect("what is over is not taken", POLICY, "_end",
           "self._ring.is_unread(over=True)", "pass"),
    Defect("what waits for its first reader is taken", POLICY, "_end",
           "if self._claimed:", "if True:"),
    Defect("what is pushed counts as not pushed", POLICY, "keep",
           "self._pushed = self._ring.last", "pass"),
    Defect("what is lost is not counted", POLICY, "_received",
           "elif lost := self._count_lost():", "elif False:"),
    Defect("what has aged away is not counted", POLICY, "_subscribe", "if lost:", "if False:"),
    Defect("what is lost is counted again", POLICY, "_count_lost", "self._pushed += lost", "0"),
    Defect("what waits has its age no more", POLICY, "_subscribe",
           "self._ring.expire(now_s)", "pass"),
    Defect("a message is not pushed", POLICY, "_received",
           "effects.append(m.Push(messages))", "pass"),
    Defect("messages follow the end", POLICY, "_received", "if self._over:", "if False:"),
    Defect("an answer does not end the stream", POLICY, "_received",
           "if event.final:", "if False:"),
    Defect("what is handed on counts as not pushed", POLICY, "_received",
           "self._pushed = self._ring.last", "pass"),
    Defect("any session may read", POLICY, "_subscribe",
           "if subscribe.session_key != self._session_key:", "if False:"),
    Defect("a second subscriber takes over", POLICY, "_subscribe",
           "if after is None and self.subscriber_id is not None:", "if False:"),
    Defect("who comes back is taken for a second one", POLICY, "_subscribe",
           "if after is None and self.subscriber_id", "if self.subscriber_id"),
    Defect("the old self is not cut", POLICY, "_subscribe",
           "effects.append(m.CutSubscriber(self.subscriber_id))", "pass"),
    Defect("who comes back gets all once more", POLICY, "_subscribe",
           "self._pushed if after is None else after", "self._pushed if after is None else 0"),
    Defect("who comes back misses what others got", POLICY, "_subscribe",
           "self._pushed if after is None else after", "self._pushed"),
    Defect("who says nothing gets all once more", POLICY, "_subscribe",
           "self._pushed if after is None else after", "after or 0"),
    Defect("what was replayed counts as not pushed", POLICY, "_subscribe",
           "self._pushed = self._ring.last", "pass"),
    Defect("a subscriber is told it begins elsewhere", POLICY, "_subscribe",
           "m.AcceptSubscriber(since)", "m.AcceptSubscriber(self._ring.last)"),
    Defect("a stream to poll for ever", POLICY, "_subscribe",
           "or (self._over and not events and after is not None)", ""),
    Defect("a replay has no end", POLICY, "_subscribe",
           "effects.append(m.EndSubscriber(self._broken))", "pass"),
    Defect("a client that is back is given up", POLICY, "_time_is_up",
           "elif self.subscriber_id is None:", "else:"),
    Defect("anyone unsubscribes", POLICY, "_unsubscribe",
           "if subscriber_id != self.subscriber_id:", "if False:"),
    Defect("a client that leaves wakes the call", POLICY, "_client_moved",
           "if not self._standalone:", "if False:"),
    Defect("a standalone stream outlives its client", POLICY, "_client_moved",
           "self._wake(self._wait_s_max, effects)", "pass"),
    Defect("who watches the clock does not hear of the client", POLICY, "_client_moved",
           "effects.append(m.AnnounceClient(not self._is_away()))", "pass"),
    Defect("who is told of the client watches no clock", POLICY, "_client_moved",
           "if self._deadline_s == math.inf:", "if True:"),
    Defect("a client that is back is not told of", POLICY, "_subscribe",
           "elif was_away:", "elif False:"),
    Defect("a client that comes first is told of", POLICY, "_subscribe",
           "elif was_away:", "else:"),
    Defect("a client that leaves what is over is told of", POLICY, "_unsubscribe",
           "if not self._over:", "if True:"),
    Defect("a source ends without a word", POLICY, "_source_ended",
           "effects.append(m.PushFailure(reason, text, executed))", "pass"),
    Defect("a cancelled call fails", POLICY, "_source_ended",
           " and not self._cancelled", ""),
    Defect("a source ends twice", POLICY, "_source_ended", "if self._over:", "if False:"),
    Defect("an ended session leaves its call unanswered", POLICY, "_close",
           "effects.append(m.PushFailure(Reason.SESSION_LOST, text, Executed.UNKNOWN))", "pass"),
    Defect("a stream is closed twice", POLICY, "_close", "if self._over:", "if False:"),
    Defect("an ended session leaves its streams", POLICY, "_close",
           "effects.append(m.Finish())  # nobody can come back to it", "pass"),
    Defect("a stream is closed before its first subscriber", POLICY, "_close",
           "if self._over:\n        if self._claimed:", "if self._over:\n        if True:"),
    Defect("the clock goes on while the client is asked", POLICY, "_request_opened",
           "self._mind_clock(now_s, effects)", "pass"),
    Defect("the clock stands still for a client that is away", POLICY, "_mind_clock",
           "and not self._is_away()", ""),
    Defect("the clock stands still for whom nobody asks", POLICY, "_mind_clock",
           "bool(self._open_requests) and", ""),
    Defect("a client is waited for anew when it is back", POLICY, "_mind_clock",
           "self._answer_by_s - now_s", "CLIENT_ANSWER_S_MAX"),
    Defect("a request is not announced", POLICY, "_request_opened",
           "effects.append(m.AnnounceRequest(id))", "pass"),
    Defect("the second request is waited for from its own beginning", POLICY, "_request_opened",
           "if not self._open_requests:", "if True:"),
    Defect("any answer starts the clock", POLICY, "_answered",
           "self._open_requests.discard(id)", "self._open_requests.clear()"),
    Defect("the clock starts with all of its time", POLICY, "_mind_clock",
           "self._wake(self._remaining_s, effects)", "self._wake(10.0, effects)"),
    Defect("an answer wakes what is over", POLICY, "_mind_clock",
           "self._over or ", ""),
    Defect("a stale timer counts", POLICY, "handle",
           "if generation == self._generation:", "if True:"),
    Defect("a cancelled call is cancelled again", POLICY, "_time_is_up",
           "cancel=not self._cancelled", "cancel=True"),
    Defect("a call that is over is never finished", POLICY, "_time_is_up",
           "effects.append(m.Finish())", "pass"),
    Defect("a standalone stream waits for ever", POLICY, "begin",
           "self._wait_s_max if self._standalone else self._deadline_s - now_s",
           "self._deadline_s - now_s"),
    Defect("an end is the end of the stream", POLICY, "_end",
           "self._wake(self._wait_s_max, effects)", "effects.append(m.Finish())"),
    Defect("an end is kept for ever", POLICY, "_end",
           "self._wake(self._wait_s_max, effects)", "pass"),
    Defect("the parent does not hear of the end", POLICY, "_end",
           "effects.append(m.AnnounceOver())", "pass"),
    Defect("the subscriber does not hear of the end", POLICY, "_end",
           "effects.append(m.EndSubscriber(self._broken))", "pass"),
    Defect("a broken end looks like any other", POLICY, "_end",
           "m.EndSubscriber(self._broken)", "m.EndSubscriber()"),
]


@pytest.mark.parametrize("defect", DEFECTS, ids=str)
def test_planted_defect_is_found(defect: Defect) -> None:
    """What the search would say if the stream were wrong."""
    with planted(defect):
        found = next((x for x in map(search, SUBJECTS.values()) if x.violation), None)
    assert found is not None
    assert len(found.trace) <= 8
