"""The whole application in the simulated world, before several scripted servers."""

from __future__ import annotations

from typing import Any

from proxy_actors.actors.refs import Slot
from proxy_actors.app import App
from proxy_actors.config.model import Config
from proxy_actors.config.resilience import Breaker
from proxy_actors.config.upstreams import Checks, Endpoint, Upstream
from proxy_actors.gateway.guarded import GuardedForwarder
from proxy_actors.messages.health import OperatorState, SetEndpointState
from proxy_actors.options import CheckKind
from proxy_actors.policy.endpoint_state import EndpointState
from proxy_actors.storage.memory import MemoryStore
from proxy_actors.world.sim_world import Faults
from tests.gateway.scene import ClientWorld
from tests.plane import DATE, UPSTREAM
from tests.scripted_server import ScriptedServer
from tests.scripted_streams import Resumption
from tests.sim.virtual import (
    Answer,
    SimLink,
    SimSignal,
    VirtualConnection,
    initialize,
    request,
)


class EndpointScene(ClientWorld):
    """The world, an upstream with an endpoint for each name, and a server behind each of them.

    Args:
        backups: which of the endpoints are.
        sessions: whether the servers give sessions ids.
        resumes: whether they give events ids.
        settings: of the upstream; endpoints are not checked, and have no circuit breakers, where
            these do not say it.
    """

    def __init__(
        self,
        *names: str,
        seed: int = 1,
        backups: tuple[str, ...] = (),
        sessions: bool = True,
        resumes: bool = False,
        **settings: Any,  # Any: the settings have types of their own
    ) -> None:
        super().__init__(seed, Faults(fragment=0.0))
        self.servers = {name: self._serve(name, sessions, resumes) for name in names}
        endpoints = {
            name: Endpoint(url=f"http://{name}.test/mcp", backup=name in backups) for name in names
        }
        settings.setdefault("checks", Checks(kind=CheckKind.OFF))
        settings.setdefault("breaker", Breaker(enabled=False))
        config = Config(upstreams={UPSTREAM: Upstream(endpoints=endpoints, **settings)})
        self.store = MemoryStore()
        self.mail: list[Any] = []
        self.app = App(self, config, self.store, lambda: DATE, {})
        self.app.start(self)
        self.run(1.0)

    def tell(self, message: Any) -> bool:
        """Be the root's parent."""
        self.mail.append(message)
        return True

    @property
    def states(self) -> dict[str, EndpointState]:
        """What is known of each endpoint."""
        forwarder = self.app.wiring.routes.by_name[UPSTREAM].forwarder
        assert isinstance(forwarder, GuardedForwarder)
        return {name: x.state for name, x in forwarder._by_name.items()}

    @property
    def guard(self) -> Slot:
        """What judges the endpoints."""
        forwarder = self.app.wiring.routes.by_name[UPSTREAM].forwarder
        assert isinstance(forwarder, GuardedForwarder)
        return forwarder._guard

    def take_out(self, name: str, serves: bool = False) -> None:
        """Have an endpoint take no sessions, and serve those that it has or not."""
        self.set(name, OperatorState.DRAIN if serves else OperatorState.MAINT)

    def bring_back(self, name: str) -> None:
        """Have an endpoint be used as the others are."""
        self.set(name, OperatorState.READY)

    def set(self, name: str, state: OperatorState) -> None:
        """Do as an operator."""
        self.do(lambda: self.guard.deliver(SetEndpointState(name, state)))
        self.run(0.1)

    def ask(self, message: Any, session: str | None = None, method: str = "POST") -> Answer:
        """Send a request on a connection of its own."""
        def client() -> Answer:
            connection = VirtualConnection(self)
            answer = connection.ask(request(message, method, session=session), method)
            connection.close()
            return answer

        answer: Answer = self.do(client)
        return answer

    def session(self) -> str:
        """Open a session."""
        answer = self.ask(initialize())
        id = answer.field(b"mcp-session-id")
        assert id is not None, answer
        return id.decode()

    def seen_by(self, name: str, method: str = "tools/call") -> int:
        """Count the messages of this name that a server has seen."""
        return sum(
            isinstance(x.body, dict) and x.body.get("method") == method
            for x in self.servers[name].seen
        )

    def spread(self, method: str = "tools/call") -> dict[str, int]:
        """Count them for every server."""
        return {name: self.seen_by(name, method) for name in self.servers}

    def _serve(self, name: str, sessions: bool, resumes: bool) -> ScriptedServer:
        server = ScriptedServer(
            self.pass_time, lambda: SimSignal(self), sessions, True,
            lambda function: self.spawn("script", function),
            Resumption() if resumes else None,
        )

        def accept(stream: Any) -> None:
            server.serve(SimLink(stream))

        self.listen(f"{name}.test", 80, accept)
        return server
