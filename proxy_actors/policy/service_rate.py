"""How fast a queue is served while somebody waits, as far as that is known.

Owns two windows of the time in which somebody waited, and how many were served in it. What was not
seen for a while is forgotten, and too little is nothing: who does not know must not turn anybody
away. `policy/pool.py` asks it how long a newcomer would wait.
"""

from __future__ import annotations

WINDOW_S_MIN = 0.5
WINDOW_S_MAX = 10.0
WINDOW_SERVED = 16
# With less than so many, served in so long, nothing is known.
SERVED_MIN = 8
SECONDS_MIN = 0.25
# A rate of before says nothing of a queue that forms after so long without one.
STALE_S = 10.0


class ServiceRate:
    """Measures one queue; `busy` is whether somebody waited when last looked."""

    __slots__ = ("_past_s", "_past_served", "_s", "_served", "_since_s", "busy")

    def __init__(self) -> None:
        self.busy = False
        self._since_s = 0.0
        self._s = self._past_s = 0.0
        self._served = self._past_served = 0

    def observe(self, waiting: int, served: int, now_s: float) -> None:
        """Take in what has become of the queue since it was last looked at.

        Args:
            waiting: how many wait now.
            served: how many have been served since, those apart who waited for nothing.
        """
        if self.busy:
            self._s += now_s - self._since_s
            self._served += served
            if self._s >= WINDOW_S_MAX or (
                self._s >= WINDOW_S_MIN and self._served >= WINDOW_SERVED
            ):
                self._past_s, self._past_served = self._s, self._served
                self._s, self._served = 0.0, 0
        elif waiting and now_s - self._since_s > STALE_S:
            self._s = self._past_s = 0.0
            self._served = self._past_served = 0
        self.busy, self._since_s = waiting > 0, now_s

    def wait_s(self, ahead: int) -> float | None:
        """Return how long who has so many before it will wait; None when that is not known."""
        served, seconds = self._served + self._past_served, self._s + self._past_s
        if served < SERVED_MIN or seconds < SECONDS_MIN:
            return None
        return (ahead + 1) * seconds / served
