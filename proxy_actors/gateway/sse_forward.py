"""Carries exchanges to a server of HTTP+SSE, or finds out that a server is one.

Each client session has a session of its own there (`gateway/sse_pipes.py`), whatever transport its
client speaks. Where it is not configured what a server speaks, Streamable HTTP is tried first:
only a refusal of `initialize` as an old server would refuse it has the old transport tried
(2025-11-25 basic/transports, "Backwards Compatibility"; MCP-D-5, D-6).
"""

from __future__ import annotations

from collections.abc import Callable

from proxy_actors.actors.directory import Directory
from proxy_actors.actors.refs import Slot
from proxy_actors.errors import Executed, FailedError, GatewayError, Reason
from proxy_actors.gateway.channel_forward import ChannelForwarder
from proxy_actors.gateway.exchange import Exchange
from proxy_actors.gateway.forwarder import Forwarder
from proxy_actors.gateway.handshake import Handshake
from proxy_actors.gateway.http_forward import HttpForwarder
from proxy_actors.gateway.response import Response
from proxy_actors.gateway.sse_pipes import SseServer
from proxy_actors.messages.sessions import Session
from proxy_actors.world.base import World

# How a server that has no Streamable HTTP refuses a POST.
_OLD = frozenset({400, 404, 405})


class SseForwarder(ChannelForwarder):
    """Carries exchanges to one server of HTTP+SSE.

    Args:
        slot: the parent of the sessions at the server.
        channels: these sessions by name.
        server: what is known of it.
    """

    def __init__(
        self,
        world: World,
        slot: Slot,
        channels: Directory,
        server: SseServer,
        handshake: Handshake,
        registry: Slot,
    ) -> None:
        super().__init__(world, server.upstream, slot, channels, handshake, registry)
        self.server = server
        self._names = f"{slot.name}/"

    def has(self, session: Session) -> bool:
        """Whether the session is, or was, one at this server by this transport."""
        return session.endpoint.startswith(self._names)

    def _submit(
        self, target: Slot, exchange: Exchange, session_key: str, deadline_s: float
    ) -> Response:
        clients = self.server.clients
        clients[exchange.id] = exchange
        try:
            return super()._submit(target, exchange, session_key, deadline_s)
        finally:
            del clients[exchange.id]

    def _gone(self, executed: Executed = Executed.NO) -> FailedError:
        text = "the session has ended: initialize anew"
        return FailedError(
            Reason.SESSION_LOST, text, executed=executed, upstream=self.upstream, retryable=False
        )


class DetectingForwarder(Forwarder):
    """Carries exchanges to a server of which it is to be found out which transport it speaks.

    Streamable HTTP pays nothing for that: until a session of HTTP+SSE has been begun, `call` and
    the others are those of its forwarder.
    """

    def __init__(self, http: HttpForwarder, sse: SseForwarder) -> None:
        self.upstream = http.upstream
        self._http = http
        self._sse = sse
        self.call = http.call  # type: ignore[method-assign]  # see the class
        self.post = http.post  # type: ignore[method-assign]
        self.open_standalone = http.open_standalone  # type: ignore[method-assign]

    def initialize(self, exchange: Exchange) -> Response:
        """Open a session by the transport that was found; else, find it."""
        server = self._sse.server
        known = server.recognized
        if known:
            try:
                return self._sse.initialize(exchange)
            except GatewayError:
                if server.recognized:
                    raise
        try:
            return self._http.initialize(exchange)
        except GatewayError as refused:
            if known or refused.bare_status not in _OLD:
                raise
            self._tell_sessions_apart()
            try:
                return self._sse.initialize(exchange)
            except GatewayError as error:
                if server.recognized:
                    raise
                raise refused from error

    def call(self, exchange: Exchange) -> Response:
        """Forward a request by the transport of its session."""
        return self._of(exchange).call(exchange)

    def post(self, exchange: Exchange) -> None:
        """Forward a notification or a response by the transport of its session."""
        self._of(exchange).post(exchange)

    def open_standalone(self, exchange: Exchange) -> Response:
        """Open the session's standalone event stream by the transport of the session."""
        return self._of(exchange).open_standalone(exchange)

    def take_over(self, session: Session, deadline_s: float) -> Session:
        """Open a session here that was at another endpoint: by Streamable HTTP alone."""
        return self._http.take_over(session, deadline_s)

    def watch_tools(self, changed: Callable[[], None]) -> None:
        """Hear of it on the event streams of Streamable HTTP."""
        self._http.watch_tools(changed)

    def watch_streams(self, failed: Callable[[], None]) -> None:
        """Hear of those of both transports."""
        self._http.watch_streams(failed)
        self._sse.watch_streams(failed)

    def _of(self, exchange: Exchange) -> Forwarder:
        return self._sse if self._sse.has(exchange.in_session()) else self._http

    def _tell_sessions_apart(self) -> None:
        for name in ("call", "post", "open_standalone"):
            self.__dict__.pop(name, None)
