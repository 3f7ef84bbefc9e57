"""The listener of clients: serves a bound socket, counts and bounds connections, drains.

The socket is bound before the tree of actors is started, so that it outlives a crash of this actor:
connections then wait in the kernel until the next incarnation serves them. Each is served by a
greenlet of its own through `gateway/handle.py`; this actor never reads or writes one.
"""

from __future__ import annotations

import logging

from proxy_actors.actors.base import Actor
from proxy_actors.actors.refs import Slot
from proxy_actors.errors import (
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
from proxy_actors.messages.lifecycle import Stop
from proxy_actors.messages.server import ConnectionEnded, DrainServer, ServerDrained
from proxy_actors.world.base import ByteStream, Listener, World

REFUSE_S_MAX = 1.0
# How long calls that a stop has cut short may take to be answered.
ANSWER_S_MAX = 1.0

logger = logging.getLogger("proxy_actors.server")


class HttpServer(Actor):
    """Serves one listening socket; `listener` is bound already."""

    def __init__(self, world: World, slot: Slot, listener: Listener, wiring: Wiring) -> None:
        super().__init__(world, slot.name)
        self._listener = listener
        self._wiring = wiring
        self._clients = wiring.clients
        self._stopping = False

    def on_start(self) -> None:
        """Serve, unless a drain has begun."""
        if self._wiring.draining:
            self._drain()
            return
        self._listener.serve(self._accept)
        logger.info("listening host=%s port=%d", *self._listener.address)

    def on_receive(self, message: DrainServer | ConnectionEnded) -> None:
        """Drain, or see whether the drain is done."""
        if isinstance(message, DrainServer):
            self._drain()
        else:
            self._report()

    def on_stop_requested(self) -> None:
        """Stop when every connection has ended; a second time, or after a while, at once."""
        if self._stopping or not self._clients:
            self.stop()
            return
        self._stopping = self._wiring.draining = True
        self._listener.close()
        self._clients.close_idle()
        self.world.timer(ANSWER_S_MAX, self.ref, Stop())

    def on_stop(self) -> None:
        """Accept no more, end every connection."""
        self._listener.close()
        self._clients.close_all()

    def on_crash(self) -> None:
        """Have connections wait for the next incarnation; those that are served go on."""
        self._listener.pause()

    def describe(self) -> dict[str, object]:
        """State for operators."""
        return {"connections": len(self._clients), "draining": self._wiring.draining}

    def _drain(self) -> None:
        self._listener.close()
        self._clients.close_idle()
        self._report()

    def _report(self) -> None:
        if self._clients:
            return
        if self._stopping:
            self.stop()
        elif self.parent is not None:
            self.parent.tell(ServerDrained())

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
            stream.handshake(self.world.now_s() + REFUSE_S_MAX)
            write_response(stream, rescue.respond(error, None, ""), None, self._wiring, True)
            stream.close_lingering(self.world.now_s() + REFUSE_S_MAX)
        except (StreamClosedError, DeadlineError):
            pass  # it did not wait for its refusal
        finally:
            stream.close()
