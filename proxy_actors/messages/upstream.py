"""What every upstream understands, whatever its transport."""

from __future__ import annotations

from typing import ClassVar

from proxy_actors.messages.base import Message


class DescribeReadiness(Message, frozen=True):
    """Anyone to an upstream, or to the session registry, asked: answered with a `Readiness`."""

    fast: ClassVar[bool] = True


class Readiness(Message, frozen=True):
    """Whether the last connect, spawn, initialize or write succeeded; why not, for operators.

    `cause` says why not in words of a closed list, which anybody may see; "" where it cannot.
    """

    ready: bool
    text: str = ""
    cause: str = ""


class DrainUpstream(Message, frozen=True):
    """Parent to upstream: take no new calls, tell UpstreamDrained when none runs any more."""

    always_accepted: ClassVar[bool] = True


class UpstreamDrained(Message, frozen=True):
    """Upstream to parent: no call is running any more."""

    always_accepted: ClassVar[bool] = True
    upstream: str
