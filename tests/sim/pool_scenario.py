"""The scenario "pool": supervisors, a connection pool, exchanges that borrow from it, an upstream.

Exchanges are killed, time out, and forget to return what they borrowed; the pool crashes between
two steps of any turn; its parent crashes; the network refuses and resets; the pool is drained and
aborted. After every step the table of connections and the policy's ledger must agree, and at the
end, without faults, everything that was lent must have come back.
"""

from __future__ import annotations

import greenlet

from proxy_actors.actors.connection_pool import ConnectionPool, ConnectionTable
from proxy_actors.actors.inbox import Inbox
from proxy_actors.actors.refs import Reply, Slot
from proxy_actors.actors.supervisor import Supervisor, Worker
from proxy_actors.errors import (
    ActorStoppedError,
    DeadlineError,
    FailedError,
    MailboxFullError,
    StreamClosedError,
)
from proxy_actors.messages import pool as m
from proxy_actors.messages.lifecycle import Stop
from proxy_actors.messages.pool import ConnectionGranted, PoolMessage, Purpose
from proxy_actors.policy.ledger import Ledger
from proxy_actors.policy.pool import PoolPolicy
from proxy_actors.policy.pool_limits import PoolLimits
from proxy_actors.policy.supervision import Budget
from proxy_actors.world.base import ByteStream
from proxy_actors.world.sim_waits import SimTask, SimWaiter
from proxy_actors.world.sim_world import Faults, SimWorld
from tests.defects import Defect
from tests.sim.campaign import Scenario
from tests.sim.upstream import HOST, PORT, STREAM_ENDS, LineReader, Upstream

LIMITS = PoolLimits(connections_max=2, reserve=1, streams_max=1, waiters_max=4, idle_min=0)
BORROWERS = 6
EXCHANGES_EACH = 3
GRAIN_S = 0.06
OWNERS = (m.Owner("one", "a"), m.Owner("one", "b"), m.Owner("two", "c"))
SEEDS = 600


class PlantedError(Exception):
    """A crash on purpose."""


class Fragile(ConnectionPool):
    """The pool under test; it may crash before, between and after the steps of a turn."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(
            scene.world, scene.pool, LIMITS, scene.table, scene.connect, "upstream"
        )
        self._scene = scene

    def on_start(self) -> None:
        if self._table.leases:
            self._scene.saw("lease_was_inherited")
        super().on_start()

    def on_receive(self, message: PoolMessage) -> object:
        self._scene.maybe_crash()
        stale = self._policy.gauges().stale
        if isinstance(message, m.CancelCheckout) and self._table.granted_to(message.waiter_id):
            self._scene.saw("cancel_met_a_grant")
        if isinstance(message, m.ExchangeEnded) and self._table.held_by(message.exchange_id):
            self._scene.saw("exchange_ended_with_a_lease")
        answer = super().on_receive(message)
        if isinstance(message, m.CancelCheckout):
            self._scene.cancelled.add(message.waiter_id)
        if self._policy.gauges().stale > stale:
            self._scene.saw("return_was_stale")
        return answer

    def _perform(self, effect: m.Refuse | m.Open | m.Close | m.Wake | m.Drained) -> None:
        self._scene.maybe_crash()
        super()._perform(effect)

    def _grant(self, grant: m.Grant) -> list[PoolMessage]:
        self._scene.maybe_crash()
        following = super()._grant(grant)
        for message in following:
            failed = isinstance(message, m.GrantFailed)
            self._scene.saw("grant_met_a_dead_peer" if failed else "grant_met_nobody")
        self._scene.maybe_crash()
        return following

    def on_undelivered(self, message: PoolMessage) -> None:
        self._scene.saw(f"undelivered_{type(message).__name__}")
        super().on_undelivered(message)


class Keeper(Supervisor):
    """The pool's parent; the order to drain outlives it."""

    def __init__(self, scene: Scene) -> None:
        worker = Worker(scene.pool, lambda: Fragile(scene), drain=m.DrainPool())
        super().__init__(scene.world, "keeper", [worker], budget=Budget(3, 5.0))
        self._scene = scene

    def on_start(self) -> None:
        if self._scene.draining:
            self.drain()
        super().on_start()

    def on_receive(self, message: object) -> None:
        if isinstance(message, m.PoolDrained):
            self._scene.drained = True
        elif isinstance(message, m.DrainPool | m.AbortPool):
            self._scene.draining = True
            self.drain()
            if isinstance(message, m.AbortPool):
                self._scene.pool.tell(message)
        else:
            super().on_receive(message)

    def on_stop(self) -> None:
        self._scene.table.close_all()

    def on_crash(self) -> None:
        self._scene.saw("keeper_crashed")
        self._scene.table.close_all()


