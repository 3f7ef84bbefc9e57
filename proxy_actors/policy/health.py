"""How the endpoints of an upstream are: what checks, calls and the operator say, made into one.

    maint, or down by the checks    takes no sessions, serves none
    ejected, drain, or unusable     takes none, serves those that it has
    its circuit breaker not closed  the same: what is sent there is mostly refused
    anything else                   takes and serves

A session lives where its server keeps it, so an endpoint that fails for others keeps its sessions:
they would be lost at any other. One that does not let us in (401, 403) has them still.

Owns what an `EndpointHealth` says, which outlives every incarnation of the guard. The decisions are
those of `policy/outliers.py` and `policy/health_checks.py`; `actors/upstream_guard.py` is the
shell.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import assert_never

from proxy_actors.messages import health as m
from proxy_actors.messages.guard import CallFailed, CallSucceeded
from proxy_actors.messages.health import (
    EndpointStatus,
    HealthEffect,
    HealthMessage,
    OperatorState,
    Verdict,
)
from proxy_actors.policy.endpoint_state import EndpointState
from proxy_actors.policy.health_checks import Checked, CheckLimits, HealthChecks
from proxy_actors.policy.outliers import Ejection, OutlierLimits, Outliers

_HIDDEN = frozenset({EndpointStatus.MAINT, EndpointStatus.DOWN})


class EndpointHealth:
    """What lasts of one endpoint: what the operator wants, its checks, its ejections.

    Attributes:
        broken: whether its circuit breaker is not closed; set by the guard.
    """

    __slots__ = ("broken", "checked", "ejection", "operator", "state")

    def __init__(self, state: EndpointState) -> None:
        self.state = state
        self.operator = OperatorState.READY
        self.checked = Checked()
        self.broken = False
        self.ejection = Ejection()

    @property
    def status(self) -> EndpointStatus:
        """How the endpoint is; of several truths the one that says most."""
        down = self.checked.down
        if self.operator is OperatorState.MAINT:
            return EndpointStatus.MAINT
        if down is Verdict.FAILED:
            return EndpointStatus.DOWN
        if self.operator is OperatorState.DRAIN:
            return EndpointStatus.DRAIN
        if down is not None:
            return EndpointStatus.UNUSABLE
        return EndpointStatus.EJECTED if self.ejection.ejected else EndpointStatus.UP


class HealthPolicy:
    """Decides for the endpoints of one upstream.

    Args:
        checks: how they are checked; None where they are not.
        random: uniform in [0, 1).
    """

    def __init__(
        self,
        endpoints: Mapping[str, EndpointHealth],
        outliers: OutlierLimits,
        checks: CheckLimits | None,
        random: Callable[[], float],
    ) -> None:
        self._endpoints = endpoints
        states = {name: x.state for name, x in endpoints.items()}
        ejections = {name: x.ejection for name, x in endpoints.items()}
        self._outliers = Outliers(outliers, states, ejections, random)
        self._checks: HealthChecks | None = None
        self._ending: set[str] = set()
        if checks is not None:
            checked = {name: x.checked for name, x in endpoints.items()}
            self._checks = HealthChecks(checks, checked, random)

    def begin(self, now_s: float) -> list[HealthEffect]:
        """Go on where another incarnation has ended."""
        effects: list[HealthEffect] = [*self._outliers.begin()]
        for name, known in self._endpoints.items():
            if self._checks is not None and known.operator is not OperatorState.MAINT:
                effects += self._checks.resume(name, now_s)
        return effects + self.review()

    def watched(self, endpoint: str) -> bool:
        """Whether it is of interest that a call succeeds."""
        return self._outliers.watched(endpoint)

    def handle(self, message: HealthMessage, now_s: float) -> list[HealthEffect]:
        """Apply one message and return what is to be done, in order."""
        return [*self._apply(message, now_s), *self.review()]

    def review(self) -> list[HealthEffect]:
        """Say of which endpoint it is to be written down that it can be used differently."""
        effects: list[HealthEffect] = []
        for name, known in self._endpoints.items():
            status, state = known.status, known.state
            takes = status is EndpointStatus.UP and not known.broken
            serves = status not in _HIDDEN
            drained = known.operator is not OperatorState.READY
            if (state.takes, state.serves, state.drained) != (takes, serves, drained):
                effects.append(m.SetAvailability(name, takes, serves, drained))
        return effects

    def _apply(self, message: HealthMessage, now_s: float) -> list[HealthEffect]:
        match message:
            case CallFailed() | CallSucceeded() | m.OutlierSweepDue():
                return [*self._outliers.handle(message, now_s)]
            case m.CheckDue() | m.CheckEnded():
                return self._checked(message, now_s)
            case m.SetEndpointState(endpoint, state):
                return self._set(endpoint, state, now_s)
            case m.StopChecks():
                return self._stop_checks()
            case m.ChecksEnded(endpoint):
                return self._checks_ended(endpoint)
            case _:
                assert_never(message)

    def _checked(self, message: m.CheckDue | m.CheckEnded, now_s: float) -> list[HealthEffect]:
        if self._checks is None:
            return []
        effects: list[HealthEffect] = [*self._checks.handle(message, now_s)]
        # Without an effect it was the end of a check that counts no more.
        if effects and isinstance(message, m.CheckEnded) and message.verdict is Verdict.WELL:
            if self._endpoints[message.endpoint].checked.down is None:
                effects += self._outliers.check_succeeded(message.endpoint, now_s)
        return effects

    def _stop_checks(self) -> list[HealthEffect]:
        if self._checks is None:
            return [] if self._ending else [m.AnnounceChecksEnded()]
        self._checks = None  # timers, and checks that are out, then find nobody
        self._ending = set(self._endpoints)
        return [m.EndChecks(endpoint) for endpoint in self._endpoints]

    def _checks_ended(self, endpoint: str) -> list[HealthEffect]:
        if endpoint not in self._ending:
            return []  # of another incarnation
        self._ending.discard(endpoint)
        return [] if self._ending else [m.AnnounceChecksEnded()]

    def _set(self, endpoint: str, state: OperatorState, now_s: float) -> list[HealthEffect]:
        known = self._endpoints.get(endpoint)
        if known is None or known.operator is state:
            return []
        before, known.operator = known.operator, state
        effects: list[HealthEffect] = [m.ReportSet(endpoint, state)]
        if self._checks is not None:
            if state is OperatorState.MAINT:
                self._checks.suspend(endpoint)
            elif before is OperatorState.MAINT:
                effects += self._checks.resume(endpoint, now_s)
        return effects
