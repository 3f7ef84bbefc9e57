"""One circuit breaker: whether calls of a kind are worth sending.

    closed      Calls pass and are counted. Too many failures in a row, or too large a share of
                calls that fail or take too long, open it.
    open        Calls are refused for a while, whose bound doubles each time (full jitter).
    half-open   A few calls that change nothing pass as probes. The first that succeeds closes it,
                the first that fails opens it again.

Owns the counts, and the permits of the probes that are out. Every call has an epoch, and what began
before the breaker last closed says nothing of the present: a late success closes nothing, a late
failure opens nothing. `policy/breakers.py` keeps those of an endpoint, and the epochs.

Failures in a row as linkerd's consecutive failures and Envoy's outlier detection, with those to
connect apart from the others; shares as Envoy's failure percentage, over the calls of late only.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec

from proxy_actors.messages.breaker import BreakerState, Opened
from proxy_actors.policy.backoff import Backoff, BackoffLimits

CLOSED = BreakerState.CLOSED
OPEN = BreakerState.OPEN
HALF_OPEN = BreakerState.HALF_OPEN
# When to come back while a probe is out: nobody knows how long it takes.
HALF_OPEN_S = 1.0


class BreakerLimits(msgspec.Struct, frozen=True):
    """When a breaker opens, and for how long.

    Attributes:
        failures_max: failures in a row that open it, to connect and others apart; 0: any number.
        failure_percent: the share of calls that fail which opens it; 0: any share.
        slow_call_s: a call that takes longer is slow; 0: none is.
        slow_percent: the share of slow calls that opens it.
        calls_min: how many calls a share is made of at least.
        window_s: how old they may be.
        base_s: the bound of how long it stays open at first; it doubles with each time in a row.
        cap_s: the most that it grows to.
        probes_max: probes at once while it is half-open.
        probe_s: a probe that has not ended after so long leaves its place to another.
    """

    failures_max: int = 5
    failure_percent: float = 85.0
    slow_call_s: float = 0.0
    slow_percent: float = 80.0
    calls_min: int = 50
    window_s: float = 30.0
    base_s: float = 1.0
    cap_s: float = 5.0
    probes_max: int = 1
    probe_s: float = 5.0


class _Window:
    """The calls of late: those of this half of a window and of the half before."""

    __slots__ = ("_before", "_half_s", "_now", "_since_s")

    def __init__(self, window_s: float) -> None:
        self._half_s = window_s / 2
        self._since_s = -math.inf
        self._now = self._before = (0, 0, 0)

    def add(self, failed: bool, slow: bool, now_s: float) -> None:
        """Count a call."""
        halves = (now_s - self._since_s) / self._half_s
        if halves >= 1:
            self._before = self._now if halves < 2 else (0, 0, 0)
            self._now = (0, 0, 0)
            self._since_s = now_s
        calls, failures, slows = self._now
        self._now = calls + 1, failures + failed, slows + slow

    def sums(self) -> tuple[int, int, int]:
        """Return how many calls there were, how many failed, how many were slow."""
        now, before = self._now, self._before
        return now[0] + before[0], now[1] + before[1], now[2] + before[2]


class Breaker:
    """One breaker.

    Args:
        random: draws uniformly from [0, 1).
        since: the epoch from which on calls count.

    Attributes:
        state: where it stands.
        since: as above; set anew by whoever closes it.
        until_s: when it becomes half-open, while it is open.
        generation: of the wait that is on.
    """

    __slots__ = (
        "_backoff", "_calm_s", "_connects", "_failures", "_kept_s", "_limits", "_permits",
        "_window", "generation", "since", "state", "until_s",
    )  # fmt: skip

    def __init__(
        self, limits: BreakerLimits, random: Callable[[], float], since: int = 0
    ) -> None:
        self._limits = limits
        bounds = BackoffLimits(base_s=limits.base_s, cap_s=limits.cap_s)
        self._backoff = Backoff(bounds, random)
        self._permits: dict[int, float] = {}
        self.state = CLOSED
        self.since = since
        self.until_s = -math.inf
        self.generation = 0
        self._calm_s = self._kept_s = -math.inf
        self._connects = self._failures = 0
        self._window = _Window(limits.window_s)

    @property
    def opened(self) -> Opened:
        """What its successor has to know of one that is not closed."""
        return Opened(self._backoff.failures, self.until_s)

    def restore(self, opened: Opened) -> None:
        """Be as a predecessor was; its probes are lost."""
        self._backoff.failures = opened.trips
        self.state, self.until_s = OPEN, opened.until_s
        self.generation += 1

    def is_idle(self, now_s: float) -> bool:
        """Whether nothing would be different if there were a new one in its place."""
        return self.state is CLOSED and now_s >= self._kept_s and now_s >= self._calm_s

    # What becomes of calls. Each says why the state has changed, "" where it has not.

    def failed(self, connecting: bool, seconds: float, permit: int, now_s: float) -> str:
        """A call has failed, `connecting` to the server or after that."""
        if self.state is CLOSED:
            if permit < self.since:
                return ""
            if now_s >= self._kept_s:
                self._forget()  # nobody has been told since of calls that succeed
            self._keep(seconds, now_s)
            if connecting:
                self._connects += 1
            else:  # there was a connection
                self._connects = 0
                self._failures += 1
            self._window.add(True, self._is_slow(seconds), now_s)
            return self._trip(now_s)
        if self._permits.pop(permit, None) is None:
            return ""
        return self._open("the probe failed", now_s)

    def succeeded(self, seconds: float, permit: int, now_s: float) -> str:
        """A call was answered."""
        slow = self._is_slow(seconds)
        if self.state is CLOSED:
            if permit < self.since:
                return ""
            self._connects = self._failures = 0
            self._window.add(False, slow, now_s)
            if not slow:
                return ""
            self._keep(seconds, now_s)
            return self._trip(now_s)
        if self._permits.pop(permit, None) is None:
            return ""
        return self._open("the probe was slow", now_s) if slow else self.close(now_s)

    def released(self, permit: int) -> None:
        """A probe has ended and shown nothing. No effect for what is none."""
        self._permits.pop(permit, None)

    # Letting calls through.

    def wait_s(self, reads: bool, now_s: float) -> float | None:
        """Say when to try again; None for a call that may pass now."""
        if self.state is CLOSED or (reads and self.has_place):
            return None
        return max(self.until_s - now_s, 0.0) if self.state is OPEN else HALF_OPEN_S

    @property
    def has_place(self) -> bool:
        """Whether a probe may be sent."""
        return self.state is HALF_OPEN and len(self._permits) < self._limits.probes_max

    def take(self, permit: int, now_s: float) -> None:
        """A probe is sent with this permit."""
        self._permits[permit] = now_s + self._limits.probe_s

    def give_up_late(self, now_s: float) -> None:
        """Take their places from probes that are out for too long."""
        for permit in [x for x, late_s in self._permits.items() if now_s >= late_s]:
            del self._permits[permit]

    # The states.

    def half_open(self) -> str:
        """It has been open for long enough."""
        self.state = HALF_OPEN
        self.generation += 1
        return "its time is up"

    def close(self, now_s: float) -> str:
        """It was shown that calls are worth sending."""
        self.state = CLOSED
        self.generation += 1
        self._permits.clear()
        self._forget()
        # Opened again soon, it has not closed in truth, and stays open for longer.
        self._calm_s = now_s + self._limits.window_s
        return "the probe succeeded"

    def _open(self, why: str, now_s: float) -> str:
        if self.state is CLOSED and now_s >= self._calm_s:
            self._backoff.succeeded()
        self.state = OPEN
        self.generation += 1
        self._permits.clear()
        self.until_s = now_s + self._backoff.failed()
        return why

    def _trip(self, now_s: float) -> str:
        """Open if what was counted is too much."""
        limits = self._limits
        in_a_row = limits.failures_max
        if in_a_row and self._connects >= in_a_row:
            return self._open(f"{self._connects} connects in a row failed", now_s)
        if in_a_row and self._failures >= in_a_row:
            return self._open(f"{self._failures} calls in a row failed", now_s)
        calls, failures, slows = self._window.sums()
        if calls < limits.calls_min:
            return ""
        if limits.failure_percent and 100 * failures >= limits.failure_percent * calls:
            return self._open(f"{failures} of {calls} calls failed", now_s)
        if limits.slow_call_s and 100 * slows >= limits.slow_percent * calls:
            return self._open(f"{slows} of {calls} calls were slow", now_s)
        return ""

    def _is_slow(self, seconds: float) -> bool:
        return 0.0 < self._limits.slow_call_s < seconds

    def _keep(self, seconds: float, now_s: float) -> None:
        """Remember what was counted for a while: long enough for another such call to end."""
        self._kept_s = max(self._kept_s, now_s + max(self._limits.window_s, 2 * seconds))

    def _forget(self) -> None:
        self._connects = self._failures = 0
        self._window = _Window(self._limits.window_s)
        self._kept_s = -math.inf
