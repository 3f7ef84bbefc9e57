"""The calls in flight at one child: the part of the ledger that every mode shares.

Owns the rows. A row is entered when a call is submitted and leaves exactly once: by its response,
its deadline, being abandoned, or the child's end. A call is pending until anything but its response
arrives for it, or until it has been silent for so long that its client needs to be kept alive; then
it becomes an event stream. Where there is no room for one the call is left alone: its client gets
its response and nothing else of it. While the server waits for an answer of the client that it
asked for within the call, the call's clock stands still (MCP-X-7), but not for ever (MCP-X-5), nor
while that client is away.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable

from proxy_actors.errors import Executed, Reason
from proxy_actors.messages import stdio_effects as e
from proxy_actors.messages.pool import Owner
from proxy_actors.messages.stdio import PostFailed, SubmitCall
from proxy_actors.messages.stdio_effects import LedgerEffect
from proxy_actors.messages.stream import MessageKind
from proxy_actors.policy.event_stream import CLIENT_ANSWER_S_MAX
from proxy_actors.policy.shares import Shares
from proxy_actors.protocol import jsonrpc_rewrite
from proxy_actors.protocol.jsonrpc import Kind, Message
from proxy_actors.protocol.revisions import INITIALIZE

# What a session may have in flight while no other has anything.
CALLS_MAX = 1000
GIVEN_UP_MAX = 1000
SILENT_S_MAX = 10.0
# How long a server may take to end a call that its client has cancelled.
CANCELLED_S_MAX = 10.0
# What a server is told that asks within a call whose client has no stream for it.
CANNOT_BE_ASKED = "the client cannot be asked now"
KINDS = {
    Kind.REQUEST: MessageKind.REQUEST,
    Kind.NOTIFICATION: MessageKind.NOTIFICATION,
    Kind.RESPONSE: MessageKind.RESPONSE,
}


def cuts_streams_alone(ended: Iterable[LedgerEffect], waiting: Container[int]) -> bool:
    """Whether the end of a child has cut short calls that may have been executed, all streams.

    Args:
        ended: what is to be done about the end.
        waiting: the calls whose clients wait for the first word.
    """
    cut = [
        effect.call_id for effect in ended
        if isinstance(effect, e.FailCall) and effect.executed is Executed.UNKNOWN
    ]
    return bool(cut) and not any(call_id in waiting for call_id in cut)


class Call:
    """A call in flight. `upstream_id` is its id at the child, `client_id` at the client.

    Attributes:
        alone: whether it may have no stream, so that nothing but its response can be told of it.
        unsent: whether its request is held back, so that the child knows nothing of it.
        away: whether its client has left its stream.
        open_requests: what the server has asked the client within the call.
        asked_s: when the first of these came.
        stands_since_s: since when its clock stands still; None while it runs.
        over: whether it has left the table.
    """

    __slots__ = (
        "alone", "asked_s", "away", "cancelled", "client_id", "client_token", "deadline_s", "id",
        "method", "open_requests", "over", "owner", "session_key", "stands_since_s", "streaming",
        "submitted_s", "unsent", "upstream_id", "upstream_token",
    )  # fmt: skip

    def __init__(self, submit: SubmitCall, upstream_id: bytes, now_s: float) -> None:
        request = submit.request
        assert request.id is not None and request.method is not None
        self.id = submit.call_id
        self.session_key = submit.session_key
        self.owner = submit.owner
        self.client_id = request.id
        self.client_token = request.progress_token()
        self.upstream_id = upstream_id
        self.upstream_token = self.client_token
        self.method = request.method
        self.deadline_s = submit.deadline_s
        self.submitted_s = now_s
        self.unsent = False
        self.streaming = False
        self.alone = False
        self.cancelled = False
        self.away = False
        self.asked_s = 0.0
        self.open_requests: set[bytes] = set()
        self.stands_since_s: float | None = None
        self.over = False

    @property
    def due_s(self) -> float:
        """When its time is up if nothing happens any more."""
        if self.stands_since_s is None:
            return self.deadline_s
        return self.asked_s + CLIENT_ANSWER_S_MAX


class CallTable:
    """The rows of one child, found by call, by id, by client and by progress token."""

    def __init__(self) -> None:
        self._by_call: dict[int, Call] = {}
        self._by_id: dict[bytes, Call] = {}
        self._by_client: dict[tuple[str, bytes], Call] = {}
        self._by_token: dict[bytes, Call] = {}
        self._shares = Shares(3 * CALLS_MAX)
        # Calls that ended without a response, by their ids at the child: it may still be at them.
        self._given_up: dict[bytes, str] = {}

    def __len__(self) -> int:
        return len(self._by_call)

    def __contains__(self, call_id: int) -> bool:
        return call_id in self._by_call

    def has_room(self, owner: Owner) -> bool:
        """Whether one more call of this owner's may be in flight."""
        return self._shares.has_room(owner)

    def enter(self, call: Call) -> None:
        """Enter a call; its ids must not be taken."""
        self._shares.enter(call.owner)
        self._by_call[call.id] = call
        self._by_id[call.upstream_id] = call
        self._by_client[call.session_key, call.client_id] = call
        # Nothing but its one response can be told of an initialize.
        if call.upstream_token is not None and call.method != INITIALIZE:
            self._by_token[call.upstream_token] = call

    def find(self, upstream_id: bytes | None) -> Call | None:
        """Find a call by its id at the child."""
        return None if upstream_id is None else self._by_id.get(upstream_id)

    def find_by_token(self, upstream_token: bytes | None) -> Call | None:
        """Find a call by its progress token at the child."""
        return None if upstream_token is None else self._by_token.get(upstream_token)

    def find_by_client(self, session_key: str, client_id: bytes | None) -> Call | None:
        """Find a call by whose it is and its id there."""
        return None if client_id is None else self._by_client.get((session_key, client_id))

    def sessions(self) -> frozenset[str]:
        """Return the sessions that the child may be at work for."""
        at_work = {call.session_key for call in self._by_call.values()}
        return frozenset(at_work.union(self._given_up.values()))

    def late(self, upstream_id: bytes) -> None:
        """A response has come for a call that had ended: the child is done with it."""
        self._given_up.pop(upstream_id, None)

    def eligible(self) -> list[Call]:
        """List the calls within which a server may ask or tell something, oldest first."""
        calls = (call for call in self._by_call.values() if not call.alone)
        return [call for call in calls if call.method != INITIALIZE]

    def emit(self, call: Call, frame: Message, data: bytes, effects: list[LedgerEffect]) -> None:
        """Give a message other than the response to the call."""
        if call.alone:
            effects.append(e.DropFrame("message of a call that may have no stream"))
            return
        self.stream(call, effects)
        effects.append(e.EmitToCall(call.id, data, KINDS[frame.kind], frame.id, final=False))

    def stream(self, call: Call, effects: list[LedgerEffect]) -> None:
        """Make a pending call an event stream."""
        if not call.streaming and not call.alone:
            call.streaming = True
            effects.append(
                e.StreamCall(call.id, call.client_id, call.session_key, call.owner.name)
            )

    def leave_alone(self, call_id: int) -> Call | None:
        """The call may have no stream: its response is all that its client gets."""
        call = self._by_call.get(call_id)
        if call is not None:
            call.streaming, call.alone = False, True
        return call

    def answer(self, call: Call, data: bytes, effects: list[LedgerEffect]) -> None:
        """End the call with its response."""
        self._leave(call)
        if call.streaming:
            kind = MessageKind.RESPONSE
            effects.append(e.EmitToCall(call.id, data, kind, call.client_id, final=True))
        else:
            effects.append(e.AnswerCall(call.id, data))

    def cancelled(self, call: Call, now_s: float, effects: list[LedgerEffect]) -> None:
        """The client has cancelled the call: the server may still answer, but not for long.

        What the child knows nothing of ends at once.
        """
        call.cancelled = True
        self._mind_clock(call, now_s)
        call.deadline_s = min(call.deadline_s, now_s + CANCELLED_S_MAX)
        if call.unsent:
            self._end_unanswered(call, effects)

    def pause(self, call: Call, request_id: bytes, now_s: float) -> None:
        """The server has asked the client something within the call."""
        if not call.open_requests:
            call.asked_s = now_s
        call.open_requests.add(request_id)
        self._mind_clock(call, now_s)

    def resume(self, call: Call, request_id: bytes, now_s: float) -> None:
        """The client has answered, or the server waits no more."""
        call.open_requests.discard(request_id)
        self._mind_clock(call, now_s)

    def client_moved(self, call_id: int, here: bool, now_s: float) -> None:
        """The client has left the call's stream, or is back; no matter if the call is over."""
        call = self._by_call.get(call_id)
        if call is not None:
            call.away = not here
            self._mind_clock(call, now_s)

    def abandon(self, call_id: int, unwritten: bool, effects: list[LedgerEffect]) -> None:
        """Nobody waits for the call any more."""
        call = self._by_call.get(call_id)
        if call is not None:
            call.unsent = call.unsent or unwritten
            self._give_up(call)
            self._cancel(call, effects)

    def fail(self, failed: PostFailed, effects: list[LedgerEffect]) -> None:
        """The request was not taken, or nobody knows; unless its response has come, it ends."""
        call = self._by_call.get(failed.call_id)
        if call is None:
            return
        call.unsent = failed.executed is Executed.NO
        if call.cancelled:
            self._end_unanswered(call, effects)
            return
        self._give_up(call)
        effects.append(e.FailCall(call.id, failed.reason, failed.text, failed.executed))

    def sweep(self, now_s: float, effects: list[LedgerEffect]) -> None:
        """End the calls whose time is up, and keep the silent ones alive."""
        for call in list(self._by_call.values()):
            if call.due_s <= now_s:
                self._expire(call, effects)
            elif now_s - call.submitted_s >= SILENT_S_MAX and call.method != INITIALIZE:
                self.stream(call, effects)

    def fail_all(
        self, reason: Reason, text: str, unwritten: Collection[int], effects: list[LedgerEffect]
    ) -> None:
        """The child is gone: end every call. `unwritten` names those that never reached it."""
        for call in list(self._by_call.values()):
            self._leave(call)
            never = call.unsent or call.id in unwritten
            executed = Executed.NO if never else Executed.UNKNOWN
            effects.append(e.FailCall(call.id, reason, text, executed))

    def _expire(self, call: Call, effects: list[LedgerEffect]) -> None:
        if call.cancelled:
            self._end_unanswered(call, effects)
            return
        self._give_up(call)
        text, executed = "the upstream did not answer in time", Executed.UNKNOWN
        if call.unsent:
            text, executed = "the server process did not become ready in time", Executed.NO
        effects.append(e.FailCall(call.id, Reason.UPSTREAM_TIMEOUT, text, executed))
        self._cancel(call, effects)

    def _end_unanswered(self, call: Call, effects: list[LedgerEffect]) -> None:
        self._give_up(call)
        self.stream(call, effects)  # so that a pending one has something to end
        effects.append(e.EndCall(call.id))

    def _cancel(self, call: Call, effects: list[LedgerEffect]) -> None:
        """Tell the server; but initialize must not be cancelled (MCP-S-25)."""
        if not call.cancelled and not call.unsent and call.method != INITIALIZE:
            effects.append(e.WriteFrame(jsonrpc_rewrite.cancelled(call.upstream_id)))

    def _mind_clock(self, call: Call, now_s: float) -> None:
        """Have the call's clock stand still or go on."""
        stands = bool(call.open_requests) and not call.away and not call.cancelled
        if stands and call.stands_since_s is None:
            call.stands_since_s = now_s
        elif not stands and call.stands_since_s is not None:
            call.deadline_s += now_s - call.stands_since_s
            call.stands_since_s = None

    def _give_up(self, call: Call) -> None:
        self._leave(call)
        if not call.unsent:
            self._given_up[call.upstream_id] = call.session_key
        if len(self._given_up) > GIVEN_UP_MAX:
            del self._given_up[next(iter(self._given_up))]

    def _leave(self, call: Call) -> None:
        call.over = True
        self._shares.leave(call.owner)
        del self._by_call[call.id]
        del self._by_id[call.upstream_id]
        del self._by_client[call.session_key, call.client_id]
        token = call.upstream_token
        if token is not None and self._by_token.get(token) is call:
            del self._by_token[token]
