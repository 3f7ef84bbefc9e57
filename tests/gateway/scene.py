"""A data plane in the simulated world, without faults: what a client sends, what it gets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from proxy_actors.gateway.wiring import ConnectionLimits
from proxy_actors.policy.pool_limits import PoolLimits
from proxy_actors.policy.sessions import SessionLimits
from proxy_actors.protocol.http1_framing import HttpLimits
from proxy_actors.world.sim_world import Faults, SimWorld
from tests.plane import Plane
from tests.scripted_streams import Resumption
from tests.sim.virtual import (
    PROXY,
    URL,
    Answer,
    VirtualConnection,
    call,
    initialize,
    request,
    start_server,
)


class ClientWorld(SimWorld):
    """The world, for who sends and waits for answers in it."""

    def do(self, function: Callable[[], Any], seconds: float = 5000.0) -> Any:
        """Run a client in a greenlet; return what it returns or raise what it raises."""
        outcome: list[Any] = []
        ended: list[BaseException | None] = []
        self.spawn("client", lambda: outcome.append(function()), ended.append)
        assert self.run_until(lambda: bool(ended), seconds), "the client waits for ever"
        if ended[0] is not None:
            raise ended[0]
        return outcome[0]


class Scene(ClientWorld):
    """The world, the proxy in it and a scripted upstream."""

    def __init__(
        self,
        seed: int = 1,
        sessions: bool = True,
        standalone: bool = True,
        listen_host: str = PROXY[0],
        http: HttpLimits = HttpLimits(),
        limits: ConnectionLimits = ConnectionLimits(),
        pool: PoolLimits = PoolLimits(),
        session_limits: SessionLimits = SessionLimits(),
        resumption: Resumption | None = None,
        **bounds: Any,  # Any: the keys and rates of the plane
    ) -> None:
        super().__init__(seed, Faults(fragment=0.0))
        self.server = start_server(self, sessions, standalone, resumption)
        self.plane = Plane(
            self, URL, (listen_host, PROXY[1]), http, limits, pool, session_limits, **bounds
        )
        self.plane.start()
        self.run(1.0)

    def connection(self) -> VirtualConnection:
        return VirtualConnection(self)

    def begin(self, data: bytes, method: str = "POST") -> tuple[VirtualConnection, Answer]:
        """Send a request on a connection of its own; the answer is read as it comes."""
        connection, answer = self.connection(), Answer()
        connection.send(data)
        self.spawn("reader", lambda: connection.receive(method, answer))
        return connection, answer

    def call_that_asks(self, then: Callable[[], None]) -> tuple[Answer, Answer]:
        """Make a call whose server asks its client something; `then` comes before the reply.

        Returns:
            What became of the call, and of the reply, which is sent on another connection.
        """
        session = self.session()

        def client() -> tuple[Answer, Answer]:
            script = call(1, "sse", "ask", "answer", "end")
            connection, answer = self.begin(request(script, session=session))
            while not answer.messages:
                self.pass_time(1.0)
            then()
            self.pass_time(5.0)
            reply = {"jsonrpc": "2.0", "id": answer.message["id"], "result": {"action": "accept"}}
            other = self.connection()
            accepted = other.ask(request(reply, session=session))
            other.close()
            while not answer.complete:
                self.pass_time(1.0)
            connection.close()
            return answer, accepted

        answers: tuple[Answer, Answer] = self.do(client)
        return answers

    def kill_listener(self) -> None:
        """Kill the actor; the connections that it has accepted are served by others."""
        (task,) = [task for task in self.live if task.owner == "actor HttpServer"]
        task.kill()

    def ask(self, *requests: bytes, method: str = "POST") -> Answer:
        """Send requests over one connection, one after another; return the last answer."""

        def client() -> Answer:
            connection = self.connection()
            answers = [connection.ask(data, method) for data in requests]
            connection.close()
            return answers[-1]

        answer: Answer = self.do(client)
        return answer

    def session(self, version: str = "2025-11-25") -> str:
        """Open a session."""
        answer = self.ask(request(initialize(version)))
        id = answer.field(b"mcp-session-id")
        assert id is not None, answer
        return id.decode()

    def rest(self) -> None:
        """Let everything come to rest, and see that nothing is left."""
        self.run(120.0)
        assert self.plane.leftovers() == {}, self.plane.leftovers()
        assert not self.errors, self.errors
