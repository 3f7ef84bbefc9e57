"""The mailboxes of an upstream that has channels, and of the channels.

A channel is a child process that speaks on stdio, or a session at a server of HTTP+SSE; as an actor
either is a child of the one that owns the channels. Frames travel here by reference: a `Message` of
`protocol/jsonrpc.py` holds the admitted bytes and what was read of them. All mail about one call
travels in the normal lane.
"""

from __future__ import annotations

from typing import ClassVar

from proxy_actors.errors import Executed, Reason
from proxy_actors.messages.base import Message
from proxy_actors.messages.health import Verdict
from proxy_actors.messages.pool import NOBODY, Owner
from proxy_actors.messages.sessions import Session
from proxy_actors.protocol import jsonrpc


class TakeChild(Message, frozen=True):
    """Exchange to stdio upstream, asked: a child, please. SESSION mode: for an `initialize`.

    Answered with the name of a channel that nobody else has, or a FailedError. Every answer
    must be followed by `BindChild` or `ReleaseChild`. In POOL mode it is asked for every call, and
    the call's end gives the child back, or `ReleaseChild` if there was no call. `owner` is whose
    share of the children it comes out of; who has no name has no share.
    """

    exchange_id: int
    deadline_s: float
    owner: Owner = NOBODY

    @property
    def waiter_id(self) -> int:
        """Its name in the line of those who wait."""
        return self.exchange_id


class BindChild(Message, frozen=True):
    """Exchange to stdio upstream: the child now belongs to this session."""

    always_accepted: ClassVar[bool] = True
    child: str
    session_key: str


class ReleaseChild(Message, frozen=True):
    """Exchange to stdio upstream: the handshake came to nothing; stop the child."""

    always_accepted: ClassVar[bool] = True
    exchange_id: int


class DescribeServer(Message, frozen=True):
    """Exchange to stdio upstream, asked, in SHARED and POOL mode: who is behind it?

    Answered with a `ServerDescribed` once a child has been initialized (within the deadline of
    the ask), or a FailedError. `owner` is who waits for it.
    """

    owner: Owner = NOBODY


class ServerDescribed(Message, frozen=True):
    """The `result` of the child's own initialize, as JSON, and the version in it."""

    result: bytes
    version: str


class SubmitCall(Message, frozen=True):
    """Exchange to child (SESSION) or upstream (SHARED, POOL), asked: run this request.

    Answered with a `CallAnswered`, or with a `CallStreaming` as soon as anything other than the
    answer arrives for the call, or a FailedError. An ask that ends without an answer must be
    followed by `AbandonCall`. `owner` is out of whose share of what may be in flight it comes, and
    of streams if it becomes one.
    """

    call_id: int
    session_key: str
    request: jsonrpc.Message
    deadline_s: float
    owner: Owner = NOBODY


class StreamRefused(Message, frozen=True):
    """Shell to ledger: the call may have no stream, and so is answered with its answer alone."""

    call_id: int


class CallClientMoved(Message, frozen=True):
    """Shell to ledger: the client that reads the call's stream has left it, or is back."""

    call_id: int
    here: bool


class CallAnswered(Message, frozen=True):
    """The response, its id the client's own again, on one line."""

    data: bytes


class CallStreaming(Message, frozen=True):
    """The name of the stream that carries the call's messages and, at last, its response."""

    stream: str


class AbandonCall(Message, frozen=True):
    """Exchange to whom it submitted the call: nobody waits for it any more; cancel it.

    `unwritten` says that the child knows nothing of it: its actor could not write the request.
    """

    always_accepted: ClassVar[bool] = True
    call_id: int
    unwritten: bool = False


class SendMessage(Message, frozen=True):
    """Exchange to child or upstream: a notification or a response of the client."""

    session_key: str
    message: jsonrpc.Message


class OpenStandalone(Message, frozen=True):
    """Exchange to child or upstream, asked: the session's standalone stream.

    Answered with the name of a stream: a new one, or the one that is open; or a StreamsFullError.
    `owner` is out of whose share a new one comes.
    """

    session_key: str
    owner: str = ""


class SessionSeen(Message, frozen=True):
    """Exchange to upstream, SHARED and POOL mode: before anything else of a session.

    Told anew to each incarnation of the upstream's actor. The session has the log level and the
    subscriptions that were stored.
    """

    always_accepted: ClassVar[bool] = True
    session: Session


class TakeSweepDue(Message, frozen=True):
    """Timer to upstream: look at the deadlines of those that wait for a child."""

    always_accepted: ClassVar[bool] = True
    generation: int


class CallEnded(Message, frozen=True):
    """Child to upstream, POOL mode: the call is over, the child is free."""

    always_accepted: ClassVar[bool] = True
    child: str
    call_id: int


class ProcessReady(Message, frozen=True):
    """Child to upstream: the process runs (SESSION) or has been initialized (SHARED, POOL)."""

    always_accepted: ClassVar[bool] = True
    child: str
    described: ServerDescribed | None = None


class ProcessSpawned(Message, frozen=True):
    """Spawning greenlet to child actor: the process runs."""

    always_accepted: ClassVar[bool] = True


