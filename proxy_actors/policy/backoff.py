"""How long to wait before trying again: exponential backoff with full jitter, and a budget.

Source: "Exponential Backoff And Jitter", AWS Architecture Blog: a uniform draw from zero to the
bound spreads the tries of many best. It never waits itself.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec


class BackoffLimits(msgspec.Struct, frozen=True):
    """How long to wait, and when to call something down.

    Attributes:
        base_s: the bound after the first failure, 0.01 to 60; it doubles with each failure in a
            row.
        cap_s: the most that it grows to, base to 3600.
        failures_max: so many failures in a row are borne, 1 to 1000; the last of them is the sign
            that trying again will not help who waits now.
    """

    base_s: float = 0.1
    cap_s: float = 5.0
    failures_max: int = 5


class Backoff:
    """Counts failures in a row. `random` draws uniformly from [0, 1)."""

    def __init__(self, limits: BackoffLimits, random: Callable[[], float]) -> None:
        self._limits = limits
        self._random = random
        self.failures = 0

    @property
    def spent(self) -> bool:
        """Whether as many failures as are borne have come in a row."""
        return self.failures >= self._limits.failures_max

    def failed(self) -> float:
        """Count a failure; return how many seconds to wait before the next try."""
        # The exponent is bounded first: 2.0 ** 1024 overflows.
        doubled = self._limits.base_s * 2.0 ** min(self.failures, 32)
        self.failures += 1
        return self._random() * min(self._limits.cap_s, doubled)

    def succeeded(self) -> None:
        """Start anew."""
        self.failures = 0
