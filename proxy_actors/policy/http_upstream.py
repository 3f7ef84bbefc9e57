"""What one HTTP upstream knows of its streams and of being reachable.

Owns the index from sessions and request ids to streams, who may open a session's one standalone
stream, and the readiness of the upstream. It moves no bytes. `actors/http_upstream.py` is its
shell.

In a drain calls run to their end. A standalone stream has no end of its own, so it is closed as
soon as no stream of its session carries a call: until then a call may ask its client on it. Who
has missed some of a stream that is over cannot come back for it in a drain.
"""

from __future__ import annotations

from typing import assert_never

from proxy_actors.errors import ConnectFault
from proxy_actors.messages import http_upstream as m
from proxy_actors.messages.http_upstream import HttpUpstreamEffect, HttpUpstreamMessage
from proxy_actors.messages.pool import PoolDrained
from proxy_actors.messages.sessions import EndReason, Session, SessionEnded
from proxy_actors.messages.stream import RequestOpened, StreamAbandoned, StreamOver
from proxy_actors.messages.upstream import DrainUpstream
from proxy_actors.policy.renewals import Renewals

PROBE_INTERVAL_S = 5.0


class _Session:
    """What is open of one session.

    `standalone` is the name of the standalone stream, or who is opening it. `streams` are the
    others, in the order of their start; the indices find one by the client's request that it
    answers, and any by the server's request that came on it. `over` are those on which nothing will
    happen any more. Once the session has `ended`, no standalone stream may stand.
    """

    __slots__ = ("by_call", "by_request", "ended", "over", "standalone", "streams")

    def __init__(self) -> None:
        self.standalone: str | int | None = None
        self.streams: dict[str, bytes] = {}
        self.by_call: dict[bytes, str] = {}
        self.by_request: dict[bytes, str] = {}
        self.over: dict[str, None] = {}
        self.ended = False

    def end(self, stream: str) -> None:
        """Forget what a stream carried. Idempotent."""
        if self.standalone == stream:
            self.standalone = None
        call_id = self.streams.pop(stream, None)
        # Clients may use an id twice at once; then the stream is found by it that came last.
        if call_id is not None and self.by_call.get(call_id) == stream:
            del self.by_call[call_id]
        for request_id in [x for x, name in self.by_request.items() if name == stream]:
            del self.by_request[request_id]


