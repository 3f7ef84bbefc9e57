"""The scenario "plane": clients, the whole data plane, an upstream, and everything that can happen.

Connections stall, break and come byte by byte; exchanges, actors and sockets are killed; actors
crash between any two of their messages; the upstream loses its sessions and goes away for a while;
the disk fails; the proxy is drained, in the middle of the load or after it. Some runs are calm, and
in them everything must go well. After every step the pool must be in order; at the end, without
faults, every session that its client knows is alive or was ended, and nothing is left over.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

import greenlet

from proxy_actors.actors.base import Actor
from proxy_actors.actors.connection_pool import ConnectionPool
from proxy_actors.actors.refs import Slot
from proxy_actors.actors.session_registry import SessionRegistry
from proxy_actors.gateway.forwarder import CALL_S_MAX
from proxy_actors.gateway.limits import LimitKey, Rate, Rule
from proxy_actors.gateway.wiring import ConnectionLimits
from proxy_actors.messages.lifecycle import ChildStopped, Stop
from proxy_actors.messages.pool import PoolMessage, Recall
from proxy_actors.messages.server import ServerDrained
from proxy_actors.messages.upstream import UpstreamDrained
from proxy_actors.policy.pool_limits import PoolLimits
from proxy_actors.policy.reconnect import ReconnectLimits
from proxy_actors.policy.session_ledger import Phase
from proxy_actors.policy.sessions import SessionLimits
from proxy_actors.policy.stream_limits import StreamLimits
from proxy_actors.policy.supervision import Budget
from proxy_actors.transports.http_server import HttpServer
from proxy_actors.world.base import ByteStream
from proxy_actors.world.sim_store import SimDisk, SimStore
from proxy_actors.world.sim_streams import SimPipe, SimStream
from proxy_actors.world.sim_waits import SimTask
from proxy_actors.world.sim_world import Faults, SimWorld
from tests.plane import Plane
from tests.scripted_server import ScriptedServer
from tests.scripted_streams import ANSWER_WAIT_S
from tests.sim.campaign import Scenario
from tests.sim.crashes import planted_crashes
from tests.sim.plane_clients import Client
from tests.sim.plane_mutants import MUTANTS
from tests.sim.plane_oracle import Known, Line, Oracle
from tests.sim.virtual import PROXY, UPSTREAM, URL, start_server

CLIENTS = 3
SEEDS = 130
# A call may take its time; the server may wait for an answer, or notice late that a stream is over.
QUIET_S = CALL_S_MAX + ANSWER_WAIT_S + 40.0
# Greenlets of the data plane; of connections, those that serve a client.
EXCHANGES = frozenset(
    {"connection", "batch call", "stream reader", "answer tail", "cancel", "session delete",
     "connect"}
)  # fmt: skip
FRAGILE = frozenset(
    {"NotedPool", "HttpUpstream", "SessionRegistry", "EventStream", "NotedServer", "Limiter"}
)
RULES = (Rule("session", LimitKey.SESSION, Rate(0.5, 4)),)
# Calls that a drain finds.
RUNNING = (("pause 10", "json"), ("sse", "note", "pause 10", "answer", "end"))
ROOMY = PoolLimits()
POOLS = (
    ROOMY,
    PoolLimits(connections_max=1, reserve=1, streams_max=2, waiters_max=4),
    PoolLimits(connections_max=2, reserve=1, streams_max=1, waiters_max=4),
    PoolLimits(connections_max=4, reserve=2, streams_max=8, idle_min=1),
)

A = TypeVar("A", bound=Actor)


class LentStream:
    """A connection to the upstream; used by nobody but the holder of its lease."""

    def __init__(self, scene: Scene, stream: ByteStream) -> None:
        assert isinstance(stream, SimStream)
        self._scene = scene
        self.stream = stream

    def read(self, bytes_max: int, deadline_s: float) -> bytes:
        self._check()
        return self.stream.read(bytes_max, deadline_s)

    def write(self, parts: Sequence[bytes], deadline_s: float) -> None:
        self._check()
        self.stream.write(parts, deadline_s)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def _check(self) -> None:
        table = self._scene.plane.table
        lent = [x for x in table.leases.values() if table.streams.get(x.connection_id) is self]
        kept = [x for x in lent if x.lease_id in table.kept]
        if not self.stream._closed and (len(lent) != 1 or kept):
            error = AssertionError(f"a connection is used under the leases {lent}, kept {kept}")
            self._scene.world.errors.append(error)


class NotedServer(HttpServer):
    """The listener; notes who serves which connection."""

    def __init__(self, scene: Scene, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._scene = scene

    def _accept(self, stream: ByteStream) -> None:
        serving = self._scene.serving
        task = next(x for x in self._scene.world.live if x.greenlet is greenlet.getcurrent())
        assert isinstance(stream, SimStream)
        serving[task] = stream
        try:
            super()._accept(stream)
        finally:
            del serving[task]


class NotedPool(ConnectionPool):
    """The pool; notes when it takes back what a client keeps."""

    scene: Scene

    def _recall(self, recall: Recall) -> list[PoolMessage]:
        taken = super()._recall(recall)
        if taken:
            why = "overdue" if recall.overdue else "wanted"
            self.scene.saw(f"kept_lease_was_{why}")
        return taken


class ScenePlane(Plane):
    """The proxy."""

    def __init__(self, scene: Scene, pool: PoolLimits, limits: ConnectionLimits) -> None:
        self._scene = scene
        sessions = SessionLimits(sessions_max=3 if scene.evicts else 1000)
        super().__init__(
            scene.world, URL, PROXY, limits=limits, pool=pool, sessions=sessions,
            budget=Budget(1000, 1.0), store=scene.store, rules=RULES if scene.limits else (),
            reconnect=scene.reconnect, streams=scene.streams, renews=scene.renews,
        )

    def _connect(self, deadline_s: float) -> ByteStream:
        return LentStream(self._scene, super()._connect(deadline_s))

    def _make_pool(self) -> ConnectionPool:
        pool = NotedPool(
            self.world, self.pool, self._pool_limits, self.table, self._connect, "default"
        )
        pool.scene = self._scene
        return pool

    def _make_server(self) -> HttpServer:
        return NotedServer(self._scene, self.world, self.server, self._listener, self.wiring)


class Scene:
    """One run."""

    fragile_kinds = FRAGILE
    plane_kind = ScenePlane
    reconnect = ReconnectLimits()
    streams = StreamLimits()
    # Where there is room for one stream, and for little of what it has said.
    few_streams: StreamLimits | None = StreamLimits(streams_max=1, bytes_total_max=3000)
    renews = False

    def __init__(self, world: SimWorld) -> None:
        self.world = world
        chance = self.chance = world.chance
        self.calm = chance.random() < 0.2
        self.evicts = chance.random() < 0.1
        self.fragile = 0.0 if self.calm else chance.choice((0.0, 0.002, 0.01))
        self.pace_s = chance.choice((2.0, 5.0, 20.0))
        self.limits = not self.calm and chance.random() < 0.2
        self.disk = SimDisk()
        self.store = SimStore(world, self.disk)
        self.server = self.start_server()
        self.pool_limits = ROOMY if self.calm else chance.choice(POOLS)
        self.crowded = not self.calm and chance.random() < 0.1
        limits = ConnectionLimits(connections_max=6 if self.crowded else 1000)
        self.full = False
        if self.few_streams is not None and not self.calm and chance.random() < 0.1:
            self.full, self.streams = True, self.few_streams
        self.plane = self.plane_kind(self, self.pool_limits, limits)
        self.oracle = Oracle(self)
        self.known: list[Known] = []
        self.lines: list[Line] = []
        self.serving: dict[SimTask, SimStream] = {}
        self.killed: set[SimPipe] = set()
        self.batch_was_killed = False
        self.healed = self.draining = False
        self.actors: dict[str, int] = {}
        self._working = 0
        self._numbers = 0
        self._checked: object = None

    def saw(self, name: str) -> None:
        self.world.seen[name] += 1

    def next_number(self) -> int:
        self._numbers += 1
        return self._numbers

    def at_work(self, owner: str, function: Callable[[], object]) -> None:
        """Run a client's greenlet; the load is over when all of them have ended."""
        self._working += 1

        def run() -> None:
            try:
                function()
            finally:
                self._working -= 1

        self.world.spawn(owner, run)

    # What a scenario may have of its own.

    def start_server(self) -> ScriptedServer:
        """Have the upstream listen."""
        return start_server(self.world)

    def new_client(self) -> Client:
        """Make a client."""
        return Client(self)

    def harms(self) -> Sequence[Callable[[], None]]:
        """What may happen while there is no calm."""
        return (
            self.kill_exchange, self.kill_exchange, self.kill_actor, self.kill_socket,
            self.lose_sessions, self.go_away,
        )  # fmt: skip

    # The run.

    def run(self) -> None:
        world = self.world
        self.plane.start()
        world.run(20.0)
        self.actors = {x: n for x, n in world.tasks().items() if x.startswith("actor ")}
        world.after_step.append(self.check_step)
        with planted_crashes(world, self.crash_chance):
            if not self.calm:
                self.begin_faults()
            for _ in range(CLIENTS):
                self.at_work("client", self.new_client().run)
            self.at_work("nemesis", self.disturb)
            world.run_until(lambda: self._working == 1, self.chance.choice((20.0, 100.0, 400.0)))
            self.heal()
            self.await_clients()
        self.check_rest()
        if not self.draining:
            self.at_work("checker", self.check_sessions)
            self.await_clients()
            self.at_work("late client", self.drain_under_calls)
            self.await_clients()
        self.check_drained()
        self.check_rest()
        self.plane.root.tell(Stop())
        world.run(60.0)
        assert isinstance(self.plane.mail[-1], ChildStopped)
        assert not self.plane.leftovers(), self.plane.leftovers()
        assert not self.plane.table.streams, "a connection was left open"

    def begin_faults(self) -> None:
        chance = self.chance
        self.world.faults = Faults(
            refuse=chance.choice((0.0, 0.05)),
            reset=chance.choice((0.0, 0.005, 0.02)),
            stall=chance.choice((0.0, 0.05)),
        )
        self.disk.fail = chance.choice((0.0, 0.1))

    def heal(self) -> None:
        self.healed = True
        self.world.faults.heal()
        self.disk.fail = self.fragile = 0.0

    def await_clients(self) -> None:
        done = self.world.run_until(lambda: not self._working, 10_000.0)
        assert done, f"a client waits for ever: {dict(self.world.tasks())}"

    def is_quiet(self) -> bool:
        """Whether nothing goes on but that the pool keeps some idle connections."""
        pool = present(self.plane.pool, ConnectionPool)
        if pool is None or self.plane.table.leases or self.store.unfinished:
            return False
        gauges = pool._policy.gauges()
        if gauges.opening or len(self.world.live) != len(self.actors) + gauges.idle:
            return False
        return not self.plane.leftovers() and not (self.draining and gauges.idle)

    def crash_chance(self, actor: Actor) -> float:
        return self.fragile if type(actor).__name__ in self.fragile_kinds else 0.0

    # What happens.

    def disturb(self) -> None:
        """Do harm now and then."""
        while not self.healed:
            self.world.pass_time(self.chance.random() * self.pace_s)
            self.spread_news()
            if self.chance.random() < 0.01 and not self.draining:
                self.saw("drained_under_load")
                self.drain()
                if not self.calm and self.chance.random() < 0.5:
                    self.kill_actor(("NotedPool", "HttpUpstream"))
            if self.calm or self.healed:
                continue
            self.chance.choice(self.harms())()

    def spread_news(self) -> None:
        """Have the upstream say something on a standalone stream."""
        for session in list(self.server.sessions.values()):
            if session.standalone is not None and self.chance.random() < 0.3:
                stream, nth = session.standalone.name, session.standalone.said + 1
                params = {"session": session.id, "number": self.next_number()}
                params |= {"stream": stream, "nth": nth}
                session.standalone.put(
                    {"jsonrpc": "2.0", "method": "notifications/news", "params": params}
                )

    def kill_exchange(self) -> None:
        tasks = [
            task
            for task in self.world.live
            if task.owner in EXCHANGES and task.greenlet
            if task.owner != "connection" or task in self.serving
        ]
        if tasks:
            task = self.chance.choice(tasks)
            pipe = self.serving[task]._in if task in self.serving else None
            if pipe is not None:
                self.killed.add(pipe)
            self.batch_was_killed |= task.owner == "batch call"
            self.saw("killed_exchange")
            self.saw(f"killed_{task.owner.replace(' ', '_')}")
            task.kill()

    def kill_actor(self, kinds: Collection[str] = ()) -> None:
        tasks = [
            task
            for task in self.world.live
            if task.owner.removeprefix("actor ") in (kinds or self.fragile_kinds) and task.greenlet
        ]
        if tasks:
            task = self.chance.choice(tasks)
            self.saw("killed_actor")
            self.saw(f"killed_{task.owner.removeprefix('actor ')}")
            task.kill()

    def kill_socket(self) -> None:
        self.lines = [line for line in self.lines if not line.closed]
        victims: list[Any] = [*self.lines, *self.plane.table.streams.values()]
        if victims:
            self.saw("killed_socket")
            self.chance.choice(victims).break_off()

    def lose_sessions(self) -> None:
        if self.chance.random() < 0.1:
            self.saw("upstream_lost_its_sessions")
            self.server.lose_sessions()

    def go_away(self) -> None:
        """Have the upstream refuse connections for a while."""
        if self.chance.random() < 0.3:
            listener = self.world.listeners.pop(UPSTREAM)
            self.saw("upstream_went_away")
            self.world.pass_time(self.chance.random() * 5)
            self.world.listeners[UPSTREAM] = listener

    def drain(self) -> None:
        self.draining = True
        self.plane.drain()

    def drain_under_calls(self) -> None:
        """Drain while calls run: they are answered, and a standing stream ends (FLT-P1)."""
        client = self.new_client()
        known = client.open_session()
        client.stand(known)
        running = []
        for steps in RUNNING[: self.pool_limits.connections_max]:
            line = client.connect()
            made, body = client.new_call(known, steps)
            line.send(client.request(body, known))
            running.append((line, client.reading(line), made))
        self.world.pass_time(1.0)
        self.drain()
        for line, answer, made in running:
            client.await_end(line, answer)
            self.oracle.judge(line, answer, made)
            assert made.answered, f"{made} did not survive the drain"
            line.close()
        client.close()
        self.saw("drained_under_calls")

    # The rules.

    def check_step(self) -> None:
        """Check what holds between any two steps: conservation."""
        pool = present(self.plane.pool, ConnectionPool)
        if pool is None:
            return
        table = self.plane.table
        state = (pool, pool._handled, len(table.leases), len(table.streams), len(table.kept))
        if state == self._checked:
            return
        self._checked = state
        gauges = pool._policy.gauges()
        lent = [row.connection_id for row in table.leases.values()]
        assert len(set(lent)) == len(lent), "one connection, two leases"
        assert gauges.leased + gauges.streaming == len(lent), "the ledger and the table differ"
        assert gauges.waiting == len(pool._asks) == len(pool._checkouts), "an asker was lost"
        assert gauges.streaming <= self.pool_limits.streams_max, "too many streams"
        assert gauges.leased + gauges.idle <= self.pool_limits.ordinary_max, "too many connections"
        assert all(x in table.streams for x in lent), "a connection in use was closed"
        assert table.kept.keys() <= table.leases.keys(), "something is kept that is not lent"

    def check_rest(self) -> None:
        """Check that nothing is left of what was underway."""
        self.world.run_until(self.is_quiet, QUIET_S)
        assert not self.plane.leftovers(), self.plane.leftovers()
        pool = present(self.plane.pool, ConnectionPool)
        assert pool is not None, "the pool did not come back"
        gauges = pool._policy.gauges()
        assert gauges.leased == gauges.streaming == gauges.waiting == gauges.opening == 0, gauges
        assert len(self.plane.table.streams) == gauges.idle, "connections were lost"
        tasks = dict(self.world.tasks())
        served = tasks.pop("connection", 0) - gauges.idle
        assert not served, f"{served} connections are left"
        assert tasks == self.actors, f"{tasks} are left"
        assert not self.draining or not gauges.idle, "a connection outlives the drain"
        self.check_registry()
        self.oracle.check_rest()

    def check_registry(self) -> None:
        """Check that the registry, its rows and what the clients know agree."""
        registry = present(self.plane.registry, SessionRegistry)
        assert registry is not None, "the registry did not come back"
        entries = registry._policy._ledger.entries
        rows = {row.session.key for row in self.store.rows()}
        assert entries.keys() == rows, "the registry and the store differ"
        assert all(x.phase is Phase.LIVE and not x.uses for x in entries.values())
        assert not self.store.unfinished and not registry._asks
        for known in self.known:
            assert not known.deleted or known.key not in rows, f"{known} was deleted"
            if not self.oracle.may_be_gone(known):
                assert known.key in rows, f"{known} was lost"

    def check_sessions(self) -> None:
        """Call once in every session: those live that should, and no other."""
        self.calm = True
        client = self.new_client()
        for known in self.known:
            may_be_gone = self.oracle.may_be_gone(known)
            self.world.pass_time(1.0 / RULES[0].rate.rate)
            made = client.ask(known, ("json",))
            assert made.answered or may_be_gone, f"{known} does not work any more"
            self.saw("session_outlived_the_load" if made.answered else "session_had_ended")
        client.call_once(client.open_session())
        client.close()

    def check_drained(self) -> None:
        """The drain comes to its end, and is told."""

        def told() -> bool:
            kinds = {type(mail) for mail in self.plane.mail}
            return {ServerDrained, UpstreamDrained} <= kinds

        drained = self.world.run_until(told, QUIET_S)
        assert drained, f"the drain has no end: {self.plane.mail}"


