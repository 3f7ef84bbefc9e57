"""The ledger of a channel that serves one session: where each message of it goes.

The channel is a child process, or a session at a server of HTTP+SSE. Ids and progress tokens pass
untouched, since the child's one session is the client's one session and its id space is unique.
What the child sends without naming a call is attributed by
MCP's rules as far as one channel allows (2025-11-25 basic/transports):

- a request or a log message: to the only call in flight; else to the standalone stream if it is
  open; else to the call submitted last; else it waits for the standalone stream. Clients open that
  stream a moment after the handshake, and servers ask for roots at once.
- any other notification: to the standalone stream, or it waits for it.

What waits is bounded in number, bytes and time, and so are the requests that the client has to
answer. One that nobody came for is answered with an error, so that the server does not wait for
ever.

A client that uses an id again, which MCP forbids, is refused while the id is in flight. After that
the ledger cannot tell a late answer to the first from the answer to the second; both are its own.
`actors/channel.py` is the shell.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from typing import assert_never

from proxy_actors.errors import INTERNAL_ERROR, Executed, Reason
from proxy_actors.messages import stdio as m
from proxy_actors.messages import stdio_effects as e
from proxy_actors.messages.stdio_effects import LedgerEffect
from proxy_actors.policy.stdio_calls import CANNOT_BE_ASKED, KINDS, Call, CallTable
from proxy_actors.protocol import jsonrpc_rewrite
from proxy_actors.protocol.jsonrpc import Kind, Message
from proxy_actors.protocol.revisions import CANCELLED, PING, PROGRESS

SWEEP_INTERVAL_S = 0.5
WAITING_S_MAX = 30.0
WAITING_FRAMES_MAX = 256
WAITING_BYTES_MAX = 4 * 1024 * 1024
OPEN_REQUESTS_MAX = 1000
LOG_MESSAGE = "notifications/message"

ExclusiveMessage = (
    m.SubmitCall
    | m.AbandonCall
    | m.SendMessage
    | m.OpenStandalone
    | m.FrameReceived
    | m.CallSweepDue
    | m.DrainProcess
    | m.PostFailed
    | m.StreamRefused
    | m.CallClientMoved
)


class ExclusivePolicy:
    """Decides for one child."""

    def __init__(self) -> None:
        self._calls = CallTable()
        self._session_key = ""
        self._standalone_open = False
        self._waiting: deque[tuple[float, Message]] = deque()
        self._waiting_bytes = 0
        # The server's requests that the client has to answer, and the call each came within.
        self._open_requests: dict[bytes, Call | None] = {}
        self._generation = 0
        self._armed = False
        self._draining = False
        self._drained = False

    @property
    def calls(self) -> int:
        """How many calls are in flight."""
        return len(self._calls)

    def has_call(self, call_id: int) -> bool:
        """Whether this call is in flight."""
        return call_id in self._calls

    def begin(self, now_s: float) -> list[LedgerEffect]:
        """The process runs: there is nothing to do before the client's own handshake."""
        return []

    def handle(self, message: ExclusiveMessage, now_s: float) -> list[LedgerEffect]:
        """Apply one message and return what is to be done, in order."""
        effects: list[LedgerEffect] = []
        match message:
            case m.SubmitCall():
                self._submit(message, now_s, effects)
            case m.FrameReceived(frame):
                self._received(frame, now_s, effects)
            case m.SendMessage(_, sent):
                self._send(sent, now_s, effects)
            case m.AbandonCall(call_id, unwritten):
                self._calls.abandon(call_id, unwritten, effects)
            case m.PostFailed():
                self._calls.fail(message, effects)
            case m.OpenStandalone(session_key, owner):
                self._open_standalone(session_key, owner, effects)
            case m.CallSweepDue(generation):
                if generation == self._generation:
                    self._armed = False
                    self._calls.sweep(now_s, effects)
                    self._expire_waiting(now_s, effects)
            case m.DrainProcess():
                self._draining = True
            case m.StreamRefused(call_id):
                self._stream_refused(call_id, now_s, effects)
            case m.CallClientMoved(call_id, here):
                self._calls.client_moved(call_id, here, now_s)
            case _:
                assert_never(message)
        self._finish(effects)
        return effects

    def standalone_ended(self) -> None:
        """The session's standalone stream is over."""
        self._standalone_open = False

    def exited(self, reason: Reason, text: str, unwritten: Collection[int]) -> list[LedgerEffect]:
        """The child is gone."""
        effects: list[LedgerEffect] = []
        self._calls.fail_all(reason, text, unwritten, effects)
        if self._standalone_open:
            effects.append(e.CloseStandalone(self._session_key))
        self._waiting.clear()
        return effects

    # From the client.

    def _submit(
        self, submit: m.SubmitCall, now_s: float, effects: list[LedgerEffect]
    ) -> None:
        request = submit.request
        assert request.id is not None
        if self._draining:
            text = "the upstream is being drained"
            effects.append(e.FailCall(submit.call_id, Reason.DRAINING, text, Executed.NO))
        elif not self._calls.has_room(submit.owner):
            text = "too many calls are in flight"
            effects.append(e.FailCall(submit.call_id, Reason.OVERLOADED, text, Executed.NO))
        elif self._calls.find(request.id) is not None:
            effects.append(e.RefuseCall(submit.call_id, "a request with this id is in flight"))
        else:
            call = Call(submit, request.id, now_s)
            self._calls.enter(call)
            effects.append(e.WriteFrame(request.raw, call.id))

    def _send(self, sent: Message, now_s: float, effects: list[LedgerEffect]) -> None:
        if sent.kind is Kind.RESPONSE:
            if sent.id is None or sent.id not in self._open_requests:
                effects.append(e.DropFrame("answer to no open request"))
                return
            self._close_request(sent.id, now_s)
        elif sent.method == CANCELLED:
            call = self._calls.find(sent.cancelled_request_id())
            if call is not None:
                self._calls.cancelled(call, now_s, effects)
        effects.append(e.WriteFrame(sent.raw))

    def _open_standalone(
        self, session_key: str, owner: str, effects: list[LedgerEffect]
    ) -> None:
        self._session_key = session_key
        self._standalone_open = True
        effects.append(e.StartStandalone(session_key, owner))
        waiting, self._waiting, self._waiting_bytes = self._waiting, deque(), 0
        for _, frame in waiting:
            self._to_standalone(frame, effects)

    # From the child.

    def _received(self, frame: Message, now_s: float, effects: list[LedgerEffect]) -> None:
        match frame.kind:
            case Kind.RESPONSE:
                call = self._calls.find(frame.id)
                if call is None:
                    effects.append(e.DropFrame("response to no call in flight"))
                else:
                    self._calls.answer(call, frame.raw, effects)
            case Kind.REQUEST:
                self._requested(frame, now_s, effects)
            case Kind.NOTIFICATION:
                self._notified(frame, now_s, effects)
            case _:
                assert_never(frame.kind)

    def _requested(self, frame: Message, now_s: float, effects: list[LedgerEffect]) -> None:
        assert frame.id is not None
        if frame.method == PING:
            effects.append(e.WriteFrame(jsonrpc_rewrite.result(frame.id, {})))
            return
        if frame.id in self._open_requests:
            effects.append(e.DropFrame("request with the id of an open one"))
            return
        if len(self._open_requests) >= OPEN_REQUESTS_MAX:
            oldest = next(iter(self._open_requests))
            self._refuse(oldest, "too many requests are open", now_s, effects)
        call = self._call_for_unnamed()
        self._open_requests[frame.id] = call
        if call is None:
            self._to_standalone_or_wait(frame, now_s, effects)
        else:
            self._calls.pause(call, frame.id, now_s)
            self._calls.emit(call, frame, frame.raw, effects)

    def _notified(self, frame: Message, now_s: float, effects: list[LedgerEffect]) -> None:
        if frame.method == PROGRESS:
            call = self._calls.find_by_token(frame.progress_token())
            if call is None:
                effects.append(e.DropFrame("progress of no call in flight"))
                return
        elif frame.method == CANCELLED:
            request_id = frame.cancelled_request_id()
            call = None if request_id is None else self._close_request(request_id, now_s)
        elif frame.method == LOG_MESSAGE:
            call = self._call_for_unnamed()
        else:
            call = None
        if call is None:
            self._to_standalone_or_wait(frame, now_s, effects)
        else:
            self._calls.emit(call, frame, frame.raw, effects)

    def _call_for_unnamed(self) -> Call | None:
        calls = self._calls.eligible()
        if len(calls) == 1 or (calls and not self._standalone_open):
            return calls[-1]
        return None

    def _to_standalone_or_wait(
        self, frame: Message, now_s: float, effects: list[LedgerEffect]
    ) -> None:
        if self._standalone_open:
            self._to_standalone(frame, effects)
            return
        self._waiting.append((now_s, frame))
        self._waiting_bytes += len(frame.raw)
        while (
            len(self._waiting) > WAITING_FRAMES_MAX or self._waiting_bytes > WAITING_BYTES_MAX
        ):
            self._give_up_waiting(now_s, effects)

    def _to_standalone(self, frame: Message, effects: list[LedgerEffect]) -> None:
        kind = KINDS[frame.kind]
        effects.append(e.EmitToSession(self._session_key, frame.raw, kind, frame.id))

    def _expire_waiting(self, now_s: float, effects: list[LedgerEffect]) -> None:
        while self._waiting and now_s - self._waiting[0][0] >= WAITING_S_MAX:
            self._give_up_waiting(now_s, effects)

    def _give_up_waiting(self, now_s: float, effects: list[LedgerEffect]) -> None:
        _, frame = self._waiting.popleft()
        self._waiting_bytes -= len(frame.raw)
        effects.append(e.DropFrame("message without a stream to its client"))
        if frame.kind is Kind.REQUEST and frame.id in self._open_requests:
            self._refuse(frame.id, "the client has no stream open", now_s, effects)

    # Inside.

    def _stream_refused(
        self, call_id: int, now_s: float, effects: list[LedgerEffect]
    ) -> None:
        """What the call was to become a stream for goes to nobody."""
        call = self._calls.leave_alone(call_id)
        for request_id in [] if call is None else sorted(call.open_requests):
            self._refuse(request_id, CANNOT_BE_ASKED, now_s, effects)

    def _refuse(
        self, request_id: bytes, text: str, now_s: float, effects: list[LedgerEffect]
    ) -> None:
        """Answer a request of the server that its client will not answer any more."""
        self._close_request(request_id, now_s)
        effects.append(e.WriteFrame(jsonrpc_rewrite.error(request_id, INTERNAL_ERROR, text)))

    def _close_request(self, request_id: bytes, now_s: float) -> Call | None:
        """Return the call that the request came within, unless that is over."""
        call = self._open_requests.pop(request_id, None)
        if call is None or call.over:
            return None
        self._calls.resume(call, request_id, now_s)
        return call

    def _finish(self, effects: list[LedgerEffect]) -> None:
        if not self._armed and (len(self._calls) or self._waiting):
            self._generation += 1
            self._armed = True
            effects.append(e.WakeSweep(SWEEP_INTERVAL_S, self._generation))
        if self._draining and not self._drained and not len(self._calls):
            self._drained = True
            if self._standalone_open:  # it has no end of its own
                effects.append(e.CloseStandalone(self._session_key))
            effects.append(e.AnnounceDrained())
