"""Children that rest while nobody uses them, and the one start that wakes them, in every order.

The second half plants defects. What children do otherwise is in test_stdio_shared_children.py.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator

import pytest

from proxy_actors.messages import stdio as m
from proxy_actors.messages import stdio_effects as e
from proxy_actors.messages.health import Verdict
from proxy_actors.messages.upstream import DrainUpstream
from proxy_actors.policy.backoff import BackoffLimits
from proxy_actors.policy.stdio_shared_children import (
    STEADY_S,
    SharedChildrenLimits,
    SharedChildrenMessage,
    SharedChildrenPolicy,
)
from tests.defects import Defect, planted
from tests.policy.search import Subject, check, search
from tests.policy.stdio_frames import DESCRIBED

IDLE_S = 60.0
CALLS_MAX = 2
# Else every rest in a row could leave two more that never end.
ENDING_MAX = 2


def half() -> float:
    return 0.5


class RestSubject(Subject):
    """Two children, the calls that they have or wait for, and whether the timer is set."""

    def __init__(self) -> None:
        limits = SharedChildrenLimits(2, 5, BackoffLimits(1.0, 4.0, 2), IDLE_S)
        self.policy = SharedChildrenPolicy(limits, str, half)
        self.starting: list[str] = []
        self.ready: list[str] = []
        self.ending: list[str] = []
        self.busy: dict[int, str] = {}
        self.waiting: list[int] = []
        self.numbers = 0
        self.idle = -1
        self.draining = False
        self._follow(self.policy.begin())

    def moves(self) -> Iterator[SharedChildrenMessage]:
        if len(self.busy) + len(self.waiting) < CALLS_MAX:
            yield m.TakeChild(self.numbers + 1, 1e9)
        yield from (m.ReleaseChild(number) for number in self.busy)
        yield from (m.ReleaseChild(number) for number in self.waiting)
        yield from (m.ProcessReady(child, DESCRIBED) for child in self.starting)
        yield from (m.ProcessGone(child, "gone") for child in self.ending)
        if not self.draining:
            yield m.IdleDue(self.idle, 0.0)
            if len(self.ending) < ENDING_MAX:
                yield m.IdleDue(self.idle, IDLE_S)
            yield m.IdleDue(self.idle - 1, IDLE_S)
            yield DrainUpstream()

    def make(self, move: SharedChildrenMessage) -> None:
        match move:
            case m.TakeChild(number):
                self.numbers = number
                self.waiting.append(number)
            case m.ReleaseChild(number):
                self.busy.pop(number, None)
                self.waiting = [x for x in self.waiting if x != number]
            case m.ProcessReady(child):
                self.starting.remove(child)
                self.ready.append(child)
            case m.ProcessGone(child):
                self.ending.remove(child)
            case DrainUpstream():
                self.draining = True
                self.waiting.clear()
        used = bool(self.busy or self.waiting or self.starting)
        rested = self.policy.rests
        due = isinstance(move, m.IdleDue) and move.generation == self.idle
        if due:
            self.idle = -1
        effects = self.policy.handle(move, 100.0)
        self._follow(effects)
        stopped = any(isinstance(effect, e.StopProcess) for effect in effects)
        check(not stopped or (due and not used and not rested), "stopped while it was used")
        long_enough = isinstance(move, m.IdleDue) and move.idle_s >= IDLE_S
        rests = due and long_enough and not used and not self.draining
        check(not rests or self.policy.rests, "it does not rest")
        check(self.policy.rests or self.draining or self.idle > 0, "nobody looks any more")
        check(self.policy.described().verdict is not Verdict.FAILED, "a rest is no failure")
        check(self.policy.counts.figures()["crashed"] == 0, "a rest is no crash")

    def _follow(self, effects: list[e.ChildrenEffect]) -> None:
        for effect in effects:
            match effect:
                case e.StartProcess(child):
                    self.starting.append(child)
                    check(len(self.starting) + len(self.ready) <= 2, "more are started than may be")
                case e.StopProcess(child):
                    check(child in self.ready and child not in self.busy.values(), "not idle")
                    self.ready.remove(child)
                    self.ending.append(child)
                case e.GiveChild(number, child):
                    check(child in self.ready, "a call was given a child that does not run")
                    self.waiting.remove(number)
                    self.busy[number] = child
                case e.WakeIdle(_, generation):
                    self.idle = generation
                case e.RefuseChild(number):
                    check(self.draining, "refused though a child can be started")
                    self.waiting = [x for x in self.waiting if x != number]
        if self.waiting:
            check(self.starting or len(self.busy) == 2, "somebody waits and nothing is started")

    def key(self) -> Hashable:
        return (
            len(self.starting), len(self.ready), len(self.ending), len(self.busy),
            len(self.waiting), self.policy.rests, self.draining, self.idle > 0,
        )  # fmt: skip

    def settle(self) -> None:
        """Whoever asks then is served."""
        if self.draining:
            return
        self.make(m.TakeChild(self.numbers + 1, 1e9))
        for child in list(self.starting):
            self.make(m.ProcessReady(child, DESCRIBED))
        for number in list(self.busy):
            self.make(m.ReleaseChild(number))
        check(not self.waiting, "somebody waits for ever")


def test_children_rest_and_wake_in_every_order() -> None:
    findings = search(RestSubject)
    assert findings.violation is None, (findings.violation, findings.trace)
    assert findings.states > 50


def test_without_the_setting_nobody_looks() -> None:
    policy = SharedChildrenPolicy(SharedChildrenLimits(), str, half)
    assert not [x for x in policy.begin() if isinstance(x, e.WakeIdle)]


def after_failures(now_s: float) -> tuple[SharedChildrenPolicy, int]:
    """One child, which runs since `now_s`, after as many failures as are borne; and the timer."""
    limits = SharedChildrenLimits(1, 5, BackoffLimits(1.0, 4.0, 2), IDLE_S)
    policy = SharedChildrenPolicy(limits, str, half)
    (look,) = [x.generation for x in policy.begin() if isinstance(x, e.WakeIdle)]
    for number in (1, 2):
        policy.handle(m.ProcessGone(str(number), "exit 1"), now_s)
        policy.handle(m.RespawnDue(number), now_s)
    policy.handle(m.ProcessReady("3", DESCRIBED), now_s)
    return policy, look


def test_it_does_not_rest_while_it_may_be_in_a_crash_loop() -> None:
    policy, look = after_failures(100.0)
    policy.handle(m.IdleDue(look, IDLE_S), 100.0 + STEADY_S / 2)
    assert not policy.rests


def test_it_does_not_rest_while_a_start_is_due() -> None:
    """FLT-U3: who comes next would wait for that start, and be told that nothing starts."""
    limits = SharedChildrenLimits(2, 5, BackoffLimits(1.0, 4.0, 2), IDLE_S)
    policy = SharedChildrenPolicy(limits, str, half)
    (look,) = [x.generation for x in policy.begin() if isinstance(x, e.WakeIdle)]
    for child in ("1", "2"):
        policy.handle(m.ProcessReady(child, DESCRIBED), 0.0)
    policy.handle(m.ProcessGone("2", "exit 1"), 100.0)
    effects = policy.handle(m.IdleDue(look, IDLE_S), 100.0)
    assert not policy.rests
    (look,) = [x.generation for x in effects if isinstance(x, e.WakeIdle)]
    policy.handle(m.RespawnDue(1), 101.0)
    policy.handle(m.ProcessReady("3", DESCRIBED), 101.0)
    policy.handle(m.IdleDue(look, IDLE_S), 200.0)
    assert policy.rests
    effects = policy.handle(m.TakeChild(1, 1e9), 300.0)
    assert not [x for x in effects if isinstance(x, e.RefuseChild)]


def test_failures_of_before_a_rest_are_forgotten_with_it() -> None:
    """FLT-U3: else whoever comes next is refused, though the process has run for long since."""
    policy, look = after_failures(100.0)
    policy.handle(m.IdleDue(look, IDLE_S), 100.0 + STEADY_S)
    assert policy.rests
    effects = policy.handle(m.TakeChild(1, 1e9), 200.0)
    assert not [x for x in effects if isinstance(x, e.RefuseChild)]
    assert [x for x in effects if isinstance(x, e.StartProcess)] == [e.StartProcess("4")]


DEFECTS = (
    Defect("it rests under a call", SharedChildrenPolicy, "_rest", "self._busy or ", ""),
    Defect("nobody is woken", SharedChildrenPolicy, "_take", "self._wake(effects)", "pass"),
    Defect("a rest is a crash", SharedChildrenPolicy, "_rest",
           "self._ready_since_s.clear()", "pass"),
    Defect("a stopped child is given away", SharedChildrenPolicy, "_rest",
           "self._free.clear()", "pass"),
    Defect("it rests once", SharedChildrenPolicy, "_wake",
           "self._watch_idle(self._limits.idle_stop_s, effects)", "pass"),
    Defect("an old timer counts", SharedChildrenPolicy, "handle",
           "generation == self._idle", "True"),
)


@pytest.mark.parametrize("defect", DEFECTS, ids=str)
def test_planted_defect_is_found(defect: Defect) -> None:
    with planted(defect):
        findings = search(RestSubject)
    assert findings.violation is not None, f"{findings.states} states, and nothing found"
