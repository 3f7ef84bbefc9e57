"""How long calls at an endpoint take, as a choice between endpoints should see it.

An exponentially weighted moving average that jumps to every time above it and comes down slowly
(Finagle's PeakEwma): one slow answer is enough to be asked less, and it takes some good ones, or
some time, to be trusted again. Owns one average. A call that fails counts as a slow one, or whoever
fails fast would be asked most (RELIABILITY 1.5, trap 1).
"""

from __future__ import annotations

import math

DECAY_S = 10.0
PENALTY_S = 5.0


class PeakEwma:
    """The average of one endpoint.

    Args:
        decay_s: after so long without an answer the average is 1/e of what it was, above 0.
    """

    __slots__ = ("_decay_s", "_seen_s", "_value_s")

    def __init__(self, decay_s: float = DECAY_S) -> None:
        self._decay_s = decay_s
        self._value_s = 0.0
        self._seen_s: float | None = None

    @property
    def known(self) -> bool:
        """Whether anything has been observed."""
        return self._seen_s is not None

    def observe(self, seconds: float, now_s: float) -> None:
        """Take in how long a call took, whatever its end."""
        present = self._weight(now_s) * self._value_s
        mixed = present + (1.0 - self._weight(now_s)) * seconds
        self._value_s = seconds if seconds > present else mixed
        self._seen_s = now_s

    def fail(self, now_s: float, after_s: float = PENALTY_S) -> None:
        """Take in that a call failed: as one that took `after_s`, when it may be asked again."""
        self.observe(after_s, now_s)

    def value_s(self, now_s: float) -> float:
        """Return the average, which sinks while nothing is observed, in seconds."""
        return self._weight(now_s) * self._value_s

    def _weight(self, now_s: float) -> float:
        if self._seen_s is None:
            return 0.0
        return math.exp(-max(now_s - self._seen_s, 0.0) / self._decay_s)
