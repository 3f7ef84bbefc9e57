"""The composition root: from a configuration to a tree of actors.

    root (one for one)
      upstream/NAME     HTTP: its connection pool and its streams; stdio: its children and streams
      guard/NAME        what judges the endpoints of an upstream, and checks them
      metrics           the sender of figures, where there is a statsd server
      registry          the sessions
      limiter           the token buckets of all rate limits
      server            the listener of clients
      legacy            the streams of clients of the HTTP+SSE transport

Owns nothing after it has built the tree; `service.py` runs it. The data plane is wired here with
the stable names of the actors that it asks.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from contextlib import suppress

import msgspec

from proxy_actors.actors.base import Actor
from proxy_actors.actors.legacy_streams import LegacyStreams
from proxy_actors.actors.limiter import Limiter
from proxy_actors.actors.meters import Meters
from proxy_actors.actors.refs import Ref, Slot
from proxy_actors.actors.root import Root
from proxy_actors.actors.session_registry import SessionRegistry
from proxy_actors.actors.session_uses import SessionUses
from proxy_actors.actors.stream_directory import StreamDirectory
from proxy_actors.actors.subscriber import Subscribers
from proxy_actors.actors.supervisor import Worker
from proxy_actors.assembly import Assembly, http_limits
from proxy_actors.config.model import Config
from proxy_actors.config.upstreams import Upstream
from proxy_actors.errors import ActorStoppedError, DeadlineError, MailboxFullError
from proxy_actors.gateway.keys import Identity, Keyring
from proxy_actors.gateway.limits import LimitKey, Limits, Rate, Rule
from proxy_actors.gateway.origins import AllowedNames
from proxy_actors.gateway.route import Routes
from proxy_actors.gateway.wiring import ConnectionLimits, Wiring
from proxy_actors.messages.health import GuardDrained
from proxy_actors.messages.legacy import DrainLegacy
from proxy_actors.messages.lifecycle import ActorState, DescribeState, Stop
from proxy_actors.messages.server import DrainServer, HandOver, ServerDrained
from proxy_actors.messages.supervision import DrainTree
from proxy_actors.messages.upstream import UpstreamDrained
from proxy_actors.options import StdioMode, Transport, parse_listen, parse_statsd
from proxy_actors.policy.intake import IntakeLimits
from proxy_actors.policy.legacy_streams import PARENT, LegacyLimits
from proxy_actors.policy.sessions import SessionLimits
from proxy_actors.policy.stream_limits import StreamLimits
from proxy_actors.transports.http_server import HttpServer
from proxy_actors.world.base import Listener, Mailbox, TlsServer, World
from proxy_actors.world.stores import SessionStore, StreamStore

DUMP_S_MAX = 1.0
# Actors of a dump in one go, and for how long it lets others run then.
DUMPED_AT_ONCE = 50
DUMP_PAUSE_S = 0.01
_MANY = 1 << 32

logger = logging.getLogger("proxy_actors.app")


class App:
    """The tree of one proxy and how it is reached.

    Raises:
        ConnectError: the address to listen at cannot be bound.
        ConfigurationError: the URL of the upstream cannot be fronted, or a file of certificates
            or keys cannot be used.

    Attributes:
        scheme: of the URLs that clients use.
        root: the root supervisor, to be started with a parent that hears of its end.
        wiring: what the data plane is wired with; `draining` is set from here.
    """

    _dumps = False

    def __init__(
        self,
        world: World,
        config: Config,
        store: SessionStore,
        date: Callable[[], bytes],
        environment: Mapping[str, str],
        stream_store: StreamStore | None = None,
    ) -> None:
        self._world = world
        self._config = config
        host, port = parse_listen(config.listen)
        self.scheme = "http" if config.tls is None else "https"
        self._uses = SessionUses()
        self._registry = Slot("registry")
        self._server = Slot("server")
        self._limiter = Slot("limiter")
        self._metrics = Slot("metrics")
        self._legacy = Slot(PARENT)
        self._meters = Meters()
        self._streams = _stream_directory(config, self._meters, stream_store)
        self._subscribers = Subscribers(world, self._streams.limits)
        self._health = Slot("root")
        assembly = Assembly(
            world, config, self._registry, self._streams, self._subscribers, self._meters,
            environment,
        )
        assembled = [assembly.upstream(*item) for item in config.upstreams.items()]
        self._listener = world.listen(host, port, tls=_server_tls(config))
        self.wiring = Wiring(
            world,
            _allowed_names(config, self._listener),
            self._health,
            Routes([route for _, route in assembled], config.default),
            self._registry,
            self._uses,
            _keyring(config),
            _rates(config, self._limiter, self._meters),
            self._streams,
            self._subscribers,
            date,
            http_limits(config),
            _connection_limits(config),
            config.logs.access,
            self.scheme,
            self._meters,
            self._legacy,
        )
        workers = [
            *([Worker(self._metrics, self._make_metrics)] if config.metrics.statsd else []),
            Worker(self._registry, lambda: self._make_registry(store)),
            Worker(self._limiter, self._make_limiter),
            Worker(self._server, self._make_server, drain=DrainServer()),
            # Behind the server, so that in a stop these streams end while they can be written to.
            Worker(self._legacy, self._make_legacy, drain=DrainLegacy()),
        ]
        # Before the registry, which may have ends of sessions to tell them.
        upstreams = [*(worker for worker, _ in assembled), *assembly.guards]
        self.root = Root(world, self._health.name, workers, upstreams=upstreams)
        self._to_drain = {self._server.name, *(worker.slot.name for worker in upstreams)}

    def start(self, parent: Mailbox) -> None:
        """Start the tree; `parent` is told SupervisorReady, and ChildStopped at its end."""
        self.root.parent = parent
        self.root.slot = self._health
        self._health.ref = self.root.ref
        self.root.start_loop()

    def address(self) -> tuple[str, int]:
        """Return the bound host and port."""
        return self._listener.address

    def hand_over(self) -> bool:
        """Go on until running calls are answered, then leave the listener to another process.

        Returns:
            Whether others hold its socket; then the root's parent is told ListenerHandedOver.
        """
        if self._listener.kept:
            self.wiring.draining = self.wiring.handing_over = True
            self._server.tell(HandOver())
        return self._listener.kept

    def drain(self) -> None:
        """Refuse new work; the root's parent is told when each part of the tree has drained."""
        self.wiring.handing_over = False
        self.wiring.draining = self._streams.draining = True
        self.root.ref.tell(DrainTree())

    def is_drained(self, message: object) -> bool:
        """Say whether this mail completes the drain."""
        match message:
            case ServerDrained():
                self._to_drain.discard(self._server.name)
            case UpstreamDrained(name) | GuardDrained(name):
                self._to_drain.discard(name)
        return not self._to_drain

    def stop(self) -> None:
        """Stop the tree."""
        self.root.ref.tell(Stop())

    def dump(self) -> None:
        """Write every actor's state to the log; asks, so it needs a greenlet of its own.

        The last line is about the process. Dumping takes one of its greenlets, which pauses now
        and then: others must go on, and the log keep up, however many actors there are. Who ends
        meanwhile is left out. Does nothing while there is a dump already.
        """
        if self._dumps:
            return
        self._dumps = True
        try:
            self._dump_all()
        finally:
            self._dumps = False
        process, tasks = self._world.process_figures(), self._world.tasks()
        logger.info(
            "process fds=%d threads=%d rss_bytes=%d greenlets=%d detail=%s",
            process.fds, process.threads, process.rss_bytes, sum(tasks.values()), dict(tasks),
        )

    def _dump_all(self) -> None:
        to_dump, dumped = [(self.root.ref, 0)], 0
        while to_dump:
            ref, depth = to_dump.pop()
            self._dump(ref, depth)
            to_dump += [(child, depth + 1) for child in reversed(ref.children())]
            dumped += 1
            if not dumped % DUMPED_AT_ONCE:
                self._pause(DUMP_PAUSE_S)

    def _pause(self, seconds: float) -> None:
        with suppress(DeadlineError):
            self._world.waiter().wait(self._world.now_s() + seconds)

    def _dump(self, ref: Ref, depth: int) -> None:
        try:
            state: ActorState = ref.ask(DescribeState(), self._world.now_s() + DUMP_S_MAX)
        except ActorStoppedError:
            return
        except (DeadlineError, MailboxFullError) as error:
            logger.info("actor depth=%d ref=%s error=%s", depth, ref, type(error).__name__)
            return
        logger.info(
            "actor depth=%d name=%s kind=%s incarnation=%d mailbox=%d age_s=%.3f handled=%d "
            "undelivered=%d late_replies=%d turn_s_max=%.4f children=%d detail=%s",
            depth, state.name, state.kind, ref.incarnation, state.mailbox_depth,
            state.mailbox_age_s, state.handled, state.undelivered, state.late_replies,
            state.turn_s_max, len(state.children), state.detail,
        )

    def _make_registry(self, store: SessionStore) -> SessionRegistry:
        settings = self._config.sessions
        limits = SessionLimits(
            sessions_max=settings.sessions_max,
            of_upstream=_sessions_of_upstreams(self._config),
            idle_timeout_s=settings.idle_timeout_s,
            lifetime_max_s=settings.lifetime_max_s,
            flush_interval_s=settings.flush_interval_s,
        )
        routes = self.wiring.routes.by_name
        upstreams = {name: route.slot for name, route in routes.items()}
        endpoints = {name: route.homes.keys() for name, route in routes.items()}
        return SessionRegistry(
            self._world, self._registry, limits, store, self._uses, upstreams, endpoints,
            self._legacy,
        )

    def _make_metrics(self) -> Actor:
        from proxy_actors.actors.metrics import Metrics, StatsdTarget  # most runs need neither

        settings = self._config.metrics
        host, port = parse_statsd(settings.statsd)
        target = StatsdTarget(
            host, port, settings.prefix, settings.flush_interval_s, settings.names_max
        )
        return Metrics(self._world, self._metrics, target, self._meters, self._health)

    def _make_limiter(self) -> Limiter:
        return Limiter(self._world, self._limiter, self._config.rate_limits.buckets_max)

    def _make_server(self) -> HttpServer:
        return HttpServer(
            self._world, self._server, self._listener, self.wiring, _intake_limits(self._config)
        )

    def _make_legacy(self) -> LegacyStreams:
        # A client needs a second connection for what it sends: half are left for these.
        http = self._config.http
        limits = LegacyLimits(
            (http.connections_max + 1) // 2, (http.connections_per_address_max + 1) // 2
        )
        return LegacyStreams(
            self._world, self._legacy, limits, self._registry, self._streams, self._subscribers,
            self.wiring.legacy_calls,
        )


