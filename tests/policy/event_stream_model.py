"""The rules of an event stream, in books of their own, and everything that can happen to one."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator

from proxy_actors.errors import Executed, Reason
from proxy_actors.messages import stream as m
from proxy_actors.messages.stream import MessageKind, StreamEffect, StreamMessage
from proxy_actors.policy.event_stream import (
    CLIENT_ANSWER_S_MAX,
    UNCLAIMED_S_MAX,
    EventStreamPolicy,
)
from tests.policy.search import Subject, check

BEGIN_S = 100.0
CALL_S = 10.0
TICK_S = 4.0
WAITING_MAX = 2
FAILURE = b"failure"
NOTE = m.EventReceived(b"note", MessageKind.NOTIFICATION)
ANSWER = m.EventReceived(b"answer", MessageKind.RESPONSE, b"1", final=True)
ASKED = tuple(m.EventReceived(id, MessageKind.REQUEST, id) for id in (b"7", b"8"))
FAILED = m.SourceEnded(Reason.UPSTREAM_CLOSED, "gone", Executed.UNKNOWN)
PASSES = "time passes"

Move = StreamMessage | str


class EventStreamSubject(Subject):
    """One stream: of a call, or standalone; `watched` means that its deadline is its own."""

    def __init__(self, standalone: bool = False, watched: bool = True) -> None:
        self.now_s = BEGIN_S
        self.standalone = standalone
        self.subscriber: int | None = None
        self.next_subscriber = 1
        self.claimed = self.over = self.finished = self.cancelled = False
        self.waiting: list[bytes] = []
        self.open: set[bytes] = set()
        self.left_s = CALL_S if watched and not standalone else math.inf
        self.stands_since_s: float | None = None
        self.over_s = 0.0
        self.armed_s = math.inf
        self.generation = -1
        self.failed = self.answered = False
        self.policy = EventStreamPolicy(standalone, BEGIN_S + self.left_s)
        self._note_timer(self.policy.begin(BEGIN_S))
        self._check_clock()

    # What can happen.

    def moves(self) -> Iterator[Move]:
        if self.finished:
            return
        if self.subscriber is not None or self.claimed or len(self.waiting) < WAITING_MAX:
            yield NOTE
            yield from ASKED
        if not self.standalone:
            yield ANSWER
            yield m.CallCancelled()
        yield m.Subscribe(self.next_subscriber)
        if self.subscriber is not None:
            yield m.Unsubscribe(self.subscriber)
        yield m.Unsubscribe(self.next_subscriber)
        yield m.SourceEnded()
        yield FAILED
        yield m.CloseStream()
        yield from (m.RequestAnswered(event.data) for event in ASKED)
        yield m.StreamDeadlineDue(self.generation - 1)
        if self.now_s + TICK_S < self.armed_s and self.now_s < BEGIN_S + CALL_S:
            yield PASSES
        if self.armed_s < math.inf:
            yield m.StreamDeadlineDue(self.generation)

    def make(self, move: Move) -> None:
        if isinstance(move, str):
            self._pass_to(self.now_s + TICK_S)
            return
        due = move == m.StreamDeadlineDue(self.generation)
        if due:
            self._pass_to(max(self.now_s, self.armed_s))
            self.armed_s = math.inf
        if isinstance(move, m.Subscribe):
            self.next_subscriber += 1
        self._observe(move, due, self.policy.handle(move, self.now_s))
        self._check_clock()

    def settle(self) -> None:
        """Without another word from anyone, a stream comes to its end by its timers."""
        for _ in range(3):
            if not self.finished and self.armed_s < math.inf:
                self.make(m.StreamDeadlineDue(self.generation))
        outlives = self.subscriber is not None if self.standalone else self.left_s == math.inf
        check(self.finished or (outlives and not self.over), "a stream never ends")

    def key(self) -> Hashable:
        return (
            self.subscriber is not None, self.claimed, self.over, self.finished, self.cancelled,
            tuple(self.waiting), tuple(sorted(self.open)), self.answered, self.failed,
            self.left_s, self.armed_s - self.now_s, self.now_s < BEGIN_S + CALL_S,
            tuple(self.policy._pending), tuple(sorted(self.policy._open_requests)),
            self.policy._remaining_s is None,
        )  # fmt: skip

    # What must become of it.

    def _observe(self, move: StreamMessage, due: bool, effects: list[StreamEffect]) -> None:
        was_over, ended = self.over, False
        expected: list[bytes] = []
        dropped, refused, opened = False, False, None
        match move:
            case m.EventReceived(data, kind, id, final):
                if self.over or (self.claimed and self.subscriber is None):
                    dropped = True
                elif self.subscriber is None:
                    self.waiting.append(data)
                else:
                    expected.append(data)
                if kind is MessageKind.REQUEST and not dropped:
                    opened = id
                    if not self.cancelled:
                        assert id is not None
                        self.open.add(id)
                if final and not self.over:
                    self.answered = ended = True
            case m.Subscribe(subscriber_id):
                refused = self.subscriber is not None
                if not refused:
                    self.subscriber, self.claimed = subscriber_id, True
                    expected, self.waiting = self.waiting, []
                    ended = self.over
            case m.Unsubscribe(subscriber_id):
                if subscriber_id == self.subscriber:
                    self.subscriber = None
                    ended = self.standalone and not self.over
            case m.SourceEnded() | m.CloseStream():
                ended = not self.over
            case m.RequestAnswered(id):
                self.open.discard(id)
            case m.CallCancelled():
                self.cancelled = True
                self.open.clear()
            case m.StreamDeadlineDue():
                ended = due and (self.over or not (self.standalone and self.claimed))
        self._run_clock()
        self._check_delivery(effects, expected, dropped, refused, opened)
        if ended:
            self._check_end(move, was_over, effects)
        else:
            kinds = {type(effect) for effect in effects}
            check(not kinds & {m.EndSubscriber, m.Finish, m.CloseSource, m.PushFailure},
                  "a stream ended without a reason")
        self._note_timer(effects)

    def _check_delivery(
        self,
        effects: list[StreamEffect],
        expected: list[bytes],
        dropped: bool,
        refused: bool,
        opened: bytes | None,
    ) -> None:
        pushes = [effect.data for effect in effects if isinstance(effect, m.Push)]
        check(pushes == expected, "a message goes to its one subscriber, in order, or waits")
        check(effects.count(m.CountDropped()) == dropped, "what nobody can get is counted")
        check((m.RefuseSubscriber() in effects) == refused, "there is one subscriber at a time")
        check(not refused or len(effects) == 1, "a refusal changes nothing")
        announced = [effect.id for effect in effects if isinstance(effect, m.AnnounceRequest)]
        check(announced == ([] if opened is None else [opened]),
              "a request is announced when somebody may answer it")
        check(not self.finished, "nothing happens after the end")

    def _check_end(self, move: Move, was_over: bool, effects: list[StreamEffect]) -> None:
        failures = [effect for effect in effects if isinstance(effect, m.PushFailure)]
        reachable = self.subscriber is not None or not self.claimed
        fails = not (was_over or self.standalone or self.answered or self.cancelled)
        check(len(failures) == (fails and reachable), "a call is answered once, if need be by us")
        if failures:
            self.failed = True
            if self.subscriber is None:  # as the actor does
                self.policy.keep(FAILURE)
                self.waiting.append(FAILURE)
        timed_out = isinstance(move, m.StreamDeadlineDue) and not was_over
        nobody_reads = isinstance(move, m.Unsubscribe)
        closes = timed_out or nobody_reads or isinstance(move, m.CloseStream)
        cancels = timed_out and not self.standalone and not self.cancelled
        check(effects.count(m.CloseSource(cancels)) == closes
              and effects.count(m.CloseSource(not cancels)) == 0,
              "a source is closed by who ends early, and told only when the call is given up")
        given_up = timed_out and self.standalone
        if self.claimed or given_up or (was_over and isinstance(move, m.StreamDeadlineDue)):
            check(effects[-1] == m.Finish(), "an end that somebody has seen is the end")
            self.finished = True
            if self.subscriber is not None:
                check(effects[-2] == m.EndSubscriber(), "the subscriber hears of the end")
        else:
            check(m.Finish() not in effects, "an end that nobody has seen waits to be seen")
        if not was_over:
            self.over, self.over_s = True, self.now_s

    # The clock.

    def _pass_to(self, time_s: float) -> None:
        if self.stands_since_s is None and not self.over:
            self.left_s -= time_s - self.now_s
        self.now_s = time_s

    def _run_clock(self) -> None:
        if not self.open or self.left_s == math.inf:
            self.stands_since_s = None
        elif self.stands_since_s is None:
            self.stands_since_s = self.now_s

    def _note_timer(self, effects: list[StreamEffect]) -> None:
        for effect in effects:
            if isinstance(effect, m.WakeStream):
                self.armed_s = self.now_s + effect.after_s
                self.generation = effect.generation

    def _check_clock(self) -> None:
        if self.finished:
            return
        if self.over:
            due_s = self.over_s + UNCLAIMED_S_MAX
        elif self.standalone:
            due_s = math.inf if self.claimed else BEGIN_S + UNCLAIMED_S_MAX
        elif self.stands_since_s is not None:
            due_s = self.stands_since_s + CLIENT_ANSWER_S_MAX
        else:
            due_s = self.now_s + self.left_s
        if due_s < math.inf:
            check(self.armed_s == due_s, f"the clock is to ring at {due_s}, not {self.armed_s}")
            check(self.generation == self.policy._generation, "the armed timer is stale")
