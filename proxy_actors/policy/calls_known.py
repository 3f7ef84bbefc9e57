"""What is known of some of the calls in flight: found by session, and the id that the client gave.

So a cancellation finds what it concerns. Of ordinary calls there is nothing to be known, so they
have no row. A row leaves with its call; that of a call whose answer has become a stream may stay,
as nobody tells here when that ends, until newer ones push it out or its id is used again. Owns a
bounded number of rows. The data plane (`gateway/`) reads and writes it.
"""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")
CALLS_MAX = 10_000


class CallsKnown(Generic[T]):
    """The rows of one upstream, or of one endpoint.

    Args:
        calls_max: how many there may be; the oldest goes first.
    """

    __slots__ = ("_calls_max", "_rows")

    def __init__(self, calls_max: int = CALLS_MAX) -> None:
        self._calls_max = calls_max
        self._rows: dict[tuple[str, bytes], T] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def enter(self, session_key: str, request_id: bytes, known: T) -> None:
        """Note something of a call, in place of what is noted."""
        self._rows.pop((session_key, request_id), None)
        if len(self._rows) >= self._calls_max:
            del self._rows[next(iter(self._rows))]
        self._rows[session_key, request_id] = known

    def find(self, session_key: str, request_id: bytes | None) -> T | None:
        """Find what is known of a call, if anything is."""
        return None if request_id is None else self._rows.get((session_key, request_id))

    def leave(self, session_key: str, request_id: bytes) -> None:
        """The call has ended, or another begins under its id. Idempotent."""
        self._rows.pop((session_key, request_id), None)
