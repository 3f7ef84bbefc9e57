"""The whole data plane in front of one HTTP upstream, in any world, with bounds of a test's choice.

What `proxy_actors.app` builds, less the options: registry, upstream with its pool, listener.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from proxy_actors.actors.connection_pool import ConnectionPool, ConnectionTable
from proxy_actors.actors.http_upstream import HttpUpstream
from proxy_actors.actors.legacy_streams import LegacyStreams
from proxy_actors.actors.limiter import Limiter
from proxy_actors.actors.meters import Meters
from proxy_actors.actors.metrics import Metrics, StatsdTarget
from proxy_actors.actors.refs import Slot
from proxy_actors.actors.root import Root
from proxy_actors.actors.session_registry import SessionRegistry
from proxy_actors.actors.session_uses import SessionUses
from proxy_actors.actors.stream_directory import StreamDirectory
from proxy_actors.actors.subscriber import Subscribers
from proxy_actors.actors.supervisor import Worker
from proxy_actors.assembly import sse_sessions
from proxy_actors.errors import ConnectError
from proxy_actors.gateway.forwarder import Forwarder
from proxy_actors.gateway.handshake import Handshake
from proxy_actors.gateway.http_fields import UpstreamFields, UpstreamUrl
from proxy_actors.gateway.http_forward import HttpForwarder
from proxy_actors.gateway.keys import Keyring
from proxy_actors.gateway.lease import Pool
from proxy_actors.gateway.limits import Limits, Rate, Rule
from proxy_actors.gateway.origins import AllowedNames
from proxy_actors.gateway.route import Route, Routes
from proxy_actors.gateway.sse_forward import DetectingForwarder
from proxy_actors.gateway.sse_pipes import SseServer
from proxy_actors.gateway.wiring import ConnectionLimits, Wiring
from proxy_actors.messages.http_upstream import UpstreamReached
from proxy_actors.messages.pool import DrainPool
from proxy_actors.messages.legacy import DrainLegacy
from proxy_actors.messages.server import DrainServer
from proxy_actors.messages.supervision import DrainTree
from proxy_actors.messages.upstream import DrainUpstream
from proxy_actors.options import Transport
from proxy_actors.policy.pool_limits import PoolLimits
from proxy_actors.policy.intake import IntakeLimits
from proxy_actors.policy.legacy_streams import PARENT, LegacyLimits
from proxy_actors.policy.reconnect import ReconnectLimits
from proxy_actors.policy.sessions import SessionLimits
from proxy_actors.policy.stream_limits import StreamLimits
from proxy_actors.policy.supervision import Budget
from proxy_actors.protocol.http1_framing import HttpLimits
from proxy_actors.storage.memory import MemoryStore
from proxy_actors.transports.http_server import HttpServer
from proxy_actors.world.base import (
    ByteStream,
    TlsClient,
    TlsServer,
    World,
)
from proxy_actors.world.stores import SessionStore, StreamStore

UPSTREAM = "default"
DATE = b"Thu, 01 Jan 1970 00:00:00 GMT"


class Plane:
    """Registry, upstream and listener under a root; `mail` is what the root's parent hears."""

    upstream_kind = HttpUpstream

    def __init__(
        self,
        world: World,
        url: str,
        listen: tuple[str, int] = ("127.0.0.1", 0),
        http: HttpLimits = HttpLimits(),
        limits: ConnectionLimits = ConnectionLimits(),
        pool: PoolLimits = PoolLimits(),
        sessions: SessionLimits = SessionLimits(),
        budget: Budget = Budget(),
        store: SessionStore | None = None,
        keyring: Keyring = Keyring(),
        rules: Sequence[Rule] = (),
        address: Rate = Rate(50_000.0, 100_000),
        opening: Rate = Rate(100.0, 1000),
        buckets_max: int = 1000,
        x_ratelimit: bool = False,
        tls: TlsServer | None = None,
        upstream_tls: TlsClient | None = None,
        statsd: StatsdTarget | None = None,
        legacy: LegacyLimits = LegacyLimits(),
        streams: StreamLimits = StreamLimits(),
        stream_store: StreamStore | None = None,
        reconnect: ReconnectLimits = ReconnectLimits(),
        transport: Transport = Transport.STREAMABLE,
        renews: bool = False,
        intake: IntakeLimits = IntakeLimits(),
    ) -> None:
        self.world = world
        self._intake = intake
        self.registry = Slot("registry")
        self.upstream = Slot(f"upstream/{UPSTREAM}")
        self.pool = Slot(f"{self.upstream.name}/pool")
        self.limiter = Slot("limiter")
        self.server = Slot("server")
        self.metrics = Slot("metrics")
        self.legacy = Slot(PARENT)
        self.root = Slot("root")
        meters = Meters()
        self.streams = StreamDirectory(streams, meters=meters.streams, store=stream_store)
        self.subscribers = Subscribers(world, streams)
        self.uses = SessionUses()
        self.table = ConnectionTable()
        self.store: SessionStore = store or MemoryStore()
        self.mail: list[Any] = []
        self._url = UpstreamUrl(url)
        self._upstream_tls = upstream_tls
        upstream = meters.upstream(UPSTREAM)
        self._pool_limits = pool
        self._reconnect = reconnect
        self.forwarder = HttpForwarder(
            world,
            self.upstream,
            Pool(self.pool, self.table, UPSTREAM),
            UpstreamFields(self._url),
            Handshake(self.registry, UPSTREAM),
            self.registry,
            http,
            reconnect.idle_s_max,
            renews,
        )
        forwarder: Forwarder = self.forwarder
        self._sessions: Worker | None = None
        if transport is not Transport.STREAMABLE:
            fields = UpstreamFields(self._url)
            server = SseServer(self.forwarder.sender, self._url, fields, UPSTREAM)
            self._sessions, self.sse = sse_sessions(
                world, self.upstream, server, self.registry, self.streams, self.subscribers,
                pool.streams_max,
            )
            pinned = transport is Transport.SSE
            forwarder = self.sse if pinned else DetectingForwarder(self.forwarder, self.sse)
        self.wiring = Wiring(
            world,
            AllowedNames(listen[0]),
            self.root,
            Routes([Route(UPSTREAM, self.upstream, forwarder, meters=upstream)], UPSTREAM),
            self.registry,
            self.uses,
            keyring,
            Limits(self.limiter, address, opening, rules, x_ratelimit, meters.refused),
            self.streams,
            self.subscribers,
            lambda: DATE,
            http,
            limits,
            meters=meters,
            legacy=self.legacy,
        )
        upstreams = [
            Worker(self.upstream, lambda: self._make_upstream(budget), drain=DrainUpstream())
        ]
        workers = [
            Worker(self.registry, lambda: self._make_registry(sessions)),
            Worker(self.limiter, lambda: Limiter(world, self.limiter, buckets_max)),
            Worker(self.server, self._make_server, drain=DrainServer()),
            Worker(self.legacy, lambda: self._make_legacy(legacy), drain=DrainLegacy()),
        ]
        if statsd is not None:
            make = partial(Metrics, world, self.metrics, statsd, meters, self.root)
            workers.insert(0, Worker(self.metrics, make))
        self._tree = Root(world, self.root.name, workers, budget, upstreams=upstreams)
        self._listener = world.listen(*listen, tls=tls)

    def start(self) -> None:
        """Start the tree."""
        self._tree.parent = self
        self._tree.slot = self.root
        self.root.ref = self._tree.ref
        self._tree.start_loop()

    def tell(self, message: Any) -> bool:
        """Be the root's parent."""
        self.mail.append(message)
        return True

    def drain(self) -> None:
        """Drain as the application does."""
        self.wiring.draining = True
        self.root.tell(DrainTree())

    @property
    def address(self) -> tuple[str, int]:
        """Where clients connect to."""
        return self._listener.address

    def leftovers(self) -> dict[str, object]:
        """What is held for exchanges that have ended; nothing of it may stay."""
        found: dict[str, object] = {
            "leases": len(self.table.leases),
            "kept": len(self.table.kept),
            "streams": len(self.streams),
            "open streams": len(self.streams.books),
            "kept bytes": self.streams.budget.held,
            "subscribers": len(self.subscribers),
            "sources": len(self.forwarder.streams),
            "bodies": self.wiring.bodies._held,
            "clients": len(self.wiring.clients),
            "gated": len(self.wiring.gate),
            "uses": len(self.uses),
            "legacy calls": len(self.wiring.legacy_calls),
            "sse clients": 0 if self._sessions is None else len(self.sse.server.clients),
            "sse channels": 0 if self._sessions is None else len(self.sse._channels),
        }
        return {name: count for name, count in found.items() if count}

    def _connect(self, deadline_s: float) -> ByteStream:
        reached = UpstreamReached(False)
        try:
            stream = self.world.connect(
                self._url.host, self._url.port, deadline_s, self._upstream_tls
            )
            reached = UpstreamReached(True)
            return stream
        except ConnectError as error:
            reached = UpstreamReached(False, str(error), error.fault)
            raise
        finally:
            self.upstream.tell(reached)

    def _make_upstream(self, budget: Budget) -> HttpUpstream:
        pool = Worker(self.pool, self._make_pool, drain=DrainPool())
        upstream = self.upstream_kind(
            self.world, self.upstream, pool, self.table, self.streams, self.subscribers,
            self.forwarder, self._reconnect, self._sessions,
        )  # fmt: skip
        return upstream

    def _make_pool(self) -> ConnectionPool:
        return ConnectionPool(
            self.world, self.pool, self._pool_limits, self.table, self._connect, UPSTREAM
        )

    def _make_legacy(self, limits: LegacyLimits) -> LegacyStreams:
        return LegacyStreams(
            self.world, self.legacy, limits, self.registry, self.streams, self.subscribers,
            self.wiring.legacy_calls,
        )

    def _make_registry(self, limits: SessionLimits) -> SessionRegistry:
        return SessionRegistry(
            self.world, self.registry, limits, self.store, self.uses,
            {UPSTREAM: self.upstream}, {UPSTREAM: [""]}, self.legacy,
        )

    def _make_server(self) -> HttpServer:
        return HttpServer(self.world, self.server, self._listener, self.wiring, self._intake)
