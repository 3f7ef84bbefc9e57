"""Circuit breakers: by example, and in every order of calls, answers, probes and timers.

RELIABILITY 1.2: the test vectors of its last paragraph.
"""

from __future__ import annotations

from typing import Any

import pytest

from proxy_actors.messages import breaker as m
from proxy_actors.messages.breaker import BreakerChanged, CallAdmitted, CircuitOpen, Opened
from proxy_actors.messages.guard import CallFailed, CallSucceeded, Fault
from proxy_actors.policy.breaker import CLOSED, HALF_OPEN, OPEN, Breaker, BreakerLimits
from proxy_actors.policy.breakers import CLIENT_S, TOOLS_MAX, WHOLE, EndpointBreakers
from tests.defects import Defect, planted
from tests.policy.breakers_model import BreakersSubject
from tests.policy.search import Findings, search

LIMITS = BreakerLimits(base_s=1.0, cap_s=4.0)


class Endpoint:
    """One endpoint's breakers; timers that are due ring when time passes."""

    def __init__(self, limits: BreakerLimits = LIMITS, **known: Any) -> None:
        self.policy = EndpointBreakers(limits, lambda: 1.0, **known)
        self.now_s = 0.0
        self.changes: list[tuple[str, str]] = []
        self.whys: list[str] = []
        self.wakes: list[tuple[float, str, int]] = []
        self.own: list[int] = []
        self._follow(self.policy.begin(self.now_s))

    def fail(
        self, count: int = 1, tool: str = "", fault: Fault = Fault.STATUS,
        permit: int | None = None, seconds: float = 0.1, counts: bool = True,
    ) -> None:
        for _ in range(count):
            its = self.policy.epoch if permit is None else permit
            failed = CallFailed("", tool, fault, seconds, its)
            self._follow(self.policy.failed(failed, self.now_s, counts))

    def succeed(
        self, count: int = 1, tool: str = "", permit: int | None = None, seconds: float = 0.1
    ) -> None:
        for _ in range(count):
            its = self.policy.epoch if permit is None else permit
            succeeded = CallSucceeded("", tool, seconds, its)
            self._follow(self.policy.succeeded(succeeded, self.now_s))

    def admit(self, tool: str = "", reads: bool = True) -> CallAdmitted | CircuitOpen:
        answer, effects = self.policy.admit(tool, reads, self.now_s)
        self._follow(effects)
        return answer

    def release(self, permit: int) -> None:
        self._follow(self.policy.handle(m.PermitReleased("", "", permit), self.now_s))

    def probed(self, ok: bool) -> None:
        ended = m.ProbeEnded("", self.own.pop(), ok)
        self._follow(self.policy.handle(ended, self.now_s))

    def pass_s(self, seconds: float) -> None:
        until_s = self.now_s + seconds
        while self.wakes and min(self.wakes)[0] <= until_s:
            wake = min(self.wakes)
            self.wakes.remove(wake)
            self.now_s, tool, generation = wake
            self._follow(self.policy.handle(m.BreakerDue("", tool, generation), self.now_s))
        self.now_s = until_s

    def take_changes(self) -> list[tuple[str, str]]:
        changes, self.changes = self.changes, []
        return changes

    def _follow(self, effects: list[Any]) -> None:
        for effect in effects:
            match effect:
                case BreakerChanged(tool, state, why):
                    self.changes.append((tool, state.value))
                    self.whys.append(why)
                case m.WakeBreaker(tool, after_s, generation):
                    self.wakes.append((self.now_s + after_s, tool, generation))
                case m.ProbeEndpoint(permit):
                    self.own.append(permit)


