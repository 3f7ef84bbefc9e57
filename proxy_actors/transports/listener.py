"""Owns a listening socket and its accept loop.

Connections are accepted in bounded batches by the loop itself, each then served by a greenlet of
its own; while nobody serves, they wait in the kernel. Out of descriptors, the listener neither
spins nor leaves peers hanging: it gives up a descriptor kept in reserve, closes what is queued, and
rests. Never reads a byte of a connection.
"""

from __future__ import annotations

import _socket
import errno
import os
from collections.abc import Callable
from typing import Any

from proxy_actors.errors import ConnectError
from proxy_actors.transports.deadlines import DeadlineSweep
from proxy_actors.transports.fd_stream import READABLE
from proxy_actors.transports.keepalive import detect_vanished_peer
from proxy_actors.transports.socket_stream import SocketStream
from proxy_actors.world.base import ByteStream

ACCEPT_BATCH = 64
# The kernel lowers it to net.core.somaxconn.
BACKLOG = 4096
EXHAUSTED_REST_S = 0.1

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_INET = frozenset({_socket.AF_INET, _socket.AF_INET6})

Spawn = Callable[[str, Callable[[], None]], object]


class SocketListener:
    """A `Listener`.

    Args:
        sweep: where the waits of its connections are watched over.
        listening: bound and listening; taken over.
        spawn: runs a function in a greenlet under an owner's name.
        kept: whether another process holds it too.

    Attributes:
        kept: see `Listener.kept`.
    """

    def __init__(
        self, sweep: DeadlineSweep, listening: _socket.socket, spawn: Spawn, kept: bool = False
    ) -> None:
        self.kept = kept
        self._sweep = sweep
        self._socket = listening
        # Not socket.accept(), whose sockets are of the patched type in a patched process. The type
        # stubs leave it out.
        self._accept = listening._accept  # type: ignore[attr-defined]
        self._spawn = spawn
        self._serve: Callable[[ByteStream], None] | None = None
        self._reserve_fd = _open_reserve()
        self._rest: Any = None  # Any: gevent has no type hints
        # Linux hands these options down to every socket accepted, which saves a call for each.
        listening.setblocking(False)
        if listening.family in _INET:
            listening.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
            detect_vanished_peer(listening)
        name = listening.getsockname()
        self._address = (str(name[0]), int(name[1])) if isinstance(name, tuple) else (str(name), 0)
        self._owner = f"connection to port {self._address[1]}"
        self._watcher = sweep.loop.io(listening.fileno(), READABLE)

    @property
    def address(self) -> tuple[str, int]:
        """See `Listener.address`; the path and 0 for a Unix socket."""
        return self._address

    def serve(self, accept: Callable[[ByteStream], None]) -> None:
        """See `Listener.serve`."""
        if self._watcher is None:
            return
        self.pause()
        self._serve = accept
        self._watcher.start(self._on_readable)

    def pause(self) -> None:
        """See `Listener.pause`."""
        if self._watcher is not None:
            self._watcher.stop()
            self._end_rest()

    def close(self) -> None:
        """See `Listener.close`."""
        if self._watcher is None:
            return
        if self._watcher.active and not self.kept:
            self._on_readable()  # or the kernel resets who has come since the last look
        self.pause()
        self._watcher.close()
        self._watcher = None
        self._socket.close()
        if self._reserve_fd is not None:
            os.close(self._reserve_fd)

    def _on_readable(self) -> None:
        for _ in range(ACCEPT_BATCH):
            try:
                fd, name = self._accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._shed()
                    return
                continue  # that connection was gone before it was accepted: accept(2)
            self._start(self._wrap(self._stream(fd, name)))

    def _wrap(self, stream: SocketStream) -> ByteStream:
        """For listeners whose connections speak more than TCP."""
        return stream

    def _start(self, stream: ByteStream) -> None:
        serve = self._serve
        assert serve is not None

        def run() -> None:
            try:
                serve(stream)
            except BaseException:
                # Nobody else is known to own it, and the loop would hold it open for ever.
                stream.close()
                raise

        self._spawn(self._owner, run)

    def _stream(self, fd: int, name: Any) -> SocketStream:  # Any: depends on the family
        listening = self._socket
        connection = _socket.socket(listening.family, listening.type, listening.proto, fd)
        connection.setblocking(False)
        return SocketStream(self._sweep, connection, name[0] if isinstance(name, tuple) else "unix")

    def _shed(self) -> None:
        """Close what is queued with the descriptor in reserve, then rest.

        A queue that nobody can accept stays readable, so the watcher must not run meanwhile.
        """
        if self._reserve_fd is not None:
            os.close(self._reserve_fd)
            try:
                for _ in range(ACCEPT_BATCH):
                    os.close(self._accept()[0])
            except OSError:
                pass  # the queue is empty, or another took the descriptor
        self._reserve_fd = _open_reserve()
        self._watcher.stop()
        self._rest = self._sweep.loop.timer(EXHAUSTED_REST_S)
        self._rest.start(self._resume, update=True)

    def _end_rest(self) -> None:
        if self._rest is not None:
            self._rest.stop()
            self._rest.close()
            self._rest = None

    def _resume(self) -> None:
        self._end_rest()
        if self._reserve_fd is None:
            self._reserve_fd = _open_reserve()
        self._watcher.start(self._on_readable)


def bind(host: str, port: int) -> _socket.socket:
    """Bind a listening TCP socket to an IPv4 or IPv6 address or a name; 0 takes a free port.

    "::" means all IPv6 addresses and no IPv4 ones, as an address says nothing but itself.

    Raises:
        ConnectError: it cannot be bound; the text says why and how to mend it.
    """
    try:
        found = _socket.getaddrinfo(
            host, port, 0, _socket.SOCK_STREAM, _socket.IPPROTO_TCP, _socket.AI_PASSIVE
        )
        family, kind, proto, _, address = found[0]
        listening = _socket.socket(family, kind, proto)
    except (OSError, ValueError, OverflowError) as error:
        raise ConnectError(f"cannot listen on {host!r} port {port}: {_reason(error)}") from error
    try:
        listening.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
        if family == _socket.AF_INET6:
            listening.setsockopt(_socket.IPPROTO_IPV6, _socket.IPV6_V6ONLY, 1)
        listening.bind(address)
        listening.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        listening.close()
        raise ConnectError(f"cannot listen on {host!r} port {port}: {_reason(error)}") from error
    return listening


def _open_reserve() -> int | None:
    try:
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None


def _reason(error: Exception) -> str:
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.EADDRINUSE:
        return "the port is in use; stop the process that listens on it or choose another port"
    if number == errno.EACCES:
        return "ports below 1024 need a privilege; choose another or grant CAP_NET_BIND_SERVICE"
    if number == errno.EADDRNOTAVAIL:
        return "this machine has no such address; choose one that it has, or 0.0.0.0 or ::"
    return getattr(error, "strerror", None) or str(error)
