"""The whole data plane in front of one stdio server, in any world, with bounds of a test's choice.

What `proxy_actors.app` builds for a command, less the options: registry, children, listener.
"""

from __future__ import annotations

from typing import Any

from proxy_actors.actors.base import Actor
from proxy_actors.actors.directory import Directory
from proxy_actors.actors.legacy_streams import LegacyStreams
from proxy_actors.actors.limiter import Limiter
from proxy_actors.actors.refs import Slot
from proxy_actors.actors.root import Root
from proxy_actors.actors.session_registry import SessionRegistry
from proxy_actors.actors.session_uses import SessionUses
from proxy_actors.actors.stdio_shared import StdioShared, shared_name
from proxy_actors.actors.stdio_upstream import StdioUpstream
from proxy_actors.actors.stream_directory import StreamDirectory
from proxy_actors.actors.subscriber import Subscribers
from proxy_actors.actors.supervisor import Worker
from proxy_actors.actors.upstream_use import UpstreamUse
from proxy_actors.gateway.channel_forward import ChannelForwarder
from proxy_actors.gateway.forwarder import CALL_S_MAX
from proxy_actors.gateway.handshake import Handshake
from proxy_actors.gateway.keys import Keyring
from proxy_actors.gateway.limits import Limits, Rate
from proxy_actors.gateway.origins import AllowedNames
from proxy_actors.gateway.route import Route, Routes
from proxy_actors.gateway.stdio_forward import SharedForwarder
from proxy_actors.gateway.wiring import Wiring
from proxy_actors.messages.legacy import DrainLegacy
from proxy_actors.messages.lifecycle import Stop
from proxy_actors.messages.server import DrainServer
from proxy_actors.messages.supervision import DrainTree
from proxy_actors.messages.upstream import DrainUpstream
from proxy_actors.options import StdioMode
from proxy_actors.policy.legacy_streams import PARENT, LegacyLimits
from proxy_actors.policy.sessions import SessionLimits
from proxy_actors.policy.stdio_children import ChildrenLimits
from proxy_actors.policy.stdio_shared_children import SharedChildrenLimits
from proxy_actors.policy.supervision import Budget
from proxy_actors.transports.http_server import HttpServer
from proxy_actors.world.base import ChildCommand, World
from proxy_actors.world.stores import SessionStore
from tests.plane import DATE, UPSTREAM

# Never reached: what limits do is the matter of other tests.
RATE = Rate(50_000.0, 100_000)
BUCKETS_MAX = 1000


class StdioPlane:
    """Registry, upstream and listener under a root; `mail` is what the root's parent hears."""

    def __init__(
        self,
        world: World,
        mode: StdioMode,
        command: ChildCommand,
        store: SessionStore,
        listen: tuple[str, int],
        call_s_max: float = CALL_S_MAX,
        children: ChildrenLimits = ChildrenLimits(),
        shared: SharedChildrenLimits = SharedChildrenLimits(),
        sessions: SessionLimits = SessionLimits(),
        budget: Budget = Budget(),
        keyring: Keyring = Keyring(),
    ) -> None:
        self.world = world
        self.mode = mode
        self.registry = Slot("registry")
        self.upstream = Slot(f"upstream/{UPSTREAM}")
        self.limiter = Slot("limiter")
        self.server = Slot("server")
        self.legacy = Slot(PARENT)
        self.root = Slot("root")
        self.streams = StreamDirectory()
        self.processes = Directory()
        self.subscribers = Subscribers(world)
        self.uses = SessionUses()
        self.store = store
        self.mail: list[Any] = []
        self._command = command
        self._children = children
        self._shared = shared
        self.use = UpstreamUse() if shared.idle_stop_s else None
        self.known: set[str] = set()
        forwarded = (
            world, UPSTREAM, self.upstream, self.processes, Handshake(self.registry, UPSTREAM),
            self.registry,
        )  # fmt: skip
        self.forwarder = (
            ChannelForwarder(*forwarded)
            if mode is StdioMode.SESSION
            else SharedForwarder(*forwarded, mode is StdioMode.POOL, self.known, self.use)
        )
        route = Route(UPSTREAM, self.upstream, self.forwarder, call_s_max)
        self.wiring = Wiring(
            world,
            AllowedNames(listen[0]),
            self.root,
            Routes([route], UPSTREAM),
            self.registry,
            self.uses,
            keyring,
            Limits(self.limiter, RATE, RATE, (), False),
            self.streams,
            self.subscribers,
            lambda: DATE,
            legacy=self.legacy,
        )
        listener = world.listen(*listen)
        upstreams = [Worker(self.upstream, self._make_upstream, drain=DrainUpstream())]
        workers = [
            Worker(self.registry, lambda: self._make_registry(sessions)),
            Worker(self.limiter, lambda: Limiter(world, self.limiter, BUCKETS_MAX)),
            Worker(
                self.server,
                lambda: HttpServer(world, self.server, listener, self.wiring),
                drain=DrainServer(),
            ),
            Worker(self.legacy, lambda: self._make_legacy(LegacyLimits()), drain=DrainLegacy()),
        ]
        self._tree = Root(world, self.root.name, workers, budget, upstreams=upstreams)

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

    def stop(self) -> None:
        """Stop the tree."""
        self._tree.ref.tell(Stop())

    def leftovers(self) -> dict[str, object]:
        """What is held for exchanges and children that have ended; nothing of it may stay."""
        upstream = None if self.upstream.ref is None else self.upstream.ref._own
        children = {} if upstream is None else upstream.children
        found: dict[str, object] = {
            "streams": len(self.streams),
            "subscribers": len(self.subscribers),
            "bodies": self.wiring.bodies._held,
            "clients": len(self.wiring.clients),
            "uses": len(self.uses),
            "legacy calls": len(self.wiring.legacy_calls),
            "known sessions": len(self.known - self._live_sessions()),
            "processes": len(self.processes._slots.keys() - children.keys() - self._names()),
            "asks": 0 if upstream is None else len(vars(upstream)["_asks"]),
        }
        return {name: count for name, count in found.items() if count}

    def _live_sessions(self) -> set[str]:
        """The sessions of the registry; those that an upstream knows, while there is none."""
        registry = self.registry.ref
        return self.known if registry is None else set(registry._own._policy._entries)

    def _names(self) -> set[str]:
        """The names that no one child bears."""
        return set() if self.mode is StdioMode.SESSION else {shared_name(self.upstream)}

    def _make_upstream(self) -> Actor:
        if self.mode is StdioMode.SESSION:
            return StdioUpstream(
                self.world, self.upstream, UPSTREAM, self._command, self.registry, self.streams,
                self.processes, self.subscribers, self.forwarder.failure, self._children,
            )  # fmt: skip
        return StdioShared(
            self.world, self.upstream, UPSTREAM, self._command, self.mode is StdioMode.POOL,
            self.streams, self.processes, self.subscribers, self.forwarder.failure, self.known,
            self._shared, self.use,
        )  # fmt: skip

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
