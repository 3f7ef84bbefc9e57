"""Owns a listening socket whose connections speak TLS.

Accepts like any other; the handshake is for the greenlet that serves the connection, which is why a
peer that stalls in it holds up nobody.
"""

from __future__ import annotations

import _socket
import ssl

from proxy_actors.transports.deadlines import DeadlineSweep
from proxy_actors.transports.listener import SocketListener, Spawn
from proxy_actors.transports.socket_stream import SocketStream
from proxy_actors.transports.tls_stream import TlsStream
from proxy_actors.world.base import ByteStream


class TlsListener(SocketListener):
    """A `Listener` whose streams need a handshake.

    Args:
        sweep, listening, spawn, kept: see `SocketListener`.
        context: made by `tls_context.server_context`.
    """

    def __init__(
        self,
        sweep: DeadlineSweep,
        listening: _socket.socket,
        spawn: Spawn,
        context: ssl.SSLContext,
        kept: bool = False,
    ) -> None:
        super().__init__(sweep, listening, spawn, kept)
        self._context = context

    def _wrap(self, stream: SocketStream) -> ByteStream:
        return TlsStream(stream, self._context)
