"""The scenario "whole": the proxy as it is, from its listener to servers of every kind.

The tree is built by `app.py` from a configuration, in a world whose network, processes, disk and
scheduler are virtual. Connections are refused, stall, break, are cut short or vanish; processes
die, hang and print garbage; servers go away and forget sessions; commits fail; the clock jumps;
any actor crashes between any two of its messages, or is killed wherever it waits; the proxy is
drained and stopped in the midst of it all, or ends because its restarts are spent, and then is
started anew from the same disk. In some runs mailboxes take one mail. Then the faults heal. Ten
minutes later nothing may be left of what was underway, everybody is served, and a stop leaves
nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from random import Random
from typing import Any

from proxy_actors.actors.base import Actor
from proxy_actors.actors.inbox import Inbox, Mail
from proxy_actors.actors.sse_session import SseSession
from proxy_actors.actors.supervisor import Supervisor
from proxy_actors.config.model import Config, LimitKey, Metrics, RateLimits, Rule, Sessions, Streams
from proxy_actors.policy import event_stream, metrics, stdio_calls
from proxy_actors.world.sim_store import SimDisk
from proxy_actors.world.sim_waits import SimTask, SimWaiter
from proxy_actors.world.sim_world import Faults, SimWorld
from tests.sim.bounds import other_bounds
from tests.sim.campaign import Scenario
from tests.sim.crashes import planted_crashes
from tests.sim.whole_clients import Call, Client, GivenUp, Session
from tests.sim.whole_mutants import MUTANTS
from tests.sim.whole_tree import Tree
from tests.sim.whole_upstreams import ASKED_S_MAX, CALL_S_MAX, KINDS, StdioServer

SEEDS = 2000
CLIENTS = 2
LOAD_S = 40.0
HEALED_S = 600.0
# A call, an answer that never comes to what a server has asked, and a network that has vanished.
ENDS_S_MAX = 900.0
CLOCK_JUMP_S = 20_000.0
DRAIN_S_MAX = 30.0
STOP_S_MAX = 60.0
CRASHES_MAX = 100
# What one level of supervision bears in its period; two bear the square of that. Some came before.
STARTS_MAX = 6
STARTS_BEFORE = 12
STATSD = "statsd.test:8125"
# Greenlets that serve one request, stream or connection; to kill one is to lose that.
EXCHANGES = frozenset({
    "batch call", "stream reader", "answer tail", "cancel", "session delete", "connect", "renewal",
    "probe", "sse post",
})  # fmt: skip
OF_PROCESSES = {"process", "stdio stdin", "stdio stdout", "stdio stderr"}
OF_SESSIONS = {"sse stream", "sse sender"}


def hastened() -> AbstractContextManager[None]:
    """Have clients that are asked think less long, and a lag that there is not looked at rarely."""
    return other_bounds(
        (event_stream, "CLIENT_ANSWER_S_MAX", ASKED_S_MAX),
        (stdio_calls, "CLIENT_ANSWER_S_MAX", ASKED_S_MAX),
        (metrics, "LAG_PROBE_S", 60.0),
    )


class Scene:
    """One run.

    Attributes:
        calm: whether nothing happens but load.
        sane: whether everything that is good must go well now.
        over: whether the proxy has ended, or is ending, for good or until it is started anew.
        draining: whether it drains.
        trees: how many lives it has had.
    """

    # Which upstreams there may be, one or two of them.
    kinds: Sequence[str] = ("old", "one", "own", "some", "web")

    def __init__(self, world: SimWorld, calm: bool | None = None) -> None:
        self.world = world
        chance = self.chance = world.chance
        # One of its own: what else is drawn does not depend on it.
        self.clock = Random(str(chance.getstate()[1][1:4]))
        self.calm = chance.random() < 0.15 if calm is None else calm
        self.narrow = not self.calm and self.clock.random() < 0.1
        self.sane = self.calm
        self.evicts = False
        self.fragile = 0.0 if self.calm else chance.choice((0.0, 0.002, 0.01))
        self.disk = SimDisk(0.0 if self.calm else chance.choice((0.0, 0.0, 0.1)))
        kinds = chance.sample(self.kinds, min(chance.choice((1, 2)), len(self.kinds)))
        self.servers = [KINDS[kind](world, kind, self.calm) for kind in kinds]
        self.config = self._configure()
        self.calls: list[Call] = []
        self.sessions: list[Session] = []
        self.crashed: Counter[str] = Counter()
        self.draining = self.over = self.healed = False
        self.trees = 0
        self._working = 0
        self._numbers = self._tags = 0
        self._pools: object = None

    def _configure(self) -> Config:
        chance = self.chance
        rule = Rule(name="some", key=LimitKey.SESSION, rate=0.5, burst=6)
        limited = not self.calm and chance.random() < 0.1
        return Config(
            upstreams={server.name: server.settings() for server in self.servers},
            sessions=Sessions(flush_interval_s=300.0),
            streams=Streams(age_s_max=20.0),
            rate_limits=RateLimits(rules=(rule,) if limited else ()),
            metrics=Metrics(
                statsd=STATSD if chance.random() < 0.3 else "", flush_interval_s=30.0
            ),
        )

    def narrow_boxes(self) -> AbstractContextManager[None]:
        """Have mailboxes that take one mail, in some runs, until the faults heal."""
        offer, has_room = Inbox.offer, Inbox.has_room

        def offering(box: Inbox, mail: Mail) -> bool:
            full = not mail.message.fast and not box.has_room()
            taken = not (full and not mail.message.always_accepted) and offer(box, mail)
            if not taken:
                self.saw("box_was_full")
            return taken

        def having(box: Inbox) -> bool:
            narrow = self.narrow and not self.healed
            return not box._normal if narrow else has_room(box)

        return other_bounds((Inbox, "offer", offering), (Inbox, "has_room", having))

    def noted_crashes(self) -> AbstractContextManager[None]:
        """Note the kinds of actors that crash, for whatever reason."""
        crash: Any = vars(Actor)["_crash"]

        def noting(actor: Actor, error: BaseException) -> None:
            self.crashed[type(actor).__name__] += 1
            crash(actor, error)

        return other_bounds((Actor, "_crash", noting))

    def saw(self, name: str) -> None:
        self.world.seen[name] += 1

    def check(self, holds: object, text: str) -> None:
        """Note a broken rule: what a client raises ends that client alone."""
        if not holds:
            self.world.errors.append(AssertionError(text))
            raise AssertionError(text)

    def next_number(self) -> int:
        self._numbers += 1
        return self._numbers

    def next_tag(self) -> str:
        self._tags += 1
        return f"s{self._tags}"

    def at_work(self, owner: str, function: Callable[[], object]) -> None:
        """Run a greenlet of a client; the load is over when all of them have ended."""
        self._working += 1

        def run() -> None:
            try:
                function()
            except GivenUp:
                self.saw("client_was_turned_away")
            finally:
                self._working -= 1

        self.world.spawn(owner, run)

    # The run.

    def run(self) -> None:
        with hastened(), self.noted_crashes(), self.narrow_boxes():
            self.start()
            self.world.after_step.append(self.check_step)
            self.load()
            self.heal()
            self.recover()
            self.check_rest()
            self.check_served()
            self.end()

    def start(self) -> None:
        """Start the proxy, anew perhaps, and wait until all of it has started."""
        self.draining = self.over = False
        self.trees += 1
        self.tree = Tree(self.world, self.config, self.disk)
        tree = self.tree
        self.world.run_until(lambda: tree.ready or tree.ended is not None, 30.0)

    def load(self) -> None:
        """Have clients and whatever disturbs them."""
        world = self.world
        with planted_crashes(world, self.crash_chance):
            if not self.calm:
                self.begin_faults()
            for number in range(CLIENTS):
                self.at_work("client", Client(self, number).run)
            if not self.calm:
                world.spawn("nemesis", self.disturb)
            world.run_until(lambda: not self._working or self.over, LOAD_S)

    def begin_faults(self) -> None:
        chance = self.chance
        self.world.faults = Faults(
            refuse=chance.choice((0.0, 0.05)),
            reset=chance.choice((0.0, 0.005, 0.02)),
            stall=chance.choice((0.0, 0.03)),
            spawn_fail=chance.choice((0.0, 0.2)),
            truncate=chance.choice((0.0, 0.0, 0.01)),
            vanish=chance.choice((0.0, 0.0, 0.01)),
        )

    def crash_chance(self, actor: Actor) -> float:
        return self.fragile

    def heal(self) -> None:
        """End all faults."""
        self.healed = True
        self.world.faults.heal()
        self.disk.fail = self.fragile = 0.0
        for server in self.servers:
            server.heal()

    def recover(self) -> None:
        """Let everybody come to an end, start the proxy anew if it has ended, and let time pass."""
        self.await_clients()
        if not self.draining:
            self.world.run(HEALED_S)
        if self.draining or self.tree.ended is not None:
            self.stop()
            self.start()
            self.world.run(HEALED_S)

    def await_clients(self) -> None:
        done = self.world.run_until(lambda: not self._working, ENDS_S_MAX)
        assert done, f"a client waits for ever: {dict(self.world.tasks())} {self.unanswered()}"

    def unanswered(self) -> list[Call]:
        return [call for call in self.calls if not call.told]

    # What happens.

    def disturb(self) -> None:
        """Do harm now and then."""
        harms = [self.kill_actor, self.kill_exchange, self.kill_connection]
        for server in self.servers:
            harms += server.harms()
        if self.chance.random() < 0.15:
            harms += [self.drain_for_good]
        if self.chance.random() < 0.1:
            harms += [self.crash_for_good]
        while not self.healed and not self.over:
            self.world.pass_time(self.chance.random() * 6)
            if not self.healed and not self.over:
                self.chance.choice(harms)()
                if self.clock.random() < 0.1:
                    self.set_clock()

    def set_clock(self) -> None:
        """Have the wall clock jump; an idle session lasts for a day, and outlives it."""
        self.saw("clock_jumped")
        self.world.wall_ahead_s = self.clock.uniform(-CLOCK_JUMP_S, CLOCK_JUMP_S)

    def kill_actor(self) -> None:
        """Kill an actor wherever it waits; what serves a client or a stream is one as well."""
        tasks = [x for x in self.world.live if x.owner.startswith("actor ") and x.greenlet]
        if tasks:
            task = self.chance.choice(tasks)
            if task.owner == "actor Root" and self.chance.random() < 0.9:
                return
            self.saw(f"killed_{task.owner.removeprefix('actor ')}")
            task.kill()

    def kill_exchange(self) -> None:
        """Kill a greenlet of the data plane that serves no client's connection."""
        self._kill([x for x in self.world.live if x.owner in EXCHANGES and x.greenlet])

    def kill_connection(self) -> None:
        """Break the connection of a client, as networks do."""
        lines = [x for x in self.tree.app.wiring.clients._connections]
        if lines:
            self.saw("broke_a_connection")
            stream = self.chance.choice(lines)._stream
            stream.break_off()  # type: ignore[attr-defined]  # it is a virtual one

    def _kill(self, tasks: list[SimTask]) -> None:
        if tasks:
            task = self.chance.choice(tasks)
            self.saw(f"killed_{task.owner.replace(' ', '_')}")
            task.kill()

    def drain_for_good(self) -> None:
        """Be told to end, in the midst of everything."""
        if not self.draining:
            self.saw("drained_under_load")
            self.drain()
            tree = self.tree
            self.world.pass_time(self.chance.random() * DRAIN_S_MAX)
            self.over = True
            tree.app.stop()

    def crash_for_good(self) -> None:
        """Crash one actor again and again, until nobody starts it any more (FLT-P19)."""
        parents = [x for x in self.tree.actors() if isinstance(x, Supervisor)]
        name = self.chance.choice([name for x in parents for name in x._workers])
        starts = 0
        for _ in range(CRASHES_MAX):
            for actor in self.tree.actors():
                waits = actor._parked
                if actor.name == name and isinstance(waits, SimWaiter) and waits._parked:
                    starts = actor.slot.starts
                    self.world.kill(waits._parked)
            self.world.pass_time(0.05)
            if self.tree.ended is not None:
                self.saw("ended_because_restarts_were_spent")
                return
        levels = max(name.count("/"), 1)
        borne = STARTS_MAX**levels + STARTS_BEFORE
        self.check(starts <= borne, f"{name} is started anew without end")

    def drain(self) -> None:
        self.draining = True
        self.tree.app.drain()

    # The rules.

    def check_step(self) -> None:
        """Check what holds between any two steps."""
        tree = self.tree
        if tree.ended is not None:
            self.over = True
            return
        state = [(len(x.leases), len(x.streams), len(x.kept)) for x in tree.tables]
        if state != self._pools:
            self._pools = state
            tree.check_pools()

    def check_rest(self) -> None:
        """Check that nothing is left of what was underway."""
        tree = self.tree
        assert tree.ended is None, tree.ended
        self.world.run_until(self.is_quiet, 60.0)
        left = tree.leftovers()
        assert not left, f"left over: {left}"
        unrest = tree.unrest()
        assert not unrest, unrest
        self.check_greenlets()
        tree.check_registry()
        self.check_truth()

    def is_quiet(self) -> bool:
        """Whether nothing is underway, such as a look at how an upstream is."""
        served = self.world.tasks().get("connection", 0)
        return (
            not self.tree.unrest() and not self.strangers() and served == self.tree.connections()
        )

    def check_greenlets(self) -> None:
        """Check that every greenlet has an owner that lives, and every process an actor."""
        tasks = Counter(self.world.tasks())
        actors = Counter({x: n for x, n in tasks.items() if x.startswith("actor ")})
        assert actors == self.tree.resident(), f"{actors} are not {self.tree.resident()}"
        served = tasks.pop("connection", 0)
        known = self.tree.connections()
        assert served == known, f"{served} connections are served, and pools know of {known}"
        running, owned = self.running(), len(self.tree.processes())
        assert running == owned, f"{running} processes run, and {owned} have an actor"
        closed = self.tree.closed_errors()
        for name in OF_PROCESSES:
            wanted = owned - closed if name == "stdio stderr" else owned
            assert tasks[name] == wanted, f"{name}: {owned} processes"
        sessions = len(self.tree.present(SseSession))
        for name in OF_SESSIONS:
            assert tasks[name] == sessions, f"{name}: {sessions} sessions"
        assert not self.strangers(), f"greenlets of nobody: {self.strangers()}"

    def strangers(self) -> set[str]:
        """Name the greenlets that are there for something that comes to an end."""
        known = OF_PROCESSES | OF_SESSIONS | {"connection"}
        return {x for x in self.world.tasks() if not x.startswith("actor ") and x not in known}

    def running(self) -> int:
        """Count the processes that run."""
        stdio = [x for x in self.servers if isinstance(x, StdioServer)]
        return sum(len(x.servers.running()) for x in stdio)

    def check_truth(self) -> None:
        """Check what clients were told against what servers did (O1)."""
        for server in self.servers:
            assert not server.broken(), server.broken()
        for call in self.calls:
            times = call.session.server.executions.get(call.n, 0)
            assert call.told, f"{call} has no outcome"
            assert times <= 1, f"{call} was executed {times} times"
            if call.told == "result":
                assert times == 1, f"{call} was answered by nobody"
            if call.told.endswith("_no"):
                assert times == 0, f"{call} was executed, and its client was told it was not"

    def check_served(self) -> None:
        """Check that everybody is served, and that sessions live that should."""
        self.sane = self.calm = True
        keys = self.tree.keys()
        client = Client(self, CLIENTS)

        def run() -> None:
            for server in self.servers:
                Client(self, CLIENTS).live(server)
            for session in self.sessions:
                if session.gone or session.server.lost():
                    continue
                assert session.key in keys, f"{session} was lost"
                client.call(session)
                self.saw("session_outlived_the_load")
            client.close()

        self.at_work("checker", run)
        self.await_clients()
        self.check_truth()

    def end(self) -> None:
        """Drain under calls, or not; stop; nothing is left."""
        self.sane = False
        if self.chance.random() < 0.5:
            self.at_work("late client", Client(self, CLIENTS + 1).run)
            self.world.run(self.chance.random() * 3)
            self.drain()
            tree = self.tree
            drained = self.world.run_until(
                lambda: tree.drained or tree.ended is not None, ENDS_S_MAX
            )
            assert drained, f"the drain has no end: {tree.app._to_drain}"
            self.saw("drained")
        self.stop()
        self.await_clients()
        self.world.run(CALL_S_MAX)
        self.check_truth()

    def stop(self) -> None:
        """Have the tree end as the service does, and close its store."""
        tree = self.tree
        self.over = True
        if tree.ended is None:
            tree.app.stop()
        ended = self.world.run_until(lambda: tree.ended is not None, STOP_S_MAX)
        assert ended, "the stop has no end"
        assert tree.ended is not None
        self.saw(f"ended_{tree.ended.reason}")
        closing = self.world.spawn("closing", lambda: tree.store.close(self.world.now_s() + 9.0))
        assert self.world.run_until(lambda: closing.done, 10.0)
        self.world.run(60.0)
        assert not tree.connections(), "a connection was left open"
        assert not self.running(), "a process outlived the tree"
        names = [x for x in self.world.tasks() if x.startswith("actor ")]
        assert not names, f"actors outlived the tree: {names}"