class ProcessFailed(Message, frozen=True):
    """Spawning greenlet to child actor: it could not be started."""

    always_accepted: ClassVar[bool] = True
    text: str


class ProcessExited(Message, frozen=True):
    """World to child actor: the process has ended."""

    always_accepted: ClassVar[bool] = True
    code: int | None
    signal: int | None


class ProcessGone(Message, frozen=True):
    """Child actor to upstream: its process has ended, or could not be started; `text` says how.

    `cut` says that this has cut short calls, and that all of them were streams: nobody waits for
    their failure and so would tell of it.
    """

    always_accepted: ClassVar[bool] = True
    child: str
    text: str
    cut: bool = False


class PingServer(Message, frozen=True):
    """Checker to child, asked: is the server alive?

    Answered with a `Verdict`: UNKNOWN at once where calls are in flight, for it may do one thing at
    a time; else WELL as soon as it says a word. FAILED if it has ended.
    """


class DescribeStart(Message, frozen=True):
    """Checker to upstream, asked: do its processes start? Answered with a `StartDescribed`."""

    fast: ClassVar[bool] = True


class StartDescribed(Message, frozen=True):
    """How starting goes: WELL, FAILED with what it said last, UNKNOWN before anything has come."""

    verdict: Verdict
    text: str = ""


class SubmitOwn(Message, frozen=True):
    """Upstream to child, SHARED and POOL mode: run a request in the proxy's own name.

    Answered by an OwnAnswered with the same `own_id`, always.
    """

    always_accepted: ClassVar[bool] = True
    own_id: int
    method: str
    params: bytes


class OwnAnswered(Message, frozen=True):
    """Child to upstream: what came of a SubmitOwn.

    `result` or `error` is raw JSON; without either, `reason` says why the child did not answer.
    """

    always_accepted: ClassVar[bool] = True
    own_id: int
    result: bytes | None = None
    error: bytes | None = None
    reason: Reason = Reason.PROCESS_EXITED


class NotificationReceived(Message, frozen=True):
    """Child to upstream, SHARED and POOL mode: a notification that belongs to no call.

    `sessions` are those that the child may be at work for, ended ones too.
    """

    frame: jsonrpc.Message
    sessions: frozenset[str] = frozenset()


class DrainProcess(Message, frozen=True):
    """Upstream to child actor: refuse new calls; tell ProcessDrained when none runs."""

    always_accepted: ClassVar[bool] = True


class EndChannel(Message, frozen=True):
    """Parent to channel: the session that has it is over; end, and tell calls that run so."""

    always_accepted: ClassVar[bool] = True


class RestProcess(Message, frozen=True):
    """Upstream to child actor, SHARED and POOL mode: end the process, which nobody uses.

    The actor stays for its streams that have ended, for as long as clients may come back to them.
    """

    always_accepted: ClassVar[bool] = True


class ProcessDrained(Message, frozen=True):
    """Child actor to upstream: no call runs any more."""

    always_accepted: ClassVar[bool] = True
    child: str


class FrameReceived(Message, frozen=True):
    """Reader of stdout to child actor: one admitted frame."""

    frame: jsonrpc.Message


class GarbageReceived(Message, frozen=True):
    """Reader of stdout to child actor: a line that is no JSON-RPC message; `text` is its head."""

    text: str


class FrameTooLong(Message, frozen=True):
    """Reader of stdout to child actor: a line beyond the bound; the child is to be recycled."""

    always_accepted: ClassVar[bool] = True


class OutputEnded(Message, frozen=True):
    """Reader of stdout to child actor: no more frames will come."""

    always_accepted: ClassVar[bool] = True


class PostFailed(Message, frozen=True):
    """Greenlet that sends to channel: the request of this call was not accepted, or is not known
    to have been."""

    always_accepted: ClassVar[bool] = True
    call_id: int
    reason: Reason
    text: str
    executed: Executed


class ChannelEnded(Message, frozen=True):
    """Reader of a session's stream to channel: it was not opened, or no more will come on it."""

    always_accepted: ClassVar[bool] = True
    reason: Reason
    text: str


class LastWordsDue(Message, frozen=True):
    """Timer to child actor: the process has ended, and what it said last is not waited for."""

    always_accepted: ClassVar[bool] = True


class LivenessDue(Message, frozen=True):
    """Timer to channel: the server may not have answered a ping."""

    always_accepted: ClassVar[bool] = True
    generation: int


class CallSweepDue(Message, frozen=True):
    """Timer to child actor: look at deadlines."""

    always_accepted: ClassVar[bool] = True
    generation: int


class StopStepDue(Message, frozen=True):
    """Timer to child actor: the next step of close stdin, TERM, KILL."""

    always_accepted: ClassVar[bool] = True
    generation: int


class IdleDue(Message, frozen=True):
    """Timer to stdio upstream: is anybody there? SHARED, POOL: `idle_s` is for how long not."""

    always_accepted: ClassVar[bool] = True
    generation: int
    idle_s: float = 0.0


class RespawnDue(Message, frozen=True):
    """Timer to stdio upstream: the backoff is over."""

    always_accepted: ClassVar[bool] = True
    generation: int