def _allowed_names(config: Config, listener: Listener) -> AllowedNames:
    """Return the names of the proxy: where it listens is the choice of who has bound the socket."""
    host = listener.address[0] if listener.kept else parse_listen(config.listen)[0]
    return AllowedNames(host, config.http.allowed_hosts, config.http.allowed_origins)


def _sessions_of_upstreams(config: Config) -> dict[str, int]:
    """Return the bounds on sessions by what each of them has, where each has some (FLT-U16)."""
    bounds = {
        name: sum(_sessions_of(server) for server in upstream.servers().values())
        for name, upstream in config.upstreams.items()
    }
    return {name: sessions_max for name, sessions_max in bounds.items() if sessions_max < _MANY}


def _sessions_of(upstream: Upstream) -> int:
    """Return how many sessions an endpoint bears: a process each, or a connection, if any."""
    if upstream.command:
        return upstream.sessions_max if upstream.stdio is StdioMode.SESSION else _MANY
    return upstream.pool.streams_max if upstream.transport is Transport.SSE else _MANY


def _stream_directory(
    config: Config, meters: Meters, store: StreamStore | None
) -> StreamDirectory:
    fields = StreamLimits.__struct_fields__
    limits = StreamLimits(**{field: getattr(config.streams, field) for field in fields})
    open_max = {name: upstream.streams_max for name, upstream in config.upstreams.items()}
    return StreamDirectory(limits, open_max, meters.streams, store)


