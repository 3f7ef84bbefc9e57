"""The composition root: from options to a tree of actors.

    root (one for one)
      upstream          HTTP: its connection pool and its streams; stdio: its children and streams
      registry          the sessions
      server            the listener of clients

Owns nothing after it has built the tree; `service.py` runs it. The data plane is wired here with
the stable names of the actors that it asks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from proxy_actors.actors.connection_pool import ConnectionPool, ConnectionTable
from proxy_actors.actors.directory import Directory
from proxy_actors.actors.http_upstream import HttpUpstream
from proxy_actors.actors.refs import Ref, Slot
from proxy_actors.actors.root import Root
from proxy_actors.actors.session_registry import SessionRegistry
from proxy_actors.actors.session_uses import SessionUses
from proxy_actors.actors.stdio_shared import StdioShared
from proxy_actors.actors.stdio_upstream import StdioUpstream
from proxy_actors.actors.subscriber import Subscribers
from proxy_actors.actors.supervisor import Worker
from proxy_actors.errors import ActorStoppedError, DeadlineError, FailedError, MailboxFullError
from proxy_actors.gateway import rescue
from proxy_actors.gateway.forwarder import Forwarder
from proxy_actors.gateway.handshake import Handshake
from proxy_actors.gateway.http_fields import UpstreamFields, UpstreamUrl
from proxy_actors.gateway.http_forward import HttpForwarder
from proxy_actors.gateway.lease import Pool
from proxy_actors.gateway.origins import AllowedNames
from proxy_actors.gateway.stdio_forward import StdioForwarder
from proxy_actors.gateway.wiring import Wiring
from proxy_actors.messages.http_upstream import UpstreamReached
from proxy_actors.messages.lifecycle import ActorState, DescribeState, Stop
from proxy_actors.messages.server import DrainServer, ServerDrained
from proxy_actors.messages.stdio import StdioMode
from proxy_actors.messages.upstream import DrainUpstream, UpstreamDrained
from proxy_actors.options import RunOptions
from proxy_actors.policy.child_environment import child_environment
from proxy_actors.policy.pool_limits import PoolLimits
from proxy_actors.policy.sessions import SessionLimits
from proxy_actors.policy.stdio_children import ChildrenLimits
from proxy_actors.policy.stdio_shared_children import SharedChildrenLimits
from proxy_actors.transports.http_server import HttpServer
from proxy_actors.world.base import ByteStream, ChildCommand, Mailbox, SessionStore, World

UPSTREAM = "default"
DUMP_S_MAX = 1.0

logger = logging.getLogger("proxy_actors.app")


class App:
    """The tree of one proxy and how it is reached.

    Raises:
        ConnectError: the address to listen at cannot be bound.
        ConfigurationError: the URL of the upstream cannot be fronted.

    Attributes:
        root: the root supervisor, to be started with a parent that hears of its end.
        wiring: what the data plane is wired with; `draining` is set from here.
        upstream, server: the stable names that a drain is told to.
    """

    def __init__(
        self,
        world: World,
        options: RunOptions,
        store: SessionStore,
        date: Callable[[], bytes],
        environment: dict[str, str],
    ) -> None:
        self._world = world
        self._options = options
        self._environment = environment
        self._streams = Directory()
        self._subscribers = Subscribers(world)
        self._uses = SessionUses()
        self.registry = Slot("registry")
        self.upstream = Slot(f"upstream/{UPSTREAM}")
        self.server = Slot("server")
        self.health = Slot("root")
        upstream, forwarder = self._stdio() if options.command else self._http()
        self._listener = world.listen(options.listen_host, options.listen_port)
        self.wiring = Wiring(
            world,
            AllowedNames(options.listen_host),
            self.health,
            self.upstream,
            self.registry,
            self._uses,
            forwarder,
            self._streams,
            self._subscribers,
            date,
        )
        workers = [
            upstream,  # before the registry, which may have ends of sessions to tell it
            Worker(self.registry, lambda: self._make_registry(store)),
            Worker(self.server, self._make_server),
        ]
        self.root = Root(world, self.health.name, workers)
        self._drained: set[type] = set()

    def start(self, parent: Mailbox) -> None:
        """Start the tree; `parent` is told SupervisorReady, and ChildStopped at its end."""
        self.root.parent = parent
        self.root.slot = self.health
        self.health.ref = self.root.ref
        self.root.start_loop()

    def address(self) -> tuple[str, int]:
        """Return the bound host and port."""
        return self._listener.address

    def drain(self) -> None:
        """Refuse new work; the root's parent is told ServerDrained and UpstreamDrained."""
        self.wiring.draining = True
        self.server.tell(DrainServer())
        self.upstream.tell(DrainUpstream())

    def is_drained(self, message: object) -> bool:
        """Say whether this mail completes the drain."""
        self._drained |= {type(message)} & {ServerDrained, UpstreamDrained}
        return len(self._drained) == 2

    def stop(self) -> None:
        """Stop the tree."""
        self.root.ref.tell(Stop())

    def dump(self) -> None:
        """Write every actor's state to the log; asks, so it needs a greenlet of its own."""
        self._dump(self.root.ref)

    def _dump(self, ref: Ref, depth: int = 0) -> None:
        try:
            state: ActorState = ref.ask(DescribeState(), self._world.now_s() + DUMP_S_MAX)
        except (DeadlineError, ActorStoppedError, MailboxFullError) as error:
            logger.info("actor depth=%d ref=%s error=%s", depth, ref, type(error).__name__)
            return
        logger.info(
            "actor depth=%d name=%s kind=%s incarnation=%d mailbox=%d age_s=%.3f handled=%d "
            "undelivered=%d late_replies=%d turn_s_max=%.4f children=%d detail=%s",
            depth, state.name, state.kind, ref.incarnation, state.mailbox_depth,
            state.mailbox_age_s, state.handled, state.undelivered, state.late_replies,
            state.turn_s_max, len(state.children), state.detail,
        )
        for child in ref.children():
            self._dump(child, depth + 1)

    def _make_registry(self, store: SessionStore) -> SessionRegistry:
        limits = SessionLimits()
        if self._options.command and StdioMode(self._options.stdio) is StdioMode.SESSION:
            # Every session has a process: the registry makes room for them (FLT-U16).
            limits = SessionLimits(sessions_max=ChildrenLimits().sessions_max)
        upstreams = {UPSTREAM: self.upstream}
        return SessionRegistry(
            self._world, self.registry, limits, store, self._uses, upstreams
        )

    def _make_server(self) -> HttpServer:
        return HttpServer(self._world, self.server, self._listener, self.wiring)

    def _http(self) -> tuple[Worker, Forwarder]:
        assert self._options.url is not None
        world = self._world
        url = UpstreamUrl(self._options.url)
        table = ConnectionTable()
        pool_slot = Slot(f"{self.upstream.name}/pool")
        pool = Pool(pool_slot, table, UPSTREAM)
        forwarder = HttpForwarder(
            world,
            self.upstream,
            pool,
            UpstreamFields(url),
            Handshake(self.registry, UPSTREAM),
            self.registry,
        )

        def connect(deadline_s: float) -> ByteStream:
            reached = False
            try:
                stream = world.connect(url.host, url.port, deadline_s)
                reached = True
                return stream
            finally:
                self.upstream.tell(UpstreamReached(reached))

        def make_pool() -> ConnectionPool:
            return ConnectionPool(world, pool_slot, PoolLimits(), table, connect, UPSTREAM)

        def make_upstream() -> HttpUpstream:
            return HttpUpstream(
                world,
                self.upstream,
                Worker(pool_slot, make_pool),
                table,
                self._streams,
                self._subscribers,
                forwarder,
            )

        return Worker(self.upstream, make_upstream), forwarder

    def _stdio(self) -> tuple[Worker, Forwarder]:
        options = self._options
        assert options.command is not None
        mode = StdioMode(options.stdio)
        command = ChildCommand(
            options.command, child_environment(self._environment, dict(options.env))
        )
        processes = Directory()
        handshake = Handshake(self.registry, UPSTREAM)
        forwarder = StdioForwarder(
            self._world, self.upstream, processes, mode, handshake, self.registry
        )

        def make_session() -> StdioUpstream:
            return StdioUpstream(
                self._world, self.upstream, UPSTREAM, command, self.registry, self._streams,
                processes, self._subscribers, _failure,
            )

        def make_shared() -> StdioShared:
            pool = mode is StdioMode.POOL
            limits = SharedChildrenLimits(children=options.children if pool else 1)
            return StdioShared(
                self._world, self.upstream, UPSTREAM, command, pool, self._streams, processes,
                self._subscribers, _failure, limits,
            )

        make = make_session if mode is StdioMode.SESSION else make_shared
        return Worker(self.upstream, make), forwarder


def _failure(id: bytes, error: FailedError) -> bytes:
    return rescue.message(error, id)
