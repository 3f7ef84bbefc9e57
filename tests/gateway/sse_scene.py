"""A data plane before a server of HTTP+SSE, in the simulated world."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from proxy_actors.messages.lifecycle import DescribeState
from proxy_actors.options import Transport
from proxy_actors.world.sim_world import Faults, SimWorld
from tests.gateway.legacy_client import LegacyClient
from tests.gateway.scene import Scene
from tests.legacy_server import STREAM, LegacyServer
from tests.plane import Plane
from tests.sim.virtual import (
    PROXY,
    UPSTREAM,
    Answer,
    SimLink,
    SimSignal,
    VirtualConnection,
    initialize,
    note,
    request,
)

URL = f"http://{UPSTREAM[0]}{STREAM}"
Served = Callable[[SimLink], None]


class SseScene(Scene):
    """The world, the proxy in it, and an old server, or whatever else is `serving`."""

    def __init__(
        self,
        transport: Transport = Transport.SSE,
        seed: int = 1,
        url: str = URL,
        **bounds: Any,  # Any: the bounds of the plane
    ) -> None:
        SimWorld.__init__(self, seed, Faults(fragment=0.0))
        self.old = LegacyServer(
            self.pass_time, lambda: SimSignal(self), lambda f: self.spawn("old server", f)
        )
        self.serving: Served = self.old.serve
        self.listener = self.listen(*UPSTREAM, self._accept)
        self.plane = Plane(self, url, PROXY, transport=transport, **bounds)
        self.plane.start()
        self.run(1.0)

    def rest(self) -> None:
        """Let everything come to rest, and see that nothing is left."""
        super().rest()
        assert not [owner for owner in self.tasks() if owner.startswith("sse ")]

    def _accept(self, stream: Any) -> None:
        self.serving(SimLink(stream))

    def streaming(self) -> int:
        """How many upstream connections carry a stream."""
        state = self.do(
            lambda: self.plane.pool.ask(DescribeState(), self.now_s() + 1.0)
        )
        return int(state.detail["streaming"])

    def legacy(self, function: Callable[[LegacyClient], Any]) -> Any:
        """Have a client of HTTP+SSE act."""

        def client() -> Any:
            legacy = LegacyClient(self)
            try:
                return function(legacy)
            finally:
                legacy.close()

        return self.do(client)

    def client(self) -> SessionClient:
        """A client of Streamable HTTP that has shaken hands. Call it in a greenlet of the world."""
        return SessionClient(self)


class SessionClient:
    """A client of Streamable HTTP with a session; each request has a connection of its own."""

    def __init__(self, world: SimWorld, version: str = "2025-11-25") -> None:
        self.world = world
        self.version = version
        answer = self.send(initialize(version), session=False)
        self.opened = answer
        id = answer.field(b"mcp-session-id")
        assert id is not None, answer
        self.id = id.decode()
        assert self.send(note("notifications/initialized")).status == 202

    def send(
        self, body: Any = None, method: str = "POST", session: bool = True
    ) -> Answer:
        """Send a request, and return its whole answer."""
        connection, data = VirtualConnection(self.world), self._request(body, method, session)
        answer = connection.ask(data, method)
        connection.close()
        return answer

    def begin(self, body: Any = None, method: str = "POST", **fields: str) -> Answer:
        """Send a request; what comes is filled into the answer, meanwhile and later."""
        answer = Answer()
        connection = VirtualConnection(self.world)
        connection.send(self._request(body, method, **fields))
        self.world.spawn("reader", lambda: _read(connection, method, answer))
        return answer

    def until(self, condition: Callable[[], object]) -> None:
        """Let time pass until something holds."""
        deadline_s = self.world.now_s() + 600.0
        while not condition():
            assert self.world.now_s() < deadline_s
            self.world.pass_time(0.01)

    def _request(
        self, body: Any, method: str, session: bool = True, **fields: str
    ) -> bytes:
        version = {"MCP-Protocol-Version": self.version} if session else {}
        return request(
            body, method, self.id if session else None, fields={**version, **fields}
        )


def _read(connection: VirtualConnection, method: str, answer: Answer) -> None:
    connection.receive(method, answer)
    connection.close()


def answer_to(id: str, result: dict[str, Any] | None = None) -> dict[str, Any]:
    """What a client answers a request of the server."""
    return {"jsonrpc": "2.0", "id": id, "result": result or {"action": "decline"}}
