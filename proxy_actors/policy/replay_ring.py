"""The latest events of one stream, numbered from 1, for a client that has missed some.

Owns nothing before the first event. It says what followed an event exactly, or that it cannot:
never less, as an event that is missing from the middle would be. `policy/event_stream.py` uses it.
"""

from __future__ import annotations

from collections import deque
from itertools import islice

from proxy_actors.policy.ring_budget import RingBudget, RingShare
from proxy_actors.policy.stream_limits import StreamLimits


class ReplayRing:
    """Keeps events by number, within bounds; the newest one in any case.

    Args:
        budget: of all rings together; a ring that nobody reads may lose everything to it.
        owner: out of whose share of that it comes.
    """

    __slots__ = (
        "_awaited", "_budget", "_bytes", "_events", "_limits", "_over", "_owner", "_read", "_share",
        "last",
    )  # fmt: skip

    def __init__(
        self, limits: StreamLimits, budget: RingBudget | None = None, owner: str = ""
    ) -> None:
        self._limits = limits
        self._budget = RingBudget() if budget is None else budget
        self._owner = owner
        self._share: RingShare | None = None
        self._events: deque[tuple[float, bytes]] | None = None
        self._bytes = 0
        self._awaited, self._read, self._over = True, True, False
        self.last = 0
        """The number of the newest event; 0 before the first."""

    @property
    def first(self) -> int:
        """The number of the oldest event that is kept; the next one's when none is."""
        return self.last + 1 - (0 if self._events is None else len(self._events))

    def append(self, data: bytes, now_s: float) -> None:
        """Keep an event under the next number, at the cost of the oldest."""
        budget, share, n = self._budget, self._share or self._enter(), len(data)
        if budget.held + n > budget.plenty:
            budget.make_room(share, n)
        if self._events is None:
            self._events = deque()
            if not self._read:  # which it was before it lost everything
                budget.unread(self, share, self._over)
        self._events.append((now_s, data))
        self.last += 1
        # In one step, as elsewhere: the budget outlives who crashes between the two.
        self._bytes, budget.held, share.held = self._bytes + n, budget.held + n, share.held + n
        self.expire(now_s)

    def since(self, number: int) -> list[bytes] | None:
        """Return what followed the event of this number; None when not all of it is there."""
        if not self.first - 1 <= number <= self.last:
            return None
        return [data for _, data in islice(self._events or (), number + 1 - self.first, None)]

    def expire(self, now_s: float) -> None:
        """Drop what is too much or too old; for all rings together once there was a reader."""
        events, limits, budget, share = self._events, self._limits, self._budget, self._share
        if events is None or share is None:
            return
        while len(events) > 1 and (
            len(events) > limits.events_max
            or self._bytes > limits.bytes_max
            or (
                budget.held > budget.plenty
                and not self._awaited
                and budget.has_too_much(share)
            )
            or now_s - events[0][0] > limits.age_s_max
        ):
            n = len(events.popleft()[1])
            self._bytes, budget.held, share.held = self._bytes - n, budget.held - n, share.held - n

    def is_read(self, now_s: float) -> None:
        """There is a reader, which has what is kept: nothing of it may be taken back."""
        self._awaited, self._read = False, True
        if self._share is not None:
            self._budget.read(self, self._share)
        self.expire(now_s)

    def is_unread(self, over: bool) -> None:
        """There is no reader any more, or nothing more will come: all may be taken back."""
        self._awaited, self._read, self._over = False, False, over
        self._budget.unread(self, self._share or self._enter(), over)

    def drop(self) -> bool:
        """Drop everything, the newest event too; whether there was anything."""
        dropped, n = bool(self._events), self._bytes
        budget, share, self._events = self._budget, self._share, None
        if share is not None:
            self._bytes, budget.held, share.held = 0, budget.held - n, share.held - n
        return dropped

    def forget(self) -> None:
        """Nobody can come back to the stream."""

    def close(self) -> None:
        """Hold nothing any more. Idempotent."""
        if self._share is not None:
            self._budget.read(self, self._share)
        self.drop()
        self._budget.leave(self, self._owner)

    def _enter(self) -> RingShare:
        share = self._share = self._budget.enter(self, self._owner)
        return share
