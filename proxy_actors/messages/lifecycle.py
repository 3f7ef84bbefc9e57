"""Mail that every actor understands, and what children tell their parents."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

from proxy_actors.messages.base import Message


class StopReason(StrEnum):
    """Why an actor ended."""

    NORMAL = "normal"
    CRASHED = "crashed"
    CONFIGURATION = "configuration"


class Stop(Message, frozen=True):
    """Parent to child: end after the present turn; what is left in the box is undelivered."""

    fast: ClassVar[bool] = True
    always_accepted: ClassVar[bool] = True


class DescribeState(Message, frozen=True):
    """Operator to any actor: answered with an `ActorState`."""

    fast: ClassVar[bool] = True


class ActorState(Message, frozen=True, gc=False):
    """The answer to DescribeState.

    `mailbox_age_s` is the age of the oldest mail in the box; `busy_s` the time of all turns so far,
    `turn_s_max` the longest of them.
    """

    name: str
    kind: str
    mailbox_depth: int
    mailbox_age_s: float
    handled: int
    undelivered: int
    late_replies: int
    busy_s: float
    turn_s_max: float
    children: tuple[str, ...]
    detail: dict[str, object]


class ChildStarted(Message, frozen=True):
    """Child to parent: `on_start` has returned; mail is being handled."""

    always_accepted: ClassVar[bool] = True
    name: str
    incarnation: int


class ChildStopped(Message, frozen=True):
    """Child to parent, its last word: its box has been handed to `on_undelivered`.

    `error` is the crash in one line, for the log.
    """

    always_accepted: ClassVar[bool] = True
    name: str
    incarnation: int
    reason: StopReason
    error: str = ""
