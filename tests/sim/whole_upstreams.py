"""The upstreams of the scenario "whole": servers of every kind, as one client sees them all.

Each kind says how it is configured, which calls it answers well and which it does not, what it has
executed, and what may happen to it. Calls are told apart by `params.arguments.n` everywhere.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from proxy_actors.config.resilience import Timeouts
from proxy_actors.config.upstreams import Checks, Endpoint, Pool, Reconnect, Upstream
from proxy_actors.options import Balance, OnSessionLost, StdioMode, Transport
from proxy_actors.world.sim_world import SimListener, SimWorld
from tests.legacy_server import STREAM, LegacyServer
from tests.scripted_server import ScriptedServer
from tests.scripted_streams import Resumption
from tests.sim.virtual import SimLink, SimSignal
from tests.sim.virtual_child import Servers

Steps = tuple[str, ...]
# A call takes no longer; long enough for all that the servers do, short enough for many seeds.
CALL_S_MAX = 40.0
# So long a client may think about what it is asked meanwhile, which is an hour otherwise.
ASKED_S_MAX = 300.0
CHILDREN = 2


class Server(ABC):
    """One upstream.

    Attributes:
        name: of the upstream.
        good: what is answered well, each a list of steps.
        bad: what is not.
        posts: beside it, how messages are taken in, where that is a thing of its own.
        asks: whether its questions can be answered by who calls.
    """

    good: tuple[Steps, ...]
    bad: tuple[Steps, ...]
    posts: tuple[Steps, ...] = ((),)
    asks = True

    def __init__(self, world: SimWorld, name: str) -> None:
        self.world = world
        self.name = name

    @abstractmethod
    def settings(self) -> Upstream:
        """Say how it is configured."""

    @property
    @abstractmethod
    def executions(self) -> Mapping[Any, int]:
        """How often each call was executed, by its number."""

    def harms(self) -> list[Callable[[], None]]:
        """What may happen to it."""
        return []

    def heal(self) -> None:
        """Be well from now on."""

    def broken(self) -> list[str]:
        """List the rules of MCP that were broken towards it."""
        return []

    def lost(self) -> bool:
        """Whether sessions may have ended without their clients' doing."""
        return False


class HttpServerOf(Server):
    """A server at an address, which may go away for a while."""

    def __init__(self, world: SimWorld, name: str, calm: bool) -> None:
        super().__init__(world, name)
        self.address = (f"{name}.test", 80)
        self.listener: SimListener = world.listen(*self.address, self._accept)
        chance = world.chance
        # Some allow little more than what is needed, so that calls wait for each other. Where all
        # must go well there is room and time for the calls that may be before one, of 3 s each.
        self._pool = Pool() if chance.random() < 0.5 else Pool(
            connections_max=chance.choice((1, 2)), reserve=1, streams_max=24,
            waiters_max=40 if calm else 4, idle_min=chance.choice((0, 0, 0, 1)),
        )  # fmt: skip
        self._timeouts = Timeouts(pool_wait_s=30.0) if calm else Timeouts()

    @abstractmethod
    def _serve(self, link: SimLink) -> None:
        """Serve a connection."""

    def _accept(self, stream: Any) -> None:
        self._serve(SimLink(stream))

    def harms(self) -> list[Callable[[], None]]:
        return [self.go_away]

    def go_away(self) -> None:
        """Refuse connections for a while."""
        if self.world.listeners.pop(self.address, None) is not None:
            self.world.seen["upstream_went_away"] += 1
            self.world.pass_time(self.world.chance.random() * 10)
            self.world.listeners[self.address] = self.listener


class StreamableServer(HttpServerOf):
    """A server of Streamable HTTP, which can resume its streams in some runs."""

    good = (
        ("json",), ("json",), ("pause 2", "json"), ("chunked",), ("sse", "note", "answer", "end"),
        ("sse", "note", "pause 6", "note", "answer", "end"),
        ("sse", "note", "ask", "answer", "end"),
    )  # fmt: skip
    bad = (
        ("reset",), ("close",), ("head", "half", "reset"), ("sse", "note", "reset"), ("503",),
        ("garbage",), ("sse", "note", "end"), ("pause 60", "json"),
    )  # fmt: skip

    def __init__(self, world: SimWorld, name: str, calm: bool) -> None:
        chance = world.chance
        ways = Resumption() if chance.random() < 0.5 else None
        if ways is not None:
            self.good = (*self.good, ("sse", "note", "leave reset", "note", "answer", "end"))
        self.server = ScriptedServer(
            world.pass_time, lambda: SimSignal(world),
            spawn=lambda function: world.spawn("script", function), resumption=ways,
        )  # fmt: skip
        self.renews = chance.random() < 0.3
        self._lost = False
        super().__init__(world, name, calm)

    def _serve(self, link: SimLink) -> None:
        self.server.serve(link)

    def settings(self) -> Upstream:
        lost = OnSessionLost.REINITIALIZE if self.renews else OnSessionLost.END
        return Upstream(
            url=f"http://{self.address[0]}/mcp", transport=Transport.STREAMABLE, pool=self._pool,
            reconnect=Reconnect(base_s=0.5, cap_s=4.0, attempts_max=3, idle_s_max=30.0),
            call_timeout_s=CALL_S_MAX, on_session_lost=lost, timeouts=self._timeouts,
        )  # fmt: skip

    @property
    def executions(self) -> Mapping[Any, int]:
        return self.server.executions

    def harms(self) -> list[Callable[[], None]]:
        return [self.go_away, self.lose_sessions, self.say_news, self.say_news]

    def lose_sessions(self) -> None:
        self._lost = True
        self.world.seen["upstream_lost_its_sessions"] += 1
        self.server.lose_sessions()

    def say_news(self) -> None:
        """Say something on every standalone stream."""
        for session in self.server.sessions.values():
            if session.standalone is not None:
                params = {"session": session.id}
                session.standalone.put(
                    {"jsonrpc": "2.0", "method": "notifications/news", "params": params}
                )

    def lost(self) -> bool:
        return self._lost


