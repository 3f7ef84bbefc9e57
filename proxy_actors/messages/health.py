"""What passes between the health of endpoints, its checks, and whoever carries out what it says.

A part of the mailbox of an upstream's guard (`messages/guard.py`), and the effects of its policies.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

from proxy_actors.messages.base import Message
from proxy_actors.messages.guard import CallFailed, CallSucceeded


class Verdict(StrEnum):
    """What an active check has found.

    WELL: the endpoint works. FAILED: it did not answer, or not as it should. REFUSED: it is alive,
    and does not let us in (401, 403). UNKNOWN: it is being started, or has its hands full, so that
    nothing can be said; nothing changes.
    """

    WELL = "well"
    FAILED = "failed"
    REFUSED = "refused"
    UNKNOWN = "unknown"


class OperatorState(StrEnum):
    """What the operator wants of an endpoint, in HAProxy's words.

    READY: use it as its health allows. DRAIN: no new sessions; those that it has go on. MAINT:
    none at all, and no checks.
    """

    READY = "ready"
    DRAIN = "drain"
    MAINT = "maint"


class EndpointStatus(StrEnum):
    """How an endpoint is, in the order in which one hides another.

    UNUSABLE: alive, and does not let us in.
    """

    MAINT = "maint"
    DOWN = "down"
    DRAIN = "drain"
    UNUSABLE = "unusable"
    EJECTED = "ejected"
    UP = "up"


class EjectionCause(StrEnum):
    """What made an endpoint an outlier, in Envoy's words."""

    CONSECUTIVE_FAILURES = "consecutive-failures"
    CONSECUTIVE_GATEWAY_FAILURES = "consecutive-gateway-failures"
    CONSECUTIVE_LOCAL_FAILURES = "consecutive-local-failures"
    SUCCESS_RATE = "success-rate"
    LOCAL_SUCCESS_RATE = "local-success-rate"
    FAILURE_PERCENTAGE = "failure-percentage"
    LOCAL_FAILURE_PERCENTAGE = "local-failure-percentage"


class SetEndpointState(Message, frozen=True):
    """Operator to guard: use this endpoint so from now on. An unknown name has no effect."""

    fast: ClassVar[bool] = True
    endpoint: str
    state: OperatorState


class StopChecks(Message, frozen=True):
    """Parent to guard, in a drain: check no more, leave nothing behind, tell GuardDrained."""

    always_accepted: ClassVar[bool] = True


class GuardDrained(Message, frozen=True):
    """Guard to parent: nothing of its checks is left."""

    always_accepted: ClassVar[bool] = True
    guard: str


class ChecksEnded(Message, frozen=True):
    """Checker to guard: nothing of its checks is left at this endpoint, as far as can be."""

    always_accepted: ClassVar[bool] = True
    endpoint: str


class OutlierSweepDue(Message, frozen=True):
    """Timer to guard: look at the endpoints that are ejected, and at the calls of the interval."""

    always_accepted: ClassVar[bool] = True
    generation: int


class CheckDue(Message, frozen=True):
    """Timer to guard: check this endpoint."""

    always_accepted: ClassVar[bool] = True
    endpoint: str
    generation: int


class CheckEnded(Message, frozen=True):
    """Checker to guard: what the check of this generation has found; `text` is for operators."""

    always_accepted: ClassVar[bool] = True
    endpoint: str
    generation: int
    verdict: Verdict
    text: str = ""


class ReportEjected(Message, frozen=True):
    """Effect: log that an endpoint was ejected, for how long at least, the how manieth time."""

    endpoint: str
    cause: EjectionCause
    for_s: float
    multiplier: int


class ReportNotEjected(Message, frozen=True):
    """Effect: log that an endpoint is an outlier and stays, as too many are ejected.

    `times` counts how often that was; it is told as often as the number doubles.
    """

    endpoint: str
    cause: EjectionCause
    times: int


class ReportUnejected(Message, frozen=True):
    """Effect: log that an endpoint is back; whether because a check succeeded."""

    endpoint: str
    checked: bool


class WakeOutlierSweep(Message, frozen=True):
    """Effect: tell OutlierSweepDue(generation) after `after_s` seconds."""

    after_s: float
    generation: int


class StartCheck(Message, frozen=True):
    """Effect: check the endpoint, and report CheckEnded(endpoint, generation) by the deadline."""

    endpoint: str
    generation: int
    deadline_s: float


class WakeCheck(Message, frozen=True):
    """Effect: tell CheckDue(endpoint, generation) after `after_s` seconds."""

    endpoint: str
    after_s: float
    generation: int


class ReportDown(Message, frozen=True):
    """Effect: log that an endpoint is down by its checks, or does not let us in, and `why`."""

    endpoint: str
    why: str
    refused: bool


class ReportUp(Message, frozen=True):
    """Effect: log that an endpoint is up again by its checks."""

    endpoint: str


class ReportSet(Message, frozen=True):
    """Effect: log that the operator has set the state of an endpoint."""

    endpoint: str
    state: OperatorState


class EndChecks(Message, frozen=True):
    """Effect: leave no session of checks behind at an endpoint, and report ChecksEnded."""

    endpoint: str


class AnnounceChecksEnded(Message, frozen=True):
    """Effect: tell the parent GuardDrained."""


class SetAvailability(Message, frozen=True):
    """Effect: write down whether an endpoint takes new sessions, and serves those it has.

    `drained` says whether that is because the operator wants it so.
    """

    endpoint: str
    takes: bool
    serves: bool
    drained: bool


OutlierMessage = CallFailed | CallSucceeded | OutlierSweepDue
CheckMessage = CheckDue | CheckEnded
HealthMessage = OutlierMessage | CheckMessage | SetEndpointState | StopChecks | ChecksEnded
OutlierEffect = ReportEjected | ReportNotEjected | ReportUnejected | WakeOutlierSweep
CheckEffect = StartCheck | WakeCheck | ReportDown | ReportUp
HealthReport = (
    ReportEjected | ReportNotEjected | ReportUnejected | ReportDown | ReportUp | ReportSet
)
HealthEffect = (
    HealthReport | WakeOutlierSweep | StartCheck | WakeCheck | EndChecks | AnnounceChecksEnded
    | SetAvailability
)  # fmt: skip
