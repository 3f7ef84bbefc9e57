"""The data plane on the real world, in a thread of the test, with bounds of the test's choice.

A process of its own has the bounds of production, which are too large to be waited for.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable
from typing import Any

import gevent
import gevent.event

from proxy_actors.actors.refs import Slot
from proxy_actors.gateway.wiring import ConnectionLimits
from proxy_actors.messages.lifecycle import ChildStopped, Stop
from proxy_actors.policy.pool_limits import PoolLimits
from proxy_actors.policy.reconnect import ReconnectLimits
from proxy_actors.policy.stream_limits import StreamLimits
from proxy_actors.policy.supervision import Budget
from proxy_actors.world.base import TlsClient, TlsServer
from proxy_actors.world.gevent_world import GeventWorld
from tests.plane import Plane
from tests.sim.virtual import initialize, request
from tests.wire.http_client import Wire
from tests.wire.waiting import PATIENCE_S, eventually


class PlaneThread:
    """A running data plane. A context manager: at its end nothing may be left of it.

    Args:
        url: the upstream.
        limits: bounds on clients' connections.
        pool: bounds on the upstream's.
        budget: how many restarts its supervisors bear.
        tls: how clients are spoken to, if in TLS.
        client_tls: how clients speak TLS.
        upstream_tls: how the upstream is spoken to, if in TLS.
        streams: bounds on event streams.
        reconnect: how the upstream's are opened anew.
    """

    def __init__(
        self,
        url: str,
        limits: ConnectionLimits = ConnectionLimits(),
        pool: PoolLimits = PoolLimits(),
        budget: Budget = Budget(),
        tls: TlsServer | None = None,
        client_tls: ssl.SSLContext | None = None,
        upstream_tls: TlsClient | None = None,
        streams: StreamLimits = StreamLimits(),
        reconnect: ReconnectLimits = ReconnectLimits(),
    ) -> None:
        self._streams = streams
        self._reconnect = reconnect
        self._tls = tls
        self._client_tls = client_tls
        self._upstream_tls = upstream_tls
        self._url = url
        self._limits = limits
        self._pool = pool
        self._budget = budget
        self._mail: list[tuple[Slot | None, object]] = []
        self._thread = threading.Thread(target=self._run)
        self._started = threading.Event()
        self._wake: Callable[[], None] = lambda: None
        self._left: dict[str, Any] | None = None
        self.plane: Plane
        self.address: tuple[str, int]

    def __enter__(self) -> PlaneThread:
        self._thread.start()
        assert self._started.wait(PATIENCE_S)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.tell(None)
        self._thread.join(PATIENCE_S)
        assert kind is not None or self._left == {}

    def wire(self) -> Wire:
        """Open a connection."""
        return Wire(self.address, tls=self._client_tls)

    def session(self) -> str:
        """Open a session, over a connection that is gone afterwards."""
        with self.wire() as wire:
            id = wire.ask(request(initialize())).field(b"mcp-session-id")
        assert id is not None
        self.rest()
        return id.decode()

    def tell(self, slot: Slot | None, message: object = None) -> None:
        """Have a mail sent within the thread; to nobody, it is the thread that is to end."""
        self._mail.append((slot, message))
        self._wake()

    def rest(self) -> None:
        """Return once no client is connected."""
        eventually(lambda: not len(self.plane.wiring.clients))

    def _run(self) -> None:
        hub = gevent.get_hub()
        stop = gevent.event.Event()
        wake = hub.loop.async_()

        def deliver() -> None:
            while self._mail:
                slot, message = self._mail.pop(0)
                if slot is None:
                    stop.set()
                else:
                    slot.tell(message)

        wake.start(deliver)
        self._wake = wake.send
        world = GeventWorld()
        self.plane = Plane(
            world,
            self._url,
            limits=self._limits,
            pool=self._pool,
            budget=self._budget,
            tls=self._tls,
            upstream_tls=self._upstream_tls,
            streams=self._streams,
            reconnect=self._reconnect,
        )
        self.plane.start()
        self.address = self.plane.address
        self._started.set()
        stop.wait()
        self.plane.root.tell(Stop())
        with gevent.Timeout(PATIENCE_S, False):
            while not any(isinstance(x, ChildStopped) for x in self.plane.mail) or world.tasks():
                gevent.sleep(0)
        self._left = {**world.tasks(), **self.plane.leftovers()}
        wake.close()
        hub.destroy(destroy_loop=True)