# What a few runs in front of several endpoints reach.
FEW_RARE = frozenset({
    "crashed_HttpUpstream", "drained", "drained_under_load", "killed_UpstreamGroup",
    "crashed_UpstreamGuard", "told_result", "upstream_went_away",
})  # fmt: skip
RARE = frozenset({
    "asked_in_vain", "box_was_full", "broke_a_connection", "client_was_turned_away", "clock_jumped",
    "commit_failed", "connect_refused", "connection_reset", "connection_truncated",
    "connection_was_refused", "crashed_ConnectionPool", "crashed_EventStream",
    "crashed_HttpUpstream", "crashed_LegacyStream", "crashed_LegacyStreams", "crashed_Limiter",
    "crashed_Root", "crashed_SessionChannels", "crashed_SessionRegistry", "crashed_SseSession",
    "crashed_StdioProcess", "crashed_StdioShared", "crashed_StdioUpstream", "cut_network",
    "cut_proxy_ended", "drained", "drained_under_load",
    "ended_because_restarts_were_spent", "ended_crashed", "ended_normal", "initialize_failed",
    "killed_ConnectionPool", "killed_HttpServer", "killed_HttpUpstream", "killed_Root",
    "killed_SessionRegistry", "killed_StdioProcess", "killed_sse_post", "killed_stream_reader",
    "left_in_mid_call", "legacy_call_ended", "news_arrived", "peer_vanished",
    "process_was_killed", "question_was_answered", "read_was_short", "server_died_in_a_call",
    "server_froze", "session_deleted", "session_outlived_the_load", "spawn_failed", "stalled",
    "stood", "told_connect-failed_no", "told_draining_no", "told_ended_as_cancelled",
    "told_overloaded_unknown", "told_pool-exhausted_no", "told_process-exited_no",
    "told_process-exited_unknown", "told_result", "told_session-lost_no",
    "told_upstream-closed_unknown", "told_upstream-protocol_unknown",
    "told_upstream-timeout_unknown", "told_upstream-unavailable_no",
    "upstream_lost_its_sessions", "upstream_went_away", "write_was_short",
})  # fmt: skip


class SeveralScene(Scene):
    """One run, with an upstream of several endpoints."""

    kinds = ("many",)


# 3724: a request is cut in its head, on its way to the proxy.
SEVERAL = Scenario(
    "several", lambda world: SeveralScene(world).run(), FEW_RARE, 100, found=(3724,)
)
# 174: unhandled mail is lost. 2203: the answer to what a server asks does not reach the proxy.
# 3302, 5680: calls wait long for the only connection, with nothing wrong. 10601: a process that
# lives has closed its stderr. 14268: a question, maybe of another call, comes where nobody answers.
FOUND = (174, 2203, 3302, 5680, 10601, 14268)
WHOLE = Scenario("whole", lambda world: Scene(world).run(), RARE, SEEDS, MUTANTS, FOUND)
