"""The simulated sink of metrics: keeps what it was sent, for tests to look at."""

from __future__ import annotations

from collections.abc import Sequence

from proxy_actors.metrics import Figure


class SimSink:
    """A `MetricSink`. `open_sinks` lists those that have not been closed; this one enters it.

    Attributes:
        flushes: what was sent, by send.
        failing: the error of every packet, while it is not empty.
    """

    def __init__(self, open_sinks: list[SimSink], prefix: str) -> None:
        self._open_sinks = open_sinks
        self.prefix = prefix
        self.flushes: list[list[Figure]] = []
        self.failing = ""
        open_sinks.append(self)

    def send(self, figures: Sequence[Figure]) -> tuple[int, str]:
        """Keep figures."""
        assert self in self._open_sinks, "figures were sent to a sink that is closed"
        if self.failing:
            return 1, self.failing
        self.flushes.append(list(figures))
        return 0, ""

    def close(self) -> None:
        """Take nothing more."""
        if self in self._open_sinks:
            self._open_sinks.remove(self)
