"""Runs the proxy as a process: guardian, world, actor tree, signals, drain, exit status.

Owns the order of starting and stopping. The guardian is launched before anything large is imported.
Nothing is monkey-patched: everything that waits does so through the world, and logging and SQLite
are at home in real threads and locks.

A listening socket that a service manager has bound is taken from it (sd_listen_fds(3)).

Signals: TERM and INT drain and then exit 0, a second one exits at once; USR2 writes the actor tree
to the log; HUP is ignored until there is a configuration to read again.
"""

from __future__ import annotations

import os

from proxy_actors.transports.guardian_launch import launch

# isort: split
import logging
import resource
import signal
import sys
from collections.abc import Callable
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

from proxy_actors.errors import DeadlineError
from proxy_actors.options import RunOptions

if TYPE_CHECKING:
    from proxy_actors.transports.log_queue import LogQueue

# What a hand-over may take beyond the listener's own bound.
HAND_OVER_GRACE_S = 1.0
DRAIN_S_MAX = 30.0
STOP_S_MAX = 12.0
LOG_S_MAX = 0.2
FAILED = 1
CONFIGURATION = 78

logger = logging.getLogger("proxy_actors.service")


def run(options: RunOptions) -> int:
    """Serve until stopped; return the exit status.

    Raises:
        ConfigurationError: the options cannot be served.
    """
    guardian = launch() if options.url is None else None  # a file may name commands
    _allow_descriptors()
    os.environ.setdefault("GEVENT_RESOLVER", "ares")
    from proxy_actors import logs

    logs.install(options.logging_ini, options.log_level)
    from proxy_actors.transports import log_queue

    queue = log_queue.install()
    status = FAILED
    try:
        status = _Service(options, guardian, queue).run()
        return status
    finally:
        if not queue.drain():
            # Whoever waits for a blocked destination holds locks that the interpreter's end needs.
            os._exit(status)


