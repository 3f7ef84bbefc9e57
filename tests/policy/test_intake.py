"""What is taken in while the loop is late, in every order of looks. FLT-P12, P5, P11.

The second half plants defects, each of which the search must find.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable

import pytest

from proxy_actors.messages import server as m
from proxy_actors.messages.server import IntakeEffect, IntakeMessage
from proxy_actors.policy.intake import LET_IN, LET_IN_MIN, IntakeLimits, IntakePolicy
from tests.defects import Defect, planted
from tests.policy.search import Subject, check, search

HIGH = 0.1
LIMITS = IntakeLimits(HIGH, memory_share_max=0.8, fds_share_max=0.9)
LAGS = (0.0, 0.05, 0.099, HIGH, 5.0)
SHARES = ((0.5, 0.5), (0.79, 0.5), (0.8, 0.5), (0.5, 0.9), (0.5, 0.88))


class IntakeSubject(Subject):
    """The policy beside what its effects have made of gate and listener."""

    def __init__(self) -> None:
        self.policy = IntakePolicy(LIMITS)
        self.accepting, self.gated, self.refusing, self.late = True, False, False, False
        self.memory = self.fds = False
        self.waiting = 0

    def moves(self) -> Iterable[IntakeMessage | int]:
        yield from (m.LagSeen(lag_s, self.waiting) for lag_s in LAGS)
        yield from (m.ProcessWeighed(*shares) for shares in SHARES)
        if self.gated and not self.waiting:
            yield from (3, 30)

    def make(self, move: IntakeMessage | int) -> None:
        if isinstance(move, int):
            self.waiting = move
            return
        waiting = self.waiting
        effects = self.policy.handle(move)
        for effect in effects:
            self.follow(effect)
        match move:
            case m.LagSeen(lag_s):
                self.late = lag_s >= HIGH or (self.late and lag_s >= HIGH / 2)
                check(self.accepting is not self.late, "accepting is not what the lag says")
                check(self.gated or not self.late, "late, and the gate is open")
                check(not waiting or self.waiting < waiting, "nobody was let in")
                if waiting and lag_s >= HIGH:
                    check(waiting - self.waiting <= LET_IN_MIN, "too many were let in")
                check(self.gated or not waiting or not self.waiting, "left behind")
                open_again = not waiting and not self.late
                check(not open_again or not self.gated, "the gate stays closed")
            case m.ProcessWeighed(memory, fds):
                self.memory = memory >= 0.8 or (self.memory and memory >= 0.8 * 0.95)
                self.fds = fds >= 0.9 or (self.fds and fds >= 0.9 * 0.95)
                check(self.refusing == (self.memory or self.fds), "refuses without need, or not")
        check(self.gated == self.policy.gated, "the gate is not what the policy thinks")
        check(self.refusing == self.policy.refuses, "refusing is not what the policy thinks")

    def follow(self, effect: IntakeEffect) -> None:
        match effect:
            case m.PauseAccepting():
                check(self.accepting, "paused twice")
                self.accepting = False
            case m.ResumeAccepting():
                check(not self.accepting, "resumed twice")
                self.accepting = True
            case m.CloseGate():
                check(not self.gated, "closed twice")
                self.gated = True
            case m.LetIn(requests):
                check(self.gated and LET_IN_MIN <= requests <= LET_IN, "let in at random")
                self.waiting = max(self.waiting - requests, 0)
            case m.OpenGate():
                check(self.gated, "opened twice")
                self.gated, self.waiting = False, 0
            case m.RefuseConnections(refuse):
                check(self.refusing is not refuse, "said twice")
                self.refusing = refuse

    def key(self) -> Hashable:
        policy = self.policy
        return (
            policy._lag.over, policy._memory.over, policy._fds.over, policy._gated,
            self.waiting,
        )

    def settle(self) -> None:
        """When the loop is idle all are let in, soon, and all is as it was."""
        for _ in range(12):
            self.make(m.LagSeen(0.0, self.waiting))
        self.make(m.ProcessWeighed(0.1, 0.1))
        check(self.accepting and not self.gated and not self.refusing, "it does not recover")
        check(self.waiting == 0, "somebody waits for ever")


def test_intake_keeps_its_rules_in_every_order_of_looks() -> None:
    findings = search(IntakeSubject)
    assert findings.violation is None, (findings.violation, findings.trace)
    assert findings.states > 50


def test_marks_that_are_off_change_nothing() -> None:
    policy = IntakePolicy(IntakeLimits())
    assert policy.handle(m.LagSeen(1e9, 5)) == []
    assert policy.handle(m.ProcessWeighed(9.0, 9.0)) == []


DEFECTS = (
    Defect("nobody is let in while the loop is late", IntakePolicy, "_lagged",
           "LET_IN_MIN if over", "0 if over"),
    Defect("as many are let in however late it is", IntakePolicy, "_lagged",
           "LET_IN_MIN if over else LET_IN", "LET_IN"),
    Defect("the gate stays closed", IntakePolicy, "_lagged", "self._gated = False", "pass"),
    Defect("the gate opens while many wait", IntakePolicy, "_lagged", "if waiting:", "if False:"),
    Defect("accepting is not resumed", IntakePolicy, "_lagged", "if before and not over:",
           "if before and not over and waiting:"),
    Defect("memory alone is looked at", IntakePolicy, "handle",
           "self._fds.see(fds_share)", "pass"),
)


@pytest.mark.parametrize("defect", DEFECTS, ids=str)
def test_planted_defect_is_found(defect: Defect) -> None:
    with planted(defect):
        findings = search(IntakeSubject)
    assert findings.violation is not None, f"{findings.states} states, and nothing found"
