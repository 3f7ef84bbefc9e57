"""The calls in flight at one child: the part of the ledger that every mode shares.

Owns the rows. A row is entered when a call is submitted and leaves exactly once: by its response,
its deadline, being abandoned, or the child's end. A call is pending until anything but its response
arrives for it, or until it has been silent for so long that its client needs to be kept alive; then
it becomes an event stream. While the server waits for an answer of the client that it asked for
within the call, the call's clock stands still (MCP-X-7).
"""

from __future__ import annotations

from collections.abc import Collection

from msgspec import Raw

from proxy_actors.errors import Executed, Reason
from proxy_actors.messages import stdio_effects as e
from proxy_actors.messages.stdio_effects import LedgerEffect
from proxy_actors.messages.stream import MessageKind
from proxy_actors.protocol import jsonrpc_rewrite
from proxy_actors.protocol.jsonrpc import Kind, Message
from proxy_actors.protocol.revisions import CANCELLED, INITIALIZE

CALLS_MAX = 1000
SILENT_S_MAX = 10.0
# How long a server may take to end a call that its client has cancelled.
CANCELLED_S_MAX = 10.0
KINDS = {
    Kind.REQUEST: MessageKind.REQUEST,
    Kind.NOTIFICATION: MessageKind.NOTIFICATION,
    Kind.RESPONSE: MessageKind.RESPONSE,
}


class Call:
    """A call in flight. `upstream_id` is its id at the child, `client_id` at the client."""

    __slots__ = (
        "cancelled", "client_id", "client_token", "deadline_s", "id", "method", "open_requests",
        "remaining_s", "session_key", "streaming", "submitted_s", "upstream_id",
    )  # fmt: skip

    def __init__(
        self,
        call_id: int,
        session_key: str,
        request: Message,
        upstream_id: bytes,
        deadline_s: float,
        now_s: float,
    ) -> None:
        assert request.id is not None and request.method is not None
        self.id = call_id
        self.session_key = session_key
        self.client_id = request.id
        self.client_token = request.progress_token()
        self.upstream_id = upstream_id
        self.method = request.method
        self.deadline_s = deadline_s
        self.submitted_s = now_s
        self.streaming = False
        self.cancelled = False
        self.open_requests: set[bytes] = set()
        self.remaining_s: float | None = None


class CallTable:
    """The rows of one child, found by call, by id and by progress token."""

    def __init__(self) -> None:
        self._by_call: dict[int, Call] = {}
        self._by_id: dict[bytes, Call] = {}
        self._by_token: dict[bytes, Call] = {}

    def __len__(self) -> int:
        return len(self._by_call)

    def enter(self, call: Call, upstream_token: bytes | None) -> None:
        """Enter a call; its ids must not be taken."""
        self._by_call[call.id] = call
        self._by_id[call.upstream_id] = call
        if upstream_token is not None:
            self._by_token[upstream_token] = call

    def find(self, upstream_id: bytes | None) -> Call | None:
        """Find a call by its id at the child."""
        return None if upstream_id is None else self._by_id.get(upstream_id)

    def find_by_token(self, upstream_token: bytes | None) -> Call | None:
        """Find a call by its progress token at the child."""
        return None if upstream_token is None else self._by_token.get(upstream_token)

    def find_by_client(self, session_key: str, client_id: bytes | None) -> Call | None:
        """Find a call by whose it is and its id there."""
        for call in self._by_call.values():
            if call.client_id == client_id and call.session_key == session_key:
                return call
        return None

    def eligible(self) -> list[Call]:
        """List the calls within which a server may ask or tell something, oldest first."""
        return [call for call in self._by_call.values() if call.method != INITIALIZE]

    def emit(self, call: Call, frame: Message, data: bytes, effects: list[LedgerEffect]) -> None:
        """Give a message other than the response to the call."""
        self.stream(call, effects)
        effects.append(e.EmitToCall(call.id, data, KINDS[frame.kind], frame.id, final=False))

    def stream(self, call: Call, effects: list[LedgerEffect]) -> None:
        """Make a pending call an event stream."""
        if not call.streaming:
            call.streaming = True
            effects.append(e.StreamCall(call.id, call.client_id))

    def answer(self, call: Call, data: bytes, effects: list[LedgerEffect]) -> None:
        """End the call with its response."""
        self._leave(call)
        if call.streaming:
            kind = MessageKind.RESPONSE
            effects.append(e.EmitToCall(call.id, data, kind, call.client_id, final=True))
        else:
            effects.append(e.AnswerCall(call.id, data))

    def cancelled(self, call: Call, now_s: float) -> None:
        """The client has cancelled the call: the server may still answer, but not for long."""
        call.cancelled = True
        call.remaining_s = None
        call.deadline_s = min(call.deadline_s, now_s + CANCELLED_S_MAX)

    def pause(self, call: Call, request_id: bytes, now_s: float) -> None:
        """The server has asked the client something within the call."""
        call.open_requests.add(request_id)
        if call.remaining_s is None and not call.cancelled:
            call.remaining_s = call.deadline_s - now_s

    def resume(self, call: Call, request_id: bytes, now_s: float) -> None:
        """The client has answered, or the server waits no more."""
        call.open_requests.discard(request_id)
        if not call.open_requests and call.remaining_s is not None:
            call.deadline_s = now_s + call.remaining_s
            call.remaining_s = None

    def abandon(self, call_id: int, effects: list[LedgerEffect]) -> None:
        """Nobody waits for the call any more."""
        call = self._by_call.get(call_id)
        if call is not None:
            self._leave(call)
            self._cancel(call, effects)

    def sweep(self, now_s: float, effects: list[LedgerEffect]) -> None:
        """End the calls whose time is up, and keep the silent ones alive."""
        for call in list(self._by_call.values()):
            if call.remaining_s is None and call.deadline_s <= now_s:
                self._expire(call, effects)
            elif now_s - call.submitted_s >= SILENT_S_MAX and call.method != INITIALIZE:
                self.stream(call, effects)

    def fail_all(
        self, reason: Reason, text: str, unwritten: Collection[int], effects: list[LedgerEffect]
    ) -> None:
        """The child is gone: end every call. `unwritten` names those that never reached it."""
        for call in list(self._by_call.values()):
            self._leave(call)
            executed = Executed.NO if call.id in unwritten else Executed.UNKNOWN
            effects.append(e.FailCall(call.id, reason, text, executed))

    def _expire(self, call: Call, effects: list[LedgerEffect]) -> None:
        self._leave(call)
        if call.cancelled:
            self.stream(call, effects)  # so that a pending one has something to end
            effects.append(e.EndCall(call.id))
            return
        text = "the upstream did not answer in time"
        effects.append(e.FailCall(call.id, Reason.UPSTREAM_TIMEOUT, text, Executed.UNKNOWN))
        self._cancel(call, effects)

    def _cancel(self, call: Call, effects: list[LedgerEffect]) -> None:
        """Tell the server; but initialize must not be cancelled (MCP-S-25)."""
        if not call.cancelled and call.method != INITIALIZE:
            params = {"requestId": Raw(call.upstream_id)}
            effects.append(e.WriteFrame(jsonrpc_rewrite.notification(CANCELLED, params)))

    def _leave(self, call: Call) -> None:
        del self._by_call[call.id]
        del self._by_id[call.upstream_id]
        for token in [token for token, other in self._by_token.items() if other is call]:
            del self._by_token[token]
