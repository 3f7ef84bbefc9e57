"""Whether anybody uses an upstream, and whether its processes rest.

A row of the process that outlives every incarnation: the data plane counts calls in it, the
upstream's actor reads it when it may be time to rest, and says there that it does. Both in one turn
of the loop, so that no call is begun at a process that is being stopped.
"""

from __future__ import annotations


class UpstreamUse:
    """The row of one upstream.

    Attributes:
        calls: underway now, those apart that have become streams.
        used_s: when the last one ended.
        rests: whether there is no process, and the next use is to have one started.
    """

    __slots__ = ("calls", "rests", "used_s")

    def __init__(self) -> None:
        self.calls = 0
        self.used_s = 0.0
        self.rests = False

    def end(self, now_s: float) -> None:
        """A call is over, or has become a stream."""
        self.calls -= 1
        self.used_s = now_s