class Scene:
    """One run."""

    def __init__(self, world: SimWorld) -> None:
        self.world = world
        self.chance = world.chance
        self.table = ConnectionTable()
        self.pool = Slot("pool")
        self.keeper = Slot("keeper")
        self.draining = self.drained = self.aborted = False
        self.fragile = self.chance.choice((0.0, 0.005, 0.02))
        self.users: dict[int, int] = {}
        self.cancelled: set[int] = set()
        self.forgotten: set[int] = set()
        self.numbers = 0
        self.ended = 0
        self.borrowers: list[SimTask] = []
        world.faults = Faults(
            refuse=self.chance.choice((0.0, 0.1)),
            reset=self.chance.choice((0.0, 0.02)),
            stall=self.chance.choice((0.0, 0.1)),
        )
        self.upstream = Upstream(world)
        root = Worker(self.keeper, lambda: Keeper(self))
        self.root = Supervisor(world, "root", [root], budget=Budget(1000, 1.0))

    def saw(self, name: str) -> None:
        self.world.seen[name] += 1

    def maybe_crash(self) -> None:
        if self.fragile and self.chance.random() < self.fragile:
            self.saw("pool_crashed")
            raise PlantedError

    def connect(self, deadline_s: float) -> ByteStream:
        return self.world.connect(HOST, PORT, deadline_s)

    def present(self) -> Fragile | None:
        """The pool that is up and about, if there is one."""
        pool = None if self.pool.ref is None else self.pool.ref._own
        if isinstance(pool, Fragile) and pool._ending is None and pool._parked is not None:
            return pool
        return None

    # The run.

    def run(self) -> None:
        world = self.world
        self.root._start_actor_loop()
        world.after_step.append(self.check_step)
        for _ in range(BORROWERS):
            self.borrowers.append(world.spawn("borrower", self.borrow))
        world.spawn("nemesis", self.disturb)
        world.run(40.0)
        self.heal()
        world.run(40.0)
        self.check_rest()
        self.root.ref.tell(Stop())
        world.run(30.0)
        assert not self.table.streams and not self.table.leases

    def heal(self) -> None:
        """End all faults, those of the pool and of the upstream too."""
        self.world.faults.heal()
        self.fragile = 0.0
        self.upstream.moody = False

    def disturb(self) -> None:
        """Kill, crash, drain and abort now and then."""
        for _ in range(self.chance.randrange(8)):
            self.world.pass_time(self.chance.random() * 2)
            match self.chance.choice(("borrower", "borrower", "pool", "keeper", "drain")):
                case "borrower":
                    self.chance.choice(self.borrowers).kill()
                case "pool":
                    self.kill_actor("actor Fragile")
                case "keeper":
                    if self.chance.random() < 0.6:
                        self.kill_actor("actor Keeper")
                case "drain" if self.chance.random() < 0.3:
                    self.keeper.tell(m.DrainPool())
                    self.world.pass_time(self.chance.random() * 4)
                    if self.chance.random() < 0.5:
                        self.aborted = self.keeper.tell(m.AbortPool()) or self.aborted

    def kill_actor(self, owner: str) -> None:
        for task in self.world.live:
            if task.owner == owner and task.greenlet:  # one that has begun
                self.saw(f"{owner}_was_killed")
                task.kill()

    # Exchanges.

    def borrow(self) -> None:
        """Have exchanges, one after another, each a greenlet that may be killed."""
        for _ in range(EXCHANGES_EACH):
            self.world.pass_time(self.chance.random())
            self.numbers += 1
            number = self.numbers
            done = self.world.waiter()
            task = self.world.spawn(
                "exchange",
                lambda: self.exchange(number),
                lambda _: self.end_exchange(number, done),
            )
            self.borrowers.append(task)
            if self.chance.random() < 0.1:
                self.world.soon(task.kill)
            done.wait(self.world.now_s() + 60.0)

    def exchange(self, number: int) -> None:
        """Borrow a connection, use it, give it back; with faults, not always."""
        granted: ConnectionGranted | None = None
        forgetful = self.chance.random() < 0.1
        reusable = False
        try:
            granted = self.check_out(number)
            if granted is not None:
                reusable = self.use(number, granted)
        except greenlet.GreenletExit:
            self.saw("killed_while_waiting" if granted is None else "killed_while_using")
        finally:
            if forgetful:
                self.saw("cancel_was_forgotten" if granted is None else "return_was_forgotten")
                self.forgotten.add(number)
            else:
                self.give_back(number, granted, reusable)

    def check_out(self, number: int) -> ConnectionGranted | None:
        world, chance = self.world, self.chance
        deadline_s = world.now_s() + chance.choice((0.01, 1.0, 5.0)) * chance.random()
        ask = m.CheckoutConnection(
            number, number, chance.choice(list(Purpose)), deadline_s, chance.choice((0.5, 60.0)),
            chance.choice(OWNERS),
        )
        try:
            granted: ConnectionGranted = self.pool.ask(ask, deadline_s)
            self.saw("granted_fresh" if granted.fresh else "granted_again")
            return granted
        except FailedError as error:
            self.saw(f"refused_{error.reason.name}")
        except (DeadlineError, ActorStoppedError, MailboxFullError) as error:
            self.saw(f"asker_got_{type(error).__name__}")
        finally:
            assert world.now_s() <= deadline_s + GRAIN_S, "an ask outlived its deadline"
        # Not None by mistake: what follows is the cancel.
        return None

    def use(self, number: int, granted: ConnectionGranted) -> bool:
        """Send a line and read the answer; return whether the connection can be used again."""
        stream = self.table.streams.get(granted.connection_id)
        if stream is None:
            self.saw("connection_was_closed_before_use")
            return False
        other = self.users.setdefault(granted.connection_id, number)
        assert other == number, f"exchanges {other} and {number} have the same connection"
        streaming = self.chance.random() < 0.2
        question = b"%s %d\n" % (b"stream" if streaming else b"call", number)
        reader, deadline_s = LineReader(stream), self.world.now_s() + 10.0
        try:
            stream.write((question,), deadline_s)
            if streaming:
                self.saw("lease_became_a_stream")
                self.pool.deliver(m.ConnectionBecameStream(granted.lease_id))
                while (line := reader.line(deadline_s)) == question:
                    pass
                return line == STREAM_ENDS
            line = reader.line(deadline_s)
            assert line in (question, b"", b"you are too slow\n"), f"{line!r} for {question!r}"
            return line == question
        except (DeadlineError, StreamClosedError):
            return False
        finally:
            del self.users[granted.connection_id]

    def give_back(
        self, number: int, granted: ConnectionGranted | None, reusable: bool
    ) -> None:
        send = self.chance.choice((self.pool.tell, self.pool.deliver))
        if granted is None:
            if not send(m.CancelCheckout(number)):
                self.saw("cancel_found_no_pool")
                self.table.discard_granted(number)
        elif not send(m.ReturnConnection(granted.lease_id, reusable)):
            self.saw("return_found_no_pool")
            self.table.discard_lease(granted.lease_id)

    def end_exchange(self, number: int, done: SimWaiter) -> None:
        """Be the owner of an exchange: see that nothing is left of one that forgot something."""
        self.ended += 1
        if number in self.forgotten or self.chance.random() < 0.3:
            if not self.pool.tell(m.ExchangeEnded(number)):
                self.table.discard_exchange(number)
        done.set()

    # The rules.

    def check_step(self) -> None:
        """Check what holds between any two steps."""
        table = self.table
        if not table.leases and self.present() is None:
            return
        lent = [row.connection_id for row in table.leases.values()]
        assert len(set(lent)) == len(lent), "one connection, two leases"
        lent_to = {row.waiter_id for row in table.leases.values()}
        assert not lent_to & self.cancelled, "lent to an asker that has cancelled"
        pool = self.present()
        if pool is None:
            return
        gauges = pool._policy.gauges()
        assert not self.cancelled & pool._asks.keys(), "an asker waits that has cancelled"
        assert gauges.waiting == len(pool._asks) == len(pool._checkouts), "an asker was lost"
        assert gauges.streaming <= LIMITS.streams_max, "too many streams"
        assert gauges.leased + gauges.idle <= LIMITS.ordinary_max, "too many connections"
        if self.aborted:
            return
        assert gauges.leased + gauges.streaming == len(lent), "the ledger and the table differ"
        assert all(x in table.streams for x in lent), "a connection in use was closed"

    def check_rest(self) -> None:
        """Check that everything came back, and that the pool still does its work."""
        assert self.ended == self.numbers, "an exchange has not ended"
        assert not self.table.leases, f"leases were lost: {self.table.leases}"
        pool = self.present()
        assert pool is not None, "the pool did not come back"
        gauges = pool._policy.gauges()
        assert gauges.leased == gauges.streaming == gauges.waiting == gauges.opening == 0, gauges
        assert len(self.table.streams) == gauges.idle, "connections were lost"
        assert self.drained == self.draining, "the end of the drain was not told"
        if self.draining:
            self.saw("aborted" if self.aborted else "drained")
            return
        granted: list[bool] = []
        self.world.spawn("last", lambda: granted.append(self.last_exchange()))
        self.world.run(10.0)
        assert granted == [True], "no connection is to be had after all faults have healed"

    def last_exchange(self) -> bool:
        number = self.numbers + 1
        ask = m.CheckoutConnection(number, number, Purpose.CALL, self.world.now_s() + 5.0, 60.0)
        granted: ConnectionGranted = self.pool.ask(ask, self.world.now_s() + 5.0)
        served = self.use(number, granted)
        self.give_back(number, granted, served)
        return True


