"""The rules of a child that serves one session, in books of their own, and all that can happen.

Client and server use the same few ids, as numbers and as strings, for what has nothing to do with
each other: calls, tokens of progress, requests of the server.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field

from proxy_actors.errors import INTERNAL_ERROR, Executed, Reason
from proxy_actors.messages import stdio as m
from proxy_actors.messages import stdio_effects as e
from proxy_actors.messages.stdio_effects import LedgerEffect
from proxy_actors.messages.stream import MessageKind
from proxy_actors.policy.event_stream import CLIENT_ANSWER_S_MAX
from proxy_actors.policy.stdio_calls import CANCELLED_S_MAX, SILENT_S_MAX
from proxy_actors.policy.stdio_exclusive import (
    LOG_MESSAGE,
    SWEEP_INTERVAL_S,
    WAITING_S_MAX,
    ExclusiveMessage,
    ExclusivePolicy,
)
from proxy_actors.protocol import jsonrpc_rewrite
from proxy_actors.protocol.jsonrpc import Message
from proxy_actors.protocol.revisions import INITIALIZE
from tests.policy.search import Subject, check
from tests.policy.stdio_frames import cancelled, notification, progress, request, result

CALL_S = 20.0
TICK_S = 10.0
KEY = "a"
TOKENS = {b"1": b'"1"', b'"1"': b"1", b"0": b'"0"'}
CALLS = {id: request(id, token=token) for id, token in TOKENS.items()}
HANDSHAKE = request(b"0", INITIALIZE, token=TOKENS[b"0"])
RESULTS = {id: result(id) for id in TOKENS}
ASKS = {id: request(id, "elicitation/create") for id in (b"1", b'"1"')}
PROGRESS = {id: progress(token) for id, token in TOKENS.items()}
CANCELS = {id: cancelled(id) for id in TOKENS}
LIST_CHANGED = notification("notifications/tools/list_changed")
LOG = notification(LOG_MESSAGE, level="info", data="x")
OTHERS = {"log": LOG, "list": LIST_CHANGED}
PING = request(b"1", "ping")
GONE = "the server process ended"
BROKE = "the connection broke"


@dataclass(frozen=True)
class Passes:
    """Time passes."""

    seconds: float


@dataclass(frozen=True)
class StreamEnds:
    """The client has closed the standalone stream."""


@dataclass(frozen=True)
class Exits:
    """The child ends; the requests of these calls were never written."""

    unwritten: frozenset[int]


Move = ExclusiveMessage | Passes | StreamEnds | Exits


@dataclass
class Call:
    """A call in flight. Its clock has `left_s`; the client is asked something since `asked_s`."""

    call_id: int
    id: bytes
    submitted_s: float
    handshake: bool = False
    streaming: bool = False
    alone: bool = False
    cancelled: bool = False
    away: bool = False
    left_s: float = CALL_S
    asked_s: float = 0.0
    requests: set[bytes] = field(default_factory=set)

    @property
    def stands(self) -> bool:
        return bool(self.requests) and not self.cancelled and not self.away


@dataclass(frozen=True)
class Scope:
    """What is tried: ids of calls and of the server's requests, what else is said, and time."""

    ids: tuple[bytes, ...]
    asks: tuple[bytes, ...] = ()
    others: tuple[str, ...] = ()
    progress: bool = False
    waiting_max: int = 0
    stream_open: bool = False
    stream_ends: bool = False
    handshake: bool = False
    time: bool = False
    drains: bool = False
    posts: bool = False
    full: bool = False
    leaves: bool = False


