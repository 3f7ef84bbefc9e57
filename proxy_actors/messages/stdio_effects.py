"""The effects of the policies behind stdio upstreams."""

from __future__ import annotations

from proxy_actors.errors import Executed, Reason
from proxy_actors.messages.base import Message
from proxy_actors.messages.stdio import ServerDescribed
from proxy_actors.messages.stream import MessageKind
from proxy_actors.protocol import jsonrpc

# Effects of one child's ledger.


class WriteFrame(Message, frozen=True):
    """Write one line; `call_id` names the call whose request it is."""

    data: bytes
    call_id: int | None = None


class AnswerCall(Message, frozen=True):
    """Answer the pending call with its response."""

    call_id: int
    data: bytes


class StreamCall(Message, frozen=True):
    """Start an event stream for the pending call and answer it with the stream's name.

    Where that may not be, report StreamRefused.
    """

    call_id: int
    request_id: bytes
    session_key: str
    owner: str = ""


class EmitToCall(Message, frozen=True):
    """Give a message to the call's stream."""

    call_id: int
    data: bytes
    kind: MessageKind
    id: bytes | None
    final: bool


class FailCall(Message, frozen=True):
    """Answer the call with an error: the pending ask, or the stream."""

    call_id: int
    reason: Reason
    text: str
    executed: Executed


class RefuseCall(Message, frozen=True):
    """Answer the pending call with a refusal of status 400: the client's fault."""

    call_id: int
    text: str


class EndCall(Message, frozen=True):
    """End the call's stream without an answer: the client had cancelled the call."""

    call_id: int


class StartStandalone(Message, frozen=True):
    """Start the session's standalone stream, and answer the asker with its name."""

    session_key: str
    owner: str = ""


class EmitToSession(Message, frozen=True):
    """Give a message to the session's standalone stream."""

    session_key: str
    data: bytes
    kind: MessageKind
    id: bytes | None


class CloseStandalone(Message, frozen=True):
    """End the session's standalone stream."""

    session_key: str


class DropFrame(Message, frozen=True):
    """Count a message of the child, or for it, that belongs nowhere."""

    why: str


class WakeSweep(Message, frozen=True):
    """Tell CallSweepDue(generation) after `after_s` seconds."""

    after_s: float
    generation: int


class AnnounceReady(Message, frozen=True):
    """Tell the parent ProcessReady: the child has been initialized."""

    described: ServerDescribed


class TellUpstream(Message, frozen=True):
    """Tell the parent NotificationReceived."""

    frame: jsonrpc.Message
    sessions: frozenset[str]


class TellOwnAnswered(Message, frozen=True):
    """Tell the parent OwnAnswered."""

    own_id: int
    result: bytes | None = None
    error: bytes | None = None
    reason: Reason = Reason.PROCESS_EXITED


class TellCallEnded(Message, frozen=True):
    """Tell the parent CallEnded: POOL mode counts on it."""

    call_id: int


class AnnounceDrained(Message, frozen=True):
    """Tell the parent ProcessDrained."""


class WakeLiveness(Message, frozen=True):
    """Tell LivenessDue(generation) after `after_s` seconds."""

    after_s: float
    generation: int


class GiveUp(Message, frozen=True):
    """The child is of no use: stop it."""

    text: str


LedgerEffect = (
    WriteFrame
    | AnswerCall
    | StreamCall
    | EmitToCall
    | FailCall
    | RefuseCall
    | EndCall
    | StartStandalone
    | EmitToSession
    | CloseStandalone
    | DropFrame
    | WakeSweep
    | AnnounceReady
    | TellUpstream
    | TellOwnAnswered
    | TellCallEnded
    | AnnounceDrained
    | WakeLiveness
    | GiveUp
)

# Effects of the policy that owns the children.


class StartProcess(Message, frozen=True):
    """Start a child under this name."""

    child: str


class StopProcess(Message, frozen=True):
    """Stop this child."""

    child: str


class NameChild(Message, frozen=True):
    """Calls of SHARED mode go to this child from now on, under the stable name."""

    child: str


class GiveChild(Message, frozen=True):
    """Answer the exchange's TakeChild with this child."""

    exchange_id: int
    child: str


class RefuseChild(Message, frozen=True):
    """Answer the exchange's TakeChild with an error."""

    exchange_id: int
    reason: Reason
    text: str
    retry_after_s: float


class LoseSession(Message, frozen=True):
    """Tell the registry that the session is lost with its child."""

    session_key: str


class DrainChild(Message, frozen=True):
    """Tell this child to drain."""

    child: str


class WakeRespawn(Message, frozen=True):
    """Tell RespawnDue(generation) after `after_s` seconds."""

    after_s: float
    generation: int


class WakeIdle(Message, frozen=True):
    """Tell IdleDue(generation) after `after_s` seconds."""

    after_s: float
    generation: int


class WakeTakeSweep(Message, frozen=True):
    """Tell TakeSweepDue(generation) after `after_s` seconds."""

    after_s: float
    generation: int


class AnswerDescribed(Message, frozen=True):
    """Answer everybody who asked who is behind the upstream."""

    described: ServerDescribed


class FailDescribed(Message, frozen=True):
    """Answer everybody who asked who is behind the upstream with an error."""

    reason: Reason
    text: str
    retry_after_s: float


class ChildrenDrained(Message, frozen=True):
    """Tell the parent that no call runs any more."""


ChildrenEffect = (
    StartProcess
    | StopProcess
    | NameChild
    | GiveChild
    | RefuseChild
    | LoseSession
    | DrainChild
    | WakeRespawn
    | WakeTakeSweep
    | WakeIdle
    | AnswerDescribed
    | FailDescribed
    | ChildrenDrained
)

# Effects of the policy that owns the sessions of shared children.


class AnswerOwn(Message, frozen=True):
    """Answer the client's call, which the upstream handles itself, with this response."""

    call_id: int
    data: bytes


class FailOwn(Message, frozen=True):
    """Answer the client's call, which the upstream handles itself, with an error."""

    call_id: int
    reason: Reason
    text: str
    executed: Executed


class AskChild(Message, frozen=True):
    """Have the child run this request in the proxy's own name; told OwnAnswered, always."""

    child: str
    own_id: int
    method: str
    params: bytes


class StartSessionStream(Message, frozen=True):
    """Start the session's standalone stream, and answer the asker with its name."""

    session_key: str
    owner: str = ""


class JoinSessionStream(Message, frozen=True):
    """Answer the asker with the name of the session's standalone stream, which stands."""

    session_key: str


class RefuseSessionStream(Message, frozen=True):
    """Answer who asks for a session's standalone stream that there is no such session."""


class EmitToSessionStream(Message, frozen=True):
    """Give a notification to the session's standalone stream."""

    session_key: str
    data: bytes


class CloseSessionStream(Message, frozen=True):
    """End the session's standalone stream."""

    session_key: str


SharedSessionsEffect = (
    AnswerOwn
    | FailOwn
    | AskChild
    | StartSessionStream
    | JoinSessionStream
    | RefuseSessionStream
    | EmitToSessionStream
    | CloseSessionStream
    | DropFrame
)
