"""The rules of active checks, in books of their own: failures and successes in a row."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator
from typing import Any

import msgspec

from proxy_actors.messages import health as m
from proxy_actors.messages.health import Verdict
from proxy_actors.policy.health_checks import Checked, CheckLimits, HealthChecks
from tests.policy.search import Subject, check

NAME = "one"
DRAWN = 0.75
LIMITS = CheckLimits(
    interval_s=8.0, fast_interval_s=2.0, down_interval_s=16.0, spread=0.5, timeout_s=1.0, rise=2,
    fall=3,
)  # fmt: skip
SPREAD = 1.25  # of what is drawn


class Pass(msgspec.Struct, frozen=True):
    """The time of the timer comes."""


class Late(msgspec.Struct, frozen=True):
    """The check takes all the time that it has, and has not ended when the guard crashes."""


class Suspend(msgspec.Struct, frozen=True):
    """The endpoint goes into maintenance."""


class Resume(msgspec.Struct, frozen=True):
    """It comes back from there, or the guard is started anew."""


class HealthSubject(Subject):
    """One endpoint, its timer, its check."""

    def __init__(self, limits: CheckLimits = LIMITS) -> None:
        self.limits = limits
        self.now_s = 50.0
        self.known = Checked()
        self.running = True
        self.timer: m.WakeCheck | None = None
        self.timer_s = math.inf
        self.stale: list[Any] = []
        self.out: m.StartCheck | None = None
        self.lost_until_s = -math.inf
        self.begin()

    def begin(self) -> None:
        self.policy = HealthChecks(self.limits, {NAME: self.known}, draw)
        self.up: bool = self.known.down is None
        self.refused = self.known.down is Verdict.REFUSED
        if not hasattr(self, "failures"):
            self.fresh, self.failures, self.successes = True, 0, 0
        if self.running:
            self.note(self.policy.resume(NAME, self.now_s), first=True)

    def moves(self) -> Iterator[Any]:
        if self.timer is not None:
            yield Pass()
        if self.out is not None:
            for verdict in Verdict:
                yield m.CheckEnded(NAME, self.out.generation, verdict, verdict.value)
        yield from self.stale
        yield Resume()
        if self.running:
            yield Suspend()

    def make(self, move: Any) -> None:
        match move:
            case Pass():
                assert self.timer is not None
                self.now_s = max(self.now_s, self.timer_s)
                due = m.CheckDue(NAME, self.timer.generation)
                self.timer = None
                effects = self.policy.handle(due, self.now_s)
                check(len(effects) == 1 and isinstance(effects[0], m.StartCheck),
                      "a check begins when it is due")
                check(self.now_s >= self.lost_until_s, "a check begins while another may be out")
                self.note(effects)
                self.stale.append(due)
            case m.CheckEnded(_, _, verdict) if self.out and move not in self.stale:
                self.out = None
                expected = self.count(verdict)
                effects = self.policy.handle(move, self.now_s)
                check([x for x in effects if not isinstance(x, m.WakeCheck)] == expected,
                      "who goes down or comes up is told, once")
                self.note(effects)
                self.stale.append(move)
            case Suspend():
                self.policy.suspend(NAME)
                self.running = False
                self.forget()
                self.fresh, self.failures, self.successes = True, 0, 0
                self.up, self.refused = True, False
            case Resume():
                self.forget()
                self.running = True
                self.begin()
            case _:
                check(self.policy.handle(move, self.now_s) == [], "what is stale has no effect")
        self.stale = self.stale[-2:]
        check((self.known.down is None) == self.up, "who is up is")
        check((self.known.down is Verdict.REFUSED) == self.refused, "who refuses is told apart")

    def forget(self) -> None:
        """Timer and check are those of before."""
        if self.timer is not None:
            self.stale.append(m.CheckDue(NAME, self.timer.generation))
        if self.out is not None:
            self.stale.append(m.CheckEnded(NAME, self.out.generation, Verdict.FAILED))
            self.lost_until_s = self.out.deadline_s
        self.timer = self.out = None

    def count(self, verdict: Verdict) -> list[Any]:
        if verdict is Verdict.UNKNOWN:
            return []
        was_up, was_refused = self.up, self.refused
        if verdict is Verdict.WELL:
            self.failures, self.successes = 0, self.successes + 1
            if self.fresh or self.up or self.successes >= self.limits.rise:
                self.up, self.refused = True, False
        else:
            self.successes, self.failures = 0, self.failures + 1
            if self.fresh or not self.up or self.failures >= self.limits.fall:
                self.up, self.refused = False, verdict is Verdict.REFUSED
        self.fresh = False
        if self.up:
            return [] if was_up else [m.ReportUp(NAME)]
        if was_up or was_refused != self.refused:
            return [m.ReportDown(NAME, verdict.value, self.refused)]
        return []

    def interval_s(self) -> float:
        if self.fresh:
            return self.limits.fast_interval_s
        if self.up:
            return self.limits.fast_interval_s if self.failures else self.limits.interval_s
        return self.limits.fast_interval_s if self.successes else self.limits.down_interval_s

    def note(self, effects: list[Any], first: bool = False) -> None:
        for effect in effects:
            match effect:
                case m.WakeCheck(_, after_s):
                    expected_s = self.interval_s() * SPREAD
                    if first:
                        soon_s = self.limits.fast_interval_s if self.fresh else LIMITS.interval_s
                        out_s = max(self.lost_until_s - self.now_s, 0.0)
                        expected_s = out_s + DRAWN * soon_s
                    check(after_s == expected_s, f"waits {after_s}, not {expected_s}")
                    check(self.timer is None and self.out is None, "one timer, or one check")
                    self.timer, self.timer_s = effect, self.now_s + after_s
                case m.StartCheck(_, _, deadline_s):
                    check(deadline_s == self.now_s + self.limits.timeout_s, "a check has its time")
                    check(self.timer is None and self.out is None, "one timer, or one check")
                    self.out = effect

    def key(self) -> Hashable:
        timer_s = self.timer_s - self.now_s if self.timer else None
        return (
            self.fresh, self.up, self.refused, self.running, timer_s, self.out is not None,
            min(self.failures, self.limits.fall), min(self.successes, self.limits.rise),
            max(self.lost_until_s - self.now_s, 0.0), len(self.stale),
            tuple(type(x) for x in self.stale),
        )  # fmt: skip

    def settle(self) -> None:
        """An endpoint that is well comes up, and stays."""
        if not self.running:
            self.make(Resume())
        for _ in range(self.limits.rise + 1):
            if self.timer is not None:
                self.make(Pass())
            assert self.out is not None
            self.make(m.CheckEnded(NAME, self.out.generation, Verdict.WELL, "well"))
        check(self.up and self.timer is not None, "who is well is up")


def draw() -> float:
    """Chance, as these books know it."""
    return DRAWN
