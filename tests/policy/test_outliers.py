"""Outlier detection: rule by rule with Envoy's figures, and through every order of messages.

RELIABILITY 1.1, FLT-N8, N16, N17. The end plants defects, each to be found.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec
import pytest

from proxy_actors.messages import health as m
from proxy_actors.messages.guard import CallFailed, CallSucceeded, Fault
from proxy_actors.policy.endpoint_state import EndpointState
from proxy_actors.policy.outliers import (
    Ejection,
    OutlierLimits,
    Outliers,
    success_rate_threshold,
)
from tests.defects import Defect, planted
from tests.policy.outliers_model import LIMITS, SPLIT, OutliersSubject
from tests.policy.search import search


class Bench:
    """Outlier detection with a clock: whatever is due is told at its time."""

    def __init__(
        self, endpoints: int, limits: OutlierLimits = OutlierLimits(), drawn: float = 0.0
    ) -> None:
        names = [f"e{number}" for number in range(endpoints)]
        self.states = {name: EndpointState(name) for name in names}
        self.ejections = {name: Ejection() for name in names}
        self.policy = Outliers(limits, self.states, self.ejections, lambda: drawn)
        self.now_s = 0.0
        self.due: list[tuple[float, m.OutlierSweepDue]] = []
        self.log: list[tuple[float, str, str]] = []
        self.note(self.policy.begin())

    def fail(self, name: str, times: int = 1, fault: Fault = Fault.STATUS) -> None:
        for _ in range(times):
            self.note(self.policy.handle(CallFailed(name, "", fault, 0.1), self.now_s))

    def succeed(self, name: str) -> None:
        self.states[name].succeeded += 1
        if self.policy.watched(name):
            self.note(self.policy.handle(CallSucceeded(name, "", 0.1), self.now_s))

    def calls(self, name: str, succeeded: int, failed: int, fault: Fault = Fault.STATUS) -> None:
        """Have calls made of which no two in a row fail, as far as that can be."""
        for _ in range(failed):
            self.fail(name, fault=fault)
            self.succeed(name)
        self.states[name].succeeded += succeeded - failed

    def run(self, seconds: float) -> None:
        until_s = self.now_s + seconds
        while self.due and self.due[0][0] <= until_s:
            self.now_s, message = self.due.pop(0)
            self.note(self.policy.handle(message, self.now_s))
        self.now_s = until_s

    def note(self, effects: list[Any]) -> None:
        for effect in effects:
            match effect:
                case m.ReportEjected(endpoint, cause, for_s):
                    self.log.append((self.now_s, endpoint, f"{cause} {for_s:g}"))
                case m.ReportNotEjected(endpoint, cause):
                    self.log.append((self.now_s, endpoint, f"stays {cause}"))
                case m.ReportUnejected(endpoint, checked):
                    self.log.append((self.now_s, endpoint, "checked" if checked else "back"))
                case m.WakeOutlierSweep(after_s, generation):
                    self.due.append((self.now_s + after_s, m.OutlierSweepDue(generation)))

    def ejected(self) -> set[str]:
        return {name for name, x in self.ejections.items() if x.ejected}


def test_fifth_failure_in_a_row_ejects_for_thirty_seconds() -> None:
    """FLT-N8, Envoy's defaults."""
    bench = Bench(2)
    bench.fail("e0", 4)
    assert not bench.ejected()
    bench.fail("e0")
    assert bench.log == [(0.0, "e0", "consecutive-failures 30")]
    bench.run(29.9)
    assert bench.ejected() == {"e0"}
    bench.run(0.1)
    assert bench.log[1:] == [(30.0, "e0", "back")]


def test_success_in_between_begins_the_count_anew() -> None:
    bench = Bench(2)
    for _ in range(10):
        bench.fail("e0", 4)
        bench.succeed("e0")
    assert not bench.log


def test_counter_fires_once_at_its_threshold_and_begins_anew() -> None:
    """Whether or not the endpoint could be ejected: of two only one may be."""
    bench = Bench(2)
    bench.fail("e1", 5)
    bench.fail("e0", 14)
    assert [what for _, name, what in bench.log if name == "e0"] == [
        "stays consecutive-failures", "stays consecutive-failures",
    ]  # fmt: skip
    bench.fail("e0")
    assert bench.ejections["e0"].refused == 3


def test_counters_of_an_ejected_endpoint_are_at_zero_when_it_is_back() -> None:
    bench = Bench(2)
    bench.fail("e0", 5 + 4)
    bench.run(30.0)
    bench.fail("e0", 4)
    assert not bench.ejected()


def test_each_ejection_lasts_longer_up_to_the_bound_and_calm_makes_it_shorter() -> None:
    """FLT-N17: a host that flaps."""
    bench = Bench(2)
    lasted = []
    for _ in range(13):
        bench.fail("e0", 5)
        lasted.append(bench.log[-1][2])
        while bench.ejected():
            bench.run(1.0)
        bench.run(1.0)  # bad again before an interval has passed
    expected = [*range(30, 301, 30), 300, 300, 300]
    assert lasted == [f"consecutive-failures {seconds}" for seconds in expected]
    assert bench.ejections["e0"].multiplier == 11
    bench.run(10.0)
    assert bench.ejections["e0"].multiplier == 10
    bench.run(100.0)
    assert bench.ejections["e0"].multiplier == 0
    assert not bench.due, "nothing fails, and still there are sweeps"