def test_failures_in_a_row_open_it_and_a_read_that_succeeds_closes_it() -> None:
    endpoint = Endpoint()
    endpoint.fail(LIMITS.failures_max - 1)
    assert not endpoint.policy.gated
    endpoint.fail()
    assert endpoint.take_changes() == [(WHOLE, "open")]
    assert endpoint.admit() == CircuitOpen(WHOLE, 1.0)
    endpoint.pass_s(0.4)
    assert endpoint.admit() == CircuitOpen(WHOLE, pytest.approx(0.6))
    endpoint.pass_s(0.6)
    assert endpoint.take_changes() == [(WHOLE, "half-open")]
    probe = endpoint.admit()
    assert isinstance(probe, CallAdmitted) and probe.probe
    endpoint.succeed(permit=probe.permit)
    assert endpoint.take_changes() == [(WHOLE, "closed")]
    assert not endpoint.policy.gated


def test_failure_that_does_not_count_fails_a_probe_and_nothing_else() -> None:
    endpoint = Endpoint()
    endpoint.fail(20, "t", Fault.EXIT, counts=False)
    assert endpoint.take_changes() == [] and not endpoint.policy.watches(0.0)
    endpoint.fail(LIMITS.failures_max)
    endpoint.pass_s(1.0)
    probe = endpoint.admit()
    assert isinstance(probe, CallAdmitted)
    endpoint.fail(1, "t", Fault.EXIT, probe.permit, counts=False)
    assert endpoint.take_changes() == [(WHOLE, "open"), (WHOLE, "half-open"), (WHOLE, "open")]


def test_success_between_failures_keeps_it_closed() -> None:
    endpoint = Endpoint()
    for _ in range(20):
        endpoint.fail(LIMITS.failures_max - 1)
        endpoint.succeed()
    assert endpoint.take_changes() == []


def test_connections_that_cannot_be_opened_are_counted_apart() -> None:
    endpoint = Endpoint()
    endpoint.fail(4, fault=Fault.STATUS)
    endpoint.fail(4, fault=Fault.CONNECT)
    assert endpoint.take_changes() == []
    endpoint.fail(1, fault=Fault.CONNECT)
    assert endpoint.whys == ["5 connects in a row failed"]
    other = Endpoint()
    other.fail(4, fault=Fault.CONNECT)
    other.fail(4, fault=Fault.RESET)  # they could be opened
    other.fail(4, fault=Fault.CONNECT)
    assert other.take_changes() == []


def test_share_of_failures_needs_a_number_of_calls() -> None:
    limits = BreakerLimits(failures_max=0, failure_percent=50.0, calls_min=10)
    endpoint = Endpoint(limits)
    endpoint.fail(9)
    assert endpoint.take_changes() == []
    endpoint.succeed(10)
    assert endpoint.take_changes() == []
    endpoint.fail(1)
    assert endpoint.whys == ["10 of 20 calls failed"]


def test_share_is_of_the_calls_of_late() -> None:
    limits = BreakerLimits(failures_max=0, failure_percent=50.0, calls_min=20, window_s=30.0)
    endpoint = Endpoint(limits)
    endpoint.fail(9)
    endpoint.pass_s(20.0)
    endpoint.succeed(5)
    endpoint.fail(5)
    endpoint.pass_s(20.0)
    endpoint.succeed(5)
    endpoint.fail(4)
    assert endpoint.take_changes() == []
    endpoint.fail(1)
    assert endpoint.whys == ["10 of 20 calls failed"]


def test_share_of_slow_calls_opens_it() -> None:
    limits = BreakerLimits(failures_max=0, slow_call_s=1.0, slow_percent=50.0, calls_min=10)
    endpoint = Endpoint(limits)
    assert endpoint.policy.watches(0.0)
    endpoint.succeed(5)
    endpoint.succeed(4, seconds=1.1)
    assert endpoint.take_changes() == []
    endpoint.succeed(1, seconds=1.1)
    assert endpoint.whys == ["5 of 10 calls were slow"]
    endpoint.pass_s(1.0)
    probe = endpoint.admit()
    assert isinstance(probe, CallAdmitted)
    endpoint.succeed(permit=probe.permit, seconds=5.0)
    assert endpoint.policy.state is OPEN
    assert endpoint.whys[-1] == "the probe was slow"


