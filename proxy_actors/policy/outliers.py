"""Which endpoints of an upstream fail more than the others, and how long they get no new sessions.

Envoy's outlier detection (RELIABILITY 1.1; `outlier_detection.proto`, `outlier_detection_impl.cc`).
A counter of failures in a row fires when it *equals* its threshold, and is then reset, whether or
not the endpoint could be ejected; a success resets it. With `split_local` what was noticed here (no
connection, a reset, no answer, a process that ended) is counted apart from what a server has told.
An endpoint is ejected only while not too many are, each time for longer, up to a bound. At each
sweep:

1. those whose time is up come back, with counters at zero;
2. a new bucket of calls is begun, and the old one judged,
3. by the success rate beside that of the others (mean less `success_rate_factor` standard
   deviations), and
4. by the share of failures;
5. of each one that is in service, and was for an interval since it came back, the ejection time
   shrinks by a step.

Owns the counters. What lasts is in `Ejection`, and outlives an incarnation of the guard. That calls
succeed is counted in place by the data plane, and told only while a counter is above zero. An
upstream of one endpoint has none to prefer to it: nothing is ejected there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Final, assert_never

import msgspec

from proxy_actors.messages import health as m
from proxy_actors.messages.guard import CallFailed, CallSucceeded, Fault
from proxy_actors.messages.health import EjectionCause, OutlierEffect, OutlierMessage
from proxy_actors.policy.endpoint_state import EndpointState

_ANY: Final = EjectionCause.CONSECUTIVE_FAILURES
_GATEWAY: Final = EjectionCause.CONSECUTIVE_GATEWAY_FAILURES
_LOCAL: Final = EjectionCause.CONSECUTIVE_LOCAL_FAILURES
_RATE: Final = (EjectionCause.SUCCESS_RATE, EjectionCause.LOCAL_SUCCESS_RATE)
_SHARE: Final = (EjectionCause.FAILURE_PERCENTAGE, EjectionCause.LOCAL_FAILURE_PERCENTAGE)


class OutlierLimits(msgspec.Struct, frozen=True):
    """When an endpoint is ejected, and for how long. Where a threshold is 0 the rule is off.

    Attributes:
        consecutive_failures: failures of any kind in a row, 0 to 1000.
        consecutive_gateway_failures: of these, such as a gateway says by 502, 503 and 504.
        split_local: whether failures that are noticed here are counted apart.
        consecutive_local_failures: such failures in a row, where they are.
        interval_s: between two sweeps, 0.1 to 3600.
        base_ejection_s: the first ejection, 0.1 to 3600; the n-th in a row lasts n times as long.
        max_ejection_s: the most that it grows to, base to 86,400.
        ejection_jitter_s: what is added to each by chance, at most.
        ejected_percent_max: the share of endpoints that may be ejected at once, 0 to 100.
        always_eject_one: whether one may be in any case, however few there are.
        success_rate_factor: standard deviations below the mean, 0 to 10.
        success_rate_endpoints_min: endpoints with enough calls, for the rule to apply.
        success_rate_calls_min: calls in an interval that are enough.
        failure_percentage: the share of calls in an interval that fail, 0 to 100.
        failure_percentage_endpoints_min, failure_percentage_calls_min: as above.
        check_unejects: whether an active check that succeeds brings an endpoint back.
    """

    consecutive_failures: int = 5
    consecutive_gateway_failures: int = 0
    split_local: bool = False
    consecutive_local_failures: int = 5
    interval_s: float = 10.0
    base_ejection_s: float = 30.0
    max_ejection_s: float = 300.0
    ejection_jitter_s: float = 0.0
    ejected_percent_max: int = 50
    always_eject_one: bool = True
    success_rate_factor: float = 1.9
    success_rate_endpoints_min: int = 5
    success_rate_calls_min: int = 100
    failure_percentage: int = 0
    failure_percentage_endpoints_min: int = 5
    failure_percentage_calls_min: int = 50
    check_unejects: bool = False

    def sampled(self, endpoints: int) -> bool:
        """Whether a rule looks at rates, where there are so many endpoints."""
        by_rate = self.success_rate_factor > 0 and endpoints >= self.success_rate_endpoints_min
        by_share = self.failure_percentage > 0
        return by_rate or (by_share and endpoints >= self.failure_percentage_endpoints_min)


class Ejection:
    """What lasts of one endpoint.

    Attributes:
        ejected: whether it is at present.
        at_s, jitter_s: since when, and what chance adds.
        multiplier: how often it was ejected of late: how many times the base it lasts.
        unejected_s: when it last came back, if it ever has.
        times: how often it was ejected at all.
        refused: how often it was not, since too many were.
    """

    __slots__ = ("at_s", "ejected", "jitter_s", "multiplier", "refused", "times", "unejected_s")

    def __init__(self) -> None:
        self.ejected = False
        self.at_s = self.jitter_s = 0.0
        self.multiplier = self.times = self.refused = 0
        self.unejected_s: float | None = None


class _Counters:
    """What is counted of one endpoint: failures in a row, and the calls of an interval."""

    __slots__ = ("failures", "in_a_row", "local_failures", "seen")

    def __init__(self, seen: int) -> None:
        self.in_a_row: dict[EjectionCause, int] = {}
        self.failures = self.local_failures = 0
        self.seen = seen


class Outliers:
    """Decides for the endpoints of one upstream.

    Args:
        endpoints: their states, of which it reads what has succeeded.
        ejections: what lasts, by endpoint.
        random: for the jitter, uniform in [0, 1).
    """

    def __init__(
        self,
        limits: OutlierLimits,
        endpoints: Mapping[str, EndpointState],
        ejections: Mapping[str, Ejection],
        random: Callable[[], float],
    ) -> None:
        self._limits = limits
        self._endpoints = endpoints
        self._ejections = ejections
        self._random = random
        self._counters = {name: _Counters(x.succeeded) for name, x in endpoints.items()}
        self._thresholds = {
            _ANY: limits.consecutive_failures,
            _GATEWAY: limits.consecutive_gateway_failures,
            _LOCAL: limits.consecutive_local_failures,
        }
        self._samples = len(endpoints) > 1 and limits.sampled(len(endpoints))
        self._generation = 0
        self._armed = False

    def begin(self) -> list[OutlierEffect]:
        """Go on where another incarnation has ended."""
        return self._arm()

    def watched(self, endpoint: str) -> bool:
        """Whether it is of interest that a call succeeds."""
        return bool(self._counters[endpoint].in_a_row)

    def handle(self, message: OutlierMessage, now_s: float) -> list[OutlierEffect]:
        """Apply one message and return what is to be done, in order."""
        if len(self._endpoints) == 1:
            return []
        match message:
            case CallFailed(endpoint, _, fault):
                return [*self._failed(endpoint, fault, now_s), *self._arm()]
            case CallSucceeded(endpoint):
                self._counters[endpoint].in_a_row.clear()
                return []
            case m.OutlierSweepDue(generation):
                return self._sweep(now_s) if generation == self._generation else []
            case _:
                assert_never(message)

    def check_succeeded(self, endpoint: str, now_s: float) -> list[OutlierEffect]:
        """An active check has found the endpoint well."""
        if self._limits.check_unejects and self._ejections[endpoint].ejected:
            return [self._uneject(endpoint, now_s, checked=True)]
        return []

    def _failed(self, endpoint: str, fault: Fault, now_s: float) -> Iterator[OutlierEffect]:
        counters = self._counters[endpoint]
        in_a_row = counters.in_a_row
        if self._limits.split_local and fault.local:
            counters.local_failures += 1
            causes = [_LOCAL]
        else:
            counters.failures += 1
            in_a_row.pop(_LOCAL, None)  # the server has said something
            causes = [_GATEWAY, _ANY] if fault.gateway else [_ANY]
            if not fault.gateway:
                in_a_row.pop(_GATEWAY, None)
        for cause in causes:
            threshold = self._thresholds[cause]
            if not threshold:
                continue
            in_a_row[cause] = in_a_row.get(cause, 0) + 1
            if in_a_row[cause] == threshold:
                del in_a_row[cause]
                yield from self._eject(endpoint, cause, now_s)

    def _eject(
        self, endpoint: str, cause: EjectionCause, now_s: float
    ) -> Iterator[OutlierEffect]:
        limits, ejection = self._limits, self._ejections[endpoint]
        if ejection.ejected:
            return
        ejected = sum(x.ejected for x in self._ejections.values())
        percent = 100.0 * (ejected + 1) / len(self._ejections)
        if percent > limits.ejected_percent_max and (ejected or not limits.always_eject_one):
            times = ejection.refused = ejection.refused + 1
            if times & (times - 1) == 0:
                yield m.ReportNotEjected(endpoint, cause, times)
            return
        ejection.ejected = True
        ejection.times += 1
        ejection.at_s = now_s
        ejection.jitter_s = self._random() * limits.ejection_jitter_s
        base_s, max_s = limits.base_ejection_s, limits.max_ejection_s
        if ejection.multiplier * base_s < max_s + base_s:
            ejection.multiplier += 1
        yield m.ReportEjected(endpoint, cause, self._lasts_s(ejection), ejection.multiplier)

    def _lasts_s(self, ejection: Ejection) -> float:
        limits = self._limits
        grown_s = limits.base_ejection_s * ejection.multiplier
        return min(grown_s, limits.max_ejection_s) + ejection.jitter_s

    def _uneject(self, endpoint: str, now_s: float, checked: bool = False) -> OutlierEffect:
        ejection = self._ejections[endpoint]
        ejection.ejected = False
        ejection.unejected_s = now_s
        self._counters[endpoint].in_a_row.clear()
        return m.ReportUnejected(endpoint, checked)

    # The sweep.

    def _sweep(self, now_s: float) -> list[OutlierEffect]:
        self._armed = False
        effects: list[OutlierEffect] = []
        for endpoint, ejection in self._ejections.items():
            if ejection.ejected and now_s - ejection.at_s >= self._lasts_s(ejection):
                effects.append(self._uneject(endpoint, now_s))
        if self._samples:
            for local, samples in enumerate(self._take_samples()):
                effects += self._by_success_rate(samples, _RATE[local], now_s)
                effects += self._by_share_of_failures(samples, _SHARE[local], now_s)
        for ejection in self._ejections.values():
            back_s = ejection.unejected_s
            if not ejection.ejected and back_s is not None:
                if now_s - back_s >= self._limits.interval_s and ejection.multiplier:
                    ejection.multiplier -= 1
        return effects + self._arm()

    def _take_samples(self) -> list[dict[str, _Sample]]:
        """Take the calls of the interval of each endpoint in service, and begin another.

        Returns:
            What servers have told; where it is counted apart, what was noticed here as well.
        """
        told: dict[str, _Sample] = {}
        noticed: dict[str, _Sample] = {}
        for endpoint, counters in self._counters.items():
            succeeded = self._endpoints[endpoint].succeeded
            well, failures, local = (
                succeeded - counters.seen, counters.failures, counters.local_failures,
            )  # fmt: skip
            counters.seen, counters.failures, counters.local_failures = succeeded, 0, 0
            if not self._ejections[endpoint].ejected:
                told[endpoint] = _Sample(well, failures)
                noticed[endpoint] = _Sample(well + failures, local)
        return [told, noticed] if self._limits.split_local else [told]

    def _by_success_rate(
        self, samples: dict[str, _Sample], cause: EjectionCause, now_s: float
    ) -> Iterator[OutlierEffect]:
        limits = self._limits
        calls_min = limits.success_rate_calls_min
        rates = {name: x.rate for name, x in samples.items() if 0 < x.calls >= calls_min}
        if not limits.success_rate_factor or len(rates) < limits.success_rate_endpoints_min:
            return
        threshold = success_rate_threshold(list(rates.values()), limits.success_rate_factor)
        for endpoint, rate in rates.items():
            if rate < threshold:
                yield from self._eject(endpoint, cause, now_s)

    def _by_share_of_failures(
        self, samples: dict[str, _Sample], cause: EjectionCause, now_s: float
    ) -> Iterator[OutlierEffect]:
        limits = self._limits
        calls_min = limits.failure_percentage_calls_min
        rates = {name: x.rate for name, x in samples.items() if 0 < x.calls >= calls_min}
        if not limits.failure_percentage or len(rates) < limits.failure_percentage_endpoints_min:
            return
        for endpoint, rate in rates.items():
            if 100.0 - rate >= limits.failure_percentage:
                yield from self._eject(endpoint, cause, now_s)

    def _arm(self) -> list[OutlierEffect]:
        """Have a sweep follow, while there is something to be looked at."""
        wanted = self._samples or any(x.ejected or x.multiplier for x in self._ejections.values())
        if self._armed or not wanted or len(self._endpoints) == 1:
            return []
        self._armed = True
        self._generation += 1
        return [m.WakeOutlierSweep(self._limits.interval_s, self._generation)]


class _Sample(msgspec.Struct, frozen=True):
    """The calls of one endpoint in one interval."""

    succeeded: int
    failed: int

    @property
    def calls(self) -> int:
        return self.succeeded + self.failed

    @property
    def rate(self) -> float:
        """Which percentage has succeeded."""
        return 100.0 * self.succeeded / self.calls


def success_rate_threshold(rates: list[float], factor: float) -> float:
    """Return below which success rate an endpoint stands out: mean - factor * deviation.

    The deviation is that of the population.
    """
    mean = sum(rates) / len(rates)
    variance = sum((rate - mean) ** 2 for rate in rates) / len(rates)
    return mean - factor * math.sqrt(variance)
