"""The mailbox of a connection pool, and the effects of its policy.

Every message that names a waiter, lease or exchange travels in the normal lane: a cancel can never
overtake the checkout that it cancels.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

import msgspec

from proxy_actors.errors import Reason
from proxy_actors.messages.base import Message


class Purpose(StrEnum):
    """What a connection is wanted for, which decides the budget it is drawn from.

    CALL: an exchange that ends by itself. RESERVED: a JSON-RPC response, a notification or a
    DELETE, which must never wait behind calls. STREAM: a standalone event stream.
    """

    CALL = "call"
    RESERVED = "reserved"
    STREAM = "stream"


class Owner(msgspec.Struct, frozen=True):
    """Whose an exchange is, as far as shares go; the proxy's own have no name.

    `name` is of a principal, or of an address where that is anonymous. Its sessions share what it
    gets.
    """

    name: str = ""
    session: str = ""


NOBODY = Owner()


class CheckoutConnection(Message, frozen=True):
    """Exchange to pool, asked: a connection, please.

    Answered with a `ConnectionGranted`, or a FailedError. An ask that does not end in an answer
    must be followed by `CancelCheckout`. `idle_s_max` bounds how long the connection may have been
    idle: an exchange that cannot be repeated should not meet a peer that is just closing. `owner`
    is whose share of the connections it comes out of. `exchange_id` is below 0 for one of the
    proxy's own.
    """

    waiter_id: int
    exchange_id: int
    purpose: Purpose
    deadline_s: float
    idle_s_max: float
    owner: Owner = NOBODY


class CancelCheckout(Message, frozen=True):
    """Exchange to pool: the asker no longer waits. Closes the row, waiting or granted."""

    always_accepted: ClassVar[bool] = True
    waiter_id: int


class ReturnConnection(Message, frozen=True):
    """Lease to pool: the exchange is over.

    `reusable` is true when the connection stands between two messages. `idle_s_max` is how long
    the peer said that it keeps an idle connection, if it said so. `kept` says that the lease was
    kept for more than one exchange, so that its age is not what one has taken.
    """

    always_accepted: ClassVar[bool] = True
    lease_id: int
    reusable: bool
    idle_s_max: float | None = None
    kept: bool = False


class ConnectionBecameStream(Message, frozen=True):
    """Lease to pool: the head said text/event-stream, so the lease no longer counts as a call."""

    always_accepted: ClassVar[bool] = True
    lease_id: int


class ExchangeEnded(Message, frozen=True):
    """Owner of an exchange to pool: it is gone, whatever it still held or waited for."""

    always_accepted: ClassVar[bool] = True
    exchange_id: int


class ConnectionOpened(Message, frozen=True):
    """Connector to pool: connection `connection_id`, asked for as an opening, stands."""

    always_accepted: ClassVar[bool] = True
    connection_id: int


class ConnectionFailed(Message, frozen=True):
    """Connector to pool: the opening failed; nothing was sent to the upstream."""

    always_accepted: ClassVar[bool] = True
    connection_id: int


class IdleConnectionEnded(Message, frozen=True):
    """Stream to pool: the peer ended, or spoke on, a connection that nobody held."""

    always_accepted: ClassVar[bool] = True
    connection_id: int


class GrantFailed(Message, frozen=True):
    """Shell to policy: the connection was found dead at the hand-over; the waiter waits on."""

    lease_id: int


class SweepDue(Message, frozen=True):
    """Timer to pool: look at idle times, lifetimes and waiters' deadlines."""

    always_accepted: ClassVar[bool] = True
    generation: int


class DrainPool(Message, frozen=True):
    """Parent to pool: grant no more calls, close what is idle, tell PoolDrained when empty.

    A pool that is started anew does not remember it.
    """

    always_accepted: ClassVar[bool] = True


class AbortPool(Message, frozen=True):
    """Parent to pool: close every connection now, leased ones too. Idempotent."""

    always_accepted: ClassVar[bool] = True


class PoolDrained(Message, frozen=True):
    """Pool to parent: no connection is left."""

    always_accepted: ClassVar[bool] = True


class ConnectionGranted(Message, frozen=True):
    """Pool to exchange: the lease.

    `fresh` says that the connection was opened this moment: it has carried no exchange, and has not
    been idle long enough for its peer to leave.
    """

    lease_id: int
    connection_id: int
    fresh: bool


class Grant(Message, frozen=True):
    """Effect: hand the connection to the waiter."""

    waiter_id: int
    lease_id: int
    connection_id: int
    fresh: bool


class Refuse(Message, frozen=True):
    """Effect: tell the waiter that there will be none, and when to come back if that is known."""

    waiter_id: int
    reason: Reason
    after_s: float | None = None


class Open(Message, frozen=True):
    """Effect: connect, under this id."""

    connection_id: int


class Close(Message, frozen=True):
    """Effect: close and forget this connection."""

    connection_id: int


class Recall(Message, frozen=True):
    """Effect: take back leases that their holders keep between two exchanges.

    At most `leases_max` of them, the longest kept first; of those only the `overdue` ones, whose
    connection has idled as long as it may, if that is asked for.
    """

    leases_max: int
    overdue: bool


class Wake(Message, frozen=True):
    """Effect: tell SweepDue(generation) after `after_s` seconds."""

    after_s: float
    generation: int


class Drained(Message, frozen=True):
    """Effect: tell the parent that the drain is done."""


PoolMessage = (
    CheckoutConnection
    | CancelCheckout
    | ReturnConnection
    | ConnectionBecameStream
    | ExchangeEnded
    | ConnectionOpened
    | ConnectionFailed
    | IdleConnectionEnded
    | GrantFailed
    | SweepDue
    | DrainPool
    | AbortPool
)
PoolEffect = Grant | Refuse | Open | Close | Recall | Wake | Drained
