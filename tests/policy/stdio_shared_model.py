"""The rules of a child that serves many sessions, in books of their own, and all that can happen.

All clients use the same id and the same progress token. The child knows each call by the id that
was written to it; the model learns that id from the line, and holds it against every other.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass

from proxy_actors.errors import METHOD_NOT_FOUND, Executed, Reason
from proxy_actors.messages import stdio as m
from proxy_actors.messages import stdio_effects as e
from proxy_actors.messages.pool import Owner
from proxy_actors.messages.stdio_effects import LedgerEffect
from proxy_actors.messages.stream import MessageKind
from proxy_actors.policy.shares import Shares
from proxy_actors.policy.stdio_calls import CALLS_MAX, CANCELLED_S_MAX, SILENT_S_MAX
from proxy_actors.policy.stdio_exclusive import SWEEP_INTERVAL_S
from proxy_actors.policy.stdio_shared import OWN_S_MAX, SharedMessage, SharedPolicy
from proxy_actors.protocol import jsonrpc_rewrite
from proxy_actors.protocol.jsonrpc import Message
from tests.policy.search import Subject, check
from tests.policy.stdio_frames import (
    DESCRIBED,
    admitted,
    cancelled,
    fault,
    notification,
    progress,
    request,
    result,
)

CALL_S = 20.0
TICK_S = 10.0
ID = b"0"
TOKEN = b'"0"'
CALL = request(ID, token=TOKEN, name="tool")
CANCEL = cancelled(ID)
LIST_CHANGED = notification("notifications/tools/list_changed")
INITIALIZED = b'{"jsonrpc":"2.0","method":"notifications/initialized"}'
CUSTOM = notification("notifications/custom")
GONE = "the server process ended"
LATE = "the upstream did not answer in time"


@dataclass(frozen=True)
class Passes:
    """Time passes."""

    seconds: float


@dataclass(frozen=True)
class Shakes:
    """The child answers initialize: well, or not."""

    well: bool


@dataclass(frozen=True)
class Says:
    """The child says something of the n-th call or own request."""

    what: str
    number: int


@dataclass(frozen=True)
class SaysLate:
    """The child answers a call of the session that had ended without an answer."""

    key: str


@dataclass(frozen=True)
class Exits:
    """The child ends; the first call's request was never written, or it was."""

    unwritten: bool


Move = SharedMessage | Passes | Shakes | Says | SaysLate | Exits


@dataclass
class Call:
    """A call in flight. `line` is what was written, `id` its id at the child; none while held."""

    call_id: int
    key: str
    submitted_s: float
    id: bytes = b""
    streaming: bool = False
    cancelled: bool = False
    left_s: float = CALL_S


@dataclass
class Own:
    """A request in the proxy's own name."""

    own_id: int
    id: bytes = b""
    left_s: float = OWN_S_MAX


