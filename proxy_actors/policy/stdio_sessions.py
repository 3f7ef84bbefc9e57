"""The sessions that share children: who hears of what, and what the children are told for all.

Owns each session's log level, subscriptions and standalone stream. A child has one log level and
one set of subscriptions for everybody, so it gets the most verbose level that any session wants and
the union of their URIs (MCP-N-7), and each session is shown its own part:

- `*/list_changed` goes to every session, `resources/updated` to the subscribers of the resource, a
  log message to the only session there is, at its level or above, if no call of an ended session
  may still run; it could be anybody's otherwise.
- `logging/setLevel`, `resources/subscribe` and `resources/unsubscribe` are answered when the
  children have answered; a URI that somebody has subscribed to already, or still is, is answered
  here.
- what a session's stream is not open for is kept once a kind, and given to it when it opens.

A session wants something from when it asks for it, and has it from the answer. Whatever the order
of asks, answers and ends, the children are told in the end what is wanted and nothing else. A child
that has been started anew is told it again, and every session hears that the lists may have
changed. `actors/stdio_shared.py` is the shell.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import assert_never

import msgspec

from proxy_actors.errors import INVALID_PARAMS, Executed, Reason
from proxy_actors.messages import stdio as m
from proxy_actors.messages import stdio_effects as e
from proxy_actors.messages.sessions import Session, SessionEnded
from proxy_actors.messages.stdio_effects import SharedSessionsEffect
from proxy_actors.policy.stdio_asks import Ask, ChildrenAsks
from proxy_actors.policy.stdio_exclusive import LOG_MESSAGE
from proxy_actors.protocol import jsonrpc_rewrite
from proxy_actors.protocol.jsonrpc import Message
from proxy_actors.protocol.revisions import SET_LEVEL, SUBSCRIBE, UNSUBSCRIBE

LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
UPDATED = "notifications/resources/updated"
HANDLED_HERE = frozenset({SET_LEVEL, SUBSCRIBE, UNSUBSCRIBE})
LIST_CHANGED = (
    "notifications/tools/list_changed",
    "notifications/prompts/list_changed",
    "notifications/resources/list_changed",
)
MISSED_MAX = 64
MISSED_BYTES_MAX = 65_536
SUBSCRIPTIONS_MAX = 1000
# A longer URI is looked for as it is; all parts of a very long one would take a very long time.
PARTED_CHARACTERS_MAX = 4096
# Mail of a session may still be on its way when the session has ended; its key never comes back.
ENDED_MAX = 1000

SharedSessionsMessage = (
    m.SubmitCall | m.AbandonCall | m.OpenStandalone | m.NotificationReceived | m.OwnAnswered
    | m.ProcessReady | m.ProcessGone | m.SessionSeen | SessionEnded
)  # fmt: skip


class _Session:
    __slots__ = ("level", "missed", "stream_open", "uris")

    def __init__(self) -> None:
        self.level: str | None = None
        self.uris: set[str] = set()
        self.stream_open = False
        self.missed: dict[tuple[str | None, str], bytes] = {}


class SharedSessionsPolicy:
    """Decides for the sessions of one upstream with so many `children`."""

    def __init__(self, children: int) -> None:
        self._children = children
        self._starts = 0
        self._asks = ChildrenAsks()
        self._sessions: dict[str, _Session] = {}
        self._ended: dict[str, None] = {}
        self._subscribers: dict[str, dict[str, None]] = {}

    @property
    def sessions(self) -> int:
        """How many sessions are known."""
        return len(self._sessions)

    def knows(self, session_key: str) -> bool:
        """Whether it has heard of a session, and not of its end."""
        return session_key in self._sessions

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
                self._asks.abandon(call_id)
            case m.OpenStandalone(session_key, owner):
                self._open(session_key, owner, effects)
            case m.NotificationReceived(frame, sessions):
                self._notified(frame, sessions, effects)
            case m.OwnAnswered():
                ask = self._asks.answered(message)
                if ask is not None:
                    self._finish(ask, effects)
            case m.SessionSeen(session):
                self._seen(session, effects)
            case m.ProcessReady(child, described):
                if described is not None:
                    self._became_ready(child, effects)
            case m.ProcessGone(child):
                for ask in self._asks.gone(child):
                    self._finish(ask, effects)
            case SessionEnded(session):
                self._end(session.key, effects)
            case _:
                assert_never(message)
        return effects

    # From clients.

    def _seen(self, seen: Session, effects: list[SharedSessionsEffect]) -> None:
        if seen.key in self._ended or seen.key in self._sessions:
            return
        session = self._sessions[seen.key] = _Session()
        session.level = seen.log_level if seen.log_level in LEVELS else None
        for uri in seen.subscriptions:
            if uri not in self._subscribers:
                self._asks.tell(SUBSCRIBE, uri, effects)
            self._record(seen.key, uri)
        self._settle_level(effects)

    def _submit(
        self, submit: m.SubmitCall, effects: list[SharedSessionsEffect]
    ) -> None:
        method, key = submit.request.method, submit.session_key
        session = self._sessions.get(key)
        uri = submit.request.uri() or ""
        if session is None:
            text = "the session has ended"
            effects.append(e.FailOwn(submit.call_id, Reason.SESSION_LOST, text, Executed.NO))
        elif method == SET_LEVEL:
            level = _level(submit.request)
            if level is not None:
                told = min(self._levels(other_than=key) | {level}, key=LEVELS.index)
                self._ask(submit, level, told, effects)
            else:
                self._refuse(submit, "params.level must be a log level", effects)
        elif method == UNSUBSCRIBE:
            self._unsubscribe(submit, uri, effects)
        elif uri not in session.uris and len(session.uris) >= SUBSCRIPTIONS_MAX:
            self._refuse(submit, "too many subscriptions", effects)
        elif uri in self._subscribers:
            self._record(key, uri)
            self._answer_here(submit, effects)
        else:
            self._ask(submit, uri, uri, effects)

    def _unsubscribe(
        self, submit: m.SubmitCall, uri: str, effects: list[SharedSessionsEffect]
    ) -> None:
        self._sessions[submit.session_key].uris.discard(uri)
        self._forget(submit.session_key, uri)
        self._asks.withdraw(submit.session_key, uri)
        if self._asks.possible and self._is_superfluous(uri):
            self._ask(submit, uri, uri, effects)
        else:
            self._settle_uri(uri, effects)
            self._answer_here(submit, effects)

    def _open(
        self, session_key: str, owner: str, effects: list[SharedSessionsEffect]
    ) -> None:
        session = self._sessions.get(session_key)
        if session is None:
            effects.append(e.RefuseSessionStream())
        elif session.stream_open:
            effects.append(e.JoinSessionStream(session_key))
        else:
            session.stream_open = True
            effects.append(e.StartSessionStream(session_key, owner))
            for data in session.missed.values():
                effects.append(e.EmitToSessionStream(session_key, data))
            session.missed.clear()

    def _end(self, session_key: str, effects: list[SharedSessionsEffect]) -> None:
        self._ended[session_key] = None
        if len(self._ended) > ENDED_MAX:
            del self._ended[next(iter(self._ended))]
        session = self._sessions.pop(session_key, None)
        if session is None:
            return
        if session.stream_open:
            effects.append(e.CloseSessionStream(session_key))
        for uri in session.uris:
            self._forget(session_key, uri)
        withdrawn = self._asks.withdraw(session_key)
        for uri in sorted(session.uris | withdrawn):
            self._settle_uri(uri, effects)
        self._settle_level(effects)

    # From children.

    def _notified(
        self, frame: Message, sessions: frozenset[str], effects: list[SharedSessionsEffect]
    ) -> None:
        uri = frame.uri() or ""
        keys = self._concerned(frame, uri, sessions)
        for key in keys:
            session = self._sessions[key]
            if session.stream_open:
                effects.append(e.EmitToSessionStream(key, frame.raw))
            elif frame.method != LOG_MESSAGE and _has_room(session, frame):
                session.missed[frame.method, uri] = frame.raw
            else:
                effects.append(e.DropFrame("notification without a stream to its client"))
        if not keys:
            effects.append(e.DropFrame("notification that concerns nobody"))

    def _concerned(self, frame: Message, uri: str, at_work_for: frozenset[str]) -> list[str]:
        if frame.method == UPDATED:
            found = (self._subscribers.get(part, {}) for part in _parts(uri))
            return list(dict.fromkeys(key for subscribers in found for key in subscribers))
        if frame.method in LIST_CHANGED:
            return list(self._sessions)
        if len(self._sessions) != 1 or not at_work_for <= self._sessions.keys():
            return []  # it may be another's, whose session may have ended
        ((key, session),) = self._sessions.items()
        level = _level(frame) if frame.method == LOG_MESSAGE else None
        if session.level is None or level is None:
            return [key]
        return [key] if LEVELS.index(level) >= LEVELS.index(session.level) else []

    def _became_ready(self, child: str, effects: list[SharedSessionsEffect]) -> None:
        """Tell a child what it has to know; when it is not the first, its lists may be others."""
        pending = {ask.value for ask in self._asks.pending(SUBSCRIBE)}
        uris = sorted(self._subscribers.keys() | pending)
        level = min(self._levels(), key=LEVELS.index, default=None)
        self._asks.became_ready(child, level, uris, effects)
        if self._starts >= self._children:
            for key, session in self._sessions.items():
                for method in LIST_CHANGED:
                    data = jsonrpc_rewrite.notification(method)
                    if session.stream_open:
                        effects.append(e.EmitToSessionStream(key, data))
                    else:
                        session.missed[method, ""] = data
        self._starts += 1

    # Inside.

    def _ask(
        self, submit: m.SubmitCall, value: str, told: str, effects: list[SharedSessionsEffect]
    ) -> None:
        """Ask the children for a session; they are told `told` where it has said `value`."""
        if self._asks.possible:
            self._asks.ask(submit, value, told, effects)
        else:
            reason, text = Reason.UPSTREAM_UNAVAILABLE, "no server process is ready"
            effects.append(e.FailOwn(submit.call_id, reason, text, Executed.NO))

    def _finish(self, ask: Ask, effects: list[SharedSessionsEffect]) -> None:
        if ask.result is not None and not ask.withdrawn:
            if ask.method == SUBSCRIBE:
                self._record(ask.session_key, ask.value)
            elif ask.method == SET_LEVEL:
                self._sessions[ask.session_key].level = ask.value
        if ask.call_id is not None:
            effects.append(ask.outcome(ask.call_id))
        self._settle_uri(ask.value, effects)
        self._settle_level(effects)

    def _settle_uri(self, uri: str, effects: list[SharedSessionsEffect]) -> None:
        """Unsubscribe from what nobody wants; if it failed, it may have failed at some only."""
        if self._is_superfluous(uri):
            self._asks.tell(UNSUBSCRIBE, uri, effects)

    def _settle_level(self, effects: list[SharedSessionsEffect]) -> None:
        """Have the children log what is wanted now."""
        level = min(self._levels(), key=LEVELS.index, default=None)
        if level is not None and level != self._asks.told_level:
            self._asks.tell(SET_LEVEL, level, effects)

    def _is_superfluous(self, uri: str) -> bool:
        return uri in self._asks.told_uris and not self._is_wanted(uri)

    def _is_wanted(self, uri: str) -> bool:
        pending = self._asks.pending(SUBSCRIBE)
        return uri in self._subscribers or any(ask.value == uri for ask in pending)

    def _levels(self, other_than: str = "") -> set[str]:
        """Return the levels that sessions have and those that they have asked for."""
        levels = {
            session.level
            for key, session in self._sessions.items()
            if session.level is not None and key != other_than
        }
        asked = self._asks.pending(SET_LEVEL)
        return levels | {ask.value for ask in asked if ask.session_key != other_than}

    def _record(self, session_key: str, uri: str) -> None:
        self._sessions[session_key].uris.add(uri)
        self._subscribers.setdefault(uri, {})[session_key] = None

    def _forget(self, session_key: str, uri: str) -> None:
        subscribers = self._subscribers.get(uri, {})
        subscribers.pop(session_key, None)
        if not subscribers:
            self._subscribers.pop(uri, None)

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


def _level(message: Message) -> str | None:
    """Read the level of the params; None where there is none that is known."""
    try:
        level = msgspec.json.decode(message.params["level"], type=str)
    except (KeyError, msgspec.ValidationError):
        return None
    return level if level in LEVELS else None


def _has_room(session: _Session, frame: Message) -> bool:
    few = len(session.missed) < MISSED_MAX or frame.method in LIST_CHANGED
    return few and len(frame.raw) <= MISSED_BYTES_MAX


def _parts(uri: str) -> Iterator[str]:
    """Yield the URI, and what it may be a part of: a server may name what is within a resource."""
    yield uri
    if len(uri) <= PARTED_CHARACTERS_MAX:
        for place, character in enumerate(uri):
            if character == "/":
                yield uri[:place]
                yield uri[: place + 1]
