"""The bytes that all rings hold together, and whose replay goes first when they are too many.

Whoever holds much has to leave the more to others, by the rule of `policy/shares.py`. What a ring
holds is lent to it, and may be taken back at any moment without asking its stream, which then finds
an empty ring and refuses who comes back (MCP-S-16). So whose rings need room takes it from whoever
holds most, of those with a ring that may be taken: first its rings of streams that have ended, the
longest ended first, then those of streams that nobody reads, the longest unread first. Nothing is
taken from who holds no more than it is for; then the ring that needs room loses its oldest events.
A stream whose first reader is still to come, which is on its way, loses nothing to others, and
nothing to keep the sum: that reader could not be told of a gap.

Owns the sums, of all and of each owner, and the order of those that may lose what they hold.
"""

from __future__ import annotations

import math
from operator import attrgetter
from typing import TYPE_CHECKING

from proxy_actors.policy.shares import SHARE_OF_REST, may_have_one_more

if TYPE_CHECKING:
    from proxy_actors.policy.replay_ring import ReplayRing

_held = attrgetter("held")


class RingShare:
    """What the rings of one owner hold, and those that may lose it, in order."""

    __slots__ = ("ended", "held", "rings", "unread")

    def __init__(self) -> None:
        self.held = 0
        self.rings: dict[ReplayRing, None] = {}
        self.ended: dict[ReplayRing, None] = {}
        self.unread: dict[ReplayRing, None] = {}


class RingBudget:
    """Counts what rings hold.

    Args:
        bytes_max: of all rings together; exceeded by no more than the newest event of each and
            what waits for a first reader, where all that has no reader is gone.
    """

    def __init__(self, bytes_max: float = math.inf) -> None:
        self._bytes_max = bytes_max
        self._shares: dict[str, RingShare] = {}
        self._giving: dict[RingShare, None] = {}
        self.held = 0
        """Bytes that are held."""
        self.plenty = bytes_max * SHARE_OF_REST / (SHARE_OF_REST + 1)
        """Up to so many nobody has too much."""
        self.taken = 0
        """How many rings have lost what they held."""

    def enter(self, ring: ReplayRing, owner: str) -> RingShare:
        """Count a ring as one of this owner's. Idempotent."""
        share = self._shares.get(owner)
        if share is None:
            share = self._shares[owner] = RingShare()
        share.rings[ring] = None
        return share

    def leave(self, ring: ReplayRing, owner: str) -> None:
        """Forget a ring, which holds nothing any more. Idempotent."""
        share = self._shares.get(owner)
        if share is not None:
            share.rings.pop(ring, None)
            if not share.rings:
                del self._shares[owner]

    def unread(self, ring: ReplayRing, share: RingShare, over: bool) -> None:
        """Note that nobody reads the stream any more, or that it has ended. Idempotent."""
        if over:
            share.unread.pop(ring, None)
            share.ended.setdefault(ring)
        else:
            share.unread.setdefault(ring)
        self._giving.setdefault(share)

    def read(self, ring: ReplayRing, share: RingShare) -> None:
        """Note that the stream has a reader, or is no more."""
        share.unread.pop(ring, None)
        share.ended.pop(ring, None)
        if not share.unread and not share.ended:
            self._giving.pop(share, None)

    def has_too_much(self, share: RingShare, more_bytes: int = 0) -> bool:
        """Whether these rings hold more than they may, or would with so many bytes more."""
        free = self._bytes_max - self.held - more_bytes
        return not may_have_one_more(share.held + more_bytes - 1, free + 1)

    def make_room(self, share: RingShare, more_bytes: int) -> None:
        """Take back what may be taken until so many bytes more can be held by these rings."""
        while self._giving and self.has_too_much(share, more_bytes):
            giver = max(self._giving, key=_held)
            if share in self._giving and share.held + more_bytes >= giver.held:
                giver = share
            elif giver.held <= share.held:
                return
            ring = next(iter(giver.ended or giver.unread))
            self.read(ring, giver)
            if ring.drop():
                self.taken += 1
