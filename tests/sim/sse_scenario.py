"""The scenario "sse": clients, the data plane, a server of HTTP+SSE, and what can happen to them.

Connections stall and break, the server refuses, forgets, floods and goes away, actors crash between
any two of their messages, the proxy is drained. Whatever a client was told must be true: a result
is its own and was executed once, what was "not executed" never was, and nothing is executed twice.
At the end, without faults, another client is served; when all have left, nothing is left over.
"""

from __future__ import annotations

import itertools
from typing import Any

from proxy_actors.actors.base import Actor
from proxy_actors.actors.http_upstream import HttpUpstream
from proxy_actors.actors.session_channels import SessionChannels
from proxy_actors.actors.sse_session import SseSession
from proxy_actors.errors import ConnectError
from proxy_actors.gateway.forwarder import CALL_S_MAX
from proxy_actors.gateway.sse_pipes import SsePipes
from proxy_actors.gateway.sse_forward import SseForwarder
from proxy_actors.messages.lifecycle import Stop
from proxy_actors.messages.sessions import EndReason, EndSession
from proxy_actors.messages.upstream import UpstreamDrained
from proxy_actors.options import Transport
from proxy_actors.policy.event_stream import CLIENT_ANSWER_S_MAX
from proxy_actors.policy.pool_limits import PoolLimits
from proxy_actors.policy.supervision import Budget
from proxy_actors.world.sim_world import Faults, SimWorld
from tests.defects import Defect
from tests.legacy_server import STREAM, LegacyServer
from tests.plane import Plane
from tests.scripted_server import ANSWER_WAIT_S
from tests.sim.campaign import Scenario
from tests.sim.crashes import planted_crashes
from tests.sim.virtual import (
    PROXY,
    UPSTREAM,
    Answer,
    SimLink,
    SimSignal,
    VirtualConnection,
    call,
    initialize,
    note,
    request,
)

CLIENTS = 3
CALLS_AT_ONCE = 3
LOAD_S = 200.0
QUIET_S = 2 * CALL_S_MAX + ANSWER_WAIT_S + 120.0
LOOK_S = 0.2
FRAGILE = {"SseSession", "SessionChannels", "HttpUpstream", "EventStream", "ConnectionPool"}
WILD: tuple[tuple[str, ...], ...] = (
    ("nothing",), ("reset",), ("close",), ("end",), ("note", "reset"), ("nonsense",),
    ("note", "pause 3", "close"),
)  # fmt: skip
TAME = (
    ("answer",), ("note", "answer"), ("pause 3", "answer"), ("ask", "answer"), ("log", "answer"),
)  # fmt: skip
WILD_POSTS = ("break", "handle,break", "500", "404", "handle,500", "reset", "never")
TAME_POSTS = ("202", "202", "late", "pause 2,202", "pause 2,late")
POOLS = (
    PoolLimits(),
    PoolLimits(connections_max=1, reserve=1, streams_max=2, waiters_max=4),
    PoolLimits(connections_max=2, reserve=1, streams_max=8, waiters_max=4),
)


