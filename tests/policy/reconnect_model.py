"""The rules of a stream whose source breaks, in books of their own."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator
from itertools import product

from proxy_actors.errors import Executed, Reason
from proxy_actors.messages import stream as m
from proxy_actors.messages.stream import MessageKind, StreamEffect, StreamMessage
from proxy_actors.policy.event_stream import EventStreamPolicy
from proxy_actors.policy.reconnect import Reconnect, ReconnectLimits
from tests.policy.search import Subject, check

BEGIN_S = 100.0
LIMITS = ReconnectLimits(base_s=1.0, cap_s=3.0, attempts_max=3)
DRAWN = 0.5
RETRY_S = 0.75
ASKED = m.EventReceived(b"ask", MessageKind.REQUEST, b"7")
KEY = "ours"
NOTE = m.EventReceived(b"note", MessageKind.NOTIFICATION)
ANSWER = m.EventReceived(b"answer", MessageKind.RESPONSE, b"1", final=True)
REFUSED = m.SourceEnded(Reason.UPSTREAM_CLOSED, "not here", Executed.UNKNOWN)
BREAKS = tuple(
    m.SourceBroke(resumable, heard, clean, idle, retry_s, text="broke")
    for resumable, heard, clean, idle, retry_s in product(
        (True, False), (True, False), (True, False), (True, False), (None, RETRY_S)
    )
)


def draw() -> float:
    """Chance, as these books know it."""
    return DRAWN


class ReconnectSubject(Subject):
    """One stream with a source that can be opened anew."""

    def __init__(self, standalone: bool = False) -> None:
        self.standalone = standalone
        self.now_s = BEGIN_S
        self.subscribed = self.cancelled = self.over = self.broken = self.finished = False
        self.answered = self.asked = self.claimed = False
        self.connected, self.waiting = True, False
        self.fruitless = 0
        self.generation = 0
        self.policy = EventStreamPolicy(
            standalone, math.inf if standalone else BEGIN_S + 10.0, KEY,
            reconnect=Reconnect(LIMITS, draw),
        )  # fmt: skip
        self.timer = 0
        self._note(self.policy.begin(BEGIN_S))

    def moves(self) -> Iterator[StreamMessage]:
        if self.finished:
            return
        if self.connected:
            yield NOTE
            yield from BREAKS
            yield REFUSED
            yield m.SourceSilent()
            yield m.BreakOff()
            if not self.standalone:
                yield ANSWER
                yield ASKED
        yield m.ReconnectDue(self.generation)
        yield m.ReconnectDue(self.generation - 1)
        yield m.CloseStream()
        yield m.StreamDeadlineDue(self.timer)
        if not self.standalone:
            yield m.CallCancelled()
            yield m.RequestAnswered(b"7")
        if self.subscribed:
            yield m.Unsubscribe(1)
        else:
            yield m.Subscribe(1, KEY)

    def make(self, move: StreamMessage) -> None:
        effects = self.policy.handle(move, self.now_s)
        was_over = self.over
        wait_s: float | None = None
        reopens = abandons = breaks = False
        match move:
            case m.SourceBroke():
                self.connected = False
                if not self.over:
                    wait_s, abandons = self._wait_s(move)
                    self.over = wait_s is None
            case m.ReconnectDue(generation):
                reopens = self.waiting and generation == self.generation and not self.over
                if reopens:
                    self.connected, self.waiting = True, False
            case m.SourceSilent():
                breaks = not self.over and not self.asked
            case m.BreakOff():
                breaks = not self.over
            case m.RequestAnswered():
                self.asked = False
            case m.EventReceived(kind=MessageKind.REQUEST):
                away = self.standalone and self.claimed and not self.subscribed
                self.asked |= not (self.over or self.cancelled or away)
            case m.EventReceived(final=final):
                self.over |= final
                self.answered |= final
                self.connected = not final
            case m.SourceEnded():
                self.over, self.connected = True, False
            case m.CloseStream():
                self.over = True
            case m.StreamDeadlineDue():
                self.over |= not (self.standalone and self.subscribed)
            case m.CallCancelled():
                self.cancelled, self.asked = True, False
                self.over |= self.waiting
            case m.Subscribe():
                self.claimed = True
                if not self.over:
                    self.subscribed = True
            case m.Unsubscribe():
                self.subscribed = False
        if self.over and not was_over:
            self.broken = self.standalone and isinstance(move, m.SourceBroke | m.SourceEnded)
        self.finished = m.Finish() in effects
        waits = [x for x in effects if isinstance(x, m.WakeReconnect)]
        check([x.after_s for x in waits] == ([] if wait_s is None else [wait_s]),
              "a source that broke is waited for as long as the rules say, or not at all")
        if waits:
            check(waits[0].generation > self.generation, "each wait has a generation of its own")
            self.waiting, self.generation = True, waits[0].generation
        check((m.BreakSource() in effects) == breaks,
              "silence ends a connection, but not while the client is asked")
        check((m.ReopenSource() in effects) == reopens, "it is opened anew once, when it is due")
        check((m.AnnounceAbandoned("broke") in effects) == abandons, "a spent budget is told")
        self._check_end(move, was_over, effects)
        self._note(effects)

    def _wait_s(self, broke: m.SourceBroke) -> tuple[float | None, bool]:
        """How long to wait, and whether the budget is spent."""
        if not self.standalone:
            if not broke.resumable or self.cancelled:
                return None, False
        if broke.heard:
            self.fruitless = 0
        least_s = broke.retry_s or 0.0
        if broke.clean:
            return LIMITS.base_s if broke.retry_s is None else least_s, False  # no failure
        if broke.idle:
            return least_s, False  # none either
        if self.fruitless == LIMITS.attempts_max:
            return None, True
        drawn_s = DRAWN * min(LIMITS.cap_s, LIMITS.base_s * 2**self.fruitless)
        self.fruitless += 1
        return max(drawn_s, least_s), False

    def _check_end(self, move: StreamMessage, was_over: bool, effects: list[StreamEffect]) -> None:
        failed = [x for x in effects if isinstance(x, m.PushFailure)]
        ends = self.over and not was_over
        fails = ends and not (self.standalone or self.answered or self.cancelled)
        check(len(failed) == fails, "a call whose source is given up is answered, once")
        check(all(x.executed is Executed.UNKNOWN for x in failed), "nobody knows what was done")
        ended = [x for x in effects if isinstance(x, m.EndSubscriber)]
        if ended:
            check(ended == [m.EndSubscriber(self.broken)],
                  "who reads a standalone stream sees that it was given up")

    def settle(self) -> None:
        if self.waiting and not self.over:
            effects = self.policy.handle(m.ReconnectDue(self.generation), self.now_s)
            check(m.ReopenSource() in effects, "a source that is waited for is opened anew")

    def key(self) -> Hashable:
        policy = self.policy
        return (
            self.subscribed, self.cancelled, self.over, self.finished, self.answered,
            self.broken, self.connected, self.waiting, self.fruitless, policy._claimed,
            self.asked, len(policy._open_requests),
            policy._ring.last > 0, policy._pushed == policy._ring.last,
        )  # fmt: skip

    def _note(self, effects: list[StreamEffect]) -> None:
        for effect in effects:
            if isinstance(effect, m.WakeStream):
                self.timer = effect.generation
