"""The sessions that share children: who hears of what, and what the children are told for all.

Owns each session's log level, subscriptions and standalone stream. A child has one log level and
one set of subscriptions for everybody, so it gets the most verbose level that any session wants and
the union of their URIs, and each session is shown its own part:

- `*/list_changed` goes to every session, `resources/updated` to the subscribers of the resource, a
  log message to the only session there is, at its level or above; it could be anybody's otherwise.
- `logging/setLevel` and `resources/subscribe` are answered when the children have answered; a URI
  that somebody has subscribed to already, or still is, is answered here.
- what a session's stream is not open for is kept once a kind, and given to it when it opens.

When a child has been started anew it is told level and subscriptions again, and every session hears
that the lists may have changed. `actors/stdio_shared.py` is the shell.
"""

from __future__ import annotations

from typing import assert_never

import msgspec

from proxy_actors.errors import INVALID_PARAMS, Reason
from proxy_actors.messages import stdio as m
from proxy_actors.messages import stdio_effects as e
from proxy_actors.messages.sessions import SessionEnded
from proxy_actors.messages.stdio_effects import SharedSessionsEffect
from proxy_actors.policy.stdio_exclusive import LOG_MESSAGE
from proxy_actors.protocol import jsonrpc_rewrite
from proxy_actors.protocol.jsonrpc import Message

LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
SET_LEVEL = "logging/setLevel"
SUBSCRIBE = "resources/subscribe"
UNSUBSCRIBE = "resources/unsubscribe"
UPDATED = "notifications/resources/updated"
HANDLED_HERE = frozenset({SET_LEVEL, SUBSCRIBE, UNSUBSCRIBE})
LIST_CHANGED = (
    "notifications/tools/list_changed",
    "notifications/prompts/list_changed",
    "notifications/resources/list_changed",
)
MISSED_MAX = 64
SUBSCRIPTIONS_MAX = 1000

SharedSessionsMessage = (
    m.SubmitCall | m.AbandonCall | m.OpenStandalone | m.NotificationReceived | m.OwnAnswered
    | m.ProcessReady | m.SessionSeen | SessionEnded
)  # fmt: skip


class _Session:
    __slots__ = ("level", "missed", "stream_open", "uris")

    def __init__(self) -> None:
        self.level: str | None = None
        self.uris: set[str] = set()
        self.stream_open = False
        self.missed: dict[tuple[str | None, str | None], bytes] = {}


class _Own:
    """A client's request that the children are asked in the proxy's name."""

    __slots__ = ("call_id", "client_id", "method", "session_key", "value")

    def __init__(self, submit: m.SubmitCall, value: str) -> None:
        assert submit.request.id is not None and submit.request.method is not None
        self.call_id = submit.call_id
        self.client_id = submit.request.id
        self.session_key = submit.session_key
        self.method = submit.request.method
        self.value = value