def present(slot: Slot, kind: type[A]) -> A | None:
    """The actor that is up and about, if there is one."""
    actor = None if slot.ref is None else slot.ref._own
    if isinstance(actor, kind) and actor._ending is None and actor._parked is not None:
        return actor
    return None


RARE = frozenset({
    "batched",
    "call_answered",
    "call_cut_killed",
    "call_cut_reset",
    "call_cut_too_slow",
    "call_ended_as_cancelled",
    "call_failed_internal",
    "call_failed_upstream-closed",
    "call_failed_upstream-timeout",
    "call_refused_404_refused",
    "call_refused_404_session-lost",
    "call_refused_408_refused",
    "call_refused_429_rate-limited",
    "call_refused_502_connect-failed",
    "call_refused_502_upstream-closed",
    "call_refused_502_upstream-protocol",
    "call_refused_503_overloaded",
    "call_refused_503_pool-exhausted",
    "call_refused_503_upstream-unavailable",
    "call_refused_504_upstream-timeout",
    "client_was_turned_away",
    "commit_failed",
    "connect_refused",
    "connection_reset",
    "connection_was_refused",
    "crashed_EventStream",
    "crashed_HttpUpstream",
    "crashed_NotedPool",
    "crashed_SessionRegistry",
    "deleted_in_mid_call",
    "drained_under_calls",
    "drained_under_load",
    "half_closed",
    "kept_lease_was_overdue",
    "kept_lease_was_wanted",
    "killed_HttpUpstream",
    "killed_Limiter",
    "killed_NotedPool",
    "killed_NotedServer",
    "killed_SessionRegistry",
    "killed_answer_tail",
    "killed_batch_call",
    "killed_connect",
    "killed_connection",
    "killed_socket",
    "left_in_mid_call",
    "limited_by_a_rule",
    "list_was_sent_again",
    "news_arrived",
    "pipelined",
    "question_was_answered",
    "read_was_short",
    "ready_503",
    "session_deleted",
    "session_had_ended",
    "session_outlived_the_load",
    "stalled",
    "stand_refused_409",
    "stand_refused_429",
    "stand_refused_502",
    "stood",
    "upstream_lost_its_sessions",
    "upstream_went_away",
    "vanished_in_mid_call",
})

# 2357: rings are full, and events come before who is to read them.
PLANE = Scenario("plane", lambda world: Scene(world).run(), RARE, SEEDS, MUTANTS, (2357,))
