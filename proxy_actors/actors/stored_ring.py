"""A ring whose events are written down, so that a client can come back after a restart.

Owns nothing but what the file is told; nobody waits for that. What is written is what the ring
holds: what it drops is deleted, and when the stream is over for good all of it is.
"""

from __future__ import annotations

from proxy_actors.messages.stream_store import (
    ForgetStream,
    KeepEvent,
    LeaveStream,
    OpenStream,
    StoredStream,
    TrimStream,
)
from proxy_actors.policy.replay_ring import ReplayRing
from proxy_actors.policy.ring_budget import RingBudget
from proxy_actors.policy.stream_limits import StreamLimits
from proxy_actors.world.stores import StreamStore


class StoredRing(ReplayRing):
    """The ring of one stream."""

    __slots__ = ("_store", "_stream")

    def __init__(
        self,
        limits: StreamLimits,
        budget: RingBudget,
        store: StreamStore,
        stream: StoredStream,
        owner: str = "",
    ) -> None:
        super().__init__(limits, budget, owner)
        self._store = store
        self._stream: StoredStream | None = stream
        store.write(OpenStream(stream))

    def append(self, data: bytes, now_s: float) -> None:
        """Keep an event, and write it down."""
        super().append(data, now_s)
        if self._stream is not None:
            self._store.write(KeepEvent(self._stream, self.last, self.first, data))

    def drop(self) -> bool:
        """Drop everything, in the file too."""
        dropped = super().drop()
        if dropped and self._stream is not None:
            self._store.write(TrimStream(self._stream, self.first))
        return dropped

    def forget(self) -> None:
        """Nobody can come back to the stream: delete what is written. Idempotent."""
        self._end(ForgetStream)

    def close(self) -> None:
        """Hold nothing any more; what is written stays for a while, unless it is forgotten."""
        self._end(LeaveStream)
        super().close()

    def _end(self, how: type[ForgetStream] | type[LeaveStream]) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            self._store.write(how(stream))
