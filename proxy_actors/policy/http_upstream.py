"""What one HTTP upstream knows of its streams and of being reachable.

Owns the index from sessions and request ids to streams, and the readiness of the upstream. It moves
no bytes. `actors/http_upstream.py` is its shell.
"""

from __future__ import annotations

from typing import assert_never

from proxy_actors.messages import http_upstream as m
from proxy_actors.messages.http_upstream import HttpUpstreamEffect, HttpUpstreamMessage
from proxy_actors.messages.sessions import EndReason, SessionEnded
from proxy_actors.messages.stream import RequestOpened

PROBE_INTERVAL_S = 5.0


class _Stream:
    __slots__ = ("call_id", "open_requests", "session_key")

    def __init__(self, session_key: str, call_id: bytes | None) -> None:
        self.session_key = session_key
        self.call_id = call_id
        self.open_requests: set[bytes] = set()


class HttpUpstreamPolicy:
    """Decides for one HTTP upstream."""

    def __init__(self) -> None:
        self._streams: dict[str, _Stream] = {}
        self._standalone: dict[str, str | None] = {}
        self._by_call: dict[tuple[str, bytes], str] = {}
        self._by_request: dict[tuple[str, bytes], str] = {}
        self._generation = 0
        self.reached: bool | None = None

    def reserve_standalone(self, session_key: str) -> bool:
        """Reserve the session's one standalone stream; False when it is taken (MCP-S-28)."""
        if session_key in self._standalone:
            return False
        self._standalone[session_key] = None
        return True

    def enter_stream(self, stream: str, session_key: str, call_id: bytes | None) -> None:
        """Enter a stream that has been started; without a call it is the standalone one."""
        self._streams[stream] = _Stream(session_key, call_id)
        if call_id is None:
            self._standalone[session_key] = stream
        else:
            self._by_call[session_key, call_id] = stream

    def begin(self) -> list[HttpUpstreamEffect]:
        """Find out whether the upstream can be reached."""
        return [m.Probe()]

    def handle(self, message: HttpUpstreamMessage) -> list[HttpUpstreamEffect]:
        """Apply one message and return what is to be done, in order."""
        match message:
            case RequestOpened(stream, id):
                self._request_opened(stream, id)
            case m.ClientAnswered(session_key, request_id):
                return self._answered(session_key, request_id)
            case m.ClientCancelled(session_key, request_id):
                stream_name = self._by_call.get((session_key, request_id))
                return [] if stream_name is None else [m.TellCancelled(stream_name)]
            case m.ReleaseStandalone(session_key):
                if self._standalone.get(session_key, "") is None:
                    del self._standalone[session_key]
            case m.StreamStopped(stream):
                self._stopped(stream)
            case SessionEnded():
                return self._session_ended(message)
            case m.UpstreamReached(ok):
                return self._reached(ok)
            case m.ProbeDue(generation):
                return [m.Probe()] if generation == self._generation else []
            case _:
                assert_never(message)
        return []

    def streams(self) -> int:
        """Count the streams that stand."""
        return len(self._streams)

    def _request_opened(self, name: str, request_id: bytes) -> None:
        stream = self._streams.get(name)
        if stream is not None:
            stream.open_requests.add(request_id)
            self._by_request[stream.session_key, request_id] = name

    def _answered(self, session_key: str, request_id: bytes) -> list[HttpUpstreamEffect]:
        name = self._by_request.pop((session_key, request_id), None)
        if name is None:
            return []
        self._streams[name].open_requests.discard(request_id)
        return [m.TellAnswered(name, request_id)]

    def _stopped(self, name: str) -> None:
        stream = self._streams.pop(name, None)
        if stream is None:
            return
        key = stream.session_key
        for request_id in stream.open_requests:
            self._by_request.pop((key, request_id), None)
        if stream.call_id is None:
            if self._standalone.get(key) == name:
                del self._standalone[key]
        elif self._by_call.get((key, stream.call_id)) == name:
            del self._by_call[key, stream.call_id]

    def _session_ended(self, ended: SessionEnded) -> list[HttpUpstreamEffect]:
        session = ended.session
        effects: list[HttpUpstreamEffect] = [
            m.TellClose(name)
            for name, stream in self._streams.items()
            if stream.session_key == session.key
        ]
        if session.upstream_session_id is not None and ended.reason is not EndReason.LOST:
            effects.append(m.DeleteUpstreamSession(session.upstream_session_id, session.version))
        return effects

    def _reached(self, ok: bool) -> list[HttpUpstreamEffect]:
        self.reached = ok
        if ok:
            return []
        # The newest failure starts the wait anew: however many fail, one probe an interval.
        self._generation += 1
        return [m.WakeForProbe(PROBE_INTERVAL_S, self._generation)]
