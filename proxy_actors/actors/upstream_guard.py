"""The guard of one upstream: hears how its endpoints do, and says which of them may be used.

What it has found is written into the `EndpointState` of each, where the data plane reads it. Owns
the timers; what lasts lies in `EndpointHealth`, which its parent hands to every incarnation, so
that one which is started anew goes on where the other ended. The checks are greenlets of the data
plane, which report their end by mail.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import assert_never

import msgspec

from proxy_actors.actors.base import Actor
from proxy_actors.actors.guard_breakers import GuardBreakers
from proxy_actors.actors.meters import UpstreamMeters
from proxy_actors.actors.refs import Slot
from proxy_actors.messages import health as m
from proxy_actors.messages.base import Message
from proxy_actors.messages.breaker import (
    AdmitCall,
    BreakerDue,
    BreakerMessage,
    CallAdmitted,
    CircuitOpen,
    PermitReleased,
    ProbeEnded,
)
from proxy_actors.messages.guard import CallFailed, CallSucceeded
from proxy_actors.messages.health import HealthEffect, HealthMessage, HealthReport, Verdict
from proxy_actors.policy.breaker import BreakerLimits
from proxy_actors.policy.exits import Exits
from proxy_actors.policy.health import EndpointHealth, HealthPolicy
from proxy_actors.policy.health_checks import CheckLimits
from proxy_actors.policy.outliers import OutlierLimits
from proxy_actors.world.base import World

logger = logging.getLogger("proxy_actors.health")


class CheckResult(msgspec.Struct, frozen=True):
    """What a check has found; `text` says more for operators."""

    verdict: Verdict
    text: str = ""


class Checker(ABC):
    """What has one endpoint checked, by greenlets of the data plane."""

    @abstractmethod
    def check(self, deadline_s: float) -> CheckResult:
        """Find out by the deadline how the endpoint is. Never raises what the endpoint did."""

    def probe(self, deadline_s: float) -> CheckResult:
        """Check once, where there are no checks as a rule: nothing is left behind."""
        return self.check(deadline_s)

    @abstractmethod
    def end_checks(self) -> None:
        """Leave nothing behind at the endpoint; there may be another check all the same."""


class GuardLimits(msgspec.Struct, frozen=True):
    """How the endpoints of an upstream are judged; without `checks` none is made.

    Without `breakers` there are none.
    """

    outliers: OutlierLimits = OutlierLimits()
    checks: CheckLimits | None = None
    breakers: BreakerLimits | None = None


class UpstreamGuard(Actor):
    """The guard of one upstream.

    Args:
        slot: its stable name.
        upstream: the upstream's configured name.
        endpoints: what lasts of each, by name.
        checkers: what checks each, by name.
        meters: where changes of circuit breakers are counted.
    """

    mail_max = 10_000

    def __init__(
        self,
        world: World,
        slot: Slot,
        upstream: str,
        endpoints: Mapping[str, EndpointHealth],
        checkers: Mapping[str, Checker],
        limits: GuardLimits,
        meters: UpstreamMeters | None = None,
    ) -> None:
        super().__init__(world, slot.name)
        self._upstream = upstream
        self._checked = limits.checks is not None
        states = {name: known.state for name, known in endpoints.items()}
        self._breakers = GuardBreakers(
            world, upstream, states, self._wake, self._start_probe, limits.breakers,
            meters or UpstreamMeters(),
        )
        self._exits = Exits()
        self._endpoints = endpoints
        self._checkers = checkers
        self._health = HealthPolicy(endpoints, limits.outliers, limits.checks, world.random)

    def on_start(self) -> None:
        """Go on where another incarnation has ended."""
        self._breakers.begin()
        self._apply(self._health.begin(self.world.now_s()))
        self._watch()

    def on_receive(
        self, message: HealthMessage | AdmitCall | BreakerMessage
    ) -> CallAdmitted | CircuitOpen | None:
        """Apply the message; who asks whether a call may be sent is answered at once."""
        answer: CallAdmitted | CircuitOpen | None = None
        match message:
            case AdmitCall():
                answer = self._breakers.admit(message)
            case PermitReleased() | ProbeEnded() | BreakerDue():
                self._breakers.handle(message)
            case CallFailed():
                self._failed(message)
            case CallSucceeded():
                self._breakers.succeeded(message)
                self._apply(self._health.handle(message, self.world.now_s()))
            case m.CheckEnded(endpoint, _, verdict):
                self._apply(self._health.handle(message, self.world.now_s()))
                if verdict is Verdict.WELL:
                    self._breakers.check_passed(endpoint)
            case _:
                self._apply(self._health.handle(message, self.world.now_s()))
        self._watch()
        return answer

    def describe(self) -> dict[str, object]:
        """State for operators."""
        return {
            name: {**_described(known), "breakers": self._breakers.describe(name)}
            for name, known in self._endpoints.items()
        }

    def _failed(self, call: CallFailed) -> None:
        now_s = self.world.now_s()
        counts = self._exits.counts(call, now_s)
        self._breakers.failed(call, counts)
        if counts:
            self._apply(self._health.handle(call, now_s))

    def _watch(self) -> None:
        """Write down what the breakers say, and of which endpoints successes are of interest."""
        changed = False
        for name, known in self._endpoints.items():
            broken = not self._breakers.is_closed(name)
            changed = changed or broken is not known.broken
            known.broken = broken
            known.state.watched = self._health.watched(name) or self._breakers.watches(name)
        if changed:
            self._apply(self._health.review())

    def _wake(self, after_s: float, message: Message) -> None:
        self.world.timer(after_s, self.ref, message)

    def _apply(self, effects: list[HealthEffect]) -> None:
        for effect in effects:
            match effect:
                case m.SetAvailability(endpoint, takes, serves, drained):
                    state = self._endpoints[endpoint].state
                    state.drained = drained
                    state.become(takes, serves, self.world.now_s())
                case m.WakeOutlierSweep(after_s, generation):
                    self.world.timer(after_s, self.ref, m.OutlierSweepDue(generation))
                case m.WakeCheck(endpoint, after_s, generation):
                    self.world.timer(after_s, self.ref, m.CheckDue(endpoint, generation))
                case m.StartCheck():
                    self._start_check(effect)
                case m.EndChecks(endpoint):
                    self._end_checks(endpoint)
                case m.AnnounceChecksEnded():
                    if self.parent is not None:
                        self.parent.tell(m.GuardDrained(self.name))
                case _:
                    self._report(effect)

    def _start_check(self, start: m.StartCheck) -> None:
        checker, slot = self._checkers[start.endpoint], self.slot

        def check() -> None:
            result = CheckResult(Verdict.FAILED, "the check itself has failed")
            try:
                result = checker.check(start.deadline_s)
            finally:
                slot.tell(
                    m.CheckEnded(start.endpoint, start.generation, result.verdict, result.text)
                )

        self.world.spawn("check", check)

    def _end_checks(self, endpoint: str) -> None:
        checker, slot = self._checkers[endpoint], self.slot

        def end() -> None:
            try:
                checker.end_checks()
            finally:
                slot.tell(m.ChecksEnded(endpoint))

        self.world.spawn("check end", end)

    def _start_probe(self, endpoint: str, permit: int, deadline_s: float) -> None:
        """Find out for the breakers whether an endpoint answers; who refuses us does."""
        checker, slot = self._checkers[endpoint], self.slot
        check = checker.check if self._checked else checker.probe

        def probe() -> None:
            ok = False
            try:
                ok = check(deadline_s).verdict in (Verdict.WELL, Verdict.REFUSED)
            finally:
                slot.tell(ProbeEnded(endpoint, permit, ok))

        self.world.spawn("breaker probe", probe)

    def _report(self, effect: HealthReport) -> None:
        """Log what has come to pass."""
        where = self._upstream, effect.endpoint
        match effect:
            case m.ReportEjected(_, cause, for_s, multiplier):
                logger.warning(
                    "endpoint_ejected upstream=%s endpoint=%s cause=%s seconds=%.3f multiplier=%d",
                    *where, cause.value, for_s, multiplier,
                )
            case m.ReportNotEjected(_, cause, times):
                logger.warning(
                    "endpoint_not_ejected upstream=%s endpoint=%s cause=%s times=%d",
                    *where, cause.value, times,
                )
            case m.ReportUnejected(_, checked):
                why = "check" if checked else "time"
                logger.info("endpoint_unejected upstream=%s endpoint=%s cause=%s", *where, why)
            case m.ReportDown(_, why, True):
                logger.warning("endpoint_unusable upstream=%s endpoint=%s cause=%r", *where, why)
            case m.ReportDown(_, why):
                logger.warning("endpoint_down upstream=%s endpoint=%s cause=%r", *where, why)
            case m.ReportUp():
                logger.info("endpoint_up upstream=%s endpoint=%s cause=check", *where)
            case m.ReportSet(_, state):
                logger.info(
                    "endpoint_set upstream=%s endpoint=%s state=%s", *where, state.value
                )
            case _:
                assert_never(effect)


def _described(known: EndpointHealth) -> dict[str, object]:
    """Describe one endpoint for operators."""
    checked, ejection, state = known.checked, known.ejection, known.state
    return {
        "status": known.status.value,
        "takes": state.takes,
        "serves": state.serves,
        "active": state.active,
        "operator": known.operator.value,
        "health": checked.health,
        "check": checked.text,
        "ejections": ejection.times,
        "multiplier": ejection.multiplier,
    }
