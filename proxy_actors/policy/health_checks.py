"""When an endpoint is checked, and whether it is up by what the checks have found.

HAProxy's counters (RELIABILITY 1.4). The health of an endpoint is a number from 0 to
`rise + fall - 1`, and it is up from `rise` on. A success adds one, and jumps to the top where that
reaches `rise`; a failure takes one away, and drops to 0 below `rise`: so it takes `fall` failures
in a row to go down, and `rise` successes in a row to come up again. An endpoint that has not been
checked yet stands at `rise`: it may be used, the first success is enough, and the first failure as
well. One that is alive and does not let us in (401, 403) goes down as any other, and is told apart.
A check that could find out nothing changes nothing.

The next check follows the end of the one before: after `interval_s` while all is well,
`fast_interval_s` while the health changes, `down_interval_s` while the endpoint is down, each
spread by chance. There is one check at a time of an endpoint. An endpoint in maintenance is not
checked, and is as new when it comes back.

Owns the timers, by their generation. What lasts is in `Checked`, and outlives an incarnation of the
guard: a check that was out at a crash is forgotten, and no other begins before its time is up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import assert_never

import msgspec

from proxy_actors.messages import health as m
from proxy_actors.messages.health import CheckEffect, CheckMessage, Verdict


class CheckLimits(msgspec.Struct, frozen=True):
    """How endpoints are checked.

    Attributes:
        interval_s, fast_interval_s, down_interval_s: between two checks, 0.1 to 86,400.
        spread: which share of an interval chance adds or takes away, 0 to 0.5.
        timeout_s: how long a check may take, 0.1 to 300.
        rise: successes in a row that bring an endpoint up again, 1 to 100.
        fall: failures in a row that bring it down, 1 to 100.
    """

    interval_s: float = 5.0
    fast_interval_s: float = 1.0
    down_interval_s: float = 5.0
    spread: float = 0.2
    timeout_s: float = 3.0
    rise: int = 2
    fall: int = 3

    @property
    def top(self) -> int:
        """The health of an endpoint of which nothing bad is known."""
        return self.rise + self.fall - 1


class Checked:
    """What lasts of one endpoint.

    Attributes:
        health: None while it has not been checked.
        down: by what verdict it is down, if it is.
        text: what the last check has found, in words.
        well, failed: how many checks have found it so, ever.
        out_until_s: until when a check may be out.
        generation: of the latest timer or check; what bears another is stale.
    """

    __slots__ = ("down", "failed", "generation", "health", "out_until_s", "text", "well")

    def __init__(self) -> None:
        self.health: int | None = None
        self.down: Verdict | None = None
        self.text = ""
        self.well = self.failed = self.generation = 0
        self.out_until_s = -math.inf


class HealthChecks:
    """Decides for the endpoints of one upstream.

    Args:
        endpoints: what lasts, by endpoint.
        random: for the spread, uniform in [0, 1).
    """

    def __init__(
        self, limits: CheckLimits, endpoints: Mapping[str, Checked], random: Callable[[], float]
    ) -> None:
        self._limits = limits
        self._endpoints = endpoints
        self._random = random
        self._out: set[str] = set()

    def resume(self, endpoint: str, now_s: float) -> list[CheckEffect]:
        """Begin to check an endpoint: soon, not all at once, and when no check is out any more."""
        known = self._endpoints[endpoint]
        limits = self._limits
        first_s = limits.fast_interval_s if known.health is None else limits.interval_s
        out_s = max(known.out_until_s - now_s, 0.0)
        return [self._wake(endpoint, known, out_s + self._random() * first_s)]

    def suspend(self, endpoint: str) -> None:
        """Check an endpoint no more, and forget how it was. A check that is out is forgotten."""
        known = self._endpoints[endpoint]
        known.health, known.down, known.text = None, None, ""
        known.generation += 1
        self._out.discard(endpoint)

    def handle(self, message: CheckMessage, now_s: float) -> list[CheckEffect]:
        """Apply one message and return what is to be done, in order."""
        endpoint = message.endpoint
        known = self._endpoints[endpoint]
        if message.generation != known.generation:
            return []
        match message:
            case m.CheckDue():
                return [] if endpoint in self._out else self._begin(endpoint, known, now_s)
            case m.CheckEnded(_, _, verdict, text):
                return self._ended(endpoint, known, verdict, text) if endpoint in self._out else []
            case _:
                assert_never(message)

    def _begin(self, endpoint: str, known: Checked, now_s: float) -> list[CheckEffect]:
        self._out.add(endpoint)
        known.generation += 1
        known.out_until_s = now_s + self._limits.timeout_s
        return [m.StartCheck(endpoint, known.generation, known.out_until_s)]

    def _ended(
        self, endpoint: str, known: Checked, verdict: Verdict, text: str
    ) -> list[CheckEffect]:
        self._out.discard(endpoint)
        known.out_until_s, known.text = -math.inf, text
        before = known.down
        if verdict is Verdict.UNKNOWN:
            return [self._wake_for_next(endpoint, known)]
        known.health = self._health_after(known.health, verdict)
        if verdict is Verdict.WELL:
            known.well += 1
        else:
            known.failed += 1
        if known.health >= self._limits.rise:
            known.down = None
        elif verdict is not Verdict.WELL:
            known.down = verdict
        effects: list[CheckEffect] = []
        if known.down is None and before is not None:
            effects.append(m.ReportUp(endpoint))
        elif known.down is not None and known.down is not before:
            effects.append(m.ReportDown(endpoint, text, known.down is Verdict.REFUSED))
        return [*effects, self._wake_for_next(endpoint, known)]

    def _health_after(self, health: int | None, verdict: Verdict) -> int:
        rise, top = self._limits.rise, self._limits.top
        if health is None:
            health = rise
        if verdict is Verdict.WELL:
            return top if health + 1 >= rise else health + 1
        return health - 1 if health > rise else 0

    def _interval_s(self, health: int | None) -> float:
        limits = self._limits
        if health == limits.top:
            return limits.interval_s
        return limits.down_interval_s if health == 0 else limits.fast_interval_s

    def _wake_for_next(self, endpoint: str, known: Checked) -> CheckEffect:
        interval_s = self._interval_s(known.health)
        spread_s = interval_s * self._limits.spread * (2.0 * self._random() - 1.0)
        return self._wake(endpoint, known, interval_s + spread_s)

    def _wake(self, endpoint: str, known: Checked, after_s: float) -> CheckEffect:
        known.generation += 1
        return m.WakeCheck(endpoint, after_s, known.generation)
