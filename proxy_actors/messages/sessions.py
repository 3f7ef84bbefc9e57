"""The mailbox of the session registry, and what it tells the upstreams.

A session is known inside by its key, the hash of the id that the client holds; the id itself is
in no other message than the one that answers its creation.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

from proxy_actors.messages.base import Message


class Session(Message, frozen=True):
    """What the data plane may know of a session.

    Attributes:
        key: SHA-256 of the front id, hexadecimal; stable over restarts.
        principal: hash of whose session it is.
        upstream: the upstream's configured name.
        endpoint: where in the upstream it lives: a child's name for stdio, "" for HTTP.
        upstream_session_id: the upstream's own id, a credential of the proxy; None if it gave none.
        version: the negotiated protocol revision.
        initialize_params: the client's `initialize` params as JSON.
        log_level: the level that the client set last; None if it never did.
        subscriptions: the resource URIs that the client is subscribed to.
    """

    key: str
    principal: str
    upstream: str
    endpoint: str
    upstream_session_id: str | None
    version: str
    initialize_params: bytes
    log_level: str | None = None
    subscriptions: tuple[str, ...] = ()


class EndReason(StrEnum):
    """Why a session ended."""

    DELETED = "deleted"
    EXPIRED = "expired"
    EVICTED = "evicted"
    LOST = "lost"


class CreateSession(Message, frozen=True):
    """Exchange to registry, asked, after the upstream accepted `initialize`.

    Answered with a `SessionCreated` once the row is durable, or with a FailedError when the
    registry is full of sessions in use. `resumable` says whether the session can go on after a
    restart of the proxy.
    """

    principal: str
    upstream: str
    endpoint: str
    upstream_session_id: str | None
    version: str
    initialize_params: bytes
    resumable: bool


class SessionCreated(Message, frozen=True):
    """Registry to exchange: the id for the client, and the session."""

    front_id: str
    session: Session


class BeginUse(Message, frozen=True):
    """Exchange to registry, asked: find the session and count a call or a stream as open on it.

    Answered with a `Session`, or a RefusedError 404 for an id that is unknown, ended, expired or
    another principal's: all the same to the client. Every answer must be followed by `EndUse`.
    """

    front_id: str
    principal: str


class EndUse(Message, frozen=True):
    """Exchange or stream to registry: what BeginUse counted is over."""

    always_accepted: ClassVar[bool] = True
    key: str


class EndSession(Message, frozen=True):
    """Exchange to registry, asked or told: the session is over (DELETE, or lost by the upstream).

    Answered with True once the end is durable, False when there was no such session.
    """

    always_accepted: ClassVar[bool] = True
    key: str
    reason: EndReason


class SetLogLevel(Message, frozen=True):
    """Exchange to registry: the client set this level."""

    key: str
    level: str


class SetSubscription(Message, frozen=True):
    """Exchange to registry: the client subscribed to, or unsubscribed from, this URI."""

    key: str
    uri: str
    subscribed: bool


class SessionEnded(Message, frozen=True):
    """Registry to upstream: free what the session held there. Durable before it is told."""

    always_accepted: ClassVar[bool] = True
    session: Session
    reason: EndReason


class SessionSweepDue(Message, frozen=True):
    """Timer to registry: look at idle times, flush times of last use."""

    always_accepted: ClassVar[bool] = True
    generation: int


class WriteDone(Message, frozen=True):
    """Store to registry: write `write_id` is durable, or failed with `error`."""

    always_accepted: ClassVar[bool] = True
    write_id: int
    error: str = ""
