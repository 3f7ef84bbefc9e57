"""The mailbox of an event stream towards one client.

Events travel here by reference and are bounded in size where they enter.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

from proxy_actors.errors import Executed, Reason
from proxy_actors.messages.base import Message


class MessageKind(StrEnum):
    """What an event's data is, as far as a stream needs to know."""

    REQUEST = "request"
    NOTIFICATION = "notification"
    RESPONSE = "response"


class EventReceived(Message, frozen=True):
    """Source to stream: one JSON-RPC message, admitted, on one line.

    `id` is the raw JSON of a request's or response's id. `final` ends the stream after it: the
    answer to the request that the stream was opened for.
    """

    data: bytes
    kind: MessageKind
    id: bytes | None = None
    final: bool = False

    @property
    def always_accepted(self) -> bool:  # type: ignore[override]  # else of the class
        """A stream has one final message, and would never end without it."""
        return self.final


class EventsReceived(Message, frozen=True):
    """Source to stream: messages that came at once, at least one. A final one is the last."""

    events: tuple[EventReceived, ...]

    @property
    def always_accepted(self) -> bool:  # type: ignore[override]  # as of its last
        """As the last of them."""
        return self.events[-1].final


class SourceEnded(Message, frozen=True):
    """Source to stream: no more events will come; with a `reason` when that is a failure."""

    always_accepted: ClassVar[bool] = True
    reason: Reason | None = None
    text: str = ""
    executed: Executed = Executed.UNKNOWN


class SourceBroke(Message, frozen=True):
    """Source to stream: its connection has ended, or was not opened, and the stream has not ended.

    Attributes:
        resumable: whether the upstream named a place from which it can go on.
        heard: whether the connection has carried a message, or stood for a good while.
        clean: whether it had said where the stream is, and was ended in good order.
        idle: whether it was ended by the stream itself, because nothing came any more.
        retry_s: how long the upstream asks to be left alone; None when it does not.
        reason, text: what the client is told if it is given up.
    """

    always_accepted: ClassVar[bool] = True
    resumable: bool
    heard: bool = False
    clean: bool = False
    idle: bool = False
    retry_s: float | None = None
    reason: Reason = Reason.UPSTREAM_CLOSED
    text: str = ""


class SourceSilent(Message, frozen=True):
    """Source to stream: nothing has come for as long as is borne, not even a comment."""

    always_accepted: ClassVar[bool] = True


class BreakOff(Message, frozen=True):
    """Upstream to stream: what it reads is out of date; have its source opened anew."""

    always_accepted: ClassVar[bool] = True


class ReconnectDue(Message, frozen=True):
    """Timer to stream: open its source anew."""

    always_accepted: ClassVar[bool] = True
    generation: int


class Subscribe(Message, frozen=True):
    """Client's greenlet to stream, asked: push events to this subscriber from now on.

    `after` is the number of the last event that the client has seen, and names the client as the
    one who was here before: it takes the place of a subscriber that is still there. Without it the
    subscriber gets what nobody has got yet. Answered with `Subscribed`; with a RefusedError 409
    while another subscriber is there, or 410 when what followed cannot be had, which the events of
    another session never can.
    """

    always_accepted: ClassVar[bool] = True
    subscriber_id: int
    session_key: str = ""
    after: int | None = None


class Subscribed(Message, frozen=True):
    """Stream to client's greenlet: the first event that comes has the number after `after`."""

    stream_id: str
    after: int


class Unsubscribe(Message, frozen=True):
    """Client's greenlet to stream: the client has gone, or its connection has failed."""

    always_accepted: ClassVar[bool] = True
    subscriber_id: int


class RequestAnswered(Message, frozen=True):
    """Upstream to stream: the client has answered the server's request `id` (raw JSON)."""

    always_accepted: ClassVar[bool] = True
    id: bytes


class CallCancelled(Message, frozen=True):
    """Upstream to stream: the client cancelled the call; an end without an answer is right."""

    always_accepted: ClassVar[bool] = True


class LookAgain(Message, frozen=True):
    """Timer to who writes a stream: it may be time for a sign of life, or to end the connection."""


