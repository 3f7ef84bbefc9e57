"""The mailbox of an HTTP upstream, and the effects of its policy.

The upstream knows which stream carries what, so that what a client sends on one connection reaches
the stream that it concerns on another.
"""

from __future__ import annotations

from typing import ClassVar

from proxy_actors.errors import ConnectFault, Reason
from proxy_actors.messages.base import Message
from proxy_actors.messages.pool import PoolDrained
from proxy_actors.messages.sessions import Session, SessionEnded
from proxy_actors.messages.stream import RequestOpened, StreamAbandoned, StreamOver
from proxy_actors.messages.upstream import DrainUpstream


class OpenCallStream(Message, frozen=True):
    """Exchange to upstream, asked: its answer has become an event stream, take the source over.

    Answered with the stream's name, or with a StreamsFullError; then the source is still the
    asker's. `request_id` is the raw JSON of the client's request id, `owner` out of whose share of
    streams it comes, here and below.
    """

    exchange_id: int
    session_key: str
    request_id: bytes
    deadline_s: float
    owner: str = ""


class ReserveStandalone(Message, frozen=True):
    """Exchange to upstream, asked: may this session open a standalone stream?

    Answered with True, with the name of the one that is open, or with a RefusedError 409 while
    another one is being opened, or a StreamsFullError. Must be followed by `OpenStandaloneStream`
    or `ReleaseStandalone`, whatever became of the ask.
    """

    session_key: str
    exchange_id: int
    owner: str = ""


class ReleaseStandalone(Message, frozen=True):
    """Exchange to upstream: the standalone stream came to nothing. No effect if it did not."""

    always_accepted: ClassVar[bool] = True
    session_key: str
    exchange_id: int


class OpenStandaloneStream(Message, frozen=True):
    """Exchange to upstream, asked: the reserved stream stands. Answered with its name.

    A RefusedError 409 when meanwhile another one was opened, by way of a restart of the upstream;
    a StreamsFullError when meanwhile others have taken its place.
    """

    exchange_id: int
    session_key: str
    owner: str = ""


class ClientAnswered(Message, frozen=True):
    """Exchange to upstream: the client has answered the server's request `request_id`."""

    always_accepted: ClassVar[bool] = True
    session_key: str
    request_id: bytes


class ClientCancelled(Message, frozen=True):
    """Exchange to upstream: the client has cancelled its own request `request_id`."""

    always_accepted: ClassVar[bool] = True
    session_key: str
    request_id: bytes


class RenewSession(Message, frozen=True):
    """Exchange to upstream, asked: the server does not know this session; open it anew.

    Answered with the `Session` as it is then, or with a FailedError.
    """

    session: Session


class RenewalEnded(Message, frozen=True):
    """Renewer to upstream: the session has been opened anew, or why not.

    `news` are notifications that tell the client what may be different.
    """

    always_accepted: ClassVar[bool] = True
    key: str
    session: Session | None
    news: tuple[bytes, ...] = ()
    reason: Reason = Reason.INTERNAL
    text: str = ""


class UpstreamReached(Message, frozen=True):
    """Pool or probe to upstream: a connect succeeded, or failed and `why`.

    `fault` is what of it anybody may know, if the cause is known.
    """

    always_accepted: ClassVar[bool] = True
    ok: bool
    why: str = ""
    fault: ConnectFault | None = None


class ProbeDue(Message, frozen=True):
    """Timer to upstream: try again to connect."""

    always_accepted: ClassVar[bool] = True
    generation: int


class StreamStopped(Message, frozen=True):
    """Shell to policy: the actor of this stream has ended."""

    stream: str


class TellAnswered(Message, frozen=True):
    """Effect: tell the stream that its request was answered."""

    stream: str
    request_id: bytes


class TellCancelled(Message, frozen=True):
    """Effect: tell the stream that its call was cancelled."""

    stream: str


class TellClose(Message, frozen=True):
    """Effect: tell the stream to end."""

    stream: str


class DeleteUpstreamSession(Message, frozen=True):
    """Effect: send DELETE for the upstream's session."""

    upstream_session_id: str
    version: str


class TellBreak(Message, frozen=True):
    """Effect: have the stream's source opened anew, since it reads a session that is no more."""

    stream: str


class AnnounceDrained(Message, frozen=True):
    """Effect: tell the parent UpstreamDrained."""


class Probe(Message, frozen=True):
    """Effect: try to connect, and report UpstreamReached."""


class Renew(Message, frozen=True):
    """Effect: open a session anew, and report RenewalEnded."""

    session: Session


class AnswerRenewal(Message, frozen=True):
    """Effect: answer RenewSession."""

    ask_id: int
    session: Session | None
    reason: Reason = Reason.INTERNAL
    text: str = ""


class TellNews(Message, frozen=True):
    """Effect: have the stream carry a notification of the proxy's own."""

    stream: str
    data: bytes


class ReportReach(Message, frozen=True):
    """Effect: log that the upstream cannot be reached and `why`, or can be again."""

    ok: bool
    why: str


class WakeForProbe(Message, frozen=True):
    """Effect: tell ProbeDue(generation) after `after_s` seconds."""

    after_s: float
    generation: int


HttpUpstreamMessage = (
    ClientAnswered
    | ClientCancelled
    | DrainUpstream
    | ReleaseStandalone
    | RequestOpened
    | SessionEnded
    | StreamAbandoned
    | StreamOver
    | StreamStopped
    | UpstreamReached
    | ProbeDue
    | PoolDrained
    | RenewalEnded
)
HttpUpstreamEffect = (
    AnnounceDrained
    | AnswerRenewal
    | Renew
    | TellAnswered
    | TellCancelled
    | TellBreak
    | TellClose
    | TellNews
    | DeleteUpstreamSession
    | Probe
    | ReportReach
    | WakeForProbe
)