def _allow_descriptors() -> None:
    """Raise the soft limit of open files to the hard one: the bounds on connections are our own.

    The soft limit is low for programs that use select(2). Children of the guardian, launched before
    this, keep it.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class _Service:
    """One run. It is the root supervisor's parent: its mailbox is a list and a waiter."""

    def __init__(
        self,
        options: RunOptions,
        guardian: tuple[int, int] | None,
        log: LogQueue,
    ) -> None:
        from gevent import get_hub

        from proxy_actors.app import App
        from proxy_actors.config.quick import config_of
        from proxy_actors.options import StreamKeep
        from proxy_actors.storage.open import open_store, open_stream_store
        from proxy_actors.transports.activation import inherited_listener
        from proxy_actors.transports.cycles import CycleWatch
        from proxy_actors.transports.guardian_client import GuardianClient
        from proxy_actors.transports.heap import HeapTrimmer, keep_large_out
        from proxy_actors.transports.stall_watch import StallWatch
        from proxy_actors.transports.store_thread import StoreThread
        from proxy_actors.transports.stream_store_thread import StreamStoreThread
        from proxy_actors.world.gevent_world import GeventWorld

        keep_large_out()
        self._options = options
        self._write_log = log.drain
        self._guardian = None if guardian is None else GuardianClient(*guardian)
        self._world = GeventWorld(
            self._guardian, lambda: log.dropped_total, inherited_listener(os.environ)
        )
        config, told = config_of(options, os.environ)
        if told:
            print(told, file=sys.stderr)
        self._config = config
        state_dir, streams = config.state_dir or None, config.streams
        self._store = open_store(state_dir, StoreThread)
        self._streams = None
        if streams.store is StreamKeep.SQLITE:
            self._streams = open_stream_store(
                state_dir, streams.age_s_max, streams.bytes_total_max, self._world.wall_s,
                StreamStoreThread,
            )
        self._date = _DateField(self._world.wall_s)
        self._app = App(
            self._world, config, self._store, self._date, dict(os.environ), self._streams
        )
        self._stalls = StallWatch(get_hub().loop)
        self._cycles = CycleWatch(
            get_hub().loop, lambda: self._world.process_figures().rss_bytes
        )
        self._heap = HeapTrimmer()
        self._mail: list[Any] = []  # Any: whatever the tree tells its parent
        self._waiter = self._world.waiter()
        self._stops = 0

    # The root's parent.

    def tell(self, message: Any) -> bool:  # Any: see _mail
        """Take mail of the tree, or of a signal."""
        self._mail.append(message)
        self._waiter.set()
        return True

    def run(self) -> int:
        """Start the tree, wait for its end or a signal, stop it."""
        from proxy_actors.messages.lifecycle import ChildStopped
        from proxy_actors.messages.supervision import SupervisorReady

        self._watch_signals()
        self._app.start(self)
        while True:
            message = self._next(float("inf"))
            match message:
                case SupervisorReady():
                    self._cycles.begin()
                    self._announce()
                case ChildStopped():
                    return self._gave_up(message)
                case "stop":
                    return self._stop()
                case "dump":
                    self._world.spawn("dump", self._app.dump)

    def _next(self, deadline_s: float) -> Any:  # Any: see _mail
        if not self._mail:
            self._waiter = self._world.waiter()
            self._waiter.wait(deadline_s)
        return self._mail.pop(0)

    def _stop(self) -> int:
        """Drain: refuse new work, let running calls end, stop the tree, flush, exit.

        Where the socket is kept for the next process, nothing is refused before it has it.
        """
        from proxy_actors.messages.lifecycle import ChildStopped
        from proxy_actors.messages.server import ListenerHandedOver
        from proxy_actors.transports.http_server import HAND_OVER_S_MAX

        if self._app.hand_over():
            seconds = HAND_OVER_S_MAX + HAND_OVER_GRACE_S
            logger.info("handing_over seconds_max=%d", seconds)
            self._wait_for(lambda mail: isinstance(mail, ListenerHandedOver), seconds)
        logger.info("draining seconds_max=%d", DRAIN_S_MAX)
        self._app.drain()
        drained = self._wait_for(self._app.is_drained, DRAIN_S_MAX)
        logger.info("drained complete=%s", drained)
        self._app.stop()
        stopped = self._wait_for(lambda mail: isinstance(mail, ChildStopped), STOP_S_MAX)
        self._close()
        return 0 if stopped else FAILED

    def _wait_for(self, condition: Callable[[Any], bool], seconds: float) -> bool:  # Any: _mail
        deadline_s = self._world.now_s() + seconds
        try:
            while not condition(self._next(deadline_s)):
                pass
        except DeadlineError:
            return False
        return True

    def _gave_up(self, stopped: Any) -> int:  # Any: a ChildStopped, imported lazily
        """The tree has ended by itself: a supervisor's budget is spent, or it cannot start."""
        from proxy_actors.messages.lifecycle import StopReason

        if self._write_log(LOG_S_MAX):  # or standard error may be what is blocked
            print(f"proxy-actors: {stopped.error}", file=sys.stderr)
        self._close()
        return CONFIGURATION if stopped.reason is StopReason.CONFIGURATION else FAILED

    def _close(self) -> None:
        self._stalls.close()
        self._cycles.close()
        self._heap.close()
        self._store.close(self._world.now_s() + STOP_S_MAX)
        if self._streams is not None:
            self._streams.close(self._world.now_s() + STOP_S_MAX)
        if self._guardian is not None:
            self._guardian.close()

    def _watch_signals(self) -> None:
        import gevent

        def stop() -> None:
            self._stops += 1
            if self._stops > 1:
                logger.warning("stopped_at_once")
                self._write_log(LOG_S_MAX)
                os._exit(FAILED)  # children end with the guardian, whose socket closes with us
            self.tell("stop")

        gevent.signal_handler(signal.SIGTERM, stop)
        gevent.signal_handler(signal.SIGINT, stop)
        gevent.signal_handler(signal.SIGUSR2, lambda: self.tell("dump"))
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def _announce(self) -> None:
        """Print every URL and a line to try, for people; the log says the same for machines."""
        address = self._app.address()
        host = f"[{address[0]}]" if ":" in address[0] else address[0]
        base = f"{self._app.scheme}://{host}:{address[1]}"
        body = (
            '{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":'
            '"2025-11-25","capabilities":{},"clientInfo":{"name":"curl","version":"1"}}}'
        )
        others = [name for name in self._config.upstreams if len(self._config.upstreams) > 1]
        lines = (
            f"MCP endpoint  {base}/mcp",
            *(f"              {base}/mcp/{name}" for name in others),
            f"HTTP+SSE      {base}/sse  (for clients of 2024-11-05)",
            *(f"              {base}/sse/{name}" for name in others),
            f"health        {base}/health  (also {base}/admin/health)",
            f"readiness     {base}/ready",
            "",
            "Try it:",
            f"curl -s -w '\\n' {base}/mcp -H 'Content-Type: application/json'"
            f" -H 'Accept: application/json, text/event-stream' -d '{body}'",
        )
        self._write_log(LOG_S_MAX)  # what was logged before stands before, where both are shown
        print("\n".join(lines), flush=True)


class _DateField:
    """The present value of the Date field (RFC 9110 section 6.6.1), made once a second."""

    def __init__(self, wall_s: Callable[[], float]) -> None:
        self._wall_s = wall_s
        self._second = 0
        self._value = b""

    def __call__(self) -> bytes:
        second = int(self._wall_s())
        if second != self._second:
            self._second = second
            self._value = formatdate(second, usegmt=True).encode("ascii")
        return self._value
