"""The mailbox of the metrics actor, and its effects."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from proxy_actors.messages.base import Message
from proxy_actors.messages.lifecycle import ActorState


class ProcessFigures(msgspec.Struct, frozen=True):
    """The process in figures. `log_dropped` and `gc` count from its start, gc by generation.

    `memory_bytes_max` and `fds_max` are what it may have; 0 where that is not known.
    """

    rss_bytes: int
    fds: int
    threads: int
    cpu_s: float
    gc: tuple[int, ...]
    log_dropped: int
    memory_bytes_max: int = 0
    fds_max: int = 0


class SeenActor(msgspec.Struct, frozen=True, gc=False):
    """What one actor has told of itself."""

    incarnation: int
    state: ActorState


class FlushDue(Message, frozen=True):
    """Timer to metrics: figures are to be sent."""

    always_accepted: ClassVar[bool] = True


class LagProbeDue(Message, frozen=True):
    """Timer to metrics, set for `due_s`: how late is it?"""

    always_accepted: ClassVar[bool] = True
    due_s: float


class SinkOpened(Message, frozen=True):
    """Opener to metrics: there is a sink to be used from now on."""

    always_accepted: ClassVar[bool] = True


class SinkFailed(Message, frozen=True):
    """Opener to metrics: no sink could be opened."""

    always_accepted: ClassVar[bool] = True
    text: str


class ActorsDescribed(Message, frozen=True):
    """Walker to metrics: what some of the actors have told of themselves."""

    always_accepted: ClassVar[bool] = True
    actors: tuple[SeenActor, ...]


class TreeDescribed(Message, frozen=True):
    """Walker to metrics: the walk is over.

    `complete` says that those which live and did not tell have only just started.
    """

    always_accepted: ClassVar[bool] = True
    complete: bool


class FiguresSent(Message, frozen=True):
    """Shell to policy, after Send: what went wrong, or nothing."""

    error: str


class WakeFlush(Message, frozen=True):
    """Effect: tell FlushDue after `after_s` seconds."""

    after_s: float


class NoteLag(Message, frozen=True):
    """Effect: count a lag."""

    lag_s: float


class WakeLagProbe(Message, frozen=True):
    """Effect: tell LagProbeDue(due_s) after `after_s` seconds."""

    after_s: float
    due_s: float


class OpenSink(Message, frozen=True):
    """Effect: open a sink, beside the one in use if there is one."""


class UseSink(Message, frozen=True):
    """Effect: use the sink that was opened, and close the one in use before."""


class DescribeTree(Message, frozen=True):
    """Effect: ask all actors what they have to tell."""


class Gather(Message, frozen=True):
    """Effect: take in what these have told."""

    actors: tuple[SeenActor, ...]


class Send(Message, frozen=True):
    """Effect: send what was counted and told, and report with FiguresSent."""

    complete: bool


class Forget(Message, frozen=True):
    """Effect: forget what was counted and told; there is nobody to send it to."""

    complete: bool


class LogUnreachable(Message, frozen=True):
    """Effect: log that figures do not arrive."""

    text: str


class LogReachable(Message, frozen=True):
    """Effect: log that figures arrive again."""


MetricsMessage = (
    FlushDue
    | LagProbeDue
    | SinkOpened
    | SinkFailed
    | ActorsDescribed
    | TreeDescribed
    | FiguresSent
)
MetricsEffect = (
    WakeFlush
    | NoteLag
    | WakeLagProbe
    | OpenSink
    | UseSink
    | DescribeTree
    | Gather
    | Send
    | Forget
    | LogUnreachable
    | LogReachable
)