class Scene:
    """One run."""

    def __init__(self, world: SimWorld) -> None:
        self.world = world
        chance = self.chance = world.chance
        self.calm = chance.random() < 0.2
        self.fragile = 0.0 if self.calm else chance.choice((0.0, 0.001, 0.005))
        self.healed = False
        self.numbers = itertools.count(1)
        self.working = 0
        self.told: dict[int, str] = {}
        self.cancelled: set[int] = set()
        self.server = LegacyServer(
            world.pass_time, lambda: SimSignal(world), lambda f: world.spawn("script", f)
        )
        self.listener = world.listen(*UPSTREAM, self._accept)
        self.plane = Plane(
            world,
            f"http://{UPSTREAM[0]}{STREAM}",
            PROXY,
            pool=POOLS[0] if self.calm else chance.choice(POOLS),
            budget=Budget(10_000, 1.0),
            transport=chance.choice((Transport.SSE, Transport.AUTO)),
        )

    def run(self) -> None:
        world, chance = self.world, self.chance
        self.plane.start()
        world.run(1.0)
        with planted_crashes(world, self._crash_chance):
            if not self.calm:
                world.faults = Faults(
                    refuse=chance.choice((0.0, 0.05)),
                    reset=chance.choice((0.0, 0.003)),
                    stall=chance.choice((0.0, 0.05)),
                )
                world.spawn("trouble", self._make_trouble)
            for _ in range(CLIENTS):
                self._spawn(Client(self).run)
            world.run_until(lambda: not self.working, LOAD_S)
            self.healed = True
            world.faults.heal()
        ended = world.run_until(lambda: not self.working, CLIENT_ANSWER_S_MAX + QUIET_S)
        self._check(ended, "a client waits for ever")
        last = Client(self, lasts=False)
        self._spawn(last.run)
        self._check(world.run_until(lambda: not self.working, QUIET_S), "the last one waits")
        self._check(last.served, "nobody is served any more")
        for row in self.plane.store.rows():  # its client does not know of it
            self.plane.registry.tell(EndSession(row.session.key, EndReason.DELETED))
            world.seen["session_of_nobody"] += 1
        world.run(QUIET_S)
        self._check_truth()
        self._check_rest()
        if chance.random() < 0.5:
            self._drain()
        self.plane.root.tell(Stop())
        self._check(world.run_until(lambda: not world.tasks(), QUIET_S), "a stop has no end")

    def outcome(self, n: int, answer: Answer) -> None:
        """Note what a client was told of a call."""
        if not answer.complete:
            told = "cut"
        elif not answer.messages or "method" in answer.message:
            told = "ended_as_cancelled"
            self._check(n in self.cancelled, f"{n} was never answered")
        elif "result" in answer.message:
            [text] = [x["text"] for x in answer.message["result"]["content"]]
            self._check(text == f"n={n}", f"{n} was told {text}")
            told = "result"
        else:
            data = answer.error.get("data") or {}
            told = f"{data.get('reason', 'refused')}_{data.get('executed', 'no')}"
        self.told[n] = told
        self.world.seen[told] += 1

    def _spawn(self, function: Any) -> None:
        def run() -> None:
            try:
                function()
            finally:
                self.working -= 1

        self.working += 1
        self.world.spawn("client", run)

    def _accept(self, stream: Any) -> None:
        self.server.serve(SimLink(stream))

    def _crash_chance(self, actor: Actor) -> float:
        fragile = type(actor).__name__ in FRAGILE and not self.healed
        return self.fragile if fragile else 0.0

    def _make_trouble(self) -> None:
        world, chance, server = self.world, self.chance, self.server
        while not self.healed:
            world.pass_time(chance.random() * 20.0)
            if self.healed:
                return
            match chance.choice(("forget", "away", "mute", "foreign", "reset", "refuse", "")):
                case "forget":
                    server.forget()
                case "reset" if server.sessions:
                    chance.choice(list(server.sessions.values())).link.reset()
                case "away":
                    self.listener.close()
                    world.pass_time(chance.random() * 10.0)
                    self.listener = world.listen(*UPSTREAM, self._accept)
                case "mute":
                    server.greeting = ""
                    world.pass_time(chance.random() * 15.0)
                    server.greeting = "endpoint"
                case "foreign":
                    own, server.endpoint = server.endpoint, "http://other.test/{id}"
                    world.pass_time(chance.random() * 5.0)
                    server.endpoint = own
                case "refuse":
                    server.stream_status = chance.choice((401, 404, 500, 503))
                    world.pass_time(chance.random() * 5.0)
                    server.stream_status = 200

    # The rules.

    def _check_truth(self) -> None:
        for n, told in self.told.items():
            times = self.server.executions[n]
            self._check(times <= 1, f"{n} was executed {times} times")
            if told == "result":
                self._check(times == 1, f"{n} was answered and not executed")
            elif told.endswith("_no"):
                self._check(times == 0, f"{n} was executed, and its client told {told}")
            if self.calm:
                self._check(told == "result", f"{n} was told {told} in a calm run")

    def _check_rest(self) -> None:
        left = self.plane.leftovers()
        self._check(not left, f"left over: {left}")
        sessions = self.server.sessions
        self._check(not sessions, f"{len(sessions)} sessions are open at the server")
        tasks = [owner for owner in self.world.tasks() if owner.startswith("sse ")]
        self._check(not tasks, f"greenlets live on: {tasks}")
        self._check(not self.world.errors, f"errors: {self.world.errors}")

    def _drain(self) -> None:
        """A session that nobody uses holds no drain up."""
        client = Client(self, lasts=False)
        self._spawn(client.open)
        self._check(self.world.run_until(lambda: not self.working, QUIET_S), "no session opens")
        self.plane.drain()

        def drained() -> bool:
            return any(isinstance(mail, UpstreamDrained) for mail in self.plane.mail)

        self._check(self.world.run_until(drained, 120.0), "the drain has no end")
        self.world.seen["drained"] += 1
        self.world.run(10.0)  # the server is yet to see that a connection was closed
        self._check(not self.server.sessions, "a session outlives the drain")

    def _check(self, holds: object, text: str) -> None:
        if not holds:
            raise AssertionError(text)


