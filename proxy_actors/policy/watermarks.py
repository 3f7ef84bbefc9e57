"""Two marks and a memory: over from the high one on, until below the low one."""

from __future__ import annotations


class Watermark:
    """Judges one figure. `over` is the last verdict; a figure between the marks changes nothing."""

    __slots__ = ("high", "low", "over")

    def __init__(self, high: float, low: float) -> None:
        self.high = high
        self.low = low
        self.over = False

    def see(self, figure: float) -> bool:
        """Judge the figure as it is now; return `over`."""
        if figure >= self.high:
            self.over = True
        elif figure < self.low:
            self.over = False
        return self.over