def test_slow_tool_is_refused_alone() -> None:
    """However long the calls of one tool take, the others go on."""
    endpoint = Endpoint()
    endpoint.fail(LIMITS.failures_max, tool="slow", fault=Fault.TIMEOUT, seconds=300.0)
    assert endpoint.take_changes() == [("slow", "open")]
    assert endpoint.admit("slow") == CircuitOpen("slow", 1.0)
    assert endpoint.admit("quick") == CallAdmitted(endpoint.policy.epoch, False)
    assert endpoint.admit() == CallAdmitted(endpoint.policy.epoch, False)


def test_no_tool_is_blamed_for_connections() -> None:
    endpoint = Endpoint()
    endpoint.fail(LIMITS.failures_max, tool="x", fault=Fault.CONNECT)
    assert endpoint.policy.states() == {WHOLE: OPEN}


def test_wait_doubles_while_probes_fail_up_to_the_cap() -> None:
    endpoint = Endpoint()
    endpoint.fail(LIMITS.failures_max)
    waits = []
    for _ in range(4):
        refused = endpoint.admit()
        assert isinstance(refused, CircuitOpen)
        waits.append(refused.after_s)
        endpoint.pass_s(refused.after_s)
        probe = endpoint.admit()
        assert isinstance(probe, CallAdmitted)
        endpoint.fail(permit=probe.permit)
    assert waits == pytest.approx([1.0, 2.0, 4.0, 4.0])


@pytest.mark.parametrize("calm_s, wait_s", [(1.0, 2.0), (31.0, 1.0)])
def test_breaker_that_opens_again_soon_stays_open_for_longer(calm_s: float, wait_s: float) -> None:
    """A server whose pings are well and whose calls are not is asked less and less."""
    endpoint = Endpoint()
    endpoint.fail(LIMITS.failures_max)
    endpoint.pass_s(1.0)
    endpoint.policy.check_passed(endpoint.now_s)
    endpoint.pass_s(calm_s)
    endpoint.fail(LIMITS.failures_max)
    assert endpoint.admit() == CircuitOpen(WHOLE, pytest.approx(wait_s))


def test_thousand_at_the_threshold_open_it_once() -> None:
    endpoint = Endpoint()
    endpoint.fail(1000, permit=endpoint.policy.epoch)
    assert endpoint.take_changes() == [(WHOLE, "open")]


def test_late_success_closes_nothing_and_late_failure_opens_nothing() -> None:
    endpoint = Endpoint()
    before = endpoint.policy.epoch
    endpoint.fail(LIMITS.failures_max)
    endpoint.succeed(permit=before)
    assert endpoint.policy.state is OPEN
    endpoint.pass_s(1.0)
    endpoint.succeed(permit=before)
    endpoint.fail(100, permit=before)
    assert endpoint.policy.state is HALF_OPEN
    probe = endpoint.admit()
    assert isinstance(probe, CallAdmitted)
    endpoint.succeed(permit=probe.permit)
    endpoint.fail(100, permit=before)
    assert endpoint.policy.state is CLOSED


def test_breaker_that_is_made_anew_counts_nothing_of_before() -> None:
    endpoint = Endpoint()
    before = endpoint.policy.epoch
    endpoint.fail(LIMITS.failures_max, tool="x", fault=Fault.TIMEOUT)
    endpoint.pass_s(1.0)
    endpoint.policy.check_passed(endpoint.now_s)
    endpoint.pass_s(1000.0)
    endpoint.succeed()
    assert len(endpoint.policy._breakers) == 1, "the tool is not forgotten"
    endpoint.fail(100, tool="x", fault=Fault.TIMEOUT, permit=before)
    assert endpoint.policy.state is CLOSED
    assert not endpoint.policy.gated


def test_exactly_one_of_a_thousand_is_the_probe() -> None:
    endpoint = Endpoint()
    endpoint.fail(LIMITS.failures_max)
    endpoint.pass_s(1.0)
    answers = [endpoint.admit() for _ in range(1000)]
    assert [isinstance(x, CallAdmitted) for x in answers] == [True] + [False] * 999


