"""The listener of clients: binds, counts and bounds connections, ends them in a drain.

Owns the listening socket. Each connection is served by a greenlet of its own through
`gateway/handle.py`; this actor never reads or writes one.
"""

from __future__ import annotations

import logging

from proxy_actors.actors.base import Actor
from proxy_actors.actors.refs import Slot
from proxy_actors.errors import (
    ConfigurationError,
    ConnectError,
    DeadlineError,
    FailedError,
    Reason,
    Side,
    StreamClosedError,
)
from proxy_actors.gateway import rescue
from proxy_actors.gateway.handle import ClientConnection
from proxy_actors.gateway.relay import write_response
from proxy_actors.gateway.wiring import Wiring
from proxy_actors.messages.server import ConnectionEnded, DrainServer, ServerDrained
from proxy_actors.world.base import ByteStream, Listener, World

REFUSE_S_MAX = 1.0

logger = logging.getLogger("proxy_actors.server")


class HttpServer(Actor):
    """Serves one listening address."""

    def __init__(self, world: World, slot: Slot, host: str, port: int, wiring: Wiring) -> None:
        super().__init__(world, slot.name)
        self._host = host
        self._port = port
        self._wiring = wiring
        self._clients = wiring.clients
        self._listener: Listener | None = None

    @property
    def address(self) -> tuple[str, int] | None:
        """The bound host and port; None before and after."""
        return None if self._listener is None else self._listener.address

    def on_start(self) -> None:
        """Bind, unless a drain has begun.

        Raises:
            ConfigurationError: the address cannot be bound.
        """
        if self._wiring.draining:
            self._report()
            return
        try:
            self._listener = self.world.listen(self._host, self._port, self._accept)
        except ConnectError as error:
            raise ConfigurationError(str(error)) from error
        logger.info("listening address=%s:%d", *self._listener.address)

    def on_receive(self, message: DrainServer | ConnectionEnded) -> None:
        """Drain, or see whether the drain is done."""
        if isinstance(message, DrainServer):
            self._close_listener()
            self._clients.close_idle()
        self._report()

    def on_stop(self) -> None:
        """Accept no more, end every connection."""
        self._close_listener()
        self._clients.close_all()

    def on_crash(self) -> None:
        """Accept no more; connections go on, the next incarnation binds anew."""
        self._close_listener()

    def describe(self) -> dict[str, object]:
        """State for operators."""
        return {"connections": len(self._clients), "draining": self._wiring.draining}

    def _report(self) -> None:
        if not self._clients and self.parent is not None:
            self.parent.tell(ServerDrained())

    def _close_listener(self) -> None:
        if self._listener is not None:
            self._listener.close()

    def _accept(self, stream: ByteStream) -> None:
        """Serve one connection, in its own greenlet, from accept to close."""
        if not self._clients.has_room(stream.peer):
            self._refuse(stream)
            return
        connection = ClientConnection(stream, self._wiring)
        self._clients.enter(connection, stream.peer)
        try:
            connection.serve()
        finally:
            self._clients.leave(connection)
            if self._wiring.draining:
                self.slot.tell(ConnectionEnded())

    def _refuse(self, stream: ByteStream) -> None:
        text = "too many connections"
        error = FailedError(
            Reason.OVERLOADED, text, side=Side.PROXY, retry_after_s=1.0, close=True
        )
        try:
            write_response(stream, rescue.respond(error, None, ""), None, self._wiring, True)
            stream.close_lingering(self.world.now_s() + REFUSE_S_MAX)
        except (StreamClosedError, DeadlineError):
            pass  # it did not wait for its refusal
        finally:
            stream.close()
