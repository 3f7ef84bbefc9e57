"""One client of the HTTP+SSE transport: its stream, its session, what is being served for it.

Owns the name of who reads the stream, the session that it holds, and the count of requests under
way. It forwards nothing and writes nothing. `actors/legacy_stream.py` is its shell.

Rules. The stream is the session (MCP-L-5): when its reader leaves, what is being served for it is
cancelled and the session ends, and when the session ends, so does the stream. There is one session,
opened by the one `initialize` on it; a stream without one does not stay. Its message endpoint works
for its own principal at its own upstream, and to all others there is none (MCP-Z-1). In a drain the
stream ends as soon as nothing is being served, so that no client is cut off from an answer.
"""

from __future__ import annotations

from typing import assert_never

from proxy_actors.messages import legacy as m
from proxy_actors.messages.legacy import LegacyRefusal, LegacyStreamEffect, LegacyStreamMessage
from proxy_actors.messages.stream import CloseStream, Subscribe, Unsubscribe

# How long a stream stays without a session. Clients initialize as soon as they know where to.
OPENING_S_MAX = 60.0
# Requests that are served at once for one client, which no connection of its own bounds.
REQUESTS_MAX = 100


class LegacyStreamPolicy:
    """Decides for one stream.

    Args:
        principal: whose it is.
        upstream: the upstream's configured name.
        requests_max: how many requests are served at once.
    """

    def __init__(
        self, principal: str, upstream: str, requests_max: int = REQUESTS_MAX
    ) -> None:
        self._requests_max = requests_max
        self._principal = principal
        self._upstream = upstream
        self._reader: int | None = None
        self._requests: dict[int, int] = {}
        self._opening: int | None = None
        self._front_id = ""
        self._session_key = ""
        self._draining = False
        self._over = False

    @property
    def requests(self) -> int:
        """How many requests are being served."""
        return sum(self._requests.values())

    @property
    def session_key(self) -> str:
        """The session that the stream holds; "" when it holds none."""
        return self._session_key

    def begin(self) -> list[LegacyStreamEffect]:
        """Start the clock."""
        return [m.WakeOpening(OPENING_S_MAX)]

    def handle(self, message: LegacyStreamMessage) -> list[LegacyStreamEffect]:
        """Apply one message and return what is to be done, in order."""
        match message:
            case Subscribe(reader):
                if self._reader is not None or self._over:
                    return [m.RefuseLegacy(LegacyRefusal.READ)]
                self._reader = reader
            case Unsubscribe(reader):
                return self._end() if reader == self._reader else []
            case m.FindSession(principal, upstream):
                ours = (principal, upstream) == (self._principal, self._upstream)
                if self._over or not ours or self._reader is None:
                    return [m.RefuseLegacy(LegacyRefusal.UNKNOWN)]
                return [m.AnswerFound(self._front_id, self._reader)]
            case m.BeginRequests():
                return self._begin_requests(message)
            case m.EndRequest(exchange_id):
                return self._end_request(exchange_id)
            case m.SessionOpened(front_id, session_key):
                if self._over or self._session_key:
                    return [m.AnswerHeld(False)]
                self._front_id, self._session_key = front_id, session_key
                return [m.TellHeld(session_key), m.AnswerHeld(True)]
            case CloseStream():
                return self._end()
            case m.DrainLegacy():
                self._draining = True
                return self._end_if_drained()
            case m.OpeningDue():
                if self._opening is not None:
                    return [m.WakeOpening(OPENING_S_MAX)]
                return [] if self._session_key else self._end()
            case _:
                assert_never(message)
        return []

    def _begin_requests(self, begin: m.BeginRequests) -> list[LegacyStreamEffect]:
        if self._over:
            return [m.RefuseLegacy(LegacyRefusal.UNKNOWN)]
        if self._draining:
            return [m.RefuseLegacy(LegacyRefusal.DRAINING)]
        if begin.opens_session:
            if self._session_key or self._opening is not None:
                return [m.RefuseLegacy(LegacyRefusal.INITIALIZED)]
            self._opening = begin.exchange_id
        elif self.requests + begin.requests > self._requests_max:
            return [m.RefuseLegacy(LegacyRefusal.BUSY)]
        self._requests[begin.exchange_id] = begin.requests
        return []

    def _end_request(self, exchange_id: int) -> list[LegacyStreamEffect]:
        left = self._requests.pop(exchange_id, 0) - 1
        if left > 0:
            self._requests[exchange_id] = left
        if exchange_id == self._opening:
            self._opening = None
        return self._end_if_drained()

    def _end_if_drained(self) -> list[LegacyStreamEffect]:
        return self._end() if self._draining and not self._requests else []

    def _end(self) -> list[LegacyStreamEffect]:
        return [] if self._over else self.leave()

    def leave(self) -> list[LegacyStreamEffect]:
        """End, however far it has come with that before: a crash may have cut it short."""
        self._over = True
        effects: list[LegacyStreamEffect] = []
        if self._reader is not None:
            effects.append(m.EndReader(self._reader))
        if self._requests:
            effects.append(m.CancelRequests())
        effects.append(m.LeaveSession(self._session_key))
        return effects
