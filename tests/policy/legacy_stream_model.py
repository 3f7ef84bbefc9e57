"""The rules of a stream of the HTTP+SSE transport, and everything that can happen to one."""

from __future__ import annotations

from collections.abc import Hashable, Iterator

from proxy_actors.messages import legacy as m
from proxy_actors.messages.legacy import LegacyRefusal, LegacyStreamEffect, LegacyStreamMessage
from proxy_actors.messages.stream import CloseStream, Subscribe, Unsubscribe
from proxy_actors.policy.legacy_stream import LegacyStreamPolicy
from tests.policy.search import Subject, check

WHOSE = ("ann", "default")
AT_ONCE_MAX = 2
OPENINGS = (1, 2)
AT_ONCE = {1: 1, 2: 1, 3: 2, 4: 1}


class LegacyStreamSubject(Subject):
    """One stream, its readers, and exchanges: `initialize` twice, two calls at once, and one."""

    def __init__(self) -> None:
        self.policy = LegacyStreamPolicy(*WHOSE, AT_ONCE_MAX)
        self.reader = 0
        self.serving: dict[int, int] = {}
        self.opened = self.draining = self.over = False
        self.armed = 0
        self._note_timers(self.policy.begin())

    def moves(self) -> Iterator[LegacyStreamMessage]:
        if self.over and not self.serving:
            yield from (Subscribe(1), m.FindSession(*WHOSE), m.BeginRequests(3, 1, False))
            yield from (m.SessionOpened("front", "key"), CloseStream())
            return
        yield Subscribe(1)
        yield Subscribe(2)
        yield from (Unsubscribe(reader) for reader in (1, 2))
        for whose in (WHOSE, ("bob", "default"), ("ann", "other")):
            yield m.FindSession(*whose)
        for exchange_id, requests in AT_ONCE.items():
            if exchange_id not in self.serving:
                yield m.BeginRequests(exchange_id, requests, exchange_id in OPENINGS)
            else:
                yield m.EndRequest(exchange_id)
        yield m.EndRequest(99)
        if self._opening() or self.over:
            yield m.SessionOpened("front", "key")
        yield CloseStream()
        yield m.DrainLegacy()
        if self.armed:
            yield m.OpeningDue()

    def make(self, move: LegacyStreamMessage) -> None:
        if isinstance(move, m.OpeningDue):
            self.armed -= 1
        was_over = self.over
        effects = self.policy.handle(move)
        self._note_timers(effects)
        refused = [x.refusal for x in effects if isinstance(x, m.RefuseLegacy)]
        match move:
            case Subscribe(reader):
                free = not self.over and not self.reader
                check(refused == ([] if free else [LegacyRefusal.READ]), "one reader, once")
                if free:
                    self.reader = reader
            case m.FindSession(principal, upstream):
                self._check_found((principal, upstream) == WHOSE, effects)
            case m.BeginRequests():
                self._check_begun(move, refused)
            case m.EndRequest(exchange_id):
                if self.serving.get(exchange_id, 0) > 1:
                    self.serving[exchange_id] -= 1
                else:
                    self.serving.pop(exchange_id, None)
            case m.SessionOpened():
                held = not self.over and not self.opened
                check(m.AnswerHeld(held) in effects, "a session is held where there is a stream")
                check((m.TellHeld("key") in effects) == held, "the parent knows of what is held")
                self.opened = self.opened or held
            case m.DrainLegacy():
                self.draining = True
            case _:
                pass
        self._check_end(move, effects, was_over)

    def settle(self) -> None:
        """Whatever has happened, a stream whose reader leaves is over."""
        if not self.over and self.reader:
            self.make(Unsubscribe(self.reader))
            check(self.over, "a stream outlives its reader")
        elif not self.over:
            for exchange_id in [x for x, left in self.serving.items() for _ in range(left)]:
                self.make(m.EndRequest(exchange_id))
            while self.armed and not self.over:
                self.make(m.OpeningDue())
            check(self.over or self.opened, "a stream without a session stays for ever")

    def key(self) -> Hashable:
        policy = self.policy
        return (
            self.reader, tuple(sorted(self.serving.items())), self.opened, self.draining,
            self.over, self.armed, policy._over, policy._opening, policy._session_key,
            tuple(sorted(policy._requests.items())), policy._reader, policy._draining,
        )  # fmt: skip

    def _opening(self) -> bool:
        return any(exchange_id in self.serving for exchange_id in OPENINGS)

    def _check_found(self, ours: bool, effects: list[LegacyStreamEffect]) -> None:
        there = ours and self.reader and not self.over
        found = m.AnswerFound("front" if self.opened else "", self.reader)
        unknown = m.RefuseLegacy(LegacyRefusal.UNKNOWN)
        check(effects == [found if there else unknown], "it is found by whose it is, and read")

    def _check_begun(self, begin: m.BeginRequests, refused: list[LegacyRefusal]) -> None:
        wanted: list[LegacyRefusal] = []
        if self.over:
            wanted = [LegacyRefusal.UNKNOWN]
        elif self.draining:
            wanted = [LegacyRefusal.DRAINING]
        elif begin.opens_session and (self.opened or self._opening()):
            wanted = [LegacyRefusal.INITIALIZED]
        elif not begin.opens_session and (
            sum(self.serving.values()) + begin.requests > AT_ONCE_MAX
        ):
            wanted = [LegacyRefusal.BUSY]
        check(refused == wanted, f"a request is refused for {wanted}")
        if not wanted:
            self.serving[begin.exchange_id] = begin.requests

    def _check_end(
        self, move: LegacyStreamMessage, effects: list[LegacyStreamEffect], was_over: bool
    ) -> None:
        ends = not was_over and (
            isinstance(move, CloseStream)
            or (isinstance(move, Unsubscribe) and move.subscriber_id == self.reader)
            or (
                isinstance(move, (m.DrainLegacy, m.EndRequest))
                and self.draining
                and not self.serving
            )
            or (
                isinstance(move, m.OpeningDue)
                and not self.opened
                and not self._opening()
            )
        )
        self.over = was_over or ends
        left = [x for x in effects if isinstance(x, m.LeaveSession)]
        wanted = [m.LeaveSession("key" if self.opened else "")] if ends else []
        check(left == wanted, "the session is left once, with the stream")
        told = m.EndReader(self.reader) in effects
        check(told == bool(ends and self.reader), "the reader is told of the end")
        cancels = m.CancelRequests() in effects
        check(cancels == bool(ends and self.serving), "what is being served is cancelled")
        if isinstance(move, m.OpeningDue) and self._opening() and not was_over:
            check(self.armed, "the clock runs on while the session is being opened")

    def _note_timers(self, effects: list[LegacyStreamEffect]) -> None:
        self.armed += sum(isinstance(effect, m.WakeOpening) for effect in effects)
