"""The scenarios "stdio-session", "stdio-shared" and "stdio-pool": real actors, virtual children.

Everything from the listener to the pipes of the children is real: the data plane, the registry, the
upstream with its children and streams. Clients call, cancel, leave and end sessions; servers
interleave, ask, print garbage, exit, die in the middle of a line, freeze, ignore the end of their
input and TERM; actors crash at the boundaries of messages and effects; spawning fails, commits fail
and stall; in some runs processes rest that nobody uses. After every step the rules of ownership
hold; then the faults heal, a new session works at once, everything comes to rest, and nothing is
left over.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from typing import Any

from proxy_actors.actors import child_pipes
from proxy_actors.actors.base import Actor
from proxy_actors.actors.event_stream import EventStream
from proxy_actors.actors.stdio_process import StdioProcess
from proxy_actors.gateway.forwarder import CALL_S_MAX
from proxy_actors.messages import stdio_effects as e
from proxy_actors.messages.base import Message
from proxy_actors.messages.lifecycle import StopReason
from proxy_actors.messages.stdio import FrameTooLong
from proxy_actors.messages.upstream import UpstreamDrained
from proxy_actors.options import StdioMode
from proxy_actors.policy import liveness
from proxy_actors.policy.backoff import BackoffLimits
from proxy_actors.policy.sessions import SessionLimits
from proxy_actors.policy.stdio_calls import CANCELLED_S_MAX
from proxy_actors.policy.stdio_children import ChildrenLimits
from proxy_actors.policy.stdio_exclusive import SWEEP_INTERVAL_S
from proxy_actors.policy.stdio_shared_children import SharedChildrenLimits
from proxy_actors.policy.stream_limits import StreamLimits
from proxy_actors.policy.supervision import Budget
from proxy_actors.world.base import ChildCommand
from proxy_actors.world.sim_store import SimDisk, SimStore
from proxy_actors.world.sim_world import Faults, SimWorld
from tests.sim.bounds import other_bounds
from tests.sim.campaign import Scenario
from tests.sim.crashes import ERRORS
from tests.sim.stdio_client import Book, Call, Session, StdioClient
from tests.sim.stdio_mutants import MUTANTS
from tests.sim.stdio_rest import IDLE_S, RestWatch
from tests.sim.stdio_watch import FRAGILE, watched_actors
from tests.sim.virtual import PROXY
from tests.sim.virtual_child import Servers
from tests.stdio_plane import StdioPlane

COMMAND = ChildCommand(argv=("server",), env={})
SEEDS = 110
CLIENTS = 3
POOL_CHILDREN = 2
BACKOFF = BackoffLimits(base_s=0.1, cap_s=3.0)
# How long after the end of all faults a new session may not work yet: a backoff, a child that has
# been given up (close stdin, TERM, KILL) or is being spawned, and the registry's own restart.
LIVELY_S = BACKOFF.cap_s + 6.0
GRAIN_S = 0.1


def narrow() -> AbstractContextManager[None]:
    """Have boxes and buffers so small that servers and clients can fill them.

    And little patience with servers that hang, as calls have little time then.
    """
    return other_bounds(
        (EventStream, "mail_max", 16),
        (StdioProcess, "mail_max", 40),
        (child_pipes, "FRAME_BYTES_MAX", 20_000),
        (child_pipes, "UNWRITTEN_BYTES_MAX", 40_000),
        (liveness, "QUIET_S", 10.0),
        (liveness, "PING_S", 5.0),
    )


class Scene:
    """One run."""

    def __init__(self, world: SimWorld, mode: StdioMode) -> None:
        self.world = world
        self.chance = chance = world.chance
        self.mode = mode
        self.calm = chance.random() < 0.2
        self.fragile = 0.0 if self.calm else chance.choice((0.0, 0.002, 0.008, 0.02))
        self.narrow = not self.calm and chance.random() < 0.6
        self.few = few = not self.calm and chance.random() < 0.3
        self.processes: list[StdioProcess] = []
        self.overflowed: list[Actor] = []
        temper = 0.0 if self.calm else chance.choice((0.0, 0.05, 0.2))
        self.servers = Servers(world, mode, temper)
        world.programs["server"] = self.servers.run
        lasting = mode is not StdioMode.SESSION and not few
        self.book = Book(self.calm, lasting, hasty=chance.random() < 0.3)
        self.clients = [StdioClient(world, self.book, self.servers, 2, 4) for _ in range(CLIENTS)]
        world.faults = Faults(
            stall=0.0 if self.calm else chance.choice((0.0, 0.02)),
            stall_s_max=2.0,
            spawn_fail=0.0 if self.calm else chance.choice((0.0, 0.2)),
        )
        self.disk = SimDisk(0.0 if self.calm else chance.choice((0.0, 0.1)))
        self.limits = SessionLimits(
            sessions_max=chance.choice((1, 3, 5)) if few else 1000,  # one's share is 1, 2 or 4
            idle_timeout_s=8.0 if few else 86_400.0,
            flush_interval_s=2.0 if few else 30.0,
        )
        self.idle_stop_s = chance.choice(IDLE_S) if chance.random() < 0.4 else 0.0
        self.wanted = POOL_CHILDREN if mode is StdioMode.POOL else 1
        self.rest = RestWatch(world, mode, self.wanted, lambda: len(self.servers.running()))
        self.plane = self.make_plane()

    def make_plane(self) -> StdioPlane:
        """Make a proxy that goes on with what is on the disk."""
        few, idle_stop_s = self.few, self.idle_stop_s
        return StdioPlane(
            self.world,
            self.mode,
            COMMAND,
            SimStore(self.world, self.disk),
            PROXY,
            15.0 if self.narrow else CALL_S_MAX,
            ChildrenLimits(3 if few else 48, 2 if few else 16, BACKOFF, idle_stop_s=idle_stop_s),
            SharedChildrenLimits(self.wanted, 2 if few else 1000, BACKOFF, idle_stop_s),
            self.limits,
            Budget(1000, 1.0),
        )

    # The run.

    def run(self) -> None:
        world = self.world
        with ExitStack() as stack:
            stack.enter_context(watched_actors(self))
            if self.narrow:
                stack.enter_context(narrow())
            self.plane.start()
            world.after_step.append(self.check_step)
            world.run(0.5)
            for client in self.clients:
                world.spawn("client", client.live)
            if not self.calm:
                world.spawn("nemesis", self.disturb)
            world.run(30.0)
            self.heal()
            if self.few or self.chance.random() < 0.3:
                self.end_sessions()
            world.run(LIVELY_S)
            if self.few:
                self.end_sessions()
                world.run(1.0)
            last = self.check_lively()
            self.check_rest()
            self.end(last)

    def heal(self) -> None:
        """End all faults."""
        self.world.faults.heal()
        self.disk.fail = 0.0
        self.fragile = 0.0
        self.servers.heal()
        self.book.healed_s = self.world.now_s()

    def end_sessions(self) -> None:
        """End every session that its client has left, or is still using."""
        self.book.closing = True
        for session in self.book.left:
            if not session.over:
                self.world.spawn("client", session.delete)

    def disturb(self) -> None:
        """Kill a process, or an actor wherever it waits, now and then."""
        for _ in range(self.chance.randrange(6)):
            self.world.pass_time(self.chance.random() * 6)
            if self.servers.healed:
                return
            running = self.servers.running()
            if running and self.chance.random() < 0.6:
                self.saw("process_was_killed")
                self.chance.choice(running).process.kill()
            elif self.fragile:
                kind = self.chance.choice(FRAGILE).__name__
                # One that has not begun to run cannot be killed so that it says its last words.
                tasks = [x for x in self.world.live if x.owner == f"actor {kind}" and x.greenlet]
                if tasks:
                    self.saw(f"{kind}_was_killed")
                    self.chance.choice(tasks).kill()

    def end(self, last: Session) -> None:
        """Drain or not, stop, and see that nothing is left."""
        world, plane = self.world, self.plane
        if not self.few and self.chance.random() < 0.5:  # else the session has expired
            number = len(self.book.calls)
            asked = world.spawn("client", lambda: last.call(["pause 1", "answer"]))
            assert world.run_until(lambda: self.servers.executions[number] > 0, 20.0)
            late = world.spawn("client", lambda: last.call_in_two_halves(plane.drain))
            assert world.run_until(lambda: late.done, 20.0)
            assert world.run_until(lambda: self.drained() and asked.done, 20.0), "no end of drain"
            assert self.book.calls[number].outcome == "result", "the drain ended a call"
            self.saw("drained")
        self.stop()
        if not self.few and self.chance.random() < 0.3:
            self.restart(last)
        self.check_books()

    def stop(self) -> None:
        self.plane.stop()
        self.world.run(30.0)
        assert not self.servers.running(), "a process outlived the tree"

    def restart(self, last: Session) -> None:
        """Start the proxy anew: sessions of shared children go on, others ended with theirs."""
        self.plane = self.make_plane()
        self.plane.start()
        self.world.run(1.0)
        last.ending = self.mode is StdioMode.SESSION
        calls: list[Call] = []
        self.world.spawn("client", lambda: calls.append(last.call(["note", "answer"])))
        assert self.world.run_until(lambda: bool(calls), 20.0), "a call after a restart hangs"
        wanted = "refused" if last.ending else "result"
        assert calls[0].outcome == wanted and last.over == last.ending, calls
        self.saw("restarted")
        self.stop()

    def drained(self) -> bool:
        return any(isinstance(mail, UpstreamDrained) for mail in self.plane.mail)

    # What is watched.

    def saw(self, name: str) -> None:
        self.world.seen[name] += 1

    def started(self, actor: Actor) -> None:
        if isinstance(actor, StdioProcess):
            self.processes.append(actor)

    def reached(self, actor: Actor, what: Message) -> None:
        if type(what).__module__ == e.__name__:
            self.saw(type(what).__name__)
        if isinstance(what, FrameTooLong):
            self.overflowed.append(actor)
        self.rest.reached(actor, what)
        self.maybe_crash(actor)

    def passed(self, actor: Actor) -> None:
        self.maybe_crash(actor)

    def maybe_crash(self, actor: Actor) -> None:
        odds = self.fragile
        if odds and isinstance(actor, FRAGILE):
            if not isinstance(actor, StdioProcess):
                odds /= 3
            if self.chance.random() < odds:
                self.saw(f"{type(actor).__name__}_crashed")
                raise self.chance.choice(ERRORS)

    # The rules.

    def check_step(self) -> None:
        """Check what holds between any two steps."""
        assert not self.servers.broken, self.servers.broken
        assert not self.book.broken, self.book.broken
        for actor in self.processes:
            child: Any = actor._pipes._child
            if child is not None and child.running:
                assert not actor.actor_stopped.is_set(), f"{actor.name} left its process running"
        ref = self.plane.upstream.ref
        self.rest.look(None if ref is None else ref._own, self.processes)

    def check_lively(self) -> Session:
        """Check that a new session works; where all processes rest, two that come at once."""
        found: list[Session | None] = []

        def live() -> None:
            session = StdioClient(self.world, self.book, self.servers, 1, 1).open()
            found.append(session)
            if session is not None:
                call = session.call(["pause 0.1", "note", "answer"])
                assert call.outcome == "result", f"{call} after all faults have healed"

        clients = 2 if self.rest.rests and not self.few else 1
        tasks = [self.world.spawn("client", live) for _ in range(clients)]
        done = self.world.run_until(lambda: all(task.done for task in tasks), 20.0)
        assert done, "a new session hangs"
        assert found[0] is not None, "no session is to be had after all faults have healed"
        assert None not in found, "of two that came at once one was refused"
        return found[0]

    def check_rest(self) -> None:
        """Check that everything has come to its end, and that what is left is wanted."""
        self.world.run_until(lambda: not self.world.tasks()["client"], 1000.0)
        assert not self.world.tasks()["client"], f"clients wait: {self.unfinished()}"
        self.world.run(60.0 + StreamLimits().age_s_max)
        leftovers = self.plane.leftovers()
        assert not leftovers, leftovers
        self.check_processes()
        self.check_books()
        ended = {session.tag for session in self.book.left if session.ending}
        refused = [
            call for call in self.book.calls.values()
            if call.outcome == "refused" and call.tag not in ended
        ]
        assert not (self.calm and refused), f"{refused}, and nothing was amiss"

    def unfinished(self) -> list[object]:
        return [call for call in self.book.calls.values() if call.outcome is None]

    def check_processes(self) -> None:
        """Check that each process that runs is wanted, and that there are no more than needed."""
        running = [a for a in self.processes if a._pipes._child and a._pipes._child.running]
        assert len(running) == len(self.servers.running()), "a process is nobody's"
        calm, rests = self.calm, self.rest.rests
        if self.mode is not StdioMode.SESSION:
            assert rests == bool(self.idle_stop_s), "nobody uses them"
            wanted = 0 if rests else self.wanted
            assert len(running) == wanted, f"{len(running)} children"
            starts = self.wanted * (1 + self.rest.woken)
            assert not calm or len(self.servers.all) == starts, "a child for a request"
            return
        upstream: Any = self.plane.upstream.ref._own
        registry: Any = self.plane.registry.ref._own
        bound = {entry.session.endpoint for entry in registry._policy._entries.values()}
        for actor in running:
            assert actor.name in bound | {upstream._policy._spare}, f"{actor.name} is left over"
        assert rests == (bool(self.idle_stop_s) and not bound), "a spare for nobody"
        starts = 1 + self.book.handshakes + self.rest.woken
        assert not calm or len(self.servers.all) == starts, "more than one child a session"

    def check_books(self) -> None:
        """Check what clients were told against what servers did."""
        executions = self.servers.executions
        for call in self.book.calls.values():
            times = executions[call.n]
            assert call.outcome is not None, f"{call} has no end"
            assert times <= 1, f"{call} was executed {times} times"
            if call.executed == "no":
                assert not times, f"{call} was executed, and its client was told that it was not"
            if call.outcome in ("result", "error"):
                assert times == 1
            if call.reason == "process-exited" and times:
                self.check_last_words(call)
            if call.cancelled_s is not None and call.ended_s is not None:
                self.check_cancelled(call, call.ended_s, call.cancelled_s)

    def check_last_words(self, call: Call) -> None:
        """Check that an answer was not lost because its server ended right after it."""
        work = self.servers.works[call.n]
        if work.answered and not self.world.seen["stalled"]:
            (owner,) = [x for x in self.processes if x._pipes._child is work.server.process]
            crashed = owner._ending is StopReason.CRASHED
            # Nothing after a line that is too long can be trusted.
            assert crashed or owner in self.overflowed, f"the answer to {call} was lost"

    def check_cancelled(self, call: Call, ended_s: float, cancelled_s: float) -> None:
        """Check that a call ended soon after its cancellation, whatever its server did."""
        took_s = ended_s - cancelled_s
        bound_s = CANCELLED_S_MAX + 2 * SWEEP_INTERVAL_S + 3 * 2.0 + GRAIN_S
        assert took_s <= bound_s, f"{call} went on for {took_s} s after it was cancelled"


# What every campaign must reach: each effect of the policies, and each fate of their messages.
RARE_EVERYWHERE = frozenset({
    "AnnounceDrained",
    "AnswerCall",
    "ChildrenDrained",
    "DrainChild",
    "DropFrame",
    "EmitToCall",
    "EndCall",
    "EventStream_crashed",
    "FailCall",
    "SessionRegistry_crashed",
    "SessionRegistry_was_killed",
    "StartProcess",
    "StdioProcess_crashed",
    "StdioProcess_was_killed",
    "StreamCall",
    "WakeLiveness",
    "WakeRespawn",
    "WakeSweep",
    "WriteFrame",
    "cancelled",
    "commit_failed",
    "drained",
    "initialize_failed",
    "left",
    "process_was_killed",
    "read_was_short",
    "refused_draining",
    "refused_internal",
    "refused_overloaded",
    "refused_process-exited",
    "refused_rate-limited",
    "refused_upstream-timeout",
    "refused_upstream-unavailable",
    "restarted",
    "rested",
    "server_died_in_a_call",
    "server_exited_at_once",
    "server_exited_in_a_call",
    "server_exited_in_the_handshake",
    "server_froze",
    "server_ignored_the_end_of_its_input",
    "server_never_answered_the_handshake",
    "server_stopped_a_cancelled_call",
    "spawn_failed",
    "stalled",
    "standalone_opened",
    "WakeIdle",
    "woken",
    "woken_by_several",
})
RARE_SESSION = RARE_EVERYWHERE | {
    "CloseStandalone",
    "EmitToSession",
    "GiveChild",
    "LoseSession",
    "RefuseCall",
    "RefuseChild",
    "StartStandalone",
    "StdioUpstream_crashed",
    "StdioUpstream_was_killed",
    "StopProcess",
    "question_was_answered",
    "question_was_never_answered",
    "refused_upstream-protocol",
}
RARE_POOL = RARE_EVERYWHERE | {
    "AnnounceReady",
    "AnswerDescribed",
    "AnswerOwn",
    "AskChild",
    "CloseSessionStream",
    "EmitToSessionStream",
    "FailDescribed",
    "FailOwn",
    "GiveChild",
    "GiveUp",
    "NameChild",
    "RefuseChild",
    "JoinSessionStream",
    "StartSessionStream",
    "StdioShared_crashed",
    "StdioShared_was_killed",
    "TellCallEnded",
    "TellOwnAnswered",
    "TellUpstream",
    "WakeTakeSweep",
    "question_was_refused",
}
# A call needs no child to itself, and so its id can be in use at its child already.
RARE_SHARED = RARE_POOL - {"GiveChild", "RefuseChild", "TellCallEnded", "WakeTakeSweep"} | {
    "RefuseCall"
}


def _scenario(
    mode: StdioMode, rare: frozenset[str], found: tuple[int, ...] = ()
) -> Scenario:
    return Scenario(
        f"stdio-{mode}", lambda world: Scene(world, mode).run(), rare, SEEDS, MUTANTS[mode], found
    )


STDIO = (
    _scenario(StdioMode.SESSION, RARE_SESSION),
    _scenario(StdioMode.SHARED, RARE_SHARED),
    _scenario(StdioMode.POOL, RARE_POOL, (209, 2189)),
)
