"""The connections of clients that are being served.

Owns their bounds and nothing of a connection. It outlives the listener's actor, so that a drain
finds the connections of before a restart too.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from proxy_actors.policy.shares import take_one

if TYPE_CHECKING:
    from proxy_actors.gateway.handle import ClientConnection


class ClientTable:
    """The connections by client address.

    Args:
        connections_max: how many there may be in all.
        per_address_max: how many of one client address.
    """

    def __init__(self, connections_max: int, per_address_max: int) -> None:
        self._connections_max = connections_max
        self._per_address_max = per_address_max
        # A dict, because a set has no order that a second run would have too.
        self._connections: dict[ClientConnection, str] = {}
        self._per_address: Counter[str] = Counter()
        self._handing_over = self._draining = False
        self._of_before: set[ClientConnection] = set()

    @property
    def awaited(self) -> bool:
        """Whether a connection that was busy as the hand-over or the drain began has not ended."""
        return bool(self._of_before)

    @property
    def calling(self) -> bool:
        """Whether a connection carries a call now."""
        return any(not (x.idle or x.listens) for x in self._connections)

    def has_room(self, address: str) -> bool:
        """Whether one more connection of this address is within the bounds."""
        return (
            len(self._connections) < self._connections_max
            and self._per_address[address] < self._per_address_max
        )

    def enter(self, connection: ClientConnection, address: str) -> None:
        """List a connection; whoever does must `leave` at its end."""
        self._connections[connection] = address
        self._per_address[address] += 1

    def leave(self, connection: ClientConnection) -> None:
        """Forget a connection."""
        address = self._connections.pop(connection)
        self._of_before.discard(connection)
        take_one(self._per_address, address)

    def begin_hand_over(self) -> None:
        """Await the end of the connections that carry a call now. Once.

        Who only listens would not come to an end; listeners are told to come back in the drain.
        """
        if not self._handing_over:
            self._handing_over = True
            self._of_before = {x for x in self._connections if not (x.idle or x.listens)}

    def begin_drain(self) -> None:
        """Await the end of the connections that carry a request now. Once."""
        if not self._draining:
            self._draining = True
            self._of_before = {x for x in self._connections if not x.idle}

    def close_idle(self) -> None:
        """End the connections that carry no request; the others end after their answers."""
        for connection in list(self._connections):
            connection.close_if_idle()

    def close_all(self) -> None:
        """End every connection in whatever it is doing."""
        for connection in list(self._connections):
            connection.close()

    def __len__(self) -> int:
        return len(self._connections)
