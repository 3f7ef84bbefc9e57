"""How many calls an upstream bears at once, found out from how long they take.

The gradient controller of Envoy's adaptive concurrency filter, on leases in place of requests: now
and then few calls are let through, and how long those take is what a call takes that waits for
nobody. From then on the limit is multiplied, window by window, with how much longer than that
calls take, and grows by its square root where they do not, if it is made use of at all.

Owns the limit and the times of one window. `policy/pool.py` tells it every lease that comes back,
those apart that were kept for several exchanges, and lends no more than it says.
"""

from __future__ import annotations

import math
import statistics

WINDOW_S = 0.1
# Fewer say too little, more say no more.
SAMPLES_MIN = 10
SAMPLES_MAX = 500
MEASURE_EVERY_S = 60.0
# So much longer than alone a call may take without being held to wait.
BUFFER = 0.25
GRADIENT_MIN, GRADIENT_MAX = 0.5, 2.0
# How much of the last limit the next one keeps.
SMOOTHING = 0.5


class AdaptiveLimit:
    """The limit of one upstream, at least `least` and at most `most`. It begins by measuring."""

    __slots__ = (
        "_adapted", "_alone_s", "_due_s", "_least", "_measuring", "_most", "_samples_s", "_since_s",
        "_used",
    )  # fmt: skip

    def __init__(self, least: int, most: int) -> None:
        self._least = least
        self._most = max(least, most)
        self._adapted = float(least)
        self._alone_s = 0.0
        self._measuring = True
        self._due_s = math.inf
        self._since_s = -math.inf
        self._samples_s: list[float] = []
        self._used = 0

    @property
    def limit(self) -> int:
        """How many calls may be underway."""
        return self._least if self._measuring else int(self._adapted)

    def returned(self, granted_s: float, in_flight: int, now_s: float) -> None:
        """A call is over that began at `granted_s`; so many were underway, it included."""
        if now_s >= self._due_s:
            self._begin(now_s)
            self._measuring, self._due_s = True, math.inf
        if granted_s < self._since_s:
            return  # it was let through under another limit, and says nothing of this one
        if len(self._samples_s) < SAMPLES_MAX:
            self._samples_s.append(now_s - granted_s)
        self._used = max(self._used, in_flight)
        if len(self._samples_s) < SAMPLES_MIN:
            return
        if self._measuring:
            self._alone_s = statistics.median(self._samples_s)
            self._measuring, self._due_s = False, now_s + MEASURE_EVERY_S
        elif now_s - self._since_s < WINDOW_S:
            return
        else:
            self._adapt(statistics.fmean(self._samples_s))
        self._begin(now_s)

    def _adapt(self, took_s: float) -> None:
        bearable_s = self._alone_s * (1 + BUFFER)
        gradient = bearable_s / took_s if took_s > 0 else GRADIENT_MAX
        gradient = min(max(gradient, GRADIENT_MIN), GRADIENT_MAX)
        adapted = self._adapted * gradient + math.sqrt(self._adapted)
        adapted += (self._adapted - adapted) * SMOOTHING
        if adapted > self._adapted and self._used * 2 < self._adapted:
            return  # nobody knows whether more would be borne
        self._adapted = min(max(adapted, self._least), self._most)

    def _begin(self, now_s: float) -> None:
        self._since_s, self._used = now_s, 0
        self._samples_s.clear()
