"""The rules of an event stream, in books of their own, and everything that can happen to one."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator

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
from tests.policy.search import Subject, check

BEGIN_S = 100.0
CALL_S = 10.0
TICK_S = 4.0
KEPT_MAX = 2
WAIT_S = 3.0
LIMITS = StreamLimits(events_max=KEPT_MAX, age_s_max=WAIT_S)
KEY = "ours"
FAILURE = b"failure"
NOTE = m.EventReceived(b"note", MessageKind.NOTIFICATION)
ANSWER = m.EventReceived(b"answer", MessageKind.RESPONSE, b"1", final=True)
ASKED = tuple(m.EventReceived(id, MessageKind.REQUEST, id) for id in (b"7", b"8"))
FAILED = m.SourceEnded(Reason.UPSTREAM_CLOSED, "gone", Executed.UNKNOWN)
OTHER = ReplayRing(LIMITS)
PASSES = "time passes"
ROOM = "others need the room"

Move = StreamMessage | str


class Log:
    """What has been said on a stream: (number, data, when) of what is kept."""

    def __init__(self) -> None:
        self.last = self.pushed = 0
        self.kept: list[tuple[int, bytes, float]] = []
        self.taken: list[int] = []

    def add(self, data: bytes, now_s: float, pushed: bool) -> int:
        """Keep a message; return how many are lost thereby."""
        self.last += 1
        self.kept.append((self.last, data, now_s))
        if pushed:
            self.pushed = self.last
        return self.expire(now_s)

    def expire(self, now_s: float) -> int:
        """Drop what nobody can come back for; return how much of it nobody has got."""
        newest = self.kept[-KEPT_MAX:]
        kept = [x for x in newest if x[0] == self.last or now_s - x[2] <= WAIT_S]
        gone = [number for number, *_ in self.kept if number not in {x[0] for x in kept}]
        gone += self.taken
        self.kept, self.taken = kept, []
        lost = sum(number > self.pushed for number in gone)
        self.pushed = max([self.pushed, *gone])
        return lost

    def drop(self) -> None:
        """Lose everything; it is counted when next somebody looks."""
        self.taken += [number for number, *_ in self.kept]
        self.kept = []

    def since(self, number: int) -> list[bytes] | None:
        """Return all that followed; None when it is not all there."""
        following = [data for at, data, _ in self.kept if at > number]
        return following if 0 <= number == self.last - len(following) else None


class EventStreamSubject(Subject):
    """One stream: of a call, or standalone; `watched` means that its deadline is its own."""

    def __init__(
        self, standalone: bool = False, watched: bool = True, asks: int = 1, ages: bool = True
    ) -> None:
        self.now_s = BEGIN_S
        self.standalone = standalone
        self.asked = ASKED[:asks]
        self.ages = ages
        self.subscriber: int | None = None
        self.next_subscriber = 1
        self.claimed = self.over = self.finished = self.cancelled = False
        self.broken = False
        self.log = Log()
        self.open: set[bytes] = set()
        self.left_s = CALL_S if watched and not standalone else math.inf
        self.stands = False
        self.asked_since_s = 0.0
        self.alone_since_s = BEGIN_S
        self.over_s = 0.0
        self.armed_s = math.inf
        self.generation = -1
        self.answered = False
        ring = ReplayRing(LIMITS, RingBudget(1 << 30))
        self.policy = EventStreamPolicy(standalone, BEGIN_S + self.left_s, KEY, LIMITS, ring=ring)
        self._note_timer(self.policy.begin(BEGIN_S))
        self._check_clock()

    # What can happen.

    def moves(self) -> Iterator[Move]:
        if self.finished:
            return
        yield NOTE
        yield from self.asked
        if not self.standalone:
            yield ANSWER
            yield m.CallCancelled()
        yield m.Subscribe(self.next_subscriber, KEY)
        yield m.Subscribe(self.next_subscriber, "theirs", self.log.last)
        for behind in range(-1, KEPT_MAX + 2):
            if behind <= self.log.last:
                yield m.Subscribe(self.next_subscriber, KEY, self.log.last - behind)
        if self.subscriber is not None:
            yield m.Unsubscribe(self.subscriber)
        yield m.Unsubscribe(self.next_subscriber)
        yield m.SourceEnded()
        yield FAILED
        yield m.CloseStream()
        yield from (m.RequestAnswered(event.data) for event in self.asked)
        yield m.StreamDeadlineDue(self.generation - 1)
        yield m.StreamDeadlineDue(self.generation)
        if self.ages and self.now_s + TICK_S < self.armed_s and self.now_s < BEGIN_S + CALL_S:
            yield PASSES
        if self.log.kept:
            yield ROOM

    def make(self, move: Move) -> None:
        if move == PASSES:
            self._pass_to(self.now_s + TICK_S)
            return
        if isinstance(move, str):
            budget = self.policy._ring._budget
            budget.make_room(budget.enter(OTHER, "another"), 1 << 31)
            if self.claimed and (self.over or self.subscriber is None):
                self.log.drop()
            return
        due = move == m.StreamDeadlineDue(self.generation) and self.armed_s < math.inf
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
        log, policy = self.log, self.policy
        return (
            self.subscriber is not None, self.claimed, self.over, self.finished, self.cancelled,
            self.broken,
            tuple((data, self.now_s - at_s > WAIT_S) for _, data, at_s in log.kept),
            log.last - log.pushed, sum(number > log.pushed for number in log.taken),
            tuple(sorted(self.open)), bool(self.open) and self.now_s - self.asked_since_s,
            self.answered, self.left_s, self.armed_s - self.now_s,
            self.now_s < BEGIN_S + CALL_S, policy._pushed - log.last,
            policy._ring.last - log.last, policy._ring.first - log.last,
            tuple(sorted(policy._open_requests)), policy._remaining_s is None,
        )  # fmt: skip

    # What must become of it.

    def _observe(self, move: StreamMessage, due: bool, effects: list[StreamEffect]) -> None:
        was_over, ended, gives_up, finishes = self.over, False, False, False
        was_away = self._away()
        expected: list[bytes] = []
        lost, opened = 0, None
        accepted, refused, cut = None, None, None
        match move:
            case m.EventReceived(data, kind, id, final):
                if self.over:
                    lost = 1
                else:
                    lost = self.log.add(data, self.now_s, self.subscriber is not None)
                    expected = [data] if self.subscriber is not None else []
                    ended = final
                    self.answered |= final
                    if kind is MessageKind.REQUEST:
                        opened = id
                        if not self.cancelled and not (self.standalone and was_away):
                            assert id is not None
                            if not self.open:
                                self.asked_since_s = self.now_s
                            self.open.add(id)
            case m.Subscribe(subscriber_id, key, after):
                refused = self._refusal(key, after)
                if refused is None:
                    lost = self.log.expire(self.now_s)
                    accepted = self.log.pushed if after is None else after
                    following = self.log.since(accepted)
                    if following is None or (self.over and after is not None and not following):
                        refused, accepted = GONE, None
                    else:
                        cut, self.subscriber, self.claimed = self.subscriber, subscriber_id, True
                        expected, self.log.pushed = following, self.log.last
                        if not self.over and self.standalone:
                            self.armed_s = math.inf
            case m.Unsubscribe(subscriber_id):
                if subscriber_id == self.subscriber:
                    self.subscriber, self.alone_since_s = None, self.now_s
            case m.SourceEnded():
                ended = not self.over
            case m.CloseStream():
                ended, finishes = not self.over, self.claimed
            case m.RequestAnswered(id):
                self.open.discard(id)
            case m.CallCancelled():
                self.cancelled = True
                self.open.clear()
            case m.StreamDeadlineDue():
                gives_up = due and self.standalone and not self.over and self.subscriber is None
                finishes = gives_up or (due and self.over)
                ended = due and not self.over
        self.stands = bool(self.open) and self.left_s < math.inf and not self._away()
        pushes = [x for effect in effects if isinstance(effect, m.Push) for x in effect.messages]
        check(pushes == expected, "a message goes to its one subscriber, in order, or waits")
        dropped = sum(effect.count for effect in effects if isinstance(effect, m.CountDropped))
        check(dropped == lost, "what nobody can get is counted")
        self._check_reader(effects, accepted, refused, cut)
        announced = [effect.id for effect in effects if isinstance(effect, m.AnnounceRequest)]
        check(announced == ([] if opened is None else [opened]), "a request is announced")
        check(not self.finished, "nothing happens after the end")
        moved = [effect.here for effect in effects if isinstance(effect, m.AnnounceClient)]
        tells = was_away != self._away() and not self.over and not self.standalone
        tells = tells and self.left_s == math.inf
        check(moved == [was_away] * tells, "who watches the clock hears of the client")
        heard = self.over and accepted is not None
        self._check_end(move, ended, gives_up, heard, effects)
        check((m.Finish() in effects) == finishes, "a stream stays for those who may come back")
        self.finished = finishes
        check(was_over or self.over == ended, "a stream ended without a reason")
        self._note_timer(effects)

    def _refusal(self, key: str, after: int | None) -> int | None:
        """What a subscriber is told before anybody looks at what is kept."""
        if key != KEY:
            return GONE
        return TAKEN if after is None and self.subscriber is not None else None

    def _check_reader(
        self,
        effects: list[StreamEffect],
        accepted: int | None,
        refused: int | None,
        cut: int | None,
    ) -> None:
        told = [effect for effect in effects if isinstance(effect, m.AcceptSubscriber)]
        check(told == ([] if accepted is None else [m.AcceptSubscriber(accepted)]),
              "a subscriber is told where it begins")
        told_no = [effect.status for effect in effects if isinstance(effect, m.RefuseSubscriber)]
        check(told_no == ([] if refused is None else [refused]),
              "a subscriber gets exactly what followed, or a refusal")
        others = [x for x in effects if not isinstance(x, m.RefuseSubscriber | m.CountDropped)]
        check(refused is None or not others, "a refusal changes nothing")
        replaced = [x.subscriber_id for x in effects if isinstance(x, m.CutSubscriber)]
        check(replaced == ([] if cut is None else [cut]), "who comes back replaces its old self")

    def _check_end(
        self,
        move: Move,
        ended: bool,
        gives_up: bool,
        heard: bool,
        effects: list[StreamEffect],
    ) -> None:
        failures = [effect for effect in effects if isinstance(effect, m.PushFailure)]
        fails = ended and not (self.standalone or self.answered or self.cancelled)
        check(len(failures) == fails, "a call is answered once, if need be by us")
        if failures:  # as the actor does
            self.policy.keep(FAILURE, self.now_s)
            self.log.add(FAILURE, self.now_s, self.subscriber is not None)
        timed_out = isinstance(move, m.StreamDeadlineDue) and ended
        closes = timed_out or (ended and isinstance(move, m.CloseStream))
        cancels = timed_out and not self.standalone and not self.cancelled
        check(effects.count(m.CloseSource(cancels)) == closes
              and effects.count(m.CloseSource(not cancels)) == 0,
              "a source is closed by who ends early, and told only when the call is given up")
        hears = heard or (ended and self.subscriber is not None)
        if ended:
            self.broken = self.standalone and move == FAILED
        check([x for x in effects if isinstance(x, m.EndSubscriber)]
              == [m.EndSubscriber(self.broken)] * hears, "the subscriber hears of the end")
        announces = ended and not gives_up
        check((m.AnnounceOver() in effects) == announces, "the parent hears of the end")
        if ended:
            self.over, self.over_s = True, self.now_s

    # The clock.

    def _pass_to(self, time_s: float) -> None:
        if not self.stands and not self.over:
            self.left_s -= time_s - self.now_s
        self.now_s = time_s

    def _away(self) -> bool:
        return self.claimed and self.subscriber is None

    def _note_timer(self, effects: list[StreamEffect]) -> None:
        for effect in effects:
            if isinstance(effect, m.WakeStream):
                self.armed_s = self.now_s + effect.after_s
                self.generation = effect.generation

    def _check_clock(self) -> None:
        if self.finished:
            return
        if self.over:
            due_s = self.over_s + WAIT_S
        elif self.standalone:
            due_s = math.inf if self.subscriber is not None else self.alone_since_s + WAIT_S
        elif self.stands:
            due_s = self.asked_since_s + CLIENT_ANSWER_S_MAX
        else:
            due_s = self.now_s + self.left_s
        if due_s < math.inf:
            check(self.armed_s == due_s, f"the clock is to ring at {due_s}, not {self.armed_s}")
            check(self.generation == self.policy._generation, "the armed timer is stale")
