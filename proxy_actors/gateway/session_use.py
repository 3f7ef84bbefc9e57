"""The session that a client's connection uses, asked for once and kept from request to request.

Owns one use at a time and ends it whatever happens: an ask that got no answer ends in EndUse too,
since it may have been counted.
"""

from __future__ import annotations

from collections.abc import Callable

from proxy_actors.actors.refs import Slot
from proxy_actors.actors.session_uses import KEPT, OPEN, REVOKED, SessionUses, UseRow
from proxy_actors.gateway.keys import owner_name
from proxy_actors.messages.sessions import BeginUse, EndUse, Session

LOOK_UP_S_MAX = 1.0


class SessionHolder:
    """Holds the use of one connection, whose exchanges come one after another from `peer`."""

    __slots__ = (
        "_front_id", "_now_s", "_peer", "_principal", "_registry", "_row", "_use_id", "_uses",
    )  # fmt: skip

    def __init__(
        self, registry: Slot, uses: SessionUses, now_s: Callable[[], float], peer: str
    ) -> None:
        self._peer = peer
        self._registry = registry
        self._uses = uses
        self._now_s = now_s
        self._use_id = 0
        self._row: UseRow | None = None
        self._front_id = b""
        self._principal = ""

    def begin(self, exchange_id: int, front_id: bytes, principal: str) -> Session:
        """Return the session for one exchange; `end` follows, whatever comes of this.

        Raises:
            RefusedError: 404, there is no such session of this principal's.
            DeadlineError, ActorStoppedError, MailboxFullError: the registry did not answer.
        """
        row = self._row
        if row is not None:
            if (
                row.state is KEPT
                and front_id == self._front_id
                and principal == self._principal
            ):
                row.state = OPEN
                return row.session
            self.close()
        self._use_id, self._front_id, self._principal = exchange_id, front_id, principal
        owner = owner_name(principal, self._peer)
        ask = BeginUse(front_id.decode("ascii", "replace"), principal, exchange_id, owner)
        session: Session = self._registry.ask(ask, self._now_s() + LOOK_UP_S_MAX)
        self._row = self._uses.find(exchange_id)
        return session

    def end(self) -> None:
        """Keep the use for the next exchange, or end it. Idempotent."""
        row = self._row
        if row is None or row.state is REVOKED:
            self.close()
        else:
            row.state = KEPT
            clock = self._now_s
            row.used_s = clock()

    def close(self) -> None:
        """End the use, unless the registry has taken it back. Idempotent."""
        use_id, row = self._use_id, self._row
        if use_id and (row is None or self._uses.find(use_id) is row):
            self._registry.deliver(EndUse(exchange_id=use_id))
        self._use_id, self._row = 0, None