def test_probe_that_its_client_leaves_gives_its_place_back() -> None:
    endpoint = Endpoint()
    endpoint.fail(LIMITS.failures_max)
    endpoint.pass_s(1.0)
    probe = endpoint.admit()
    assert isinstance(probe, CallAdmitted)
    assert isinstance(endpoint.admit(), CircuitOpen)
    endpoint.release(probe.permit)
    assert isinstance(endpoint.admit(), CallAdmitted)


def test_probe_that_hangs_loses_its_place_to_our_own() -> None:
    endpoint = Endpoint()
    endpoint.fail(LIMITS.failures_max)
    endpoint.pass_s(1.0)
    assert isinstance(endpoint.admit(), CallAdmitted)
    endpoint.pass_s(CLIENT_S + LIMITS.probe_s)
    endpoint.probed(ok=True)
    assert endpoint.policy.state is CLOSED


def test_call_that_changes_something_is_no_probe_and_has_the_server_asked() -> None:
    endpoint = Endpoint()
    endpoint.fail(LIMITS.failures_max, tool="x")
    endpoint.pass_s(1.0)
    assert endpoint.policy.states() == {WHOLE: HALF_OPEN, "x": HALF_OPEN}
    assert isinstance(endpoint.admit("x", reads=False), CircuitOpen)
    assert len(endpoint.own) == 1
    assert isinstance(endpoint.admit("x", reads=False), CircuitOpen)
    assert len(endpoint.own) == 1, "it is asked twice"
    endpoint.probed(ok=True)
    assert not endpoint.policy.gated
    assert endpoint.whys[-1] == "the probe succeeded"


def test_server_is_asked_when_no_client_comes() -> None:
    endpoint = Endpoint()
    endpoint.fail(LIMITS.failures_max)
    endpoint.pass_s(1.0 + CLIENT_S)
    endpoint.probed(ok=False)
    assert endpoint.policy.state is OPEN
    endpoint.pass_s(2.0 + CLIENT_S)
    endpoint.probed(ok=True)
    assert endpoint.policy.state is CLOSED


def test_health_check_that_succeeds_counts_as_a_probe() -> None:
    endpoint = Endpoint()
    endpoint.fail(LIMITS.failures_max)
    endpoint.policy.check_passed(endpoint.now_s)
    assert endpoint.policy.state is OPEN, "its time is not up"
    endpoint.pass_s(1.0)
    endpoint.policy.check_passed(endpoint.now_s)
    assert endpoint.policy.state is CLOSED


def test_successor_goes_on_with_what_was_open() -> None:
    first = Endpoint()
    first.fail(LIMITS.failures_max, tool="x")
    known = first.policy.opened()
    assert known == {WHOLE: Opened(1, 1.0), "x": Opened(1, 1.0)}
    second = Endpoint(epoch=first.policy.epoch + 1, opened=known)
    assert second.admit() == CircuitOpen("x", 1.0) or second.admit() == CircuitOpen(WHOLE, 1.0)
    second.succeed(permit=first.policy.epoch)
    second.pass_s(1.0)
    probe = second.admit("x")
    assert isinstance(probe, CallAdmitted)
    second.fail(tool="x", permit=probe.permit)
    assert second.policy.opened() == {WHOLE: Opened(2, 3.0), "x": Opened(2, 3.0)}


def test_tools_that_clients_make_up_are_bounded() -> None:
    endpoint = Endpoint(BreakerLimits(failures_max=2))
    for n in range(TOOLS_MAX * 3):
        endpoint.fail(tool=f"made up {n}", fault=Fault.TIMEOUT)
    assert len(endpoint.policy._breakers) == TOOLS_MAX + 1
    for n in range(TOOLS_MAX * 3):
        endpoint.fail(2, tool=f"broken {n}", fault=Fault.TIMEOUT)
    assert len(endpoint.policy.states()) == TOOLS_MAX, "those that are open are not forgotten"
    assert endpoint.policy.state is CLOSED


