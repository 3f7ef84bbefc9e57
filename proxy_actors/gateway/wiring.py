"""What the data plane is wired with: made once by `app`, read by every connection."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import msgspec

from proxy_actors.actors.meters import Meters
from proxy_actors.actors.refs import Slot
from proxy_actors.actors.session_uses import SessionUses
from proxy_actors.actors.stream_directory import StreamDirectory
from proxy_actors.actors.subscriber import Subscribers
from proxy_actors.errors import FailedError, Reason, Side
from proxy_actors.gateway.client_table import ClientTable
from proxy_actors.gateway.keys import Keyring
from proxy_actors.gateway.legacy_calls import LegacyCalls
from proxy_actors.gateway.limits import Limits
from proxy_actors.gateway.origins import AllowedNames
from proxy_actors.gateway.read_gate import ReadGate
from proxy_actors.gateway.route import Routes
from proxy_actors.policy.legacy_streams import PARENT
from proxy_actors.protocol.http1_framing import HttpLimits
from proxy_actors.world.base import World


class ConnectionLimits(msgspec.Struct, frozen=True):
    """Bounds on clients' connections.

    Attributes:
        connections_max: open connections in all.
        per_address_max: open connections of one client address.
        requests_max: requests on one connection; the last one's answer says Connection: close.
        handshake_s_max: for what comes before the first byte, such as a TLS handshake.
        idle_s_max: between two requests.
        head_s_max: from the first byte of a request to the end of its head.
        body_grace_s: how long a body may take before its rate counts.
        body_rate_min: bytes a second that a body must then have come at on the average.
        write_s_max: how long a client may take to accept a write, and a second longer for each
            `write_rate_min` bytes of it.
        linger_s_max: how long input is discarded after an early answer.
        body_bytes_total_max: bytes of request bodies held by the process.
    """

    connections_max: int = 10_000
    per_address_max: int = 10_000
    requests_max: int = 1_000_000
    handshake_s_max: float = 10.0
    idle_s_max: float = 75.0
    head_s_max: float = 10.0
    body_grace_s: float = 10.0
    body_rate_min: int = 1024
    write_s_max: float = 30.0
    write_rate_min: int = 16 * 1024
    linger_s_max: float = 2.0
    body_bytes_total_max: int = 256 * 1024 * 1024


class BodyBudget:
    """The bytes of request bodies that the process holds, over all connections."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._held = 0

    def change(self, more_bytes: int) -> None:
        """Count bytes more, or fewer.

        Raises:
            FailedError: 503, more would be held than allowed; nothing was counted.
        """
        if more_bytes > 0 and self._held + more_bytes > self._bytes_max:
            text = "the proxy holds too many request bodies"
            raise FailedError(
                Reason.OVERLOADED, text, side=Side.PROXY, retry_after_s=1.0, close=True
            )
        self._held += more_bytes


class Wiring:
    """Everything that a connection needs.

    Attributes:
        health: answers DescribeState when the process and its root supervisor work.
        routes: the upstreams by path.
        registry: the session registry.
        uses: who uses which session.
        keyring: who may use the proxy.
        rates: how much of whom is served.
        streams: the event streams by name.
        date: the present value of the Date field.
        clients: the connections of clients.
        access_log: whether every request is logged.
        scheme: of the URLs that clients use, "http" or "https".
        meters: where is counted.
        legacy: the parent of the streams of the HTTP+SSE transport.
        legacy_calls: what is being served for those streams.
        pseudonym: what this process calls itself in Via.
        draining: whether connections end after the exchange in hand.
        handing_over: whether all is served as ever meanwhile, until another process does.
        gate: where requests wait while the proxy itself has too much to do.
        exchange_ids: mints ids, unique in this process.
    """

    def __init__(
        self,
        world: World,
        names: AllowedNames,
        health: Slot,
        routes: Routes,
        registry: Slot,
        uses: SessionUses,
        keyring: Keyring,
        rates: Limits,
        streams: StreamDirectory,
        subscribers: Subscribers,
        date: Callable[[], bytes],
        http: HttpLimits = HttpLimits(),
        limits: ConnectionLimits = ConnectionLimits(),
        access_log: bool = False,
        scheme: str = "http",
        meters: Meters | None = None,
        legacy: Slot | None = None,
    ) -> None:
        self.world = world
        self.names = names
        self.health = health
        self.routes = routes
        self.registry = registry
        self.uses = uses
        self.keyring = keyring
        self.rates = rates
        self.streams = streams
        self.subscribers = subscribers
        self.date = date
        self.http = http
        self.limits = limits
        self.access_log = access_log
        self.scheme = scheme.encode("ascii")
        self.meters = meters or Meters()
        self.legacy = legacy or Slot(PARENT)
        self.bodies = BodyBudget(limits.body_bytes_total_max)
        self.clients = ClientTable(limits.connections_max, limits.per_address_max)
        self.pseudonym = b"proxy-actors-" + world.token(6).encode("ascii")
        self.draining = self.handing_over = False
        self.gate = ReadGate(world)
        self.exchange_ids = itertools.count(1)
        self.legacy_calls = LegacyCalls(world, self.exchange_ids)

    def write_deadline_s(self, data_bytes: int) -> float:
        """Say when a client must have accepted so many bytes that are written now."""
        limits = self.limits
        clock = self.world.now_s
        return clock() + limits.write_s_max + data_bytes / limits.write_rate_min