class SharedSubject(Subject):
    """One child's ledger, in POOL mode.

    `keys` are the sessions, all of one owner but for "c"; `own` says that the proxy asks something
    itself, `late` that the child answers what was given up, `bound` how many calls there may be.
    """

    def __init__(
        self,
        keys: tuple[str, ...],
        own: bool = False,
        time: bool = False,
        drains: bool = False,
        shaken: bool = False,
        late: bool = False,
        bound: int = 3 * CALLS_MAX,
    ) -> None:
        self.bound = bound
        self.keys, self.own, self.time, self.drains, self.late = keys, own, time, drains, late
        self.now_s = 1000.0
        self.calls: list[Call] = []
        self.owns: list[Own] = []
        self.held: list[Call | Own] = []
        self.used: set[bytes] = set()
        self.retired = b'"never"'
        self.given_up: list[tuple[bytes, str]] = []
        self.handshake: Own | None = Own(0)
        self.ready = self.armed = self.draining = self.drained = self.gone = False
        self.numbers = self.generation = 0
        self.policy = SharedPolicy(announces_ends=True)
        self.policy._calls._shares = Shares(bound)
        hello, *rest = self.policy.begin(self.now_s)
        assert isinstance(hello, e.WriteFrame)
        self.handshake.id = self._fresh(hello.data)
        self._check_timer(rest)
        if shaken:
            self.make(Shakes(True))

    # What can happen.

    def moves(self) -> Iterator[Move]:
        if self.gone:
            return
        for key in self.keys:
            yield m.SubmitCall(
                self.numbers + 1, key, CALL, self.now_s + CALL_S, owner=owner_of(key)
            )
            yield m.SendMessage(key, CANCEL)
        if self.handshake is not None:
            yield from (Shakes(True), Shakes(False))
        for number, call in enumerate(self.calls):
            yield m.AbandonCall(call.call_id)
            yield from (Says(what, number) for what in ("result", "fault", "progress"))
        if self.late:
            yield from (SaysLate(key) for key in sorted({key for _, key in self.given_up}))
        if self.own and not self.owns:
            yield m.SubmitOwn(self.numbers + 1, "logging/setLevel", b'{"level":"info"}')
        for number in range(len(self.owns)):
            yield from (Says(what, number) for what in ("own result", "own fault"))
        if self.time and self.armed:
            yield m.CallSweepDue(self.generation)
            clocks = [*self.calls, *self.owns, *([self.handshake] if self.handshake else [])]
            if all(x.left_s > 0 for x in clocks):
                yield Passes(TICK_S)
        if self.drains:
            yield m.DrainProcess()
        yield from (Exits(False), Exits(True))

    def make(self, move: Move) -> None:
        match move:
            case Passes(seconds):
                self._pass(seconds)
            case Shakes(well):
                assert self.handshake is not None
                id, self.handshake = self.handshake.id, None
                data = DESCRIBED.result if well else b"{}"
                answer = admitted(b'{"jsonrpc":"2.0","id":%b,"result":%b}' % (id, data))
                self._tell(m.FrameReceived(answer), lambda: self._shaken(well))
            case Says("own result" | "own fault" as what, number):
                own = self.owns[number]
                if not own.id:
                    self._guess()
                    return
                frame = fault(own.id) if what == "own fault" else result(own.id)
                self._tell(m.FrameReceived(frame), lambda: self._own_answered(own, frame))
            case SaysLate(key):
                given_up = next(x for x in self.given_up if x[1] == key)
                self.given_up.remove(given_up)
                late = m.FrameReceived(result(given_up[0]))
                self._tell(late, lambda: [drop("response to no call in flight")])
            case Says(what, number):
                self._say(what, self.calls[number])
            case Exits(unwritten):
                never = {self.calls[0].call_id} if unwritten and self.calls else set()
                effects = self.policy.exited(Reason.PROCESS_EXITED, GONE, never)
                self._check(effects, lambda: self._exited(never))
            case _:
                self._tell(move, lambda: self._expected(move))

    def _say(self, what: str, call: Call) -> None:
        if not call.id:
            self._guess()
        elif what == "progress":
            self._tell(m.FrameReceived(progress(call.id)), lambda: self._progressed(call))
        else:
            make = fault if what == "fault" else result
            text = f"call {call.call_id}"
            frame, own = make(call.id, text), make(ID, text)
            self._tell(m.FrameReceived(frame), lambda: self._answered(call, own.raw))

    def _guess(self) -> None:
        """A child that counts along answers what was not sent; that has no answer."""
        for number in range(1, 5):
            id = b"%d" % (len(self.used) + number)
            frame = result(id)
            self._tell(m.FrameReceived(frame), lambda: [drop("response to no call in flight")])
            frame = progress(id)
            self._tell(m.FrameReceived(frame), lambda: [drop("progress of no call in flight")])

    def settle(self) -> None:
        """Time alone ends every call and every request of the proxy."""
        self._ignores_nonsense()
        if self.gone:
            return
        for _ in range(3):
            self._pass(OWN_S_MAX)
            if self.armed:
                sweep = m.CallSweepDue(self.generation)
                self._tell(sweep, lambda: self._expected(sweep))
        check(not self.calls and not self.owns, "something is kept for ever")
        check(not self.policy._held, "what nobody waits for is held back")
        check(self.drained == self.draining, "a drain never ends")

    def key(self) -> Hashable:
        place = {id(x): number for number, x in enumerate([*self.calls, *self.owns])}
        return (
            tuple(
                (
                    x.key, bool(x.id), x.streaming, x.cancelled, max(x.left_s, 0.0),
                    self.now_s - x.submitted_s >= SILENT_S_MAX,
                )
                for x in self.calls
            ),
            tuple((bool(x.id), max(x.left_s, 0.0)) for x in self.owns),
            tuple(place[id(x)] for x in self.held if id(x) in place),
            frozenset(key for _, key in self.given_up) if self.late else None,
            frozenset(self.policy._calls._given_up.values()) if self.late else None,
            self.handshake and max(self.handshake.left_s, 0.0), self.retired == b'"never"',
            self.ready, self.armed, self.draining, self.drained, self.gone,
            tuple(max(x.due_s - self.now_s, 0.0) for x in self.policy._calls.eligible()),
        )  # fmt: skip

    # What must become of it.

    def _tell(self, message: SharedMessage, expected: Callable[[], list[LedgerEffect]]) -> None:
        self._check(self.policy.handle(message, self.now_s), expected)

    def _check(
        self, effects: list[LedgerEffect], expected: Callable[[], list[LedgerEffect]]
    ) -> None:
        before = [call.call_id for call in self.calls]
        self.written = [effect for effect in effects if isinstance(effect, e.WriteFrame)]
        apart = e.WakeSweep | e.AnnounceDrained | e.TellCallEnded
        others = [effect for effect in effects if not isinstance(effect, apart)]
        right = expected()
        check(others == right, f"{others} where {right} is right")
        left = {call.call_id for call in self.calls}
        ended = [call_id for call_id in before if call_id not in left and call_id != self.abandoned]
        told = [effect.call_id for effect in effects if isinstance(effect, e.TellCallEnded)]
        check(told == [*ended, *self.refused], f"ends of {told} announced, not of {ended}")
        self._check_timer(effects)

    def _check_timer(self, effects: list[LedgerEffect]) -> None:
        self.abandoned, self.refused = -1, list[int]()
        if self.gone:
            return
        busy = bool(self.calls or self.owns or self.handshake)
        wakes = [effect for effect in effects if isinstance(effect, e.WakeSweep)]
        check(len(wakes) == (busy and not self.armed), "the timer is armed once while it is needed")
        for wake in wakes:
            check(wake.after_s == SWEEP_INTERVAL_S, "the timer rings at another time")
            self.armed, self.generation = True, wake.generation
        drains = self.draining and not self.drained and not self.calls and not self.owns
        check((e.AnnounceDrained() in effects) == drains, "a drain ends once, with the last call")
        self.drained = self.drained or drains
        check(self.policy.calls == len(self.calls), "calls are counted wrongly")

    def _expected(self, message: SharedMessage) -> list[LedgerEffect]:
        match message:
            case m.SubmitCall():
                return self._submitted(message)
            case m.SubmitOwn(own_id):
                self.numbers += 1
                self.owns.append(Own(own_id))
                return self._write(self.owns[-1])
            case m.SendMessage(key, _):
                return self._client_cancels(key)
            case m.AbandonCall(call_id):
                self.abandoned = call_id
                return self._given_up(next(x for x in self.calls if x.call_id == call_id))
            case m.CallSweepDue():
                self.armed = False
                return self._swept()
            case m.DrainProcess():
                self.draining = True
        return []

    def _submitted(self, submit: m.SubmitCall) -> list[LedgerEffect]:
        self.numbers += 1
        self.refused = [submit.call_id]
        if self.draining:
            text = "the upstream is being drained"
            return [e.FailCall(submit.call_id, Reason.DRAINING, text, Executed.NO)]
        names = [owner_of(call.key).name for call in self.calls]
        own = names.count(submit.owner.name)
        own += sum(call.key == submit.session_key for call in self.calls)
        if len(self.calls) + own >= self.bound:
            text = "too many calls are in flight"
            return [e.FailCall(submit.call_id, Reason.OVERLOADED, text, Executed.NO)]
        if any(call.key == submit.session_key for call in self.calls):
            return [e.RefuseCall(submit.call_id, "a request with this id is in flight")]
        self.refused = []
        self.calls.append(Call(submit.call_id, submit.session_key, self.now_s))
        return self._write(self.calls[-1])

    def _write(self, asked: Call | Own) -> list[LedgerEffect]:
        """The request is written as it came, but under an id of its own; or held back."""
        if not self.ready:
            self.held.append(asked)
            return []
        check(bool(self.written), "a request was not written")
        line = self.written.pop(0)
        asked.id = self._fresh(line.data)
        if isinstance(asked, Own):
            own = b'"method":"logging/setLevel","params":{"level":"info"}'
            return [e.WriteFrame(b'{"jsonrpc":"2.0","id":%b,%b}' % (asked.id, own))]
        data = jsonrpc_rewrite.with_id(CALL, asked.id, progress_token=asked.id)
        return [e.WriteFrame(data, asked.call_id)]

    def _fresh(self, data: bytes) -> bytes:
        id = json.dumps(json.loads(data)["id"]).encode()
        check(id not in self.used, "an id was used before at this child")
        self.used.add(id)
        return id

    def _shaken(self, well: bool) -> list[LedgerEffect]:
        if not well:
            return [e.GiveUp("the server's answer to initialize cannot be used")]
        self.ready = True
        effects: list[LedgerEffect] = [self.written.pop(0), e.AnnounceReady(DESCRIBED)]
        check(effects[0] == e.WriteFrame(INITIALIZED), "the handshake is not finished")
        for asked in sorted(self.held, key=lambda asked: isinstance(asked, Call)):
            if asked in (*self.calls, *self.owns):
                effects += self._write(asked)
        self.held = []
        return effects

    def _progressed(self, call: Call) -> list[LedgerEffect]:
        kind, data = MessageKind.NOTIFICATION, progress(TOKEN).raw
        return [*self._streamed(call), e.EmitToCall(call.call_id, data, kind, None, final=False)]

    def _answered(self, call: Call, data: bytes) -> list[LedgerEffect]:
        self._leave(call)
        if call.streaming:
            return [e.EmitToCall(call.call_id, data, MessageKind.RESPONSE, ID, final=True)]
        return [e.AnswerCall(call.call_id, data)]

    def _own_answered(self, own: Own, frame: Message) -> list[LedgerEffect]:
        self.owns.remove(own)
        self.retired = own.id
        if frame.is_error:
            error = b'{"code":-32000,"message":"failed"}'
            return [e.TellOwnAnswered(own.own_id, None, error)]
        return [e.TellOwnAnswered(own.own_id, b'{"text":"done"}')]

    def _client_cancels(self, key: str) -> list[LedgerEffect]:
        call = next((call for call in self.calls if call.key == key), None)
        if call is None:
            return [drop("cancellation of no call in flight")]
        call.cancelled = True
        call.left_s = min(call.left_s, CANCELLED_S_MAX)
        if not call.id:
            self._leave(call)
            return [*self._streamed(call), e.EndCall(call.call_id)]
        return [e.WriteFrame(jsonrpc_rewrite.cancelled_with_request_id(CANCEL, call.id))]

    def _swept(self) -> list[LedgerEffect]:
        effects: list[LedgerEffect] = []
        for call in list(self.calls):
            if call.left_s <= 0 and call.cancelled:
                effects += [*self._streamed(call), e.EndCall(call.call_id)]
                self._given_up(call)
            elif call.left_s <= 0:
                text, executed = LATE, Executed.UNKNOWN
                if not call.id:
                    text = "the server process did not become ready in time"
                    executed = Executed.NO
                reason = Reason.UPSTREAM_TIMEOUT
                effects.append(e.FailCall(call.call_id, reason, text, executed))
                effects += self._given_up(call)
            elif self.now_s - call.submitted_s >= SILENT_S_MAX:
                effects += self._streamed(call)
        if self.handshake is not None and self.handshake.left_s <= 0:
            self.retired, self.handshake = self.handshake.id, None
            effects.append(e.GiveUp("the server did not answer initialize in time"))
        for own in [own for own in self.owns if own.left_s <= 0]:
            self.owns.remove(own)
            effects.append(e.TellOwnAnswered(own.own_id, reason=Reason.UPSTREAM_TIMEOUT))
            if own.id:
                effects.append(cancellation(own.id))
                self.retired = own.id
        return effects

    def _given_up(self, call: Call) -> list[LedgerEffect]:
        self._leave(call)
        if call.id:
            self.given_up.append((call.id, call.key))
        return [cancellation(call.id)] if call.id and not call.cancelled else []

    def _leave(self, call: Call) -> None:
        self.calls.remove(call)
        self.retired = call.id or self.retired

    def _streamed(self, call: Call) -> list[LedgerEffect]:
        was, call.streaming = call.streaming, True
        return [] if was else [e.StreamCall(call.call_id, ID, call.key, owner_of(call.key).name)]

    def _exited(self, unwritten: set[int]) -> list[LedgerEffect]:
        effects: list[LedgerEffect] = []
        for call in self.calls:
            never = not call.id or call.call_id in unwritten
            executed = Executed.NO if never else Executed.UNKNOWN
            effects.append(e.FailCall(call.call_id, Reason.PROCESS_EXITED, GONE, executed))
        for own in self.owns:
            effects.append(e.TellOwnAnswered(own.own_id, reason=Reason.PROCESS_EXITED))
        self.calls, self.owns, self.gone = [], [], True
        return effects

    def _pass(self, seconds: float) -> None:
        self.now_s += seconds
        for clock in (*self.calls, *self.owns, *([self.handshake] if self.handshake else [])):
            clock.left_s -= seconds

    def _ignores_nonsense(self) -> None:
        """What is late, wrong, or of nobody's call is dropped and counted; it changes nothing."""
        if self.gone:
            return
        before = self.key()
        at_work = {call.key for call in self.calls} | {key for _, key in self.given_up}
        effects = self.policy.handle(m.FrameReceived(LIST_CHANGED), self.now_s)
        right: list[LedgerEffect] = [e.TellUpstream(LIST_CHANGED, frozenset(at_work))]
        check(effects == right, f"{effects}: the upstream is told whom it may be for")
        in_flight = [call.id for call in self.calls if call.id]
        strings = [b'"%b"' % id for id in in_flight]
        owed = {*in_flight, *(id for id, _ in self.given_up)}
        frames = [
            make(id) for id in (self.retired, b"-9", ID, *strings) if id not in owed
            for make in (result, fault, progress)
        ]  # fmt: skip
        frames += [progress(id) for id, _ in self.given_up]
        for frame in (*frames, fault(None), cancelled(ID)):
            effects = self.policy.handle(m.FrameReceived(frame), self.now_s)
            check([type(x) for x in effects] == [e.DropFrame], f"{frame} had the effects {effects}")
        for message in (m.AbandonCall(-1), m.CallSweepDue(self.generation - 1)):
            check(not self.policy.handle(message, self.now_s), "nobody's call, or a stale timer")
        for sent in (result(ID), progress(TOKEN), notification("notifications/initialized")):
            effects = self.policy.handle(m.SendMessage("a", sent), self.now_s)
            check([type(x) for x in effects] == [e.DropFrame], f"{sent} had the effects {effects}")
        effects = self.policy.handle(m.SendMessage("a", CUSTOM), self.now_s)
        right = [e.WriteFrame(CUSTOM.raw)]
        if not self.ready:
            right = [drop("notification before the handshake")]
        check(effects == right, f"a client's notification had the effects {effects}")
        for method in ("elicitation/create", "ping"):
            (refusal,) = self.policy.handle(m.FrameReceived(request(ID, method)), self.now_s)
            assert isinstance(refusal, e.WriteFrame)
            answer = json.loads(refusal.data)
            check(answer["id"] == 0, "the server's request is answered under another id")
            code = answer.get("error", {}).get("code")
            check(code == (None if method == "ping" else METHOD_NOT_FOUND), "not refused")
        check(self.key() == before, "nonsense changed something")


def drop(why: str) -> e.DropFrame:
    return e.DropFrame(why)


def cancellation(id: bytes) -> e.WriteFrame:
    return e.WriteFrame(
        b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":%b}}' % id
    )


def owner_of(key: str) -> Owner:
    return Owner("two" if key == "c" else "one", key)
