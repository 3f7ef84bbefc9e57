"""When an upstream's event stream that broke is opened anew, and when no more.

The rules of the WHATWG's reconnection time and of MCP (S-17, S-18): the upstream's `retry` is the
least wait; on top comes, for failures only, exponential backoff with full jitter. A connection that
said where the stream is and was ended in good order is no failure: its server wants to be asked
again, just when it says (2025-11-25 basic/transports, "polling"). Silence is none either. Attempts
are counted until a message comes or a connection stands for a while: a server that accepts
connections and drops them has not recovered. `policy/event_stream.py` uses it.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from proxy_actors.messages.stream import SourceBroke
from proxy_actors.policy.backoff import Backoff, BackoffLimits


class ReconnectLimits(msgspec.Struct, frozen=True):
    """How an upstream's event streams are opened anew.

    Attributes:
        base_s: the bound of the first wait, 0.01 to 60; it doubles with each attempt.
        cap_s: the most that it grows to, base to 3600.
        attempts_max: attempts in a row that bring nothing, 1 to 1000; then it is given up.
        idle_s_max: how long nothing may come, not even a comment, on a connection that can be
            replaced, 1 to 86,400.
    """

    base_s: float = 1.0
    cap_s: float = 60.0
    attempts_max: int = 5
    idle_s_max: float = 300.0


# However soon a server wants to be asked again.
POLL_S_MIN = 0.1


class Reconnect:
    """Decides for one stream. `random` draws uniformly from [0, 1)."""

    __slots__ = ("_backoff", "_poll_s", "generation", "waiting")

    def __init__(self, limits: ReconnectLimits, random: Callable[[], float]) -> None:
        backoff = BackoffLimits(limits.base_s, limits.cap_s, limits.attempts_max)
        self._backoff = Backoff(backoff, random)
        self._poll_s = max(limits.base_s, POLL_S_MIN)
        self.waiting = False
        """Whether there is no connection until a timer says so."""
        self.generation = 0
        """Of the latest wait."""

    def next_attempt(self, broke: SourceBroke) -> float | None:
        """Begin to wait for another attempt; return for how long, None when there is to be none."""
        if broke.heard:
            self._backoff.succeeded()
        least_s = broke.retry_s or 0.0
        if broke.clean:
            wait_s = self._poll_s if broke.retry_s is None else max(least_s, POLL_S_MIN)
        elif broke.idle:
            wait_s = least_s
        elif self._backoff.spent:
            return None
        else:
            wait_s = max(self._backoff.failed(), least_s)
        self.waiting = True
        self.generation += 1
        return wait_s

    def due(self, generation: int) -> bool:
        """Say whether this is the wait that is on, which is over then; another is stale."""
        due = self.waiting and generation == self.generation
        self.waiting = self.waiting and not due
        return due