def test_jitter_is_drawn_for_each_ejection() -> None:
    bench = Bench(2, OutlierLimits(ejection_jitter_s=8.0), drawn=0.5)
    bench.fail("e0", 5)
    assert bench.log == [(0.0, "e0", "consecutive-failures 34")]
    bench.run(39.9)
    assert bench.ejected()
    bench.run(0.1)
    assert not bench.ejected()


@pytest.mark.parametrize(
    ("endpoints", "percent", "one", "ejected"),
    [
        (2, 50, True, 1), (5, 50, True, 2), (5, 80, True, 4), (4, 100, True, 4),
        (2, 10, True, 1), (9, 10, True, 1), (9, 10, False, 0), (10, 10, False, 1),
        (20, 10, True, 2), (3, 0, True, 1), (3, 0, False, 0),
    ],
)  # fmt: skip
def test_no_more_are_ejected_than_the_share_allows(
    endpoints: int, percent: int, one: bool, ejected: int
) -> None:
    """FLT-N16. Envoy's trap: with its 10 % and below ten hosts nobody ever is."""
    bench = Bench(endpoints, OutlierLimits(ejected_percent_max=percent, always_eject_one=one))
    for name in bench.states:
        bench.fail(name, 5)
    assert len(bench.ejected()) == ejected


def test_only_endpoint_is_never_ejected() -> None:
    bench = Bench(1, OutlierLimits(ejected_percent_max=100))
    bench.fail("e0", 100)
    assert not bench.log and not bench.due and not bench.policy.watched("e0")


def test_gateway_failures_count_in_both_counters_where_that_is_on() -> None:
    limits = OutlierLimits(consecutive_gateway_failures=3)
    bench = Bench(3, limits)
    bench.fail("e0", 2, Fault.GATEWAY)
    bench.fail("e0", 1)  # another failure is not one of a gateway, but one
    bench.fail("e0", 1, Fault.CONNECT)
    assert not bench.ejected()
    bench.fail("e0", 1, Fault.TIMEOUT)
    assert bench.log == [(0.0, "e0", "consecutive-failures 30")]
    bench.fail("e1", 3, Fault.GATEWAY)
    assert bench.log[1:] == [(0.0, "e1", "stays consecutive-gateway-failures")]


def test_local_failures_are_counted_apart_where_that_is_on() -> None:
    bench = Bench(4, OutlierLimits(split_local=True, consecutive_local_failures=3))
    bench.fail("e0", 4)
    bench.fail("e0", 2, Fault.CONNECT)
    bench.fail("e0", 1)
    assert bench.log == [(0.0, "e0", "consecutive-failures 30")]
    bench.fail("e1", 2, Fault.RESET)
    bench.fail("e1", 1)  # it has said something: it can be reached
    bench.fail("e1", 2, Fault.TIMEOUT)
    assert bench.ejected() == {"e0"}
    bench.fail("e1", 1, Fault.EXIT)
    assert bench.log[1:] == [(0.0, "e1", "consecutive-local-failures 30")]


def test_every_kind_of_failure_counts_alike_where_it_is_not() -> None:
    bench = Bench(2)
    for fault in (Fault.CONNECT, Fault.RESET, Fault.TIMEOUT, Fault.PROTOCOL, Fault.EXIT):
        bench.fail("e0", 1, fault)
    assert bench.ejected() == {"e0"}


def test_successful_check_brings_an_endpoint_back_where_that_is_on() -> None:
    bench = Bench(2, OutlierLimits(check_unejects=True))
    bench.fail("e0", 5)
    bench.note(bench.policy.check_succeeded("e0", 1.0))
    assert bench.log[1:] == [(0.0, "e0", "checked")] and not bench.ejected()
    bench = Bench(2)
    bench.fail("e0", 5)
    bench.note(bench.policy.check_succeeded("e0", 1.0))
    assert bench.ejected()


def test_threshold_of_the_success_rate_is_that_of_the_worked_example() -> None:
    """Envoy: {50, 100, 100, 100, 100} has mean 90, deviation 20, threshold 52."""
    assert success_rate_threshold([50.0, 100.0, 100.0, 100.0, 100.0], 1.9) == 52.0


def test_endpoint_with_an_outstanding_success_rate_is_ejected() -> None:
    bench = Bench(5)
    for name in ("e1", "e2", "e3", "e4"):
        bench.calls(name, 100, 0)
    bench.calls("e0", 50, 50)
    bench.run(10.0)
    assert bench.log == [(10.0, "e0", "success-rate 30")]


