"""Owns one connected stream socket.

The listener and the connector make these and hand them to the data plane. Speaks to the kernel
through the plain socket type, whether or not the process is monkey-patched: waiting is done by
`FdStream` alone.
"""

from __future__ import annotations

import _socket
from collections.abc import Callable

from proxy_actors.errors import DeadlineError, StreamClosedError
from proxy_actors.transports.deadlines import DeadlineSweep
from proxy_actors.transports.fd_stream import AHEAD_BYTES_MAX, FdStream

# Enough for a refused upload of tens of megabytes to end and its sender to see the answer.
LINGER_BYTES_MAX = 64 * 1024 * 1024


class SocketStream(FdStream):
    """A `ByteStream` over a connected socket, which it takes over.

    Args:
        sweep: where its waits are watched over.
        connection: a connected stream socket, non-blocking.
        peer: the peer's address without its port.
    """

    __slots__ = ("_socket",)

    def __init__(self, sweep: DeadlineSweep, connection: _socket.socket, peer: str) -> None:
        self._socket = connection
        super().__init__(sweep, connection, peer)

    def take_ahead(self) -> bytes:
        """Return what the loop has read ahead, b"" where that is nothing. Never waits."""
        return self._take_ahead(AHEAD_BYTES_MAX) if self._ahead else b""

    def on_ahead(self, callback: Callable[[], None]) -> None:
        """Have `callback` called by the loop soon after each time that bytes were read ahead."""
        self._on_ahead = callback

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Have the loop call `callback` once."""
        self._sweep.run_callback(callback)

    def close_lingering(self, deadline_s: float) -> None:
        """See `ByteStream.close_lingering`; at most `LINGER_BYTES_MAX` bytes are discarded."""
        discarded = 0
        try:
            self._socket.shutdown(_socket.SHUT_WR)
            while discarded < LINGER_BYTES_MAX:
                data = self.read(AHEAD_BYTES_MAX, deadline_s)
                if not data:
                    break
                discarded += len(data)
        except (DeadlineError, StreamClosedError, OSError):
            pass  # gone, late or closed meanwhile: all that is left is to close
        finally:
            self.close()