def test_nobody_is_told_of_successes_after_a_while() -> None:
    endpoint = Endpoint()
    assert not endpoint.policy.watches(0.0)
    endpoint.fail(tool="x")
    assert endpoint.policy.watches(0.0)
    endpoint.pass_s(LIMITS.window_s)
    assert not endpoint.policy.watches(endpoint.now_s)
    endpoint.fail(tool="x", seconds=300.0, fault=Fault.TIMEOUT)
    endpoint.pass_s(599.0)  # as long as the next one may take, and some
    assert endpoint.policy.watches(endpoint.now_s)


def explore(failures_max: int, calls_max: int) -> Findings:
    return search(lambda: BreakersSubject(calls_max, failures_max), 20_000)


@pytest.mark.parametrize("failures_max, calls_max, states", [(1, 2, 500), (2, 3, 2500)])
def test_every_order_of_calls_and_answers_keeps_the_rules(
    failures_max: int, calls_max: int, states: int
) -> None:
    findings = explore(failures_max, calls_max)
    assert findings.violation is None, (findings.violation, findings.trace)
    assert findings.states > states, findings.states


DEFECTS = [
    Defect("late results count in closed", Breaker, "failed",
           "if permit < self.since", "if permit < 0"),
    Defect("any success closes", Breaker, "succeeded",
           "if self._permits.pop(permit, None) is None", "if False"),
    Defect("any failure opens again", Breaker, "failed",
           "if self._permits.pop(permit, None) is None:", "if False:"),
    Defect("mutations are probes", Breaker, "wait_s", "(reads and self.has_place)",
           "self.has_place"),
    Defect("places without bound", Breaker, "take",
           "self._permits[permit] = now_s", "self._permits[-1] = now_s"),
    Defect("a place is never given back", Breaker, "released",
           "self._permits.pop(permit, None)", "pass"),
    Defect("late probes keep their place", Breaker, "give_up_late", "now_s >= late_s", "False"),
    Defect("slow tools shut the server", EndpointBreakers, "failed",
           "(connecting if key else call.fault is Fault.TIMEOUT)", "(connecting and key)"),
    Defect("a fault without blame keeps the place", EndpointBreakers, "failed",
           "breaker.released(call.permit)", "pass"),
    Defect("what does not count counts", EndpointBreakers, "failed",
           "(counts or breaker.state is not CLOSED)", "True"),
    Defect("a probe that fails has not where it does not count", EndpointBreakers, "failed",
           "(counts or breaker.state is not CLOSED)", "counts"),
    Defect("nobody asks the server", EndpointBreakers, "_ask",
           "if not breaker.has_place", "if True"),
    Defect("asked twice", EndpointBreakers, "_ask", "if self._own is not None", "if False"),
    Defect("one permit for two", EndpointBreakers, "_mint", "self.epoch += 2", "self.epoch += 0"),
    Defect("closed calls are of before", EndpointBreakers, "_changed",
           "breaker.since = self._since = self.epoch", "pass"),
    Defect("a change that is not told", EndpointBreakers, "check_passed",
           "self._changed(key, breaker, breaker.close(now_s), now_s)",
           "(breaker.close(now_s) and []) or []"),
    Defect("tools are kept for ever", EndpointBreakers, "_forget_idle",
           "if key != WHOLE", "if False"),
]
# What shows only where one failure is not enough.
DEFECTS_IN_A_ROW = [
    Defect("connects count with the others", Breaker, "failed",
           "self._connects += 1", "self._failures += 1"),
    Defect("a success is no success", Breaker, "succeeded",
           "self._connects = self._failures = 0", "pass"),
    Defect("failures of long ago count", Breaker, "failed",
           "if now_s >= self._kept_s", "if False"),
]


@pytest.mark.parametrize(
    "defect, failures_max",
    [*((x, 1) for x in DEFECTS), *((x, 2) for x in DEFECTS_IN_A_ROW)],
    ids=str,
)
def test_planted_defect_is_found(defect: Defect, failures_max: int) -> None:
    with planted(defect):
        assert explore(failures_max, 3).violation is not None
