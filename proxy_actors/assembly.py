"""How one upstream is put together: its actor, and the forwarder through which it is reached.

A part of the composition root: `app.py` calls it once for each upstream of the configuration. Owns
nothing afterwards.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import TypeVar

import msgspec

from proxy_actors.actors.base import Actor
from proxy_actors.actors.connection_pool import ConnectionPool, ConnectionTable
from proxy_actors.actors.directory import Directory
from proxy_actors.actors.http_upstream import HttpUpstream
from proxy_actors.actors.meters import EndpointMeter, Meters
from proxy_actors.actors.refs import Slot
from proxy_actors.actors.session_channels import SessionChannels
from proxy_actors.actors.sse_session import SseSession
from proxy_actors.actors.stdio_shared import StdioShared
from proxy_actors.actors.stdio_upstream import StdioUpstream
from proxy_actors.actors.stream_directory import StreamDirectory
from proxy_actors.actors.subscriber import Subscribers
from proxy_actors.actors.supervisor import Worker
from proxy_actors.actors.upstream_use import UpstreamUse
from proxy_actors.actors.upstream_group import UpstreamGroup
from proxy_actors.actors.upstream_guard import Checker, GuardLimits, UpstreamGuard
from proxy_actors.config.model import Config
from proxy_actors.config.section import Section
from proxy_actors.config.upstreams import Upstream
from proxy_actors.errors import ConnectError
from proxy_actors.gateway.channel_forward import ChannelForwarder
from proxy_actors.gateway.checks import HttpChecker, SharedChecker, SpareChecker
from proxy_actors.gateway.forwarder import Forwarder
from proxy_actors.gateway.guarded import GuardedForwarder, UpstreamEndpoint, hash_key_of
from proxy_actors.gateway.handshake import Handshake
from proxy_actors.gateway.http_fields import UpstreamFields, UpstreamUrl
from proxy_actors.gateway.http_forward import HttpForwarder
from proxy_actors.gateway.lease import Pool
from proxy_actors.gateway.retrying import Retrier
from proxy_actors.gateway.route import Route
from proxy_actors.gateway.sse_forward import DetectingForwarder, SseForwarder
from proxy_actors.gateway.sse_pipes import SsePipes, SseServer
from proxy_actors.gateway.stdio_forward import SharedForwarder
from proxy_actors.messages.health import StopChecks
from proxy_actors.messages.http_upstream import UpstreamReached
from proxy_actors.messages.pool import DrainPool
from proxy_actors.messages.upstream import DrainUpstream
from proxy_actors.options import Balance, CheckKind, OnSessionLost, StdioMode, Transport
from proxy_actors.policy.balancer import Balancer, BalanceLimits, chooser_of
from proxy_actors.policy.breaker import BreakerLimits
from proxy_actors.policy.child_environment import child_environment
from proxy_actors.policy.endpoint_state import EndpointState
from proxy_actors.policy.health import EndpointHealth
from proxy_actors.policy.health_checks import CheckLimits
from proxy_actors.policy.outliers import OutlierLimits
from proxy_actors.policy.peak_ewma import PeakEwma
from proxy_actors.policy.pool_limits import PoolLimits
from proxy_actors.policy.reconnect import ReconnectLimits
from proxy_actors.policy.retries import RetryLimits
from proxy_actors.policy.retry_budget import RetryBudget
from proxy_actors.policy.stdio_children import ChildrenLimits
from proxy_actors.policy.stdio_exclusive import ExclusivePolicy
from proxy_actors.policy.stdio_shared_children import SharedChildrenLimits
from proxy_actors.protocol.http1_framing import HttpLimits
from proxy_actors.world.base import ByteStream, ChildCommand, TlsClient, World

_Make = Callable[[], Actor]
_Limits = TypeVar(
    "_Limits", PoolLimits, ReconnectLimits, CheckLimits, OutlierLimits, BreakerLimits, RetryLimits
)


class Assembly:
    """What all upstreams share.

    Args:
        registry: the session registry.
        streams, subscribers: where event streams and their readers are found.
        meters: where is counted.
        environment: the proxy's own, of which children get a part.

    Attributes:
        guards: what judges the endpoints of those upstreams that have been put together.
    """

    def __init__(
        self,
        world: World,
        config: Config,
        registry: Slot,
        streams: StreamDirectory,
        subscribers: Subscribers,
        meters: Meters,
        environment: Mapping[str, str],
    ) -> None:
        self._world = world
        self._config = config
        self._registry = registry
        self._streams = streams
        self._subscribers = subscribers
        self._meters = meters
        self._environment = environment
        self.guards: list[Worker] = []

    def upstream(self, name: str, settings: Upstream) -> tuple[Worker, Route]:
        """Put one upstream together.

        Raises:
            ConfigurationError: its URL cannot be fronted, or a file of its [tls] not be used.
        """
        slot = Slot(f"upstream/{name}")
        parts = [
            self._server(name, slot, settings, endpoint) for endpoint in settings.servers()
        ]
        workers = [worker for worker, _, _ in parts]
        endpoints = [endpoint for _, endpoint, _ in parts]
        checkers = {endpoint.state.name: checker for _, endpoint, checker in parts}
        homes = {endpoint.key: endpoint.slot for endpoint in endpoints}
        worker = workers[0]
        if settings.endpoints:
            worker = Worker(
                slot, lambda: UpstreamGroup(self._world, slot, workers, homes),
                drain=DrainUpstream(),
            )
        guard = Slot(f"guard/{name}")
        self.guards.append(self._guard(name, settings, endpoints, checkers, guard))
        forwarder = self._guarded(name, settings, endpoints, guard)
        return worker, Route(
            name, slot, forwarder, settings.call_timeout_s, homes, self._meters.upstream(name),
            tuple(endpoint.state for endpoint in endpoints),
        )

    def _server(
        self, name: str, slot: Slot, upstream: Upstream, endpoint: str
    ) -> tuple[Worker, UpstreamEndpoint, Checker]:
        """Put one endpoint together; "" is the name of one that is the whole upstream."""
        # Only the upstream knows how many there are, and so what `auto` means.
        checks = msgspec.structs.replace(upstream.checks, kind=upstream.check_kind)
        settings = msgspec.structs.replace(upstream.servers()[endpoint], checks=checks)
        state = EndpointState(name, requests_max=settings.requests_max)
        if endpoint:
            slot = Slot(f"{slot.name}/{endpoint}")
            by_latency = upstream.balance is Balance.TWO_CHOICES
            share = upstream.endpoints[endpoint]
            state = EndpointState(
                endpoint, share.weight, share.backup, PeakEwma() if by_latency else None,
                settings.requests_max,
            )
            self._streams.endpoints[slot.name] = state
        key = _key_of(settings, endpoint)
        make = self._stdio if settings.command else self._http
        handshake = Handshake(self._registry, name, key)
        make_actor, forwarder, checker = make(name, slot, settings, handshake)
        forwarder.initialize_s_max = settings.timeouts.initialize_s
        worker = Worker(slot, make_actor, drain=DrainUpstream())
        return worker, UpstreamEndpoint(state, forwarder, slot, key), checker

    def _guarded(
        self, name: str, settings: Upstream, endpoints: list[UpstreamEndpoint], guard: Slot
    ) -> GuardedForwarder:
        """Put together what chooses among the endpoints of an upstream."""
        limits = BalanceLimits(settings.slow_start_s, settings.panic_percent)
        chooser = chooser_of(settings.balance, self._world.random)
        states = [endpoint.state for endpoint in endpoints]
        retries = settings.retries
        budget = RetryBudget(states, retries.budget_percent, retries.budget_min)
        retrier = Retrier(
            self._world, _section(retries, RetryLimits), budget, settings.timeouts.first_byte_s,
            retries.trust_annotations, self._meters.upstream(name),
        )
        if retrier.hints is not None:
            self._streams.watchers[name] = retrier.hints.forget
            for endpoint in endpoints:
                endpoint.forwarder.watch_tools(retrier.hints.forget)
        return GuardedForwarder(
            self._world, name, endpoints, guard, self._registry,
            Balancer(states, chooser, limits), hash_key_of(settings.hash_on), retrier,
            settings.affinity, settings.on_session_lost is OnSessionLost.REINITIALIZE,
        )

    def _guard(
        self,
        name: str,
        settings: Upstream,
        endpoints: list[UpstreamEndpoint],
        checkers: dict[str, Checker],
        slot: Slot,
    ) -> Worker:
        """Put together what judges the endpoints of an upstream; what it knows outlives it."""
        known = {x.state.name: EndpointHealth(x.state) for x in endpoints}
        self._meters.upstream(name).endpoints = [EndpointMeter(x) for x in known.values()]
        checked = settings.check_kind is not CheckKind.OFF
        # Where each session has a process, what one does says nothing of the others.
        processes = any(x.command for x in settings.servers().values())
        breaks = settings.breaker.enabled and not (
            processes and settings.stdio is StdioMode.SESSION
        )
        limits = GuardLimits(
            _section(settings.outliers, OutlierLimits),
            _section(settings.checks, CheckLimits) if checked else None,
            _section(settings.breaker, BreakerLimits) if breaks else None,
        )
        meters = self._meters.upstream(name)

        def make() -> UpstreamGuard:
            return UpstreamGuard(self._world, slot, name, known, checkers, limits, meters)

        return Worker(slot, make, drain=StopChecks())

    def _http(
        self, name: str, slot: Slot, settings: Upstream, handshake: Handshake
    ) -> tuple[_Make, Forwarder, Checker]:
        world = self._world
        url = UpstreamUrl(settings.url)
        table = ConnectionTable()
        pool_slot = Slot(f"{slot.name}/pool")
        fields = UpstreamFields(url, settings.headers)
        leases = Pool(pool_slot, table, name, settings.timeouts.pool_wait_s)
        http = HttpForwarder(
            world,
            slot,
            leases,
            fields,
            handshake,
            self._registry,
            silence_s_max=settings.reconnect.idle_s_max,
            renews=settings.on_session_lost is OnSessionLost.REINITIALIZE,
        )
        limits = _section(settings.pool, PoolLimits)
        reconnect = _section(settings.reconnect, ReconnectLimits)

        connect = self._connect(name, slot, url, settings)

        def make_pool() -> ConnectionPool:
            connect_s_max = settings.timeouts.connect_s
            return ConnectionPool(world, pool_slot, limits, table, connect, name, connect_s_max)

        forwarder: Forwarder = http
        sessions: Worker | None = None
        server: SseServer | None = None
        if settings.transport is not Transport.STREAMABLE:
            server = SseServer(http.sender, url, fields, name)
            sessions, sse = sse_sessions(
                world, slot, server, self._registry, self._streams, self._subscribers,
                settings.pool.streams_max,
            )
            http.initialize_s_max = sse.initialize_s_max = settings.timeouts.initialize_s
            pinned = settings.transport is Transport.SSE
            forwarder = sse if pinned else DetectingForwarder(http, sse)

        def make_upstream() -> HttpUpstream:
            pool = Worker(pool_slot, make_pool, drain=DrainPool())
            return HttpUpstream(
                world, slot, pool, table, self._streams, self._subscribers, http,
                reconnect, sessions, name,
            )

        kind = settings.checks.kind
        if settings.transport is Transport.SSE and kind is CheckKind.PING:
            kind = CheckKind.TCP  # there a session is a stream, which would have to be kept open
        checker = HttpChecker(world, leases, http.own, kind, settings.checks.path, server)
        return make_upstream, forwarder, checker

    def _connect(
        self, name: str, slot: Slot, url: UpstreamUrl, settings: Upstream
    ) -> Callable[[float], ByteStream]:
        """Make what opens a connection, and tells the endpoint whether it could be."""
        world, meters = self._world, self._meters.upstream(name)
        tls = _client_tls(settings) if url.secure else None
        if tls is not None:
            world.prepare_tls(tls)

        def connect(deadline_s: float) -> ByteStream:
            reached, began_s = UpstreamReached(False, "given up"), world.now_s()
            try:
                stream = world.connect(url.host, url.port, deadline_s, tls)
                reached = UpstreamReached(True)
                return stream
            except ConnectError as error:
                reached = UpstreamReached(False, str(error), error.fault)
                raise
            finally:
                meters.connect.add(world.now_s() - began_s)
                slot.tell(reached)

        return connect

    def _stdio(
        self, name: str, slot: Slot, settings: Upstream, handshake: Handshake
    ) -> tuple[_Make, Forwarder, Checker]:
        mode = settings.stdio
        command = ChildCommand(
            settings.command,
            child_environment(dict(self._environment), settings.env),
            settings.cwd or None,
        )
        processes = Directory()
        use = UpstreamUse() if settings.idle_stop_s else None
        known: set[str] = set()
        forwarded = self._world, name, slot, processes, handshake, self._registry
        forwarder = (
            ChannelForwarder(*forwarded)
            if mode is StdioMode.SESSION
            else SharedForwarder(*forwarded, mode is StdioMode.POOL, known, use)
        )

        def make_session() -> StdioUpstream:
            return StdioUpstream(
                self._world, slot, name, command, self._registry, self._streams, processes,
                self._subscribers, forwarder.failure,
                ChildrenLimits(settings.sessions_max, idle_stop_s=settings.idle_stop_s),
            )

        def make_shared() -> StdioShared:
            pool = mode is StdioMode.POOL
            limits = SharedChildrenLimits(
                children=settings.children if pool else 1, idle_stop_s=settings.idle_stop_s
            )
            return StdioShared(
                self._world, slot, name, command, pool, self._streams, processes,
                self._subscribers, forwarder.failure, known, limits, use,
            )

        if mode is StdioMode.SESSION:
            return make_session, forwarder, SpareChecker(slot)
        return make_shared, forwarder, SharedChecker(self._world, slot, processes, use)


def sse_sessions(
    world: World,
    upstream: Slot,
    server: SseServer,
    registry: Slot,
    streams: StreamDirectory,
    subscribers: Subscribers,
    sessions_max: int,
) -> tuple[Worker, SseForwarder]:
    """Put together what there is to a server of HTTP+SSE: its sessions, and how they are reached.

    Args:
        upstream: whose second worker the parent of the sessions will be.
    """
    slot, channels = Slot(f"{upstream.name}/sse"), Directory()
    handshake = Handshake(registry, server.upstream)
    forwarder = SseForwarder(world, slot, channels, server, handshake, registry)
    limits = ChildrenLimits(sessions_max, spare=False)

    def make_session(name: str) -> SseSession:
        ledger = ExclusivePolicy()
        pipes = SsePipes(world, server, ledger.has_call)
        return SseSession(
            world, name, pipes, ledger, server.upstream, streams, subscribers, forwarder.failure
        )

    def make_sessions() -> SessionChannels:
        return SessionChannels(
            world, slot, server.upstream, make_session, registry, channels, limits
        )

    return Worker(slot, make_sessions, drain=DrainUpstream()), forwarder


def _key_of(settings: Upstream, endpoint: str) -> str:
    """Return what tells the server from any other: where it is, or how it is started.

    A digest, because a URL or an argument may hold what is secret. What sessions had when each had
    a process of its own is never theirs again. Two endpoints may execute the same command, and are
    told apart by their names.
    """
    own = settings.stdio is StdioMode.SESSION
    server: tuple[object, ...] = (
        settings.url, settings.command, settings.cwd, own and bool(settings.command)
    )
    if endpoint and settings.command:
        server = (*server, endpoint)
    return hashlib.sha256(msgspec.json.encode(server)).hexdigest()


def _section(settings: Section, kind: type[_Limits]) -> _Limits:
    """Make the bounds of this kind, whose names the settings have."""
    return kind(**{field: getattr(settings, field) for field in kind.__struct_fields__})


def http_limits(config: Config) -> HttpLimits:
    """Return the bounds on one request."""
    http = config.http
    return HttpLimits(
        head_bytes_max=http.head_bytes_max,
        fields_max=http.fields_max,
        body_bytes_max=http.body_bytes_max,
    )


def _client_tls(settings: Upstream) -> TlsClient:
    tls = settings.tls
    return TlsClient(tls.ca, tls.certificate, tls.key, tls.server_name)
