"""The bounds of event streams towards clients."""

from __future__ import annotations

import msgspec


class StreamLimits(msgspec.Struct, frozen=True):
    """What a stream keeps for a client that comes back, and how many streams there may be.

    Attributes:
        events_max: events kept of one stream, 2 to 1,000,000.
        bytes_max: bytes of them, 1 KiB to 1 GiB; the newest event is kept however large.
        age_s_max: how old an event may be to be sent again, and how long a stream waits for its
            client, 1 to 86,400.
        retry_ms: how long clients are asked to wait before they come back, 0 to 3,600,000.
        connection_s_max: after how long a client's connection is ended early, whose stream goes on,
            where it knows what that means; 0 for never, to 86,400.
        ended_max: streams that have ended and are still kept, in all, 1 to 1,000,000.
        bytes_total_max: bytes of all streams' events together, 1 KiB to 1 TiB.
        streams_max: streams that are open, in all; so the following, each 1 to 1,000,000.
        streams_per_principal_max: those of one principal, or of an address that is anonymous.
        streams_per_session_max: those of one session.
    """

    events_max: int = 20_000
    bytes_max: int = 8 * 1024 * 1024
    age_s_max: float = 60.0
    retry_ms: int = 1000
    connection_s_max: float = 0.0
    ended_max: int = 1000
    bytes_total_max: int = 256 * 1024 * 1024
    streams_max: int = 20_000
    streams_per_principal_max: int = 20_000
    streams_per_session_max: int = 256

    @property
    def unread_events_max(self) -> int:
        """How many events a client may be behind; as many again can be sent when it is back."""
        return self.events_max // 2

    @property
    def unread_bytes_max(self) -> int:
        """How many bytes a client may be behind; as many again can be sent when it is back."""
        return self.bytes_max // 2
