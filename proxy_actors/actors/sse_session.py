"""One session at a server of HTTP+SSE: a channel of one event stream and the POSTs beside it.

The session lives as long as its stream (2024-11-05 basic/transports, "HTTP with SSE"). It cannot be
resumed: when the stream ends, by whatever cause, so does everything, and to end the session is to
close the stream. In a drain that is done as soon as no call runs on it.
"""

from __future__ import annotations

from typing import Any

from proxy_actors.actors.channel import Channel
from proxy_actors.errors import ProxyActorsError, Reason
from proxy_actors.messages import stdio as m


class SseSession(Channel):
    """The actor of one session."""

    ended_reason = Reason.SESSION_LOST
    has_ended = "the upstream's session has ended"
    was_stopped = "the session has ended"
    does_not_read = "the upstream does not accept what it is sent"

    def _receive(self, message: Any) -> None:  # Any: see Channel
        match message:
            case m.ChannelEnded(reason, text):
                if not self._gone:
                    self._ended(reason, text)
            case m.EndChannel():
                self.on_stop_requested()
            case _:
                raise ProxyActorsError(f"{self.name} does not understand {type(message).__name__}")

    def _begin_end(self) -> None:
        self._ended(Reason.SESSION_LOST, self.was_stopped)

    def _drained(self) -> None:
        self._ended(Reason.DRAINING, "the upstream is being drained")
