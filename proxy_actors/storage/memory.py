"""The store of sessions of a proxy without a state directory: they end with the process.

Owns the rows and nothing that blocks. The registry uses it through the port `SessionStore`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from proxy_actors.messages.sessions import SessionEnded, SessionRow, SessionWrite
from proxy_actors.policy.session_rows import apply


class MemoryStore:
    """A `SessionStore` whose writes are done at once."""

    def __init__(self) -> None:
        self.unfinished: dict[str, SessionEnded] = {}
        self._rows: dict[str, SessionRow] = {}

    def rows(self) -> Sequence[SessionRow]:
        """See `SessionStore.rows`."""
        return tuple(self._rows.values())

    def submit(self, writes: Sequence[SessionWrite], done: Callable[[str], object]) -> None:
        """See `SessionStore.submit`."""
        apply(self._rows, writes)
        done("")

    def close(self, deadline_s: float) -> bool:
        """See `SessionStore.close`."""
        return True
