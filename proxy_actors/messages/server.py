"""The mailbox of the HTTP server."""

from __future__ import annotations

from typing import ClassVar

from proxy_actors.messages.base import Message


class DrainServer(Message, frozen=True):
    """Parent to server: end idle connections soon, accept no more once those that carry a request
    have ended, tell ServerDrained when no connection is left.
    """

    always_accepted: ClassVar[bool] = True


class HandOver(Message, frozen=True):
    """Parent to server: another process will serve the same socket.

    Go on serving until the calls of now have been answered, a bounded time; then leave the socket
    to the other, end idle connections, and tell ListenerHandedOver.
    """

    always_accepted: ClassVar[bool] = True


class HandOverDue(Message, frozen=True):
    """Timer to server: the calls of before have had their time."""

    always_accepted: ClassVar[bool] = True


class ListenerHandedOver(Message, frozen=True):
    """Server to parent: whoever connects now waits for another process."""

    always_accepted: ClassVar[bool] = True


class ConnectionEnded(Message, frozen=True):
    """Connection to server: its greenlet is about to end."""

    always_accepted: ClassVar[bool] = True


class LegacyCallsEnded(Message, frozen=True):
    """Data plane to server, in a hand-over: no request of an HTTP+SSE client is being served."""

    always_accepted: ClassVar[bool] = True


class IdleDue(Message, frozen=True):
    """Timer to server: what idle connections were about to send as the drain went on has come."""

    always_accepted: ClassVar[bool] = True


class ServerDrained(Message, frozen=True):
    """Server to parent: no connection is left."""

    always_accepted: ClassVar[bool] = True


class LagSeen(Message, frozen=True):
    """Watch to server: the loop came so late to what was due; so many requests wait to be let in.

    Told when the lag is high, and at every look for as long as requests wait after that.
    """

    always_accepted: ClassVar[bool] = True
    lag_s: float
    waiting: int


class ProcessWeighed(Message, frozen=True):
    """Watch to server: which share of its memory and of its descriptors the process uses."""

    always_accepted: ClassVar[bool] = True
    memory_share: float
    fds_share: float


class PauseAccepting(Message, frozen=True):
    """Effect: leave connections in the kernel's queue."""


class ResumeAccepting(Message, frozen=True):
    """Effect: accept again."""


class CloseGate(Message, frozen=True):
    """Effect: let requests wait before they are parsed."""


class LetIn(Message, frozen=True):
    """Effect: let at most so many go on, those first that came first."""

    requests: int


class OpenGate(Message, frozen=True):
    """Effect: let all go on, and those that come."""


class RefuseConnections(Message, frozen=True):
    """Effect: refuse new connections from now on, or serve them again."""

    refuse: bool


IntakeMessage = LagSeen | ProcessWeighed
IntakeEffect = (
    PauseAccepting | ResumeAccepting | CloseGate | LetIn | OpenGate | RefuseConnections
)