RARE = frozenset({
    "aborted",
    "actor Fragile_was_killed",
    "actor Keeper_was_killed",
    "asker_got_ActorStoppedError",
    "asker_got_DeadlineError",
    "cancel_found_no_pool",
    "cancel_met_a_grant",
    "cancel_was_forgotten",
    "connect_refused",
    "connection_reset",
    "connection_was_closed_before_use",
    "deadline_overtook_value",
    "drained",
    "exchange_ended_with_a_lease",
    "grant_met_a_dead_peer",
    "grant_met_nobody",
    "granted_again",
    "granted_fresh",
    "keeper_crashed",
    "killed_while_using",
    "killed_while_waiting",
    "lease_became_a_stream",
    "lease_was_inherited",
    "pool_crashed",
    "read_was_short",
    "refused_CONNECT_FAILED",
    "refused_DRAINING",
    "refused_POOL_EXHAUSTED",
    "return_found_no_pool",
    "return_was_forgotten",
    "return_was_stale",
    "stalled",
    "undelivered_CancelCheckout",
    "undelivered_CheckoutConnection",
    "undelivered_ConnectionBecameStream",
    "undelivered_ConnectionFailed",
    "undelivered_ConnectionOpened",
    "undelivered_DrainPool",
    "undelivered_ExchangeEnded",
    "undelivered_IdleConnectionEnded",
    "undelivered_ReturnConnection",
    "undelivered_SweepDue",
})

