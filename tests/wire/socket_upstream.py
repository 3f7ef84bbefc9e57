"""The scripted server on real sockets: a thread for each connection.

No time is waited for: a `pause` of a script lasts until the test says `resume`, however many
seconds it names; unless the server is meant to be slow.
"""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Callable

from tests.legacy_server import STREAM, LegacyServer, LegacySession
from tests.scripted_server import ScriptedServer
from tests.scripted_streams import Link, Resumption, Signal
from tests.wire.waiting import PATIENCE_S, eventually


class SocketLink(Link):
    """A connection of the scripted server."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection

    def receive(self) -> bytes:
        try:
            return self._socket.recv(65_536)
        except OSError as error:  # closed by another thread is as good as reset
            raise ConnectionError from error

    def send(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise ConnectionError from error

    def close(self) -> None:
        self._socket.close()

    def vanish(self) -> None:
        self._socket.close()

    def departed(self) -> bool:
        try:
            flags = socket.MSG_PEEK | socket.MSG_DONTWAIT
            return not socket.socket.recv(self._socket, 1, flags)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def cut(self) -> None:
        """End the connection under whoever waits on it."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it has ended already

    def reset(self) -> None:
        try:
            linger = struct.pack("ii", 1, 0)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        except OSError:
            pass  # it has ended already
        self._socket.close()


class TlsLink(SocketLink):
    """A connection that speaks TLS, from the first use on."""

    def __init__(self, connection: socket.socket, context: ssl.SSLContext) -> None:
        self._tls = context.wrap_socket(
            connection,
            server_side=True,
            do_handshake_on_connect=False,
            suppress_ragged_eofs=False,
        )
        super().__init__(self._tls)

    def close(self) -> None:
        """Say close_notify, and do not wait for the peer's."""
        try:
            self._tls.setblocking(False)
            self._tls.unwrap()
        except (OSError, ValueError):
            pass  # it has ended already, or its peer says nothing for now
        self._tls.close()

    def cut(self) -> None:
        try:
            socket.socket.shutdown(self._tls, socket.SHUT_RDWR)
        except OSError:
            pass  # it has ended already


class OldLink(SocketLink):
    """A connection that may be ended by other threads than the one that reads it."""

    def close(self) -> None:
        self.cut()
        super().close()

    def reset(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_RD)  # nothing is sent, but the reader wakes
        except OSError:
            pass  # it has ended already
        super().reset()


class ThreadSignal(Signal):
    """An event under another name."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        self._event.set()

    def wait(self, seconds: float) -> bool:
        return self._event.wait(seconds)


class SocketUpstream:
    """A scripted server that listens at `url`. A context manager: its threads end with it.

    Args:
        sessions: whether it hands out session ids.
        standalone: whether it offers GET streams.
        listening: a bound socket to listen on; None makes one.
        slow: whether a pause lasts as long as it says.
        tls: how to speak TLS, if at all.
        resumption: how clients come back to its streams, if they can.
    """

    def __init__(
        self,
        sessions: bool = True,
        standalone: bool = True,
        listening: socket.socket | None = None,
        slow: bool = False,
        tls: ssl.SSLContext | None = None,
        resumption: Resumption | None = None,
    ) -> None:
        self._slow = slow
        self._tls = tls
        self._resumed = threading.Event()
        self.server = ScriptedServer(
            self._pause, ThreadSignal, sessions, standalone, self._spawn, resumption
        )
        self._listening = listening or socket.create_server(("127.0.0.1", 0))
        self._listening.listen()
        self.port: int = self._listening.getsockname()[1]
        self._links: dict[SocketLink, threading.Thread] = {}
        self._scripts: list[threading.Thread] = []
        self._acceptor = threading.Thread(target=self._accept)

    @property
    def url(self) -> str:
        scheme = "http" if self._tls is None else "https"
        return f"{scheme}://127.0.0.1:{self.port}/mcp"

    @property
    def accepted(self) -> int:
        """How many connections there have been."""
        return len(self._links)

    def __enter__(self) -> SocketUpstream:
        self._acceptor.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._acceptor.join(PATIENCE_S)
        self._listening.close()
        self.resume()
        for session in self.server.sessions.values():
            session.end_streams()
        for thread in self._scripts:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()
        for link, thread in self._links.items():
            link.cut()
            thread.join(PATIENCE_S)
            assert not thread.is_alive()

    def wait_for(self, n: object) -> None:
        """Return once request `n` is being executed."""
        eventually(lambda: self.server.executions[n])

    def resume(self) -> None:
        """End the pauses of the scripts, those to come as well."""
        self._resumed.set()

    def hold(self) -> None:
        """Have the pauses to come last until `resume`."""
        self._resumed.clear()

    def _pause(self, seconds: float) -> None:
        self._resumed.wait(seconds if self._slow else PATIENCE_S)

    def _spawn(self, function: Callable[[], None]) -> None:
        thread = threading.Thread(target=function)
        self._scripts.append(thread)
        thread.start()

    def _link(self, connection: socket.socket) -> SocketLink:
        return SocketLink(connection) if self._tls is None else TlsLink(connection, self._tls)

    def _serve(self, link: SocketLink) -> None:
        self.server.serve(link)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            link = self._link(connection)
            thread = threading.Thread(target=self._serve, args=(link,))
            self._links[link] = thread
            thread.start()


class OldUpstream(SocketUpstream):
    """A server of HTTP+SSE, whose stream is at `url`; see `SocketUpstream`."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(tls=tls)
        self.old = LegacyServer(self._pause, ThreadSignal, self._spawn)

    @property
    def url(self) -> str:
        return super().url.removesuffix("/mcp") + STREAM

    @property
    def session(self) -> LegacySession:
        """The session that was opened last."""
        return eventually(lambda: self.old.sessions and self.old.session)

    def wait_for(self, n: object) -> None:
        eventually(lambda: self.old.executions[n])

    def _link(self, connection: socket.socket) -> SocketLink:
        return OldLink(connection) if self._tls is None else TlsLink(connection, self._tls)

    def _serve(self, link: SocketLink) -> None:
        self.old.serve(link)