class ExclusiveSubject(Subject):
    """One child's ledger."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.now_s = 1000.0
        self.calls: dict[bytes, Call] = {}
        self.asks: dict[bytes, Call | None] = {}
        self.waiting: list[tuple[float, Message]] = []
        self.stream_open = False
        self.numbers = self.generation = 0
        self.armed = self.draining = self.drained = self.gone = False
        self.policy = ExclusivePolicy()
        check(not self.policy.begin(self.now_s), "the handshake is the client's")
        if scope.stream_open:
            self.make(m.OpenStandalone(KEY))

    # What can happen.

    def moves(self) -> Iterator[Move]:
        if self.gone:
            return
        scope = self.scope
        for id in scope.ids:
            yield self._submission(CALLS[id])
            yield m.SendMessage(KEY, CANCELS[id])
            yield m.FrameReceived(RESULTS[id])
            if scope.progress:
                yield m.FrameReceived(PROGRESS[id])
        if scope.handshake:
            if not self.numbers:
                yield self._submission(HANDSHAKE)
            yield from (m.FrameReceived(frame) for frame in (RESULTS[b"0"], PROGRESS[b"0"]))
        may_wait = len(self.waiting) < scope.waiting_max
        for id in scope.asks:
            if may_wait or self._route() is not None:
                yield m.FrameReceived(ASKS[id])
            if may_wait or self.stream_open:
                yield m.FrameReceived(CANCELS[id])
            yield m.SendMessage(KEY, RESULTS[id])
        if may_wait or self.stream_open:
            yield from (m.FrameReceived(OTHERS[name]) for name in scope.others)
        yield from (m.AbandonCall(call.call_id) for call in self.calls.values())
        if scope.posts:
            for call in self.calls.values():
                yield from (failed(call.call_id, executed) for executed in Executed)
        if not self.stream_open and not scope.stream_open:
            yield m.OpenStandalone(KEY)
        elif scope.stream_ends:
            yield StreamEnds()
        yield from self._times()
        if scope.full:
            yield from (m.StreamRefused(x.call_id) for x in self.calls.values() if x.streaming)
        if scope.leaves:
            for call in self.calls.values():
                if call.streaming:
                    yield m.CallClientMoved(call.call_id, call.away)
        if scope.drains:
            yield m.DrainProcess()
        yield Exits(frozenset())
        yield Exits(frozenset(call.call_id for call in list(self.calls.values())[:1]))

    def _times(self) -> Iterator[Move]:
        if not self.scope.time or not self.armed:
            return
        yield m.CallSweepDue(self.generation)
        stands = [x.asked_s for x in self.calls.values() if x.stands]
        overdue = any(self._due_in_s(call) <= 0 for call in self.calls.values())
        expired = any(self.now_s - since_s >= WAITING_S_MAX for since_s, _ in self.waiting)
        if not overdue and not expired:
            if all(since_s == self.now_s for since_s in stands):
                yield Passes(TICK_S)
            if stands:
                yield Passes(CLIENT_ANSWER_S_MAX)

    def _submission(self, call: Message) -> m.SubmitCall:
        return m.SubmitCall(self.numbers + 1, KEY, call, self.now_s + CALL_S)

    def make(self, move: Move) -> None:
        match move:
            case Passes(seconds):
                for call in self.calls.values():
                    if not call.stands:
                        call.left_s -= seconds
                self.now_s += seconds
            case StreamEnds():
                self.policy.standalone_ended()
                self.stream_open = False
            case Exits(unwritten):
                effects = self.policy.exited(Reason.PROCESS_EXITED, GONE, unwritten)
                expected = self._exited(unwritten)
                check(effects == expected, f"{effects} where {expected} is right")
            case _:
                self._tell(move)

    def settle(self) -> None:
        """Time alone ends every call and everything that waits."""
        self._ignores_nonsense()
        if self.gone:
            return
        for _ in range(3):
            self.make(Passes(CLIENT_ANSWER_S_MAX))
            if self.armed:
                self._tell(m.CallSweepDue(self.generation))
        check(not self.calls and not self.waiting, "something is kept for ever")
        check(not self.armed, "the timer rings for nobody")
        check(self.drained == self.draining, "a drain never ends")

    def key(self) -> Hashable:
        place = {call.call_id: number for number, call in enumerate(self.calls.values())}
        return (
            tuple(
                (
                    x.id, x.handshake, x.streaming, x.alone, x.cancelled, x.away,
                    max(x.left_s, 0.0),
                    self.now_s - x.submitted_s >= SILENT_S_MAX, tuple(sorted(x.requests)),
                    bool(x.requests) and min(self.now_s - x.asked_s, CLIENT_ANSWER_S_MAX),
                )
                for x in self.calls.values()
            ),
            tuple(
                (id, x is not None, x and place.get(x.call_id))
                for id, x in sorted(self.asks.items())
            ),
            tuple((min(self.now_s - since_s, WAITING_S_MAX), x.raw) for since_s, x in self.waiting),
            self.stream_open, self.armed, self.draining, self.drained, self.gone,
            self.numbers > 0, tuple(self.policy._open_requests), self.policy._waiting_bytes,
            tuple(max(x.due_s - self.now_s, 0.0) for x in self.policy._calls.eligible()),
        )  # fmt: skip

    # What must become of it.

    def _tell(self, message: ExclusiveMessage) -> None:
        effects = self.policy.handle(message, self.now_s)
        apart = e.WakeSweep | e.AnnounceDrained
        others = [effect for effect in effects if not isinstance(effect, apart)]
        expected = self._expected(message)
        drains = self.draining and not self.drained and not self.calls
        if drains and self.stream_open:
            expected.append(e.CloseStandalone(KEY))
        check(others == expected, f"{others} where {expected} is right")
        wakes = [effect for effect in effects if isinstance(effect, e.WakeSweep)]
        busy = bool(self.calls or self.waiting)
        check(len(wakes) == (busy and not self.armed), "the timer is armed once while it is needed")
        for wake in wakes:
            check(wake.after_s == SWEEP_INTERVAL_S, "the timer rings at another time")
            self.armed, self.generation = True, wake.generation
        check((e.AnnounceDrained() in effects) == drains, "a drain ends once, with the last call")
        self.drained = self.drained or drains
        check(self.policy.calls == len(self.calls), "calls are counted wrongly")
        waiting_bytes = sum(len(frame.raw) for _, frame in self.waiting)
        check(self.policy._waiting_bytes == waiting_bytes, "bytes are counted wrongly")

    def _expected(self, message: ExclusiveMessage) -> list[LedgerEffect]:
        match message:
            case m.SubmitCall():
                return self._submitted(message)
            case m.FrameReceived(frame):
                return self._received(frame)
            case m.SendMessage(_, sent):
                return self._sent(sent)
            case m.AbandonCall(call_id):
                call = next(call for call in self.calls.values() if call.call_id == call_id)
                return self._given_up(call)
            case m.PostFailed(call_id, _, _, executed):
                call = next(call for call in self.calls.values() if call.call_id == call_id)
                del self.calls[call.id]
                if call.cancelled:
                    return [*self._streamed(call), e.EndCall(call_id)]
                return [e.FailCall(call_id, Reason.UPSTREAM_CLOSED, BROKE, executed)]
            case m.OpenStandalone():
                self.stream_open = True
                waiting, self.waiting = self.waiting, []
                return [e.StartStandalone(KEY), *(to_session(frame) for _, frame in waiting)]
            case m.CallSweepDue():
                self.armed = False
                return self._swept()
            case m.DrainProcess():
                self.draining = True
            case m.StreamRefused(call_id):
                return self._left_alone(call_id)
            case m.CallClientMoved(call_id, here):
                call = next(call for call in self.calls.values() if call.call_id == call_id)
                call.away = not here
        return []

    def _submitted(self, submit: m.SubmitCall) -> list[LedgerEffect]:
        self.numbers += 1
        id = submit.request.id
        assert id is not None
        if self.draining:
            text = "the upstream is being drained"
            return [e.FailCall(submit.call_id, Reason.DRAINING, text, Executed.NO)]
        if id in self.calls:
            return [e.RefuseCall(submit.call_id, "a request with this id is in flight")]
        handshake = submit.request.method == INITIALIZE
        self.calls[id] = Call(submit.call_id, id, self.now_s, handshake)
        return [e.WriteFrame(submit.request.raw, submit.call_id)]

    def _received(self, frame: Message) -> list[LedgerEffect]:
        for id in TOKENS:
            if frame is RESULTS[id]:
                return self._answered(id, frame)
            if frame is PROGRESS[id]:
                call = self.calls.get(id)
                if call is None or call.handshake:
                    return [e.DropFrame("progress of no call in flight")]
                return self._emitted(call, frame)
            if frame is CANCELS[id]:
                return self._taken_back(id, frame)
        if frame is PING:
            return [e.WriteFrame(b'{"jsonrpc":"2.0","id":1,"result":{}}')]
        if frame.id in self.asks:
            return [e.DropFrame("request with the id of an open one")]
        to = self._route() if frame is not LIST_CHANGED else None
        call = to if isinstance(to, Call) else None
        if frame.id is not None:
            self.asks[frame.id] = call
            if call is not None:
                if not call.requests:
                    call.asked_s = self.now_s
                call.requests.add(frame.id)
        return self._emitted(call, frame) if call else self._to_stream(frame)

    def _route(self) -> Call | bool | None:
        """Where goes what names no call: to a call, to the stream (True), or it waits (None)."""
        calls = [x for x in self.calls.values() if not x.handshake and not x.alone]
        if len(calls) == 1:
            return calls[0]
        if self.stream_open:
            return True
        return calls[-1] if calls else None

    def _answered(self, id: bytes, frame: Message) -> list[LedgerEffect]:
        call = self.calls.pop(id, None)
        if call is None:
            return [e.DropFrame("response to no call in flight")]
        if call.streaming:
            kind = MessageKind.RESPONSE
            return [e.EmitToCall(call.call_id, frame.raw, kind, id, final=True)]
        return [e.AnswerCall(call.call_id, frame.raw)]

    def _taken_back(self, id: bytes, frame: Message) -> list[LedgerEffect]:
        call = self._closed(id)
        return self._to_stream(frame) if call is None else self._emitted(call, frame)

    def _closed(self, id: bytes) -> Call | None:
        """The server's request is over; return its call if that still runs."""
        call = self.asks.pop(id, None)
        if call is None or self.calls.get(call.id) is not call:
            return None
        call.requests.discard(id)
        return call

    def _emitted(self, call: Call, frame: Message) -> list[LedgerEffect]:
        if call.alone:
            return [e.DropFrame("message of a call that may have no stream")]
        kind = MessageKind(frame.kind.value)
        emitted = e.EmitToCall(call.call_id, frame.raw, kind, frame.id, final=False)
        return [*self._streamed(call), emitted]

    def _streamed(self, call: Call) -> list[LedgerEffect]:
        if call.alone:
            return []
        was, call.streaming = call.streaming, True
        return [] if was else [e.StreamCall(call.call_id, call.id, KEY)]

    def _left_alone(self, call_id: int) -> list[LedgerEffect]:
        """Nobody hears what the server says and asks within the call, its answer excepted."""
        call = next(call for call in self.calls.values() if call.call_id == call_id)
        call.streaming, call.alone = False, True
        effects: list[LedgerEffect] = []
        for id in sorted(call.requests):
            self._closed(id)
            text = "the client cannot be asked now"
            effects.append(e.WriteFrame(jsonrpc_rewrite.error(id, INTERNAL_ERROR, text)))
        return effects

    def _to_stream(self, frame: Message) -> list[LedgerEffect]:
        if self.stream_open:
            return [to_session(frame)]
        self.waiting.append((self.now_s, frame))
        return []

    def _sent(self, sent: Message) -> list[LedgerEffect]:
        for id in TOKENS:
            if sent is RESULTS[id]:
                if id not in self.asks:
                    return [e.DropFrame("answer to no open request")]
                self._closed(id)
            elif sent is CANCELS[id] and id in self.calls:
                call = self.calls[id]
                call.cancelled = True
                call.left_s = min(call.left_s, CANCELLED_S_MAX)
        return [e.WriteFrame(sent.raw)]

    def _given_up(self, call: Call) -> list[LedgerEffect]:
        """The call is over before its answer; the server hears of it, but not twice."""
        del self.calls[call.id]
        if call.cancelled or call.handshake:
            return []
        return [e.WriteFrame(
            b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":%b}}'
            % call.id
        )]

    def _swept(self) -> list[LedgerEffect]:
        effects: list[LedgerEffect] = []
        for call in list(self.calls.values()):
            if self._due_in_s(call) <= 0:
                if call.cancelled:
                    effects += [*self._streamed(call), e.EndCall(call.call_id)]
                else:
                    reason, text = Reason.UPSTREAM_TIMEOUT, "the upstream did not answer in time"
                    effects.append(e.FailCall(call.call_id, reason, text, Executed.UNKNOWN))
                effects += self._given_up(call)
            elif self.now_s - call.submitted_s >= SILENT_S_MAX and not call.handshake:
                effects += self._streamed(call)
        while self.waiting and self.now_s - self.waiting[0][0] >= WAITING_S_MAX:
            _, frame = self.waiting.pop(0)
            effects.append(e.DropFrame("message without a stream to its client"))
            if frame.id is not None and frame.id in self.asks:
                self._closed(frame.id)
                text = "the client has no stream open"
                error = jsonrpc_rewrite.error(frame.id, INTERNAL_ERROR, text)
                effects.append(e.WriteFrame(error))
        return effects

    def _exited(self, unwritten: frozenset[int]) -> list[LedgerEffect]:
        effects: list[LedgerEffect] = []
        for call in self.calls.values():
            executed = Executed.NO if call.call_id in unwritten else Executed.UNKNOWN
            effects.append(e.FailCall(call.call_id, Reason.PROCESS_EXITED, GONE, executed))
        if self.stream_open:
            effects.append(e.CloseStandalone(KEY))
        self.calls.clear()
        self.waiting.clear()
        self.gone = True
        return effects

    def _due_in_s(self, call: Call) -> float:
        return call.asked_s + CLIENT_ANSWER_S_MAX - self.now_s if call.stands else call.left_s

    def _ignores_nonsense(self) -> None:
        """What is late, wrong, or of nobody's call is dropped and counted; it changes nothing."""
        if self.gone:
            return
        before = self.key()
        stale: list[ExclusiveMessage] = [
            m.AbandonCall(-1), m.CallSweepDue(self.generation - 1), m.StreamRefused(-1),
            failed(-1, Executed.UNKNOWN), m.CallClientMoved(-1, here=False),
        ]
        for message in stale:
            effects = self.policy.handle(message, self.now_s)
            check(not effects, f"{message} had the effects {effects}")
        for frame in (result(b"-9"), result(b'"0"'), progress(b"-9"), progress(b"0")):
            effects = self.policy.handle(m.FrameReceived(frame), self.now_s)
            check([type(x) for x in effects] == [e.DropFrame], f"{frame} had the effects {effects}")
        effects = self.policy.handle(m.SendMessage(KEY, result(b"-9")), self.now_s)
        check(effects == [e.DropFrame("answer to no open request")], "an answer to nothing passes")
        effects = self.policy.handle(m.FrameReceived(PING), self.now_s)
        check(effects == self._received(PING), "a ping is answered here")
        check(self.key() == before, "nonsense changed something")