def _keyring(config: Config) -> Keyring:
    auth = config.auth
    identities = {bytes.fromhex(key.sha256): Identity(key.id, key.tier) for key in config.keys}
    failures = Rate(auth.failures_per_minute / 60.0, auth.failures_burst)
    return Keyring(identities, auth.anonymous, failures)


def _rates(config: Config, limiter: Slot, meters: Meters) -> Limits:
    settings = config.rate_limits
    rules = [
        Rule(
            name=rule.name,
            key=LimitKey(rule.key),
            rate=Rate(rule.rate, rule.burst),
            header=rule.header.lower().encode("ascii"),
            upstream=rule.upstream,
            method=rule.method,
            tool=rule.tool,
            tiers={name: Rate(tier.rate, tier.burst) for name, tier in rule.tiers.items()},
        )
        for rule in settings.rules
    ]
    return Limits(
        limiter,
        Rate(settings.address_rate, settings.address_burst),
        Rate(settings.initialize_rate, settings.initialize_burst),
        rules,
        settings.x_ratelimit,
        meters.refused,
    )


def _intake_limits(config: Config) -> IntakeLimits:
    overload = config.overload
    marks = overload.lag_s_max, overload.memory_percent / 100, overload.fds_percent / 100
    return IntakeLimits(*(mark or math.inf for mark in marks))


def _server_tls(config: Config) -> TlsServer | None:
    tls = config.tls
    return None if tls is None else TlsServer(tls.certificate, tls.key, tls.client_ca)


def _connection_limits(config: Config) -> ConnectionLimits:
    http = config.http
    limits = ConnectionLimits(
        connections_max=http.connections_max,
        per_address_max=http.connections_per_address_max,
        requests_max=http.requests_max,
        idle_s_max=http.idle_s_max,
        head_s_max=http.head_s_max,
        body_grace_s=http.body_grace_s,
        body_rate_min=http.body_rate_min,
        body_bytes_total_max=http.body_bytes_total_max,
    )
    if config.tls is not None:
        limits = msgspec.structs.replace(limits, handshake_s_max=config.tls.handshake_s)
    return limits
