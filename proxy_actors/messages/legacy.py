"""The mailboxes of the HTTP+SSE transport of 2024-11-05, and the effects of its policies.

A client of that transport has one stream for all that it is told and a message endpoint for all
that it says. The stream is the session: it begins with the one and ends with the other. What is
written to the stream does not travel here: who serves a request leaves it with the subscriber.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

from proxy_actors.messages.base import Message
from proxy_actors.messages.sessions import SessionEnded
from proxy_actors.messages.stream import CloseStream, Subscribe, Unsubscribe


class OpenLegacyStream(Message, frozen=True):
    """Exchange to the parent of streams, asked: begin a stream for this client.

    Answered with a `LegacyStreamOpened`, or with a FailedError: there are too many, or a drain has
    begun. A stream that nobody subscribes to ends by itself, so nothing needs to follow.

    Attributes:
        exchange_id: of the GET; the stream's use of its session goes by it.
        address: the client's.
    """

    exchange_id: int
    address: str
    principal: str
    upstream: str


class LegacyStreamOpened(Message, frozen=True):
    """Parent of streams to exchange: the stream's name, and the id of its message endpoint.

    The id is a credential: whoever has it, and is the stream's principal, can speak for the client.
    """

    stream: str
    id: str


class FindSession(Message, frozen=True):
    """Exchange to stream, asked: whose stream is it, and has its session begun?

    Answered with a `StreamFound`, or with a RefusedError 404 to another principal, at another
    upstream, and when the stream is over or nobody reads it yet.
    """

    principal: str
    upstream: str


class StreamFound(Message, frozen=True):
    """Stream to exchange: what is needed to serve its client.

    Attributes:
        front_id: the session's id; "" before `initialize` has been answered.
        subscriber_id: with whom answers are left.
        use_id: as what the stream uses its session.
    """

    front_id: str
    subscriber_id: int
    use_id: int


class BeginRequests(Message, frozen=True):
    """Exchange to stream, asked: the client's POST holds so many requests, may they be served?

    Answered with True, or with an error: 400 for a second `initialize`, 503 when too
    many are being served or a drain has begun, 404 when the stream is over. Must be followed by one
    EndRequest for each of them, whatever became of the ask.
    """

    exchange_id: int
    requests: int
    opens_session: bool


class EndRequest(Message, frozen=True):
    """Exchange to stream: a request that BeginRequests of this exchange counted is over."""

    always_accepted: ClassVar[bool] = True
    exchange_id: int


class SessionOpened(Message, frozen=True):
    """Exchange to stream, asked: `initialize` has opened this session, the stream is to hold it.

    Answered with True, or with False when the stream is over: then the exchange ends the session.
    The session's use with the stream's `use_id` has begun before.
    """

    always_accepted: ClassVar[bool] = True
    front_id: str
    session_key: str


class DrainLegacy(Message, frozen=True):
    """Parent to the parent of streams, and on to each: end when no request is being served."""

    always_accepted: ClassVar[bool] = True


class OpeningDue(Message, frozen=True):
    """Timer to stream: a stream without a session ends now."""

    always_accepted: ClassVar[bool] = True


class SessionHeld(Message, frozen=True):
    """Stream to parent: it ends with this session, and this session with it."""

    always_accepted: ClassVar[bool] = True
    stream: str
    session_key: str


class LegacyStreamStopped(Message, frozen=True):
    """Shell to policy: the actor of this stream has ended."""

    stream: str


class AnswerFound(Message, frozen=True):
    """Effect: answer FindSession."""

    front_id: str
    subscriber_id: int


class AnswerHeld(Message, frozen=True):
    """Effect: answer SessionOpened."""

    held: bool


class LegacyRefusal(StrEnum):
    """Why something was not done."""

    UNKNOWN = "unknown"
    INITIALIZED = "initialized"
    READ = "read"
    BUSY = "busy"
    FULL = "full"
    DRAINING = "draining"


class RefuseLegacy(Message, frozen=True):
    """Effect: answer with an error."""

    refusal: LegacyRefusal


class TellHeld(Message, frozen=True):
    """Effect: tell the parent SessionHeld."""

    session_key: str


class WakeOpening(Message, frozen=True):
    """Effect: tell OpeningDue after `after_s` seconds."""

    after_s: float


class EndReader(Message, frozen=True):
    """Effect: nothing more will be left with the subscriber."""

    subscriber_id: int


class CancelRequests(Message, frozen=True):
    """Effect: have the server hear that what is being served is not wanted any more."""


class LeaveSession(Message, frozen=True):
    """Effect: end the session, if there is one, and the stream's use of it; stop the actor."""

    session_key: str


class StartStream(Message, frozen=True):
    """Effect: start the actor of this stream and answer OpenLegacyStream."""

    stream: str
    id: str


class TellEnd(Message, frozen=True):
    """Effect: tell this stream CloseStream."""

    stream: str


class TellDrain(Message, frozen=True):
    """Effect: tell this stream DrainLegacy."""

    stream: str


LegacyStreamMessage = (
    Subscribe
    | Unsubscribe
    | FindSession
    | BeginRequests
    | EndRequest
    | SessionOpened
    | CloseStream
    | DrainLegacy
    | OpeningDue
)
LegacyStreamEffect = (
    AnswerFound
    | AnswerHeld
    | RefuseLegacy
    | TellHeld
    | WakeOpening
    | EndReader
    | CancelRequests
    | LeaveSession
)
LegacyStreamsMessage = (
    OpenLegacyStream | SessionHeld | LegacyStreamStopped | SessionEnded | DrainLegacy
)
LegacyStreamsEffect = StartStream | RefuseLegacy | TellEnd | TellDrain