MUTANTS = (
    Defect("a return is dropped", PoolPolicy, "_return",
           "lease = self._ledger.release(back.lease_id)", "lease = None"),
    Defect("a return is lost with the pool", ConnectionPool, "on_undelivered",
           "self._table.discard_lease(lease_id)", "pass"),
    Defect("a connection is granted twice", PoolPolicy, "_take_fitting",
           "return idle.pop(place)", "return idle[place]"),
    Defect("the cancel of a waiter is ignored", PoolPolicy, "_cancel",
           "queue.take(waiter_id)", "None"),
    Defect("the cancel of a grant is ignored", PoolPolicy, "_cancel",
           "self._ledger.granted_to(waiter_id)", "None"),
    Defect("a cancel comes before its checkout", Inbox, "offer",
           "if message.fast else",
           "if message.fast or type(message).__name__ == 'CancelCheckout' else"),
    Defect("a stale lease is accepted", Ledger, "__init__",
           "incarnation << INCARNATION_SHIFT", "0"),
    Defect("the end of an exchange leaves its lease", PoolPolicy, "_exchange_ended",
           "lease.checkout.exchange_id == exchange_id", "False"),
    Defect("the end of an exchange leaves its waiter", PoolPolicy, "_exchange_ended",
           "if x.exchange_id == exchange_id", "if False"),
    Defect("a restart forgets what is lent", ConnectionPool, "on_start",
           "tuple(self._table.leases.values())", "()"),
    Defect("a restart closes what is lent", ConnectionPool, "on_start",
           "self._table.close_idle()", "[self._table.close(x) for x in [*self._table.streams]]"),
    Defect("a drain closes what is lent", PoolPolicy, "_drain",
           "self._draining = True",
           "self._draining = True\n    effects.extend(m.Close(x.connection.id)"
           " for x in self._ledger.leases())"),
    Defect("a restart forgets the drain", Supervisor, "_supervise",
           "if self._draining:", "if False:"),
    Defect("an ask is answered twice", ConnectionPool, "on_receive",
           "return LATER", "return None"),
    Defect("a second answer counts", Reply, "fail", "if self.settled:", "if False:"),
)

POOL = Scenario("pool", lambda world: Scene(world).run(), RARE, SEEDS, MUTANTS)