class SharedSessionsPolicy:
    """Decides for the sessions of one upstream with so many `children`."""

    def __init__(self, children: int) -> None:
        self._children = children
        self._sessions: dict[str, _Session] = {}
        self._own: dict[int, _Own] = {}
        self._serial = 0
        self._starts: set[str] = set()

    @property
    def sessions(self) -> int:
        """How many sessions are known."""
        return len(self._sessions)

    def stream_open(self, session_key: str) -> bool:
        """Whether the session's standalone stream is open."""
        session = self._sessions.get(session_key)
        return session is not None and session.stream_open

    def stream_ended(self, session_key: str) -> None:
        """The session's standalone stream is over."""
        session = self._sessions.get(session_key)
        if session is not None:
            session.stream_open = False

    def handle(self, message: SharedSessionsMessage) -> list[SharedSessionsEffect]:
        """Apply one message and return what is to be done, in order."""
        effects: list[SharedSessionsEffect] = []
        match message:
            case m.SubmitCall():
                self._submit(message, effects)
            case m.AbandonCall(call_id):
                for own_id, own in list(self._own.items()):
                    if own.call_id == call_id:
                        del self._own[own_id]
            case m.OpenStandalone(session_key):
                self._open(session_key, effects)
            case m.NotificationReceived(frame):
                self._notified(frame, effects)
            case m.OwnAnswered():
                self._answered(message, effects)
            case m.SessionSeen(session_key):
                self._known(session_key)
            case m.ProcessReady(child):
                self._restore(child, effects)
            case SessionEnded(session):
                self._ended(session.key, effects)
            case _:
                assert_never(message)
        return effects

    # From clients.

    def _known(self, session_key: str) -> _Session:
        return self._sessions.setdefault(session_key, _Session())

    def _submit(
        self, submit: m.SubmitCall, effects: list[SharedSessionsEffect]
    ) -> None:
        session = self._known(submit.session_key)
        if submit.request.method == SET_LEVEL:
            level = _text(submit.request, "level")
            if level not in LEVELS:
                self._refuse(submit, "params.level must be a log level", effects)
                return
            wanted = self._level(other_than=submit.session_key)
            self._ask(submit, level, {"level": _most_verbose(wanted, level)}, effects)
            return
        uri = submit.request.uri() or ""
        others = any(
            uri in other.uris for key, other in self._sessions.items() if key != submit.session_key
        )
        if submit.request.method == SUBSCRIBE:
            if len(session.uris) >= SUBSCRIPTIONS_MAX:
                self._refuse(submit, "too many subscriptions", effects)
            elif others:
                session.uris.add(uri)
                self._answer_here(submit, effects)
            else:
                self._ask(submit, uri, {"uri": uri}, effects)
        elif others or uri not in session.uris:
            session.uris.discard(uri)
            self._answer_here(submit, effects)
        else:
            self._ask(submit, uri, {"uri": uri}, effects)

    def _open(self, session_key: str, effects: list[SharedSessionsEffect]) -> None:
        session = self._known(session_key)
        session.stream_open = True
        effects.append(e.StartSessionStream(session_key))
        for data in session.missed.values():
            effects.append(e.EmitToSessionStream(session_key, data))
        session.missed.clear()

    def _ended(self, session_key: str, effects: list[SharedSessionsEffect]) -> None:
        session = self._sessions.pop(session_key, None)
        if session is None:
            return
        if session.stream_open:
            effects.append(e.CloseSessionStream(session_key))
        still = {uri for other in self._sessions.values() for uri in other.uris}
        for uri in sorted(session.uris - still):
            effects.append(self._own_request(UNSUBSCRIBE, {"uri": uri}))

    # From children.

    def _notified(self, frame: Message, effects: list[SharedSessionsEffect]) -> None:
        uri = frame.uri() if frame.method == UPDATED else None
        delivered = False
        for key, session in self._sessions.items():
            if not self._concerns(session, frame, uri):
                continue
            delivered = True
            if session.stream_open:
                effects.append(e.EmitToSessionStream(key, frame.raw))
            elif frame.method == LOG_MESSAGE or len(session.missed) >= MISSED_MAX:
                effects.append(e.DropFrame("notification without a stream to its client"))
            else:
                session.missed[frame.method, uri] = frame.raw
        if not delivered:
            effects.append(e.DropFrame("notification that concerns nobody"))

    def _concerns(self, session: _Session, frame: Message, uri: str | None) -> bool:
        if uri is not None:
            return any(uri == wanted or uri.startswith(wanted + "/") for wanted in session.uris)
        if frame.method in LIST_CHANGED:
            return True
        if len(self._sessions) != 1:
            return False
        if frame.method != LOG_MESSAGE or session.level is None:
            return True
        level = _text(frame, "level")
        return level not in LEVELS or LEVELS.index(level) >= LEVELS.index(session.level)

    def _answered(self, answer: m.OwnAnswered, effects: list[SharedSessionsEffect]) -> None:
        own = self._own.pop(answer.own_id, None)
        if own is None:
            return
        if answer.result is not None:
            self._succeeded(own)
            data = jsonrpc_rewrite.result(own.client_id, msgspec.Raw(answer.result))
            effects.append(e.AnswerOwn(own.call_id, data))
        elif answer.error is not None:
            fault = msgspec.Raw(answer.error)
            effects.append(e.AnswerOwn(own.call_id, _error_response(own.client_id, fault)))
        else:
            text = "the server process ended before it answered"
            effects.append(e.FailOwn(own.call_id, Reason.PROCESS_EXITED, text))

    def _succeeded(self, own: _Own) -> None:
        session = self._sessions.get(own.session_key)
        if session is None:
            return
        if own.method == SET_LEVEL:
            session.level = own.value
        elif own.method == SUBSCRIBE:
            session.uris.add(own.value)
        else:
            session.uris.discard(own.value)

    def _restore(self, child: str, effects: list[SharedSessionsEffect]) -> None:
        """Tell a child what it has to know; when it is not the first, its lists may be others."""
        level = self._level()
        if level is not None:
            effects.append(self._own_request(SET_LEVEL, {"level": level}))
        for uri in sorted({uri for session in self._sessions.values() for uri in session.uris}):
            effects.append(self._own_request(SUBSCRIBE, {"uri": uri}))
        if len(self._starts) >= self._children:
            for key, session in self._sessions.items():
                for method in LIST_CHANGED:
                    data = jsonrpc_rewrite.notification(method)
                    if session.stream_open:
                        effects.append(e.EmitToSessionStream(key, data))
                    else:
                        session.missed[method, None] = data
        self._starts.add(child)

    # Inside.

    def _level(self, other_than: str = "") -> str | None:
        levels = [
            session.level
            for key, session in self._sessions.items()
            if session.level is not None and key != other_than
        ]
        return min(levels, key=LEVELS.index, default=None)

    def _ask(
        self,
        submit: m.SubmitCall,
        value: str,
        params: dict[str, str],
        effects: list[SharedSessionsEffect],
    ) -> None:
        assert submit.request.method is not None
        ask = self._own_request(submit.request.method, params)
        self._own[ask.own_id] = _Own(submit, value)
        effects.append(ask)

    def _own_request(self, method: str, params: dict[str, str]) -> e.AskChildren:
        self._serial += 1
        return e.AskChildren(self._serial, method, msgspec.json.encode(params))

    def _answer_here(
        self, submit: m.SubmitCall, effects: list[SharedSessionsEffect]
    ) -> None:
        assert submit.request.id is not None
        effects.append(e.AnswerOwn(submit.call_id, jsonrpc_rewrite.result(submit.request.id, {})))

    def _refuse(
        self, submit: m.SubmitCall, text: str, effects: list[SharedSessionsEffect]
    ) -> None:
        data = jsonrpc_rewrite.error(submit.request.id, INVALID_PARAMS, text)
        effects.append(e.AnswerOwn(submit.call_id, data))


def _text(message: Message, name: str) -> str:
    try:
        return msgspec.json.decode(message.params[name], type=str)
    except (KeyError, msgspec.ValidationError):
        return ""


def _most_verbose(one: str | None, other: str) -> str:
    return other if one is None else min(one, other, key=LEVELS.index)


def _error_response(id: bytes, fault: msgspec.Raw) -> bytes:
    return msgspec.json.encode({"jsonrpc": "2.0", "id": msgspec.Raw(id), "error": fault})
