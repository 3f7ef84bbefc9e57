"""What passes between calls, an endpoint's circuit breakers and whoever carries out what they say.

A part of the mailbox of an upstream's guard (`messages/guard.py`).
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

from proxy_actors.messages.base import Message


class BreakerState(StrEnum):
    """Where a circuit breaker stands."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class AdmitCall(Message, frozen=True):
    """Exchange to guard, asked, where the endpoint is gated: may this call be sent?

    Answered with `CallAdmitted` or `CircuitOpen`.

    Attributes:
        tool: the tool that is called, "" for any other request.
        reads: whether the call changes nothing, so that it may find out how things are.
    """

    endpoint: str
    tool: str
    reads: bool


class CallAdmitted(Message, frozen=True):
    """Guard to exchange: send it.

    A probe has to be told of however it ends: `CallFailed`, `CallSucceeded` or `PermitReleased`.
    """

    permit: int
    probe: bool


class CircuitOpen(Message, frozen=True):
    """Guard to exchange: do not send it; the next try is made after so long. "" for all tools."""

    tool: str
    after_s: float


class PermitReleased(Message, frozen=True):
    """Exchange to guard: a probe has ended and shown nothing; its client has left, say."""

    always_accepted: ClassVar[bool] = True
    endpoint: str
    tool: str
    permit: int


class ProbeEnded(Message, frozen=True):
    """Prober to guard: what a probe of the proxy's own has shown."""

    always_accepted: ClassVar[bool] = True
    endpoint: str
    permit: int
    ok: bool


class BreakerDue(Message, frozen=True):
    """Timer to guard: an open or half-open breaker has to be looked at."""

    always_accepted: ClassVar[bool] = True
    endpoint: str
    tool: str
    generation: int


class WakeBreaker(Message, frozen=True):
    """Effect: tell BreakerDue after `after_s` seconds."""

    tool: str
    after_s: float
    generation: int


class ProbeEndpoint(Message, frozen=True):
    """Effect: find out whether the endpoint answers, and tell ProbeEnded with this permit."""

    permit: int


class BreakerChanged(Message, frozen=True):
    """Effect: log and count that a breaker is now in this state; `why` is for operators."""

    tool: str
    state: BreakerState
    why: str
    after_s: float = 0.0


class Opened(Message, frozen=True):
    """What has to be known of a breaker that is not closed by an actor that is started anew.

    Attributes:
        trips: how often it has opened in a row.
        until_s: when it becomes half-open.
    """

    trips: int
    until_s: float


BreakerMessage = PermitReleased | ProbeEnded | BreakerDue
BreakerEffect = WakeBreaker | ProbeEndpoint | BreakerChanged