class CloseStream(Message, frozen=True):
    """Parent to stream: end it after what has been pushed (its session ended, or a drain).

    A call that has not been answered is answered with an error.
    """

    always_accepted: ClassVar[bool] = True


class StopStream(Message, frozen=True):
    """Stream to itself: it was told to stop, and has handled all that had been told before."""

    always_accepted: ClassVar[bool] = True


class StreamDeadlineDue(Message, frozen=True):
    """Timer to stream: the call's time may be up."""

    always_accepted: ClassVar[bool] = True
    generation: int


class RequestOpened(Message, frozen=True):
    """Stream to parent: the server asks the client something; its answer will name `id`."""

    always_accepted: ClassVar[bool] = True
    stream: str
    id: bytes


class ClientMoved(Message, frozen=True):
    """Stream to parent: the client of a call, whose clock the parent watches, has left or is back.

    Not told of its first coming, nor once the stream is over.
    """

    always_accepted: ClassVar[bool] = True
    stream: str
    here: bool


class StreamOver(Message, frozen=True):
    """Stream to parent: nothing will happen on it any more; it stays for who has missed some."""

    always_accepted: ClassVar[bool] = True
    stream: str


class StreamAbandoned(Message, frozen=True):
    """Stream to parent: its source broke, and could not be opened anew however often it tried."""

    always_accepted: ClassVar[bool] = True
    stream: str
    why: str


class AcceptSubscriber(Message, frozen=True):
    """Effect: answer Subscribe."""

    after: int


class Push(Message, frozen=True):
    """Effect: give the subscriber these messages."""

    messages: tuple[bytes, ...]


class PushFailure(Message, frozen=True):
    """Effect: give the subscriber an error as the call's answer."""

    reason: Reason
    text: str
    executed: Executed


class RefuseSubscriber(Message, frozen=True):
    """Effect: answer Subscribe with a refusal."""

    status: int


class CutSubscriber(Message, frozen=True):
    """Effect: another one has taken the place of this subscriber."""

    subscriber_id: int


class EndSubscriber(Message, frozen=True):
    """Effect: nothing more will be pushed; when `broken`, the client is to see that it should."""

    broken: bool = False


class AnnounceOver(Message, frozen=True):
    """Effect: tell the parent StreamOver, and have the stream counted as one that has ended."""


class BreakSource(Message, frozen=True):
    """Effect: end the source's connection, and not the stream."""


class ReopenSource(Message, frozen=True):
    """Effect: have the source open another connection."""


class WakeReconnect(Message, frozen=True):
    """Effect: tell ReconnectDue(generation) after `after_s` seconds."""

    after_s: float
    generation: int


class AnnounceAbandoned(Message, frozen=True):
    """Effect: tell the parent StreamAbandoned."""

    why: str


class CloseSource(Message, frozen=True):
    """Effect: end the reader; with `cancel`, tell the server that the call is not wanted."""

    cancel: bool


class AnnounceRequest(Message, frozen=True):
    """Effect: tell the parent RequestOpened."""

    id: bytes


class AnnounceClient(Message, frozen=True):
    """Effect: tell the parent ClientMoved."""

    here: bool


class WakeStream(Message, frozen=True):
    """Effect: tell StreamDeadlineDue(generation) after `after_s` seconds."""

    after_s: float
    generation: int


class CountDropped(Message, frozen=True):
    """Effect: so many messages have gone to nobody."""

    count: int = 1


class Finish(Message, frozen=True):
    """Effect: the stream is over, stop the actor."""


StreamMessage = (
    EventReceived
    | EventsReceived
    | SourceBroke
    | SourceEnded
    | SourceSilent
    | BreakOff
    | ReconnectDue
    | Subscribe
    | Unsubscribe
    | RequestAnswered
    | CallCancelled
    | CloseStream
    | StreamDeadlineDue
)
StreamEffect = (
    AcceptSubscriber
    | AnnounceAbandoned
    | AnnounceClient
    | AnnounceOver
    | CutSubscriber
    | Push
    | PushFailure
    | RefuseSubscriber
    | EndSubscriber
    | BreakSource
    | CloseSource
    | ReopenSource
    | WakeReconnect
    | AnnounceRequest
    | WakeStream
    | CountDropped
    | Finish
)
