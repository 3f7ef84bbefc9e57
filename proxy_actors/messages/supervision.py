"""The effects of supervision, what a supervisor tells its parent, and what the root is told."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

from proxy_actors.messages.base import Message
from proxy_actors.messages.lifecycle import ChildStarted, ChildStopped


class Restart(StrEnum):
    """When a child that ended is started again, in OTP's words.

    PERMANENT: always. TRANSIENT: after a crash only. TEMPORARY: never, not as a victim of a
    sibling's crash either.
    """

    PERMANENT = "permanent"
    TRANSIENT = "transient"
    TEMPORARY = "temporary"


class Strategy(StrEnum):
    """Which children a crash concerns: that one, all, or that one and those started after it."""

    ONE_FOR_ONE = "one_for_one"
    ONE_FOR_ALL = "one_for_all"
    REST_FOR_ONE = "rest_for_one"


class Begin(Message, frozen=True):
    """Shell to policy: start the children, in order, each when the one before has started."""


class StartChild(Message, frozen=True):
    """Effect: start this child as its `incarnation`-th, counted from 1."""

    child: str
    incarnation: int


class StopChild(Message, frozen=True):
    """Effect: tell this child to stop."""

    child: str


class Ready(Message, frozen=True):
    """Effect, once: every child has started for the first time."""


class Escalate(Message, frozen=True):
    """Effect: the restart budget is spent, or a restart could not help; crash upwards."""

    child: str
    error: str


class SupervisorReady(Message, frozen=True):
    """Supervisor to parent: every child has started."""

    always_accepted: ClassVar[bool] = True
    name: str


class DrainTree(Message, frozen=True):
    """Service to the root supervisor: have every part of the tree drain that has a part in it."""

    always_accepted: ClassVar[bool] = True


SupervisionMessage = Begin | ChildStarted | ChildStopped
SupervisionEffect = StartChild | StopChild | Ready | Escalate