def test_success_rate_needs_endpoints_and_calls_enough_of_one_interval() -> None:
    few = Bench(5)
    for name in ("e1", "e2", "e3", "e4"):
        few.calls(name, 100, 0)
    few.calls("e0", 49, 50)
    few.run(10.0)
    few.calls("e0", 1, 1)  # another interval, another bucket
    few.run(10.0)
    assert not few.log
    four = Bench(4)
    for name in ("e1", "e2", "e3"):
        four.calls(name, 1000, 0)
    four.calls("e0", 500, 500)
    four.run(10.0)
    assert not four.log and not four.due, "the rule can never apply, and still there are sweeps"


def test_ejected_endpoint_has_no_part_in_the_mean() -> None:
    bench = Bench(6)
    bench.fail("e5", 5)
    for name in ("e1", "e2", "e3", "e4"):
        bench.calls(name, 100, 0)
    bench.calls("e0", 50, 50)
    bench.calls("e5", 0, 0)
    bench.run(10.0)
    assert bench.ejected() == {"e0", "e5"}


def test_share_of_failures_ejects_where_that_is_on() -> None:
    limits = OutlierLimits(
        failure_percentage=85, success_rate_factor=0.0, failure_percentage_calls_min=20,
        consecutive_failures=0, ejected_percent_max=100,
    )  # fmt: skip
    bench = Bench(5, limits)
    for name in ("e0", "e1", "e2"):
        bench.calls(name, 20, 0)
    bench.fail("e3", 17)
    bench.states["e3"].succeeded += 3
    bench.fail("e4", 16)
    bench.states["e4"].succeeded += 4
    bench.run(10.0)
    assert bench.log == [(10.0, "e3", "failure-percentage 30")]


def test_rates_of_local_failures_are_judged_apart_where_that_is_on() -> None:
    limits = OutlierLimits(
        split_local=True, consecutive_local_failures=0, consecutive_failures=0,
        success_rate_calls_min=10,
    )  # fmt: skip
    bench = Bench(5, limits)
    for name in ("e0", "e1", "e2", "e3"):
        bench.calls(name, 10, 0)
    bench.calls("e4", 10, 10, Fault.CONNECT)
    bench.run(10.0)
    assert bench.log == [(10.0, "e4", "local-success-rate 30")]


def test_guard_that_is_started_anew_goes_on_with_what_lasts() -> None:
    before = Bench(2)
    before.fail("e0", 5)
    before.run(12.0)
    after = Bench(2)
    after.ejections, after.now_s = before.ejections, before.now_s
    after.policy = Outliers(OutlierLimits(), after.states, after.ejections, lambda: 0.0)
    after.note(after.policy.begin())
    after.run(100.0)
    assert after.log == [(32.0, "e0", "back")]


SUBJECTS = {
    "two endpoints": OutliersSubject,
    "two endpoints, any share": partial(
        OutliersSubject, limits=msgspec.structs.replace(LIMITS, ejected_percent_max=100)
    ),
    "nobody may be": partial(
        OutliersSubject, limits=msgspec.structs.replace(LIMITS, always_eject_one=False,
                                                        ejected_percent_max=40)
    ),
    "checks": partial(
        OutliersSubject, limits=msgspec.structs.replace(LIMITS, check_unejects=True)
    ),
    "local failures apart": partial(OutliersSubject, limits=SPLIT),
}  # fmt: skip


@pytest.mark.parametrize("name", SUBJECTS)
def test_endpoints_are_ejected_by_the_rules_in_every_order_of_messages(name: str) -> None:
    findings = search(SUBJECTS[name])
    assert findings.violation is None, (findings.violation, findings.trace)
    assert findings.states >= 4


DEFECTS = [
    Defect("fires above the threshold", Outliers, "_failed", "== threshold", ">= threshold + 1"),
    Defect("is not reset", Outliers, "_failed", "del in_a_row[cause]", "pass"),
    Defect("a success is not heard", Outliers, "handle", "in_a_row.clear()", "in_a_row"),
    Defect("one too many is ejected", Outliers, "_eject", "(ejected + 1)", "ejected"),
    Defect("ejected twice", Outliers, "_eject", "if ejection.ejected:", "if 0:"),
    Defect("time does not grow", Outliers, "_eject", "ejection.multiplier += 1",
           "ejection.multiplier = 1"),
    Defect("time grows without end", Outliers, "_eject",
           "if ejection.multiplier * base_s < max_s + base_s", "if 1"),
    Defect("lasts beyond the bound", Outliers, "_lasts_s",
           "min(grown_s, limits.max_ejection_s)", "grown_s"),
    Defect("back with its counters", Outliers, "_uneject", "in_a_row.clear()", "in_a_row"),
    Defect("never forgiven", Outliers, "_sweep", "ejection.multiplier -= 1", "pass"),
    Defect("forgiven at once", Outliers, "_sweep", ">= self._limits.interval_s", ">= 0"),
    Defect("no sweep after a crash", Outliers, "begin", "return self._arm()", "return []"),
    Defect("two sweeps", Outliers, "_arm", "self._armed or", ""),
]


@pytest.mark.parametrize("defect", DEFECTS, ids=str)
def test_planted_defect_is_found(defect: Defect) -> None:
    with planted(defect):
        assert any(search(subject).violation is not None for subject in SUBJECTS.values())