def failed(call_id: int, executed: Executed) -> m.PostFailed:
    return m.PostFailed(call_id, Reason.UPSTREAM_CLOSED, BROKE, executed)


def to_session(frame: Message) -> LedgerEffect:
    return e.EmitToSession(KEY, frame.raw, MessageKind(frame.kind.value), frame.id)


ROUTING = Scope(
    (b"1", b'"1"'), (b"1",), ("log", "list"), progress=True, waiting_max=1, stream_ends=True
)
ASKING = Scope((b"1", b'"1"'), (b"1", b'"1"'), stream_open=True, drains=True)
TIME = Scope((b"1", b'"1"'), (b"1",), stream_open=True, time=True)
STANDING = Scope((b"1",), (b"1", b'"1"'), stream_open=True, time=True)
LEAVING = Scope((b"1",), (b"1", b'"1"'), time=True, leaves=True)
FULL = Scope((b"1", b'"1"'), (b"1",), ("log",), progress=True, time=True, full=True)
FULL_WAITING = Scope(
    (b"1", b'"1"'), (b"1",), ("log",), progress=True, waiting_max=1, full=True
)
WAITING = Scope((b"1",), (b"1",), ("list",), waiting_max=2, time=True)
POSTING = Scope((b"1", b'"1"'), (b"1",), stream_open=True, drains=True, posts=True)
SHAKING = Scope(
    (b"1",), (b"1",), ("log",), waiting_max=1, handshake=True, time=True
)
