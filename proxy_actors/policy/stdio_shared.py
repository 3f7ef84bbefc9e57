"""The ledger of a child that serves many sessions: ids rewritten, so that nobody sees another's.

Every request gets an id that is unique at this child, and so does its progress token; both are the
client's own again, value and type, in what comes back (THR-T4). The proxy shakes hands with the
child itself and declares no capability, so a server that asks the client something is refused at
once: nobody could say which client it means. Until the handshake is done requests are held back,
and then sent so that owners take turns. How much of what may be in flight is whose is told in
`policy/shares.py`.
What comes without naming a call goes to the upstream, which knows the sessions.
`actors/stdio_process.py` is the shell.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import assert_never

import msgspec
from msgspec import Raw

from proxy_actors import __version__
from proxy_actors.errors import METHOD_NOT_FOUND, Executed, Reason
from proxy_actors.messages import stdio as m
from proxy_actors.messages import stdio_effects as e
from proxy_actors.messages.stdio_effects import LedgerEffect
from proxy_actors.policy.shares import in_turn
from proxy_actors.policy.stdio_calls import Call, CallTable
from proxy_actors.policy.stdio_exclusive import SWEEP_INTERVAL_S
from proxy_actors.protocol import jsonrpc_rewrite
from proxy_actors.protocol.jsonrpc import Kind, Message
from proxy_actors.protocol.revisions import (
    CANCELLED,
    INITIALIZE,
    INITIALIZED,
    LATEST,
    PING,
    PROGRESS,
    SESSION_VERSIONS,
)

# How long a request in the proxy's own name may take; the handshake is one.
OWN_S_MAX = 30.0
_HANDSHAKE = -1

SharedMessage = (
    m.SubmitCall
    | m.AbandonCall
    | m.SendMessage
    | m.OpenStandalone
    | m.FrameReceived
    | m.CallSweepDue
    | m.DrainProcess
    | m.SubmitOwn
    | m.CallClientMoved
    | m.StreamRefused
)


class _Described(msgspec.Struct):
    protocolVersion: str


class _Own(msgspec.Struct, frozen=True):
    own_id: int
    deadline_s: float


class SharedPolicy:
    """Decides for one child; with `announces_ends` the parent hears of every call's end."""

    def __init__(self, announces_ends: bool = False) -> None:
        self._announces_ends = announces_ends
        self._calls = CallTable()
        self._own: dict[bytes, _Own] = {}
        self._serial = 0
        self._ready = False
        self._held: dict[bytes, e.WriteFrame] = {}
        self._generation = 0
        self._armed = False
        self._draining = False
        self._drained = False

    @property
    def calls(self) -> int:
        """How many calls are in flight, or wait for the handshake."""
        return len(self._calls)

    def begin(self, now_s: float) -> list[LedgerEffect]:
        """The process runs: shake hands."""
        params = {
            "protocolVersion": LATEST,
            "capabilities": {},
            "clientInfo": {"name": "proxy-actors", "version": __version__},
        }
        request = jsonrpc_rewrite.request(self._own_id(_HANDSHAKE, now_s), INITIALIZE, params)
        effects: list[LedgerEffect] = [e.WriteFrame(request)]
        self._finish(effects)
        return effects

    def handle(self, message: SharedMessage, now_s: float) -> list[LedgerEffect]:
        """Apply one message and return what is to be done, in order."""
        effects: list[LedgerEffect] = []
        match message:
            case m.SubmitCall():
                self._submit(message, now_s, effects)
            case m.FrameReceived(frame):
                self._received(frame, effects)
            case m.SendMessage(session_key, sent):
                self._send(session_key, sent, now_s, effects)
            case m.AbandonCall(call_id, unwritten):
                self._calls.abandon(call_id, unwritten, effects)
            case m.SubmitOwn(own_id, method, params):
                id = self._own_id(own_id, now_s)
                request = jsonrpc_rewrite.request(id, method, Raw(params))
                self._write(id, e.WriteFrame(request), effects)
            case m.CallSweepDue(generation):
                if generation == self._generation:
                    self._armed = False
                    self._sweep(now_s, effects)
            case m.DrainProcess():
                self._draining = True
            case m.StreamRefused(call_id):
                self._calls.leave_alone(call_id)
            case m.CallClientMoved(call_id, here):
                self._calls.client_moved(call_id, here, now_s)
            case m.OpenStandalone():
                effects.append(e.DropFrame("standalone streams are the upstream's"))
            case _:
                assert_never(message)
        self._finish(effects)
        return effects

    def standalone_ended(self) -> None:
        """Nothing to note: standalone streams are the upstream's."""

    def exited(self, reason: Reason, text: str, unwritten: Collection[int]) -> list[LedgerEffect]:
        """The child is gone."""
        effects: list[LedgerEffect] = []
        self._calls.fail_all(reason, text, unwritten, effects)
        self._held.clear()
        for own in self._own.values():
            if own.own_id != _HANDSHAKE:
                effects.append(e.TellOwnAnswered(own.own_id, reason=reason))
        self._own.clear()
        self._note_ends(effects)
        return effects

    # From the clients.

    def _submit(
        self, submit: m.SubmitCall, now_s: float, effects: list[LedgerEffect]
    ) -> None:
        request = submit.request
        if self._draining:
            text = "the upstream is being drained"
            effects.append(e.FailCall(submit.call_id, Reason.DRAINING, text, Executed.NO))
        elif not self._calls.has_room(submit.owner):
            text = "too many calls are in flight"
            effects.append(e.FailCall(submit.call_id, Reason.OVERLOADED, text, Executed.NO))
        elif self._calls.find_by_client(submit.session_key, request.id) is not None:
            effects.append(e.RefuseCall(submit.call_id, "a request with this id is in flight"))
        else:
            id = self._mint()
            call = Call(submit, id, now_s)
            call.unsent = not self._ready
            call.upstream_token = None if call.client_token is None else id
            self._calls.enter(call)
            data = jsonrpc_rewrite.with_id(request, id, progress_token=call.upstream_token)
            self._write(id, e.WriteFrame(data, call.id), effects)

    def _send(
        self, session_key: str, sent: Message, now_s: float, effects: list[LedgerEffect]
    ) -> None:
        if sent.kind is Kind.RESPONSE:
            effects.append(e.DropFrame("answer to no open request"))
        elif sent.method == CANCELLED:
            call = self._calls.find_by_client(session_key, sent.cancelled_request_id())
            if call is None:
                effects.append(e.DropFrame("cancellation of no call in flight"))
                return
            self._calls.cancelled(call, now_s, effects)
            if not call.over:
                data = jsonrpc_rewrite.cancelled_with_request_id(sent, call.upstream_id)
                effects.append(e.WriteFrame(data))
        elif sent.method in (INITIALIZED, PROGRESS, "notifications/roots/list_changed"):
            effects.append(e.DropFrame("notification of a handshake that was the proxy's own"))
        elif not self._ready:
            effects.append(e.DropFrame("notification before the handshake"))
        else:
            effects.append(e.WriteFrame(sent.raw))

    # From the child.

    def _received(self, frame: Message, effects: list[LedgerEffect]) -> None:
        match frame.kind:
            case Kind.RESPONSE:
                self._responded(frame, effects)
            case Kind.REQUEST:
                self._refuse(frame, effects)
            case Kind.NOTIFICATION:
                self._notified(frame, effects)
            case _:
                assert_never(frame.kind)

    def _responded(self, frame: Message, effects: list[LedgerEffect]) -> None:
        call = self._calls.find(frame.id)
        if frame.id is None or frame.id in self._held:  # a child may count along
            effects.append(e.DropFrame("response to no call in flight"))
        elif call is not None:
            self._calls.answer(call, jsonrpc_rewrite.with_id(frame, call.client_id), effects)
        elif frame.id in self._own:
            self._own_answered(self._own.pop(frame.id), frame, effects)
        else:
            self._calls.late(frame.id)
            effects.append(e.DropFrame("response to no call in flight"))

    def _own_answered(self, own: _Own, frame: Message, effects: list[LedgerEffect]) -> None:
        result = frame.envelope.get("result")
        error = frame.envelope.get("error")
        if own.own_id != _HANDSHAKE:
            effects.append(
                e.TellOwnAnswered(
                    own.own_id,
                    None if result is None else bytes(result),
                    None if error is None else bytes(error),
                )
            )
            return
        described = None if result is None else _described(bytes(result))
        if described is None:
            effects.append(e.GiveUp("the server's answer to initialize cannot be used"))
            return
        self._ready = True
        effects.append(e.WriteFrame(jsonrpc_rewrite.notification(INITIALIZED)))
        effects.append(e.AnnounceReady(described))
        held, self._held = self._held, {}
        effects += [request for id, request in held.items() if id in self._own]
        for call in in_turn(call for id in held if (call := self._calls.find(id)) is not None):
            effects.append(held[call.upstream_id])
            call.unsent = False

    def _refuse(self, frame: Message, effects: list[LedgerEffect]) -> None:
        assert frame.id is not None
        if frame.method == PING:
            data = jsonrpc_rewrite.result(frame.id, {})
        else:
            text = "this client declared no such capability"
            data = jsonrpc_rewrite.error(frame.id, METHOD_NOT_FOUND, text)
        effects.append(e.WriteFrame(data))

    def _notified(self, frame: Message, effects: list[LedgerEffect]) -> None:
        if frame.method == PROGRESS:
            call = self._calls.find_by_token(frame.progress_token())
            if call is None or call.client_token is None or call.unsent:
                effects.append(e.DropFrame("progress of no call in flight"))
                return
            data = jsonrpc_rewrite.notification_with_progress_token(frame, call.client_token)
            self._calls.emit(call, frame, data, effects)
        elif frame.method == CANCELLED:
            effects.append(e.DropFrame("cancellation of a request that was refused"))
        else:
            effects.append(e.TellUpstream(frame, self._calls.sessions()))

    # Inside.

    def _mint(self) -> bytes:
        self._serial += 1
        return b"%d" % self._serial

    def _own_id(self, own_id: int, now_s: float) -> bytes:
        id = self._mint()
        self._own[id] = _Own(own_id, now_s + OWN_S_MAX)
        return id

    def _is_open(self, id: bytes) -> bool:
        return id in self._own or self._calls.find(id) is not None

    def _write(self, id: bytes, request: e.WriteFrame, effects: list[LedgerEffect]) -> None:
        """Write a request, or hold it back: before the handshake nothing else may be said."""
        if self._ready:
            effects.append(request)
        else:
            self._held[id] = request

    def _sweep(self, now_s: float, effects: list[LedgerEffect]) -> None:
        self._calls.sweep(now_s, effects)
        for id, own in list(self._own.items()):
            if own.deadline_s > now_s:
                continue
            del self._own[id]
            if own.own_id == _HANDSHAKE:
                effects.append(e.GiveUp("the server did not answer initialize in time"))
                continue
            effects.append(e.TellOwnAnswered(own.own_id, reason=Reason.UPSTREAM_TIMEOUT))
            if self._ready:
                effects.append(e.WriteFrame(jsonrpc_rewrite.cancelled(id)))
        self._held = {id: held for id, held in self._held.items() if self._is_open(id)}

    def _finish(self, effects: list[LedgerEffect]) -> None:
        self._note_ends(effects)
        if not self._armed and (len(self._calls) or self._own):
            self._generation += 1
            self._armed = True
            effects.append(e.WakeSweep(SWEEP_INTERVAL_S, self._generation))
        asked = any(own.own_id != _HANDSHAKE for own in self._own.values())
        if self._draining and not self._drained and not len(self._calls) and not asked:
            self._drained = True
            effects.append(e.AnnounceDrained())

    def _note_ends(self, effects: list[LedgerEffect]) -> None:
        if not self._announces_ends:
            return
        ended: list[LedgerEffect] = []
        for effect in effects:
            match effect:
                case (
                    e.AnswerCall(call_id) | e.FailCall(call_id) | e.RefuseCall(call_id)
                    | e.EndCall(call_id)
                ):
                    ended.append(e.TellCallEnded(call_id))
                case e.EmitToCall(call_id, final=True):
                    ended.append(e.TellCallEnded(call_id))
        effects += ended


def _described(result: bytes) -> m.ServerDescribed | None:
    try:
        version = msgspec.json.decode(result, type=_Described).protocolVersion
    except msgspec.ValidationError:
        return None
    return m.ServerDescribed(result, version) if version in SESSION_VERSIONS else None
