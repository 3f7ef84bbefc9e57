"""The bytes that all rings hold together, and whose replay goes first when they are too many.

Owns their sum, and the order of those that may lose what they hold: first the rings of streams that
have ended, the longest ended first, then those of streams that nobody reads, the longest unread
first. What a ring holds is lent to it, and may be taken back at any moment without asking its
stream, which then finds an empty ring and refuses who comes back (MCP-S-16). A stream whose first
reader is still to come is never among them: that reader could not be told of a gap.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proxy_actors.policy.replay_ring import ReplayRing


class RingBudget:
    """Counts what rings hold.

    Args:
        bytes_max: of all rings together; exceeded by no more than the newest event of each, where
            all that has no reader is gone.
    """

    def __init__(self, bytes_max: float = math.inf) -> None:
        self.bytes_max = bytes_max
        self._ended: dict[ReplayRing, None] = {}
        self._unread: dict[ReplayRing, None] = {}
        self.held = 0
        """Bytes that are held."""
        self.taken = 0
        """How many rings have lost what they held."""

    def unread(self, ring: ReplayRing, over: bool) -> None:
        """Note that nobody reads the stream any more, or that it has ended. Idempotent."""
        if over:
            self._unread.pop(ring, None)
            self._ended.setdefault(ring)
        else:
            self._unread.setdefault(ring)

    def read(self, ring: ReplayRing) -> None:
        """Note that the stream has a reader, or is no more."""
        self._unread.pop(ring, None)
        self._ended.pop(ring, None)

    def make_room(self, more_bytes: int) -> None:
        """Take back what may be taken until so many bytes more can be held."""
        while self.held + more_bytes > self.bytes_max and (self._ended or self._unread):
            ring = next(iter(self._ended or self._unread))
            self.read(ring)
            if ring.drop():
                self.taken += 1
