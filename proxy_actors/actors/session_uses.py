"""Which exchange uses which session, for as long as the uses last; survives the registry's actor.

A use belongs to whoever asked for it. Between two requests a client's connection keeps its use
instead of ending it, which saves two mails a request; to the registry it is open all the while.
A kept use is the registry's to take back: it does so whenever it decides by who uses a session.

A row is in one of three states, and both sides move it by writing `state` alone:

    OPEN     an exchange is underway
    KEPT     none is; the holder may open it again, the registry may take it back
    REVOKED  the session has changed or ended: the holder ends the use when its exchange is over
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from proxy_actors.messages.sessions import Session


class UseState(Enum):
    """See the module."""

    OPEN = "open"
    KEPT = "kept"
    REVOKED = "revoked"


OPEN: Final = UseState.OPEN
KEPT: Final = UseState.KEPT
REVOKED: Final = UseState.REVOKED


class UseRow:
    """One use of a session. `used_s` is when it was kept last, on the monotonic clock."""

    __slots__ = ("id", "session", "state", "used_s")

    def __init__(self, id: int, session: Session) -> None:
        self.id = id
        self.session = session
        self.state = OPEN
        self.used_s = 0.0


class SessionUses:
    """The rows: found by the exchange that began the use, and by the session's key."""

    def __init__(self) -> None:
        self._rows: dict[int, UseRow] = {}
        self._by_key: dict[str, dict[int, UseRow]] = {}

    def enter(self, use_id: int, session: Session) -> None:
        """List a use that has begun."""
        row = self._rows[use_id] = UseRow(use_id, session)
        self._by_key.setdefault(session.key, {})[use_id] = row

    def find(self, use_id: int) -> UseRow | None:
        """Find a use; None when it has ended."""
        return self._rows.get(use_id)

    def leave(self, use_id: int) -> None:
        """Forget a use that has ended. Idempotent."""
        row = self._rows.pop(use_id, None)
        if row is not None:
            row.state = REVOKED
            of_session = self._by_key[row.session.key]
            del of_session[use_id]
            if not of_session:
                del self._by_key[row.session.key]

    def kept(self, key: str | None = None) -> list[UseRow]:
        """List the kept uses, of one session or of all."""
        rows = self._rows if key is None else self._by_key.get(key, {})
        return [row for row in rows.values() if row.state is KEPT]

    def revoke(self, key: str) -> None:
        """Have the uses of a session that are open end with their exchanges."""
        for row in self._by_key.get(key, {}).values():
            row.state = REVOKED

    def clear(self) -> None:
        """Forget all: a new incarnation of the registry knows of no use."""
        for use_id in list(self._rows):
            self.leave(use_id)

    def __len__(self) -> int:
        return len(self._rows)
