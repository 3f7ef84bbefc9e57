"""The guard's shell: checks in greenlets, states where the data plane reads them, crashes.

RELIABILITY 1.1, 1.4; FLT-P15.
"""

from __future__ import annotations

import logging
import math
from typing import Any

import pytest

from proxy_actors.actors.refs import Slot
from proxy_actors.actors.supervisor import Supervisor, Worker
from proxy_actors.actors.upstream_guard import Checker, CheckResult, GuardLimits, UpstreamGuard
from proxy_actors.errors import DeadlineError
from proxy_actors.messages.breaker import AdmitCall, CircuitOpen
from proxy_actors.messages.guard import CallFailed, CallSucceeded, Fault
from proxy_actors.messages.health import (
    GuardDrained,
    OperatorState,
    SetEndpointState,
    StopChecks,
    Verdict,
)
from proxy_actors.messages.lifecycle import ActorState, DescribeState
from proxy_actors.policy.breaker import BreakerLimits
from proxy_actors.policy.endpoint_state import EndpointState
from proxy_actors.policy.health import EndpointHealth
from proxy_actors.policy.health_checks import CheckLimits
from proxy_actors.policy.supervision import Budget
from tests.actors.stage import Stage

CHECKS = CheckLimits(interval_s=10.0, down_interval_s=10.0, timeout_s=2.0, spread=0.0)


class Server(Checker):
    """An endpoint as its checker finds it."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.verdict = Verdict.WELL
        self.hangs = False
        self.checks = self.at_once = self.at_once_max = self.ended = 0

    def check(self, deadline_s: float) -> CheckResult:
        self.checks += 1
        self.at_once += 1
        self.at_once_max = max(self.at_once_max, self.at_once)
        try:
            if self.hangs:
                self.stage.waiter().wait(deadline_s)
        except DeadlineError:
            return CheckResult(Verdict.FAILED, "it hangs")
        finally:
            self.at_once -= 1
        if self.verdict is Verdict.REFUSED:
            raise RuntimeError("nobody thought of this")
        return CheckResult(self.verdict, "as the test says")

    def end_checks(self) -> None:
        self.ended += 1


class Keeper(Supervisor):
    """The guard's parent, which notes what it hears."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.heard: list[GuardDrained] = []

    def on_receive(self, message: Any) -> None:
        self.heard.append(message)


class Bench:
    """A guard of three endpoints, under a supervisor."""

    def __init__(
        self, checks: CheckLimits | None = CHECKS, breakers: BreakerLimits | None = None
    ) -> None:
        self.stage = Stage()
        self.breakers = breakers
        self.slot = Slot("guard/up")
        self.known = {name: EndpointHealth(EndpointState(name)) for name in ("a", "b", "c")}
        self.servers = {name: Server(self.stage) for name in self.known}
        self.keeper = Keeper(
            self.stage, "keeper",
            [Worker(self.slot, lambda: self.guard(checks), drain=StopChecks())],
            budget=Budget(100, 1.0),
        )  # fmt: skip
        self.stage.begin(self.keeper)

    def guard(self, checks: CheckLimits | None) -> UpstreamGuard:
        limits = GuardLimits(checks=checks, breakers=self.breakers)
        return UpstreamGuard(
            self.stage, self.slot, "up", self.known, self.servers, limits
        )

    def fail(self, name: str, times: int = 5) -> None:
        for _ in range(times):
            epoch = self.known[name].state.epoch
            self.slot.tell(CallFailed(name, "", Fault.STATUS, 0.1, epoch))
        self.stage.run(0.1)

    def crash(self) -> None:
        starts = self.slot.starts
        self.slot.tell(CallFailed("nobody", "", Fault.STATUS, 0.1))
        self.stage.run(0.5)
        assert self.slot.starts == starts + 1

    def used(self, name: str) -> tuple[bool, bool]:
        state = self.known[name].state
        return state.takes, state.serves


ALL, SERVES, NONE = (True, True), (False, True), (False, False)