class HttpUpstreamPolicy:
    """Decides for one HTTP upstream."""

    def __init__(self) -> None:
        self._sessions: dict[str, _Session] = {}
        self._session_of: dict[str, str] = {}
        self._renewals = Renewals()
        self._news: dict[str, tuple[bytes, ...]] = {}
        self._probing = False
        self._draining = self._pool_drained = self._drained = False
        self._generation = 0
        self.reached: bool | None = None
        self.fault: ConnectFault | None = None

    def begin(self) -> list[HttpUpstreamEffect]:
        """Find out whether the upstream can be reached."""
        return self._probe()

    def standing(self, session_key: str) -> str | None:
        """Name the session's standalone stream, if it stands."""
        session = self._sessions.get(session_key)
        name = None if session is None else session.standalone
        return name if isinstance(name, str) else None

    def reserve_standalone(self, session_key: str, exchange_id: int) -> bool:
        """Reserve the session's one standalone stream; False when it is taken (MCP-S-28)."""
        session = self._sessions.setdefault(session_key, _Session())
        if session.standalone is not None:
            return session.standalone == exchange_id
        session.standalone = exchange_id
        return True

    def enter_standalone(self, stream: str, session_key: str) -> list[HttpUpstreamEffect]:
        """Enter a standalone stream that has been reserved and started."""
        self._session_of[stream] = session_key
        session = self._sessions[session_key]
        session.standalone = stream
        if session.ended:  # while it was being opened
            return [m.TellClose(stream)]
        news = [m.TellNews(stream, data) for data in self._news.pop(session_key, ())]
        return [*news, *self._close_if_draining(session_key)]

    def enter_call(self, stream: str, session_key: str, call_id: bytes) -> None:
        """Enter the stream of a call that has been started."""
        session = self._sessions.setdefault(session_key, _Session())
        self._session_of[stream] = session_key
        session.streams[stream] = call_id
        session.by_call[call_id] = stream

    def renew(self, session: Session, ask_id: int) -> list[HttpUpstreamEffect]:
        """Have a session opened anew that the server does not know; `ask_id` hears of it."""
        return self._renewals.ask(session, ask_id)

    def handle(self, message: HttpUpstreamMessage) -> list[HttpUpstreamEffect]:
        """Apply one message and return what is to be done, in order."""
        match message:
            case RequestOpened(stream, id):
                key = self._session_of.get(stream)
                if key is not None:
                    self._sessions[key].by_request[id] = stream
            case m.ClientAnswered(session_key, request_id):
                return self._answered(session_key, request_id)
            case m.ClientCancelled(session_key, request_id):
                return self._cancelled(session_key, request_id)
            case m.ReleaseStandalone(session_key, exchange_id):
                self._release(session_key, exchange_id)
            case StreamAbandoned():
                return self._probe()  # the streams of a server that can be reached may fail
            case StreamOver(stream):
                return self._over(stream)
            case m.StreamStopped(stream):
                return self._stopped(stream)
            case SessionEnded():
                return self._session_ended(message)
            case m.UpstreamReached():
                return self._reached(message)
            case m.ProbeDue(generation):
                return self._probe() if generation == self._generation else []
            case m.RenewalEnded():
                return self._renewed(message)
            case PoolDrained():
                self._pool_drained = True
                return self._finish_drain()
            case DrainUpstream():
                return self._drain()
            case _:
                assert_never(message)
        return []

    def streams(self) -> list[str]:
        """Name the streams that stand."""
        return list(self._session_of)

    def _answered(self, session_key: str, request_id: bytes) -> list[HttpUpstreamEffect]:
        session = self._sessions.get(session_key)
        stream = None if session is None else session.by_request.pop(request_id, None)
        return [] if stream is None else [m.TellAnswered(stream, request_id)]

    def _cancelled(self, session_key: str, request_id: bytes) -> list[HttpUpstreamEffect]:
        session = self._sessions.get(session_key)
        stream = None if session is None else session.by_call.get(request_id)
        return [] if stream is None else [m.TellCancelled(stream)]

    def _release(self, session_key: str, exchange_id: int) -> None:
        session = self._sessions.get(session_key)
        if session is not None and session.standalone == exchange_id:
            session.standalone = None
            self._forget_if_empty(session_key, session)

    def _over(self, stream: str) -> list[HttpUpstreamEffect]:
        key = self._session_of.get(stream)
        if key is None:
            return []
        session = self._sessions[key]
        session.end(stream)
        session.over[stream] = None
        return [
            *self._close_over(session), *self._close_if_draining(key), *self._finish_drain()
        ]

    def _stopped(self, stream: str) -> list[HttpUpstreamEffect]:
        key = self._session_of.pop(stream, None)
        if key is None:
            return []
        session = self._sessions[key]
        session.end(stream)
        session.over.pop(stream, None)
        self._forget_if_empty(key, session)
        return [*self._close_if_draining(key), *self._finish_drain()]

    def _forget_if_empty(self, session_key: str, session: _Session) -> None:
        if session.standalone is None and not session.streams and not session.over:
            del self._sessions[session_key]

    def _session_ended(self, ended: SessionEnded) -> list[HttpUpstreamEffect]:
        effects: list[HttpUpstreamEffect] = []
        key, upstream_id = ended.session.key, ended.session.upstream_session_id
        self._renewals.forget(key)
        self._news.pop(key, None)
        session = self._sessions.get(key)
        if session is not None:
            session.ended = True
            effects += [m.TellClose(stream) for stream in (*session.streams, *session.over)]
            if isinstance(session.standalone, str):
                effects.append(m.TellClose(session.standalone))
        if upstream_id is not None and ended.reason is not EndReason.LOST:
            effects.append(m.DeleteUpstreamSession(upstream_id, ended.session.version))
        return effects

    def _renewed(self, outcome: m.RenewalEnded) -> list[HttpUpstreamEffect]:
        effects = self._renewals.ended(outcome)
        stream = self.standing(outcome.key)
        if outcome.session is None or not outcome.news:
            return effects
        if stream is None:
            self._news[outcome.key] = outcome.news
            return effects
        news = [m.TellNews(stream, data) for data in outcome.news]
        return [*effects, *news, m.TellBreak(stream)]

    def _drain(self) -> list[HttpUpstreamEffect]:
        self._draining = True
        effects: list[HttpUpstreamEffect] = []
        for session_key, session in self._sessions.items():
            effects += self._close_over(session)
            effects += self._close_if_draining(session_key)
        return effects

    def _finish_drain(self) -> list[HttpUpstreamEffect]:
        """A call may run without a connection, while its stream waits to be opened anew."""
        if not self._pool_drained or self._drained:
            return []
        if any(session.streams for session in self._sessions.values()):
            return []
        self._drained = True
        return [m.AnnounceDrained()]

    def _probe(self) -> list[HttpUpstreamEffect]:
        if self._probing:
            return []
        self._probing = True
        return [m.Probe()]

    def _close_over(self, session: _Session) -> list[HttpUpstreamEffect]:
        return [m.TellClose(stream) for stream in session.over] if self._draining else []

    def _close_if_draining(self, session_key: str) -> list[HttpUpstreamEffect]:
        session = self._sessions.get(session_key)
        if self._draining and session is not None and not session.streams:
            if isinstance(session.standalone, str):
                return [m.TellClose(session.standalone)]
        return []

    def _reached(self, outcome: m.UpstreamReached) -> list[HttpUpstreamEffect]:
        effects: list[HttpUpstreamEffect] = []
        ok = outcome.ok
        self._probing = False
        changed = self.reached is not ok and (self.reached is not None or not ok)
        another_fault = outcome.fault is not None and outcome.fault is not self.fault
        if changed or another_fault:
            effects.append(m.ReportReach(ok, outcome.why))
        self.reached = ok
        if ok or another_fault:  # who does not know the cause does not take it away
            self.fault = outcome.fault
        if not ok:
            # The newest failure starts the wait anew: however many fail, one probe an interval.
            self._generation += 1
            effects.append(m.WakeForProbe(PROBE_INTERVAL_S, self._generation))
        return effects
