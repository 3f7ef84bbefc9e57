"""The mailbox of an upstream's guard: what becomes of calls at its endpoints."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

from proxy_actors.messages.base import Message


class Fault(StrEnum):
    """What an endpoint did wrong, by where the fault shows (Envoy's split of outlier detection).

    CONNECT: no connection could be opened. RESET: it went away in the middle. TIMEOUT: no answer
    came in time. STATUS: an HTTP status that is the server's own failure, 500 and above but for
    501 and 505. GATEWAY: of these 502, 503 and 504, by which something before the server says that
    it cannot be reached. PROTOCOL: what came could not be understood. EXIT: its process ended.
    """

    CONNECT = "connect"
    RESET = "reset"
    TIMEOUT = "timeout"
    STATUS = "status"
    GATEWAY = "gateway"
    PROTOCOL = "protocol"
    EXIT = "exit"

    @property
    def local(self) -> bool:
        """Whether it was noticed here, and not told by the server."""
        return self in (Fault.CONNECT, Fault.RESET, Fault.TIMEOUT, Fault.EXIT)

    @property
    def gateway(self) -> bool:
        """Whether a gateway would say it by 502, 503 or 504, as this one does."""
        return self.local or self is Fault.GATEWAY


class CallFailed(Message, frozen=True):
    """Data plane to guard: a call at this endpoint failed by the endpoint's fault.

    What the application answered is no such failure, be it an error; nor is what the client did.
    `tool` is the name of the tool that was called, "" for any other request. `permit` is what let
    the call through, or the endpoint's epoch when it began.
    """

    always_accepted: ClassVar[bool] = True
    endpoint: str
    tool: str
    fault: Fault
    seconds: float
    permit: int = 0


class CallSucceeded(Message, frozen=True):
    """Data plane to guard, where the endpoint is watched: a call was answered after so long."""

    endpoint: str
    tool: str
    seconds: float
    permit: int = 0
