"""The circuit breakers of an endpoint beside a model that knows their rules and not how they work.

The model counts failures in a row by itself, knows in which era of a breaker each call began, and
carries out what the policy asks for: timers, and the proxy's own probe. It is a data plane that
tells of successes only where it is told to.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any

import msgspec

from proxy_actors.messages import breaker as m
from proxy_actors.messages.guard import CallFailed, CallSucceeded, Fault
from proxy_actors.policy.breaker import BreakerLimits
from proxy_actors.policy.breakers import WHOLE, EndpointBreakers
from tests.policy.search import Subject, check

WINDOW_S = 4.0
TOOL = "x"
KEYS = (WHOLE, TOOL)
# A process that has ended was counted before: it is the fault that is no failure of its own.
FAULTS = (Fault.CONNECT, Fault.STATUS, Fault.TIMEOUT, Fault.EXIT)
CLOSED, OPEN, HALF_OPEN = m.BreakerState


def longest() -> float:
    """Draw the longest wait."""
    return 1.0


class Move(msgspec.Struct, frozen=True):
    """What happens: a call begins, the `nth` ends, or something else."""

    what: str
    tool: str = ""
    reads: bool = False
    nth: int = 0
    fault: Fault | None = None


class Call(msgspec.Struct):
    """A call that is out, and what had happened to the breakers when it began."""

    tool: str
    permit: int
    probes: tuple[str, ...]
    eras: dict[str, int]
    closings: int


class BreakersSubject(Subject):
    """The policy with its model. `calls_max` calls are made in all, two at once."""

    def __init__(self, calls_max: int, failures_max: int) -> None:
        self.limits = BreakerLimits(
            failures_max, failure_percent=0.0, window_s=WINDOW_S, cap_s=2.0, probe_s=3.0
        )
        self.policy = EndpointBreakers(self.limits, longest)
        self.left = calls_max
        self.now_s = 0.0
        self.calls: list[Call] = []
        self.wakes: dict[str, tuple[float, int]] = {}
        self.own: int | None = None
        self.own_keys: tuple[str, ...] = ()
        self.eras = dict.fromkeys(KEYS, 0)
        self.closings = 0
        self.since = dict.fromkeys(KEYS, 0)
        self.states = dict.fromkeys(KEYS, CLOSED)
        self.connects = dict.fromkeys(KEYS, 0)
        self.failures = dict.fromkeys(KEYS, 0)
        self.failed_s = dict.fromkeys(KEYS, 0.0)
        self.places: dict[str, list[int]] = {}

    # The search.

    def moves(self) -> Iterable[Move]:
        if self.left and len(self.calls) < 2:
            for tool in KEYS:
                yield Move("begin", tool, reads=True)
                yield Move("begin", tool, reads=False)
        for nth in range(len(self.calls)):
            yield Move("end", nth=nth)
            yield Move("leave", nth=nth)
            for fault in FAULTS:
                yield Move("end", nth=nth, fault=fault)
        if self.wakes:
            yield Move("wake")
        if self.own is not None:
            yield Move("own", reads=True)
            yield Move("own", reads=False)
        if HALF_OPEN in self.states.values():
            yield Move("check")

    def make(self, move: Move) -> None:
        match move.what:
            case "begin":
                self.begin_call(move)
            case "end":
                self.end_call(self.calls.pop(move.nth), move.fault)
            case "leave":
                call = self.calls.pop(move.nth)
                if call.probes:
                    released = m.PermitReleased("", call.tool, call.permit)
                    self.follow(self.policy.handle(released, self.now_s))
            case "wake":
                self.wake()
            case "own":
                permit, self.own = self.own, None
                assert permit is not None
                before = dict(self.states)
                self.follow(self.policy.handle(m.ProbeEnded("", permit, move.reads), self.now_s))
                for key in KEYS:
                    if before[key] is not HALF_OPEN:
                        check(self.states[key] is before[key], "a probe moved what it was not of")
            case "check":
                self.follow(self.policy.check_passed(self.now_s))
                check(HALF_OPEN not in self.states.values(), "a good check closed nothing")
        self.check_all()

    def key(self) -> Hashable:
        breakers = tuple(
            (
                key, x.state, x._connects, x._failures, min(x._backoff.failures, 2),
                round(x.until_s - self.now_s, 3) if x.state is OPEN else 0.0,
                tuple(sorted(round(s - self.now_s, 3) for s in x._permits.values())),
                max(round(x._kept_s - self.now_s, 3), 0), max(round(x._calm_s - self.now_s, 3), 0),
            )
            for key, x in sorted(self.policy._breakers.items())
        )
        calls = tuple(sorted(
            (
                call.tool, call.permit >= self.policy._since,
                tuple(
                    (call.permit in x._permits, call.permit >= x.since)
                    for _, x in sorted(self.policy._breakers.items())
                ),
            )
            for call in self.calls
        ))
        wakes = tuple(sorted((key, round(x[0] - self.now_s, 3)) for key, x in self.wakes.items()))
        own = tuple(
            key for key, x in sorted(self.policy._breakers.items())
            if self.own is not None and self.own in x._permits
        )
        counted = tuple(self.connects.items()), tuple(self.failures.items())
        return breakers, calls, wakes, self.own is not None, own, self.left, counted

    def settle(self) -> None:
        """Once the server is well, all closes, without a client, whoever hangs or has left."""
        for _ in range(20):
            if self.own is not None:
                permit, self.own = self.own, None
                self.follow(self.policy.handle(m.ProbeEnded("", permit, True), self.now_s))
            if not self.wakes:
                break
            self.wake()
            self.check_all()
        check(not self.policy.gated, "it never closes again")
        self.now_s += 1000.0
        check(not self.policy.watches(self.now_s), "it watches for ever")
        self.policy.succeeded(CallSucceeded("", "", 0.0, self.policy.epoch), self.now_s)
        check(len(self.policy._breakers) == 1, "a tool is never forgotten")

    # The data plane and the shell.

    def begin_call(self, move: Move) -> None:
        self.left -= 1
        concerned = (WHOLE, move.tool) if move.tool else (WHOLE,)
        if not self.policy.gated:
            check(not self.policy.states(), "a breaker is not closed, and nobody has to ask")
            epoch, eras = self.policy.epoch, dict(self.eras)
            self.calls.append(Call(move.tool, epoch, (), eras, self.closings))
            return
        answer, effects = self.policy.admit(move.tool, move.reads, self.now_s)
        self.follow(effects)  # one whose timer is late is half-open now
        shut = tuple(key for key in concerned if self.states[key] is not CLOSED)
        if isinstance(answer, m.CallAdmitted):
            check(answer.probe == bool(shut), "a probe is one, and nothing else is")
            check(not shut or move.reads, "a call that changes something was sent as a probe")
            check(all(self.states[key] is HALF_OPEN for key in shut), "an open breaker let one by")
            check(answer.permit not in [x.permit for x in self.calls if x.probes], "twice a permit")
            check(answer.permit != self.own, "the permit of our own probe")
            eras = dict(self.eras)
            self.calls.append(Call(move.tool, answer.permit, shut, eras, self.closings))
        else:
            free = all(self.states[x] is HALF_OPEN and not self.is_probed(x) for x in shut)
            check(shut and not (move.reads and free), "a call was refused that might have passed")
            check(answer.tool in shut, "refused for another breaker")
            check(answer.after_s >= 0, "refused until yesterday")
            if self.states[answer.tool] is OPEN:
                due_s = self.now_s + answer.after_s
                check(self.wakes[answer.tool][0] == due_s, "a wrong time")

    def end_call(self, call: Call, fault: Fault | None) -> None:
        before = dict(self.states)
        breakers = self.policy._breakers
        self.places = {key: [*breakers[key]._permits] for key in KEYS if key in breakers}
        for key in KEYS:
            # One that is made anew takes nothing from before a closing.
            if key and (key not in breakers or breakers[key].is_idle(self.now_s)):
                self.since[key] = self.closings
        fresh = {
            x: call.eras[x] == self.eras[x] and call.closings >= self.since[x] for x in KEYS
        }
        if fault is not None:
            failed = CallFailed("", call.tool, fault, 1.0, call.permit)
            effects = self.policy.failed(failed, self.now_s, fault is not Fault.EXIT)
        elif call.probes or self.policy.watches(self.now_s):
            succeeded = CallSucceeded("", call.tool, 1.0, call.permit)
            effects = self.policy.succeeded(succeeded, self.now_s)
        else:
            effects = []
        expected = {
            key: self.expect(key, call, fault) if fresh[key] else before[key] for key in KEYS
        }
        self.follow(effects)
        for key in KEYS:
            check(self.states[key] is expected[key], f"{key!r} is {self.states[key]} after {fault}")

    def expect(self, key: str, call: Call, fault: Fault | None) -> m.BreakerState:
        """Say where a breaker has to stand, by a call of its present era that has ended so."""
        state = self.states[key]
        concerned = key in (WHOLE, call.tool)
        if fault is not None and call.tool:
            concerned = concerned and fault is not (Fault.CONNECT if key else Fault.TIMEOUT)
        if not concerned:
            return state
        if state is HALF_OPEN and call.permit in self.places[key]:
            return CLOSED if fault is None else OPEN
        if state is not CLOSED or fault is Fault.EXIT:
            return state
        if self.now_s >= self.failed_s[key] + WINDOW_S:
            self.connects[key] = self.failures[key] = 0  # what was so long ago is forgotten
        if fault is not None:
            self.failed_s[key] = self.now_s
        if fault is None:
            self.connects[key] = self.failures[key] = 0
        elif fault is Fault.CONNECT:
            self.connects[key] += 1
        else:
            self.connects[key] = 0
            self.failures[key] += 1
        worst = max(self.connects[key], self.failures[key])
        return OPEN if worst >= self.limits.failures_max else CLOSED

    def is_probed(self, key: str) -> bool:
        """Whether anybody is finding out how things are for a breaker."""
        calls = [x for x in self.calls if key in x.probes and x.eras[key] == self.eras[key]]
        return bool(calls) or self.own is not None

    def probes_of(self, key: str) -> int:
        """How many places of a breaker are taken."""
        breaker = self.policy._breakers.get(key)
        return 0 if breaker is None else len(breaker._permits)

    def wake(self) -> None:
        key, (at_s, generation) = min(self.wakes.items(), key=lambda item: item[1])
        del self.wakes[key]
        self.now_s = max(self.now_s, at_s)
        self.follow(self.policy.handle(m.BreakerDue("", key, generation), self.now_s))

    def follow(self, effects: Iterable[Any]) -> None:
        for effect in effects:
            match effect:
                case m.BreakerChanged(tool, state):
                    self.eras[tool] += 1
                    self.states[tool] = state
                    self.connects[tool] = self.failures[tool] = 0
                    if state is CLOSED:
                        self.closings += 1
                        self.wakes.pop(tool, None)  # stale by its generation
                case m.WakeBreaker(tool, after_s, generation):
                    self.wakes[tool] = self.now_s + after_s, generation
                case m.ProbeEndpoint(permit):
                    check(self.own is None, "two probes of our own are out")
                    self.own = permit

    def check_all(self) -> None:
        states = {key: CLOSED for key in KEYS} | self.policy.states()
        check(states == self.states, "a change was not told")
        check(self.policy.gated == any(x is not CLOSED for x in states.values()), "gated or not")
        for key in KEYS:
            check(self.probes_of(key) <= self.limits.probes_max, "too many probes are out")
            check(states[key] is HALF_OPEN or not self.probes_of(key), "a probe of no breaker")
            check(states[key] is CLOSED or key in self.wakes, "nothing will wake a breaker")
