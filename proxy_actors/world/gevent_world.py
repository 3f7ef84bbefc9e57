"""The real world: gevent's loop, the kernel's clocks and sockets, and the guardian's children.

Composes the adapters of `proxy_actors.transports` into the ports of `proxy_actors.world.base`. It
needs no monkey-patching and is indifferent to it. Everything runs in the thread of one hub; nothing
here may be called from another thread.
"""

from __future__ import annotations

import random
import secrets
import time
from _socket import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

import gevent

from proxy_actors.errors import SpawnError
from proxy_actors.messages.metrics import ProcessFigures
from proxy_actors.transports.child import spawn_child
from proxy_actors.transports.connector import Connector
from proxy_actors.transports.deadlines import DeadlineSweep, HubWaiter
from proxy_actors.transports.guardian_client import GuardianClient
from proxy_actors.transports.lag_watch import watch_lag
from proxy_actors.transports.listener import SocketListener, bind
from proxy_actors.transports.process_figures import process_figures
from proxy_actors.transports.tasks import TaskTable
from proxy_actors.transports.timers import TimerService
from proxy_actors.world.base import (
    ByteStream,
    Child,
    ChildCommand,
    ExitStatus,
    Listener,
    MetricSink,
    TlsClient,
    TlsServer,
)

if TYPE_CHECKING:
    from proxy_actors.transports.tls_connector import TlsConnector


class GeventWorld:
    """A `World` on the hub of the thread that makes it.

    Args:
        guardian: who starts children; without one `spawn_child` raises `SpawnError`.
        log_dropped: how many log records have been left out so far.
        inherited: a socket that the first listener has, instead of one that it binds.
    """

    def __init__(
        self,
        guardian: GuardianClient | None = None,
        log_dropped: Callable[[], int] = lambda: 0,
        inherited: socket | None = None,
    ) -> None:
        hub = gevent.get_hub()
        self._guardian = guardian
        self._log_dropped = log_dropped
        self._inherited = inherited
        self._sweep = DeadlineSweep(hub)
        self._timers = TimerService(hub.loop)
        self._tasks = TaskTable()
        self._connector = Connector(self._sweep, hub, self._tasks.spawn)
        self._tls: TlsConnector | None = None
        # The ports that add nothing to an adapter are the adapter's own.
        self.now_s = time.monotonic
        self.wall_s = time.time
        self.random = random.random
        self.timer = self._timers.start
        self.spawn = self._tasks.spawn
        self.spawn_in_turn = self._tasks.spawn_in_turn
        self.tasks = self._tasks.living

    def waiter(self) -> HubWaiter:
        """See `World.waiter`."""
        return HubWaiter(self._sweep)

    def token(self, random_bytes: int = 16) -> str:
        """See `World.token`."""
        return secrets.token_urlsafe(random_bytes)

    def may_inline(self) -> bool:
        """See `World.may_inline`: in production always, it is the cheaper way."""
        return True

    def listen(
        self,
        host: str,
        port: int,
        accept: Callable[[ByteStream], None] | None = None,
        tls: TlsServer | None = None,
    ) -> Listener:
        """See `World.listen`."""
        inherited, self._inherited = self._inherited, None
        listening = inherited or bind(host, port)
        kept = inherited is not None
        if tls is None:
            listener = SocketListener(self._sweep, listening, self._tasks.spawn, kept)
        else:
            listener = self._tls_listener(listening, tls, kept)
        if accept is not None:
            listener.serve(accept)
        return listener

    def prepare_tls(self, tls: TlsClient) -> None:
        """See `World.prepare_tls`."""
        self._tls_connector().prepare(tls)

    def connect(
        self, host: str, port: int, deadline_s: float, tls: TlsClient | None = None
    ) -> ByteStream:
        """See `World.connect`."""
        if tls is None:
            return self._connector.connect(host, port, deadline_s)
        return self._tls_connector().connect(host, port, deadline_s, tls)

    def open_metrics(self, host: str, port: int, prefix: str, deadline_s: float) -> MetricSink:
        """See `World.open_metrics`."""
        from proxy_actors.transports.statsd_sink import StatsdSink  # most runs do not need it

        return StatsdSink(self._connector.resolve(host, port, deadline_s), port, prefix)

    def process_figures(self) -> ProcessFigures:
        """See `World.process_figures`."""
        return process_figures(self._log_dropped())

    def watch_lag(self, every_s: float, on_look: Callable[[float], None]) -> Callable[[], None]:
        """See `World.watch_lag`."""
        return watch_lag(self._sweep.loop, every_s, on_look)

    def spawn_child(
        self,
        command: ChildCommand,
        deadline_s: float,
        on_exit: Callable[[ExitStatus], None],
    ) -> Child:
        """See `World.spawn_child`."""
        if self._guardian is None:
            raise SpawnError("cannot start a child: this process runs without a guardian")
        return spawn_child(self._guardian, self._sweep, command, deadline_s, on_exit)

    # Who speaks no TLS does not wait for its library to be imported.

    def _tls_listener(self, listening: socket, tls: TlsServer, kept: bool) -> SocketListener:
        from proxy_actors.transports.tls_context import server_context
        from proxy_actors.transports.tls_listener import TlsListener

        try:
            context = server_context(tls)
        except BaseException:
            listening.close()
            raise
        return TlsListener(self._sweep, listening, self._tasks.spawn, context, kept)

    def _tls_connector(self) -> TlsConnector:
        from proxy_actors.transports.tls_connector import TlsConnector

        if self._tls is None:
            self._tls = TlsConnector(self._connector)
        return self._tls