def test_endpoint_that_fails_keeps_its_sessions_and_gets_no_new_ones(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = Bench(checks=None)
    with caplog.at_level(logging.INFO, "proxy_actors.health"):
        bench.fail("a", 4)
        assert bench.known["a"].state.watched
        bench.slot.tell(CallSucceeded("a", "", 0.1))
        bench.stage.run(0.1)
        assert not bench.known["a"].state.watched
        bench.fail("a", 5)
        assert bench.used("a") == SERVES and not bench.known["a"].state.watched
        bench.stage.run(40.0)
    assert bench.used("a") == ALL
    assert bench.known["a"].state.taken_up_s is not None, "it would not start slowly"
    assert [record.getMessage() for record in caplog.records] == [
        "endpoint_ejected upstream=up endpoint=a cause=consecutive-failures seconds=30.000 "
        "multiplier=1",
        "endpoint_unejected upstream=up endpoint=a cause=time",
    ]


@pytest.mark.parametrize("breakers", [None, BreakerLimits(failure_percent=0.0)], ids=str)
def test_process_that_ends_has_failed_once_however_many_calls_it_had_in_hand(
    breakers: BreakerLimits | None,
) -> None:
    """FLT-U1: for outlier detection as for the breakers, five exits are five failures."""
    bench = Bench(checks=None, breakers=breakers)
    for n in range(5):
        assert bench.used("a") == ALL and not bench.known["a"].state.gated, n
        for _ in range(7):
            epoch = bench.known["a"].state.epoch
            bench.slot.tell(CallFailed("a", "t", Fault.EXIT, 0.1, epoch))
        bench.stage.run(0.2)
    assert bench.used("a") == SERVES
    assert bench.known["a"].ejection.ejected
    assert bench.known["a"].state.gated is (breakers is not None)


def test_steady_state_costs_no_message() -> None:
    bench = Bench(checks=None)
    handled = bench.stage.do(lambda: describe(bench))["handled"]
    bench.stage.run(1000.0)
    assert bench.stage.do(lambda: describe(bench))["handled"] == handled + 1


def test_endpoint_is_down_when_its_checks_fail_and_up_when_they_go_well(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = Bench()
    bench.stage.run(20.0)
    with caplog.at_level(logging.INFO, "proxy_actors.health"):
        bench.servers["a"].verdict = Verdict.FAILED
        bench.stage.run(15.0)
        assert bench.used("a") == NONE and bench.used("b") == ALL
        bench.servers["a"].verdict = Verdict.WELL
        bench.stage.run(15.0)
    assert bench.used("a") == ALL
    assert [record.getMessage() for record in caplog.records] == [
        "endpoint_down upstream=up endpoint=a cause='as the test says'",
        "endpoint_up upstream=up endpoint=a cause=check",
    ]


def test_check_that_hangs_ends_at_its_deadline_and_another_follows() -> None:
    bench = Bench()
    bench.servers["a"].hangs = True
    bench.stage.run(30.0)
    assert bench.used("a") == NONE
    assert bench.servers["a"].checks >= 3
    assert bench.servers["a"].at_once_max == 1


def test_check_that_fails_in_a_way_nobody_thought_of_is_a_failure() -> None:
    bench = Bench()
    bench.servers["a"].verdict = Verdict.REFUSED
    bench.stage.run(20.0)
    assert bench.used("a") == NONE
    assert bench.stage.errors, "it is told as well"
    bench.stage.errors.clear()
    checks = bench.servers["a"].checks
    bench.servers["a"].verdict = Verdict.WELL
    bench.stage.run(30.0)
    assert bench.servers["a"].checks > checks and bench.used("a") == ALL


def test_operator_takes_an_endpoint_out_and_puts_it_back() -> None:
    bench = Bench()
    bench.stage.run(20.0)
    bench.slot.tell(SetEndpointState("a", OperatorState.DRAIN))
    bench.stage.run(0.1)
    assert bench.used("a") == SERVES
    bench.slot.tell(SetEndpointState("a", OperatorState.MAINT))
    bench.stage.run(0.1)
    checks = bench.servers["a"].checks
    bench.stage.run(100.0)
    assert bench.used("a") == NONE and bench.servers["a"].checks == checks
    bench.slot.tell(SetEndpointState("a", OperatorState.READY))
    bench.stage.run(5.0)
    assert bench.used("a") == ALL and bench.servers["a"].checks > checks


def test_guard_that_crashes_goes_on_where_it_was() -> None:
    """Ejections, results of checks and what the operator wants are those of before."""
    bench = Bench()
    bench.servers["b"].verdict = Verdict.FAILED
    bench.stage.run(20.0)
    bench.fail("a")
    bench.slot.tell(SetEndpointState("c", OperatorState.MAINT))
    bench.stage.run(1.0)
    bench.crash()
    assert [bench.used(name) for name in "abc"] == [SERVES, NONE, NONE]
    bench.servers["b"].verdict = Verdict.WELL
    bench.stage.run(40.0)
    assert [bench.used(name) for name in "abc"] == [ALL, ALL, NONE]


def test_breaker_stays_open_when_the_guard_crashes() -> None:
    """And closes in its time, by a probe of the proxy's own, as nobody else comes."""
    limits = BreakerLimits(base_s=50.0, cap_s=50.0)
    bench = Bench(checks=None, breakers=limits)
    bench.stage.random = lambda: 0.9  # type: ignore[method-assign]
    bench.crash()
    bench.fail("a", limits.failures_max)
    state = bench.known["a"].state
    assert state.gated and bench.used("a") == SERVES
    ask = AdmitCall("a", "", True)
    refused = bench.stage.do(lambda: bench.slot.ask(ask, math.inf))
    assert isinstance(refused, CircuitOpen) and 44.0 < refused.after_s <= 45.0
    bench.stage.run(20.0)
    bench.crash()
    assert state.gated and state.opened
    refused = bench.stage.do(lambda: bench.slot.ask(ask, math.inf))
    assert isinstance(refused, CircuitOpen) and 23.0 < refused.after_s < 25.0
    checks = bench.servers["a"].checks
    bench.stage.run(27.0)
    assert bench.servers["a"].checks == checks + 1
    assert not state.gated and not state.opened


def test_probe_that_fails_keeps_a_breaker_open_and_who_refuses_us_lives() -> None:
    bench = Bench(checks=None, breakers=BreakerLimits(base_s=0.5))
    server, state = bench.servers["a"], bench.known["a"].state
    server.verdict = Verdict.FAILED
    bench.fail("a")
    assert bench.stage.run_until(lambda: server.checks >= 3, 100.0)
    assert state.gated and not state.takes
    assert server.at_once_max == 1
    detail = bench.stage.do(lambda: describe(bench))["detail"]
    assert set(detail["a"]["breakers"]) == {"-"}
    server.verdict = Verdict.WELL
    assert bench.stage.run_until(lambda: not state.gated, 100.0)


def test_health_check_that_succeeds_closes_a_breaker_that_is_half_open() -> None:
    bench = Bench(breakers=BreakerLimits(base_s=0.5))
    bench.fail("a")
    state = bench.known["a"].state
    assert state.gated
    assert bench.stage.run_until(lambda: not state.gated, 30.0)


def test_crash_during_a_check_has_no_second_one_begin_beside_it() -> None:
    bench = Bench()
    server = bench.servers["a"]
    server.hangs = True
    assert bench.stage.run_until(lambda: server.at_once == 1, 30.0)
    bench.crash()
    bench.crash()
    bench.stage.run(60.0)
    assert server.at_once_max == 1 and server.checks > 3


def test_drain_ends_the_checks_and_what_they_keep() -> None:
    bench = Bench()
    bench.stage.run(20.0)
    bench.keeper.drain()
    bench.stage.run(0.1)
    checks = bench.servers["a"].checks
    assert bench.keeper.heard == [GuardDrained("guard/up")]
    bench.stage.run(100.0)
    assert bench.servers["a"].checks == checks and bench.servers["a"].ended == 1


def test_state_can_be_read_by_operators() -> None:
    bench = Bench()
    bench.stage.run(20.0)
    bench.fail("a")
    detail = bench.stage.do(lambda: describe(bench))["detail"]
    assert detail["a"] == {
        "status": "ejected", "takes": False, "serves": True, "active": 0, "operator": "ready",
        "health": CHECKS.top, "check": "as the test says", "ejections": 1, "multiplier": 1,
        "breakers": {},
    }  # fmt: skip


def describe(bench: Bench) -> dict[str, Any]:
    state: ActorState = bench.slot.ask(DescribeState(), math.inf)
    return {name: getattr(state, name) for name in state.__struct_fields__}