class Client:
    """A client of Streamable HTTP that opens sessions and calls.

    Attributes:
        lasts: whether it goes on while there is load; else it makes one call.
        served: whether its latest call was answered.
    """

    def __init__(self, scene: Scene, lasts: bool = True) -> None:
        self.scene = scene
        self.world = scene.world
        self.lasts = lasts
        self.served = False
        self.session: str | None = None

    def run(self) -> None:
        chance, scene = self.world.chance, self.scene
        while True:
            self.open()
            for _ in range(chance.randrange(1, 5) if self.lasts else 1):
                count = chance.randrange(1, CALLS_AT_ONCE + 1) if self.lasts else 1
                self._call([next(scene.numbers) for _ in range(count)])
            self._leave()
            if scene.healed or not self.lasts or chance.random() < 0.2:
                return

    def open(self) -> None:
        """Open a session, however often that takes."""
        while True:
            answer = self._ask(initialize(), session=False)
            id = answer.field(b"mcp-session-id") if answer.complete else None
            if id is not None:
                self.session = id.decode()
                self.world.seen["opened"] += 1
                self._ask(note("notifications/initialized"))
                return
            self.scene._check(not self.scene.calm, f"a calm run refuses a session: {answer}")
            self.world.seen["refused"] += 1
            self.world.pass_time(1.0 + self.world.chance.random() * 5.0)

    def _call(self, numbers: list[int]) -> None:
        """Call all at once, answer what is asked, and wait for the answers."""
        chance, scene = self.world.chance, self.scene
        underway: dict[int, Answer] = {}
        asked: set[str] = set()
        for n in numbers:
            wild = not scene.calm and not scene.healed and chance.random() < 0.3
            message = call(n, *chance.choice(WILD if wild and chance.random() < 0.5 else TAME))
            posts = WILD_POSTS if wild and chance.random() < 0.5 else TAME_POSTS
            message["params"]["arguments"]["post"] = chance.choice(posts).split(",")
            message["params"]["_meta"] = {"progressToken": n}
            underway[n] = self._begin(message)
            if not scene.calm and chance.random() < 0.05:
                scene.cancelled.add(n)
                self._ask(note("notifications/cancelled", requestId=n))
        while not all(getattr(answer, "over", False) for answer in underway.values()):
            self.world.pass_time(LOOK_S)
            for answer in underway.values():
                for told in answer.messages if answer.is_stream else ():
                    id = told.get("id") if "method" in told else None
                    if id is not None and id not in asked:
                        asked.add(id)
                        self._ask({"jsonrpc": "2.0", "id": id, "result": {"action": "decline"}})
                        self.world.seen["answered_question"] += 1
        for n, answer in underway.items():
            scene.outcome(n, answer)
            self.served = scene.told[n] == "result"

    def _leave(self) -> None:
        """End the session, and be sure of it."""
        while self._ask(None, "DELETE").status not in (200, 404):
            self.world.pass_time(1.0)

    def _begin(self, body: Any) -> Answer:
        answer = Answer()
        connection = self._connect()

        def read() -> None:
            try:
                if connection is not None:
                    connection.receive("POST", answer)
                    connection.close()
            finally:
                setattr(answer, "over", True)

        if connection is not None:
            connection.send(request(body, session=self.session))
        self.world.spawn("reader", read)
        return answer

    def _ask(self, body: Any, method: str = "POST", session: bool = True) -> Answer:
        connection = self._connect()
        if connection is None:
            return Answer()
        try:
            return connection.ask(
                request(body, method, self.session if session else None), method
            )
        finally:
            connection.close()

    def _connect(self) -> VirtualConnection | None:
        try:
            return VirtualConnection(self.world)
        except ConnectError:
            return None


MUTANTS = (
    Defect("connections outlive their session", SsePipes, "end",
           "exchange.discard()", "pass"),
    Defect("what was sent counts as not executed", SsePipes, "_send",
           "self._unsent.discard(call_id)", "pass"),
    Defect("a session that has ended goes on sending", SsePipes, "_begin",
           "if self._ended:", "if False:"),
    Defect("the sender waits for ever", SsePipes, "end", "self._wake_sender()", "pass"),
    Defect("requests wait for each other", SsePipes, "_send_all",
           "self._world.spawn(\"sse post\", partial(self._post, post))", "self._post(post)"),
    Defect("a drain leaves idle sessions", SseSession, "_drained",
           "self._ended(Reason.DRAINING, \"the upstream is being drained\")", "pass"),
    Defect("fields of clients are kept", SseForwarder, "_submit",
           "del clients[exchange.id]", "pass"),
    Defect("the end of a client's session is not passed on", HttpUpstream, "on_receive",
           "self._sessions.tell(message)", "pass"),
    Defect("sessions of a crashed parent stay listed", SessionChannels, "on_end",
           "self._channels.remove(name)", "pass"),
)  # fmt: skip

RARE = frozenset({
    "answered_question",
    "connect_refused",
    "connect-failed_no",
    "connection_reset",
    "crashed_ConnectionPool",
    "crashed_EventStream",
    "crashed_HttpUpstream",
    "crashed_SessionChannels",
    "crashed_SseSession",
    "cut",
    "drained",
    "ended_as_cancelled",
    "opened",
    "pool-exhausted_no",
    "refused",
    "result",
    "session-lost_no",
    "upstream-closed_unknown",
    "upstream-protocol_unknown",
    "upstream-timeout_unknown",
})

SSE = Scenario("sse", lambda world: Scene(world).run(), RARE, 48, MUTANTS)
