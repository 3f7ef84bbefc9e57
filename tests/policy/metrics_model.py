"""The rhythm of metrics beside a model that knows what the outside may see, and not the policy.

The model holds what was begun and not ended (timers, an opener, a walker), whether there is a sink,
and what has been logged.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any

from proxy_actors.messages import metrics as m
from proxy_actors.policy.metrics import (
    REOPEN_S,
    REST_S,
    RETRY_S,
    SOUND_FLUSHES,
    MetricsPolicy,
)
from tests.policy.search import Subject, check

INTERVAL_S = 2.0


class MetricsSubject(Subject):
    """The policy with its model. A move is the name of what happens next."""

    def __init__(self, rests: bool = False) -> None:
        self.policy = MetricsPolicy(INTERVAL_S, rests)
        self.now_s = 0.0
        self.flush_at_s: float | None = None
        self.opening = self.walking = self.has_sink = False
        self.open_at_s = 0.0
        self.complained = False
        self.sound = 0
        self.probing = False
        begun = self.policy.begin(0.0)
        if rests:
            check(begun == [m.WakeFlush(REST_S)], "it does not rest")
            self.flush_at_s = REST_S
        else:
            self._apply(begun)
            check(self.opening, "no sink is opened at the start")
        self._check_rest()

    def moves(self) -> Iterable[str]:
        yield "flush"
        yield "flush late"
        if self.opening:
            yield from ("opened", "opening failed")
        if self.walking:
            yield "told"
            if self.has_sink:
                yield "told, and not sent"

    def make(self, move: str) -> None:
        match move:
            case "flush" | "flush late":
                assert self.flush_at_s is not None
                late_s = 2.5 * INTERVAL_S if move == "flush late" else 0.0
                self.now_s, self.flush_at_s = self.flush_at_s + late_s, None
                self._flush()
            case "opened":
                self.opening = False
                self.has_sink, self.open_at_s = True, self.now_s + REOPEN_S
                check(m.UseSink() in self._handle(m.SinkOpened()), "a sink is not used")
                check(self.probing, "lag is not probed")
            case "opening failed":
                self.opening, self.open_at_s = False, self.now_s + RETRY_S
                effects = self._handle(m.SinkFailed("why"))
                self._check_said(effects, not self.has_sink, "why")
            case "told" | "told, and not sent":
                self.walking = False
                self._told("" if move == "told" else "lost")
        self._check_rest()

    def key(self) -> Hashable:
        assert self.flush_at_s is not None
        return (
            self.flush_at_s - self.now_s, self.opening, self.walking, self.has_sink,
            max(self.open_at_s - self.now_s, 0.0), self.complained, min(self.sound, SOUND_FLUSHES),
            # A policy that has counted otherwise than the model is another state.
            min(self.policy._sound, SOUND_FLUSHES),
        )  # fmt: skip

    def settle(self) -> None:
        """From everywhere: with a sink that can be had, and a tree that tells, figures are sent."""
        for _ in range(10):
            for move in ("opened", "told", "flush"):
                if move in set(self.moves()):
                    self.make(move)
        check(self.has_sink and not self.complained, "it does not recover")

    def _flush(self) -> None:
        was_walking, was_opening = self.walking, self.opening
        effects = self._handle(m.FlushDue())
        awaited = self.opening and not self.has_sink
        walks = not was_walking and not awaited
        check((m.DescribeTree() in effects) is walks, "nobody is asked, or for nobody who is there")
        opens = not was_opening and self.now_s >= self.open_at_s
        check((m.OpenSink() in effects) is opens, "a sink is opened too early, or too late")

    def _told(self, error: str) -> None:
        check(self._handle(m.ActorsDescribed(())) == [m.Gather(())], "what was told is left out")
        complete = not error  # which of the two makes no difference
        effects = self._handle(m.TreeDescribed(complete))
        wanted = m.Send(complete) if self.has_sink else m.Forget(complete)
        check(effects == [wanted], "what was told is not sent, or kept for nobody")
        if not self.has_sink:
            return
        self._check_said(self._handle(m.FiguresSent(error)), bool(error), error)

    def _check_said(self, effects: list[Any], unsound: bool, text: str) -> None:
        """What is wrong is said once, and that it is well again when it has been for a while."""
        self.sound = 0 if unsound else self.sound + 1
        if unsound and not self.complained:
            self.complained = True
            check(effects == [m.LogUnreachable(text)], "it is not said that figures are lost")
        elif self.complained and self.sound >= SOUND_FLUSHES and text == "":
            self.complained = False
            check(effects == [m.LogReachable()], "it is not said that figures arrive again")
        else:
            if text and not unsound:
                self.sound -= 1  # a failed opening beside a sink says nothing of the sink
            check(effects == [], f"said too often: {effects}")

    def _handle(self, message: Any) -> list[Any]:
        effects = self.policy.handle(message, self.now_s)
        self._apply(effects)
        return [x for x in effects if not isinstance(x, m.WakeFlush)]

    def _apply(self, effects: Iterable[Any]) -> None:
        for effect in effects:
            match effect:
                case m.WakeFlush(after_s):
                    check(self.flush_at_s is None, "two flushes are due")
                    check(0 < after_s <= INTERVAL_S, "a flush is due too late, or at once")
                    self.flush_at_s = self.now_s + after_s
                case m.OpenSink():
                    check(not self.opening, "two sinks are opened at once")
                    self.opening = True
                case m.WakeLagProbe():
                    check(not self.probing, "lag is probed twice")
                    self.probing = True
                case m.DescribeTree():
                    check(not self.walking, "two walks at once")
                    self.walking = True

    def _check_rest(self) -> None:
        check(self.flush_at_s is not None, "no flush is due any more")