class SeveralServers(Server):
    """Two servers of Streamable HTTP that do the same, the endpoints of one upstream."""

    good = StreamableServer.good
    bad = StreamableServer.bad

    def __init__(self, world: SimWorld, name: str, calm: bool) -> None:
        super().__init__(world, name)
        self.parts = {part: StreamableServer(world, f"{name}-{part}", calm) for part in "ab"}

    def settings(self) -> Upstream:
        endpoints = {
            name: Endpoint(url=part.settings().url) for name, part in self.parts.items()
        }
        return msgspec.structs.replace(
            self.parts["a"].settings(), url="", endpoints=endpoints,
            balance=self.world.chance.choice(list(Balance)),
            checks=Checks(interval_s=60.0, fast_interval_s=5.0, down_interval_s=10.0),
        )  # fmt: skip

    @property
    def executions(self) -> Mapping[Any, int]:
        return sum((part.server.executions for part in self.parts.values()), Counter[Any]())

    def harms(self) -> list[Callable[[], None]]:
        return [harm for part in self.parts.values() for harm in part.harms()]

    def lost(self) -> bool:
        return True


class SseServer(HttpServerOf):
    """A server of HTTP+SSE. A session is a stream, so it ends with whatever ends that."""

    good = (("answer",), ("answer",), ("note", "answer"), ("pause 3", "answer"), ("log", "answer"),
            ("ask", "answer"))  # fmt: skip
    bad = (("nothing",), ("reset",), ("close",), ("end",), ("note", "reset"), ("nonsense",))
    posts = (("202",), ("202",), ("late",), ("pause 2", "202"))

    def __init__(self, world: SimWorld, name: str, calm: bool) -> None:
        self.server = LegacyServer(
            world.pass_time, lambda: SimSignal(world), lambda f: world.spawn("script", f)
        )
        super().__init__(world, name, calm)

    def _serve(self, link: SimLink) -> None:
        self.server.serve(link)

    def settings(self) -> Upstream:
        pinned = self.world.chance.random() < 0.5
        return Upstream(
            url=f"http://{self.address[0]}{STREAM}", pool=self._pool, call_timeout_s=CALL_S_MAX,
            transport=Transport.SSE if pinned else Transport.AUTO, timeouts=self._timeouts,
        )  # fmt: skip

    @property
    def executions(self) -> Mapping[Any, int]:
        return self.server.executions

    def harms(self) -> list[Callable[[], None]]:
        return [self.go_away, self.server.forget]

    def lost(self) -> bool:
        return True


class StdioServer(Server):
    """A command, in one of the modes of stdio."""

    good = (("answer",), ("answer",), ("note", "answer"), ("pause 2", "answer"), ("error",),
            ("log", "answer"), ("change", "answer"), ("note 3", "pause 5", "answer"))  # fmt: skip
    bad = (("exit 0",), ("die",), ("half", "die"), ("freeze", "answer"), ("hang", "answer"),
           ("garbage", "answer"), ("twice",), ("pause 60", "answer"))  # fmt: skip

    def __init__(self, world: SimWorld, name: str, mode: StdioMode, calm: bool) -> None:
        super().__init__(world, name)
        self.mode = mode
        self.asks = mode is StdioMode.SESSION
        if self.asks:
            self.good = (*self.good, ("ask", "answer"))
        temper = 0.0 if calm else world.chance.choice((0.0, 0.0, 0.1))
        self.servers = Servers(world, mode, temper)
        world.programs[name] = self.servers.run

    def settings(self) -> Upstream:
        return Upstream(
            command=(self.name,), stdio=self.mode, children=CHILDREN, sessions_max=16,
            call_timeout_s=CALL_S_MAX,
        )  # fmt: skip

    @property
    def executions(self) -> Mapping[Any, int]:
        return self.servers.executions

    def harms(self) -> list[Callable[[], None]]:
        return [self.kill_process, self.kill_process]

    def kill_process(self) -> None:
        """Kill a process."""
        running = self.servers.running()
        if running:
            self.world.seen["process_was_killed"] += 1
            self.world.chance.choice(running).process.kill()

    def heal(self) -> None:
        self.servers.heal()

    def broken(self) -> list[str]:
        return self.servers.broken

    def lost(self) -> bool:
        return self.mode is StdioMode.SESSION


KINDS: dict[str, Callable[[SimWorld, str, bool], Server]] = {
    "web": StreamableServer,
    "old": SseServer,
    "many": SeveralServers,
    "own": lambda world, name, calm: StdioServer(world, name, StdioMode.SESSION, calm),
    "one": lambda world, name, calm: StdioServer(world, name, StdioMode.SHARED, calm),
    "some": lambda world, name, calm: StdioServer(world, name, StdioMode.POOL, calm),
}
