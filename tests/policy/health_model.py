"""How an endpoint may be used, by the table in the docstring of `policy/health.py`."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Any

import msgspec

from proxy_actors.messages import health as m
from proxy_actors.messages.guard import CallFailed, CallSucceeded, Fault
from proxy_actors.messages.health import OperatorState, Verdict
from proxy_actors.policy.endpoint_state import EndpointState
from proxy_actors.policy.health import EndpointHealth, HealthPolicy
from proxy_actors.policy.health_checks import CheckLimits
from proxy_actors.policy.outliers import OutlierLimits
from tests.policy.search import Subject, check

CHECKS = CheckLimits(rise=1, fall=1, spread=0.0)
OUTLIERS = OutlierLimits(
    consecutive_failures=2, interval_s=10.0, base_ejection_s=10.0, max_ejection_s=10.0,
    success_rate_factor=0.0, check_unejects=True,
)  # fmt: skip


class Restart(msgspec.Struct, frozen=True):
    """The guard is started anew."""


class HealthSubject(Subject):
    """An endpoint of whose calls and checks everything may come, beside one that is well."""

    def __init__(self, checks: CheckLimits | None = CHECKS) -> None:
        self.checks = checks
        self.now_s = 0.0
        self.known = {name: EndpointHealth(EndpointState(name)) for name in ("a", "b")}
        self.operator = OperatorState.READY
        self.down: Verdict | None = None
        self.ejected = self.drained = False
        self.failures = 0
        self.late: list[Any] = []
        self.ending: set[str] = set()
        self.begin()

    def begin(self) -> None:
        self.policy = HealthPolicy(self.known, OUTLIERS, self.checks, draw)
        self.sweep: m.OutlierSweepDue | None = None
        self.due: m.CheckDue | None = None
        self.out: m.StartCheck | None = None
        self.note(self.policy.begin(self.now_s))

    def moves(self) -> Iterator[Any]:
        for state in OperatorState:
            yield m.SetEndpointState("a", state)
        yield m.SetEndpointState("nobody", OperatorState.MAINT)
        yield CallFailed("a", "", Fault.STATUS, 0.0)
        yield CallSucceeded("a", "", 0.0)
        if self.sweep is not None:
            yield self.sweep
        if self.due is not None:
            yield self.due
        if self.out is not None:
            for verdict in Verdict:
                yield ended(self.out, verdict)
        yield m.StopChecks()
        if not self.drained:
            yield Restart()
        yield from self.late
        yield from (m.ChecksEnded(name) for name in "ab")

    def make(self, move: Any) -> None:
        if isinstance(move, Restart):
            self.failures = 0
            self.begin()
            self.check_state()
            return
        told = False
        match move:
            case m.CheckDue() | m.CheckEnded() if self.drained:
                pass
            case m.SetEndpointState("a", state):
                if OperatorState.MAINT in (state, self.operator) and state is not self.operator:
                    if self.checks is not None and not self.drained:
                        self.down = self.due = self.out = None
                self.operator = state
            case CallFailed():
                self.failures += 1
                if self.failures == 2:
                    self.failures, self.ejected = 0, True
            case CallSucceeded():
                self.failures = 0
            case m.OutlierSweepDue():
                self.sweep = None
                self.now_s += OUTLIERS.interval_s
                if self.ejected:
                    self.ejected, self.failures = False, 0
            case m.CheckDue():
                self.due = None
            case m.CheckEnded(_, _, verdict):
                self.out = None
                if verdict is not Verdict.UNKNOWN:
                    self.down = None if verdict is Verdict.WELL else verdict
                if verdict is Verdict.WELL and self.ejected:
                    self.ejected, self.failures = False, 0
            case m.ChecksEnded(endpoint):
                told = self.ending == {endpoint}
                self.ending.discard(endpoint)
            case m.StopChecks() if self.drained:
                told = not self.ending
            case m.StopChecks():
                told = self.checks is None
                self.ending = set() if told else set("ab")
                self.late = [x for x in (self.due, self.out and ended(self.out)) if x is not None]
                self.drained, self.due, self.out = True, None, None
        effects = self.policy.handle(move, self.now_s)
        check((m.AnnounceChecksEnded() in effects) == told, "it is told when nothing is left")
        ended_at = {x.endpoint for x in effects if isinstance(x, m.EndChecks)}
        check(not ended_at or ended_at == self.ending == set("ab"), "all checks are ended, once")
        self.note(effects)
        self.check_state()

    def note(self, effects: list[Any]) -> None:
        for effect in effects:
            match effect:
                case m.SetAvailability(endpoint, takes, serves, drained):
                    state = self.known[endpoint].state
                    before = state.takes, state.serves, state.drained
                    check(before != (takes, serves, drained), "only news are told")
                    state.drained = drained
                    state.become(takes, serves, self.now_s)
                case m.WakeOutlierSweep(_, generation):
                    self.sweep = m.OutlierSweepDue(generation)
                case m.WakeCheck("a", _, generation):
                    check(not self.drained, "no check follows in a drain")
                    self.due = m.CheckDue("a", generation)
                case m.StartCheck("a"):
                    self.out = effect

    def check_state(self) -> None:
        state = self.known["a"].state
        hidden = self.operator is OperatorState.MAINT or self.down is Verdict.FAILED
        kept = self.operator is OperatorState.DRAIN or self.ejected or self.down is not None
        check(state.serves == (not hidden), "serves by the table")
        check(state.takes == (not hidden and not kept), "takes by the table")
        wanted = self.operator is OperatorState.READY
        check(state.drained != wanted, "what the operator took out is told apart")
        checked = self.checks is not None and not self.drained
        maint = self.operator is OperatorState.MAINT
        check((self.due is not None or self.out is not None) == (checked and not maint),
              "an endpoint is checked unless it is in maintenance")
        check(self.policy.watched("a") == (self.failures > 0), "it is watched after a failure")
        other = self.known["b"].state
        check(other.takes and other.serves, "the other endpoint is well")

    def key(self) -> Hashable:
        return (
            self.operator, self.down, self.ejected, self.drained, self.failures,
            tuple(sorted(self.ending)),
            self.due is not None, self.out is not None, self.sweep is not None,
            self.known["a"].ejection.multiplier, self.known["a"].checked.health,
        )  # fmt: skip

    def settle(self) -> None:
        """Once nothing is wrong the endpoint is used again."""
        if self.operator is not OperatorState.READY:
            self.make(m.SetEndpointState("a", OperatorState.READY))
        if self.due is not None:
            self.make(self.due)
        if self.out is not None:
            self.make(ended(self.out, Verdict.WELL))
        for _ in range(3):
            if self.sweep is not None:
                self.make(self.sweep)
        if self.checks is None or not self.drained:
            check(self.known["a"].state.takes, "an endpoint comes back")


def ended(out: m.StartCheck, verdict: Verdict = Verdict.FAILED) -> m.CheckEnded:
    """Say what a check has found."""
    return m.CheckEnded("a", out.generation, verdict)


def draw() -> float:
    """Chance, as these books know it."""
    return 0.5
