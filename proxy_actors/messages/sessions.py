"""The mailbox of the session registry, what it stores and tells the upstreams, and its effects.

A session is known inside by its key, the hash of the id that the client holds; the id itself is
in no other message than the ones that answer its creation.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

from proxy_actors.messages.base import Message


Place = tuple[str, str | None]
"""Where a session is: its endpoint, and the upstream's own id for it."""


class Session(Message, frozen=True):
    """What the data plane may know of a session.

    Attributes:
        key: SHA-256 of the front id, hexadecimal; stable over restarts.
        principal: hash of whose session it is.
        upstream: the upstream's configured name.
        endpoint: where in the upstream it lives: the name of its own child, or what tells the
            server that it shares with others from any other server (a digest).
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

    @property
    def place(self) -> Place:
        """Where it is now."""
        return self.endpoint, self.upstream_session_id


class EndReason(StrEnum):
    """Why a session ended."""

    DELETED = "deleted"
    EXPIRED = "expired"
    EVICTED = "evicted"
    LOST = "lost"


class CreateSession(Message, frozen=True):
    """Exchange to registry, asked, after the upstream accepted `initialize`.

    Answered with a `SessionCreated` once the row is durable, or with a FailedError when there is
    no room for it and no session is to make some. `resumable` says whether the session can go on
    after a restart of the proxy, `owner` out of whose share it comes.
    """

    principal: str
    upstream: str
    endpoint: str
    upstream_session_id: str | None
    version: str
    initialize_params: bytes
    resumable: bool
    owner: str


class SessionCreated(Message, frozen=True):
    """Registry to exchange: the id for the client, and the session."""

    front_id: str
    session: Session


class BeginUse(Message, frozen=True):
    """Exchange to registry, asked: find the session and count a call or a stream as open on it.

    Answered with a `Session`, or a RefusedError 404 for an id that is unknown, ended, expired or
    another principal's: all the same to the client. Every ask must be followed by `EndUse`, one
    that got no answer too: it may have been counted. `exchange_id` is unique in the process and
    begins one use; 0 is for askers that are sure to see their answer. `owner` is out of whose share
    the session comes, where nobody knows it any more; "" if that is not known either.
    """

    front_id: str
    principal: str
    exchange_id: int = 0
    owner: str = ""


class EndUse(Message, frozen=True):
    """Exchange or stream to registry: what BeginUse counted is over.

    Named by its `exchange_id`, whatever the key then, it closes what that exchange began and may
    come twice or for nothing. Without one it closes some use of the session `key`. `used_s` is when
    the session was last used, on the monotonic clock; None means now.
    """

    always_accepted: ClassVar[bool] = True
    key: str = ""
    exchange_id: int = 0
    used_s: float | None = None


class EndSession(Message, frozen=True):
    """Exchange to registry, asked or told: the session is over (DELETE, or lost by the upstream).

    Answered with True once the end is durable, False when there was no such session.
    """

    always_accepted: ClassVar[bool] = True
    outlives_crash: ClassVar[bool] = True
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


class DescribeSession(Message, frozen=True):
    """Data plane to registry, asked: what is this session now?

    Answered with the `Session`, or with None when it has ended.
    """

    key: str


class MoveSession(Message, frozen=True):
    """Upstream's greenlet to registry, asked: the session was opened anew, here or elsewhere.

    Answered with the `Session` as it is then, which another renewal may have changed before, or
    with None when it has ended. What is lost before it is durable is opened anew once more.
    """

    key: str
    left: Place
    place: Place


class SessionEnded(Message, frozen=True):
    """Registry to upstream: free what the session held there. Durable before it is told."""

    always_accepted: ClassVar[bool] = True
    outlives_crash: ClassVar[bool] = True
    session: Session
    reason: EndReason


class SessionSweepDue(Message, frozen=True):
    """Timer to registry: end what has expired, write down what has changed."""

    always_accepted: ClassVar[bool] = True
    generation: int


class WriteDone(Message, frozen=True):
    """Store to registry: write `write_id` is durable, or failed with `error`."""

    always_accepted: ClassVar[bool] = True
    write_id: int
    error: str = ""


class SessionRow(Message, frozen=True):
    """What is kept of a session.

    Attributes:
        session: everything that is told to the data plane.
        resumable: whether the row is written down; one that is not ends with the process.
        created_s: seconds since the epoch.
        used_s: when it was last used, up to a flush interval ago; seconds since the epoch.
        owner: which process of the proxy serves it.
        holder: hash of out of whose share it comes; "" if that is not known. Addresses are not
            written down, so it ends with the process.
    """

    session: Session
    resumable: bool
    created_s: float
    used_s: float
    owner: str = "0"
    holder: str = ""


class SaveSession(Message, frozen=True):
    """Write: this is the row now, new or changed."""

    row: SessionRow


class TouchSession(Message, frozen=True):
    """Write: the session was last used then. Nothing if there is no such row."""

    key: str
    used_s: float


class DeleteSession(Message, frozen=True):
    """Write: there is no such row any more. Nothing if there was none."""

    key: str


SessionWrite = SaveSession | TouchSession | DeleteSession


class FlushDue(Message, frozen=True):
    """Shell to policy: the registry stops; write down what has not been."""


class Refusal(StrEnum):
    """Why a session was not created or ended.

    SHARE: its client's others are in use, and what is left is for other clients.
    """

    FULL = "full"
    SHARE = "share"
    TOO_LARGE = "too-large"
    NOT_STORED = "not-stored"


class Admit(Message, frozen=True):
    """Effect: answer BeginUse with the session; its use is counted."""

    session: Session


class Reject(Message, frozen=True):
    """Effect: answer BeginUse with 404; nothing is counted."""


class Accept(Message, frozen=True):
    """Effect: answer CreateSession; the session is durable and can be used."""

    ask_id: int
    front_id: str
    session: Session


class Refuse(Message, frozen=True):
    """Effect: answer CreateSession or EndSession with an error."""

    ask_id: int
    refusal: Refusal


class Confirm(Message, frozen=True):
    """Effect: answer EndSession. `existed` says that there was a session, whose end is durable."""

    ask_id: int
    existed: bool


class AnswerSession(Message, frozen=True):
    """Effect: answer DescribeSession or MoveSession."""

    ask_id: int
    session: Session | None


class Write(Message, frozen=True):
    """Effect: give these writes to the store, all or none, and tell WriteDone(write_id)."""

    write_id: int
    writes: tuple[SessionWrite, ...]


class TellEnded(Message, frozen=True):
    """Effect: tell the session's upstream, then forget the note of it in `unfinished`.

    Its end is durable, its id forgotten. After a crash in between it is told once more.
    """

    ended: SessionEnded


class Wake(Message, frozen=True):
    """Effect: tell SessionSweepDue(generation) after `after_s` seconds."""

    after_s: float
    generation: int


SessionMessage = (
    BeginUse
    | EndUse
    | CreateSession
    | EndSession
    | SetLogLevel
    | SetSubscription
    | DescribeSession
    | MoveSession
    | WriteDone
    | SessionSweepDue
    | FlushDue
)
SessionEffect = (
    Admit | Reject | Accept | Refuse | Confirm | AnswerSession | Write | TellEnded | Wake
)
