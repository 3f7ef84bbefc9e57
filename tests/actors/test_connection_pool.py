"""The pool's shell on a simulated network: askers, connections, crashes (PYK-P8)."""

from __future__ import annotations

import math
from typing import Any

import pytest

from proxy_actors.actors.connection_pool import ConnectionPool, ConnectionTable
from proxy_actors.actors.refs import Slot
from proxy_actors.actors.supervisor import Supervisor, Worker
from proxy_actors.errors import (
    ActorStoppedError,
    DeadlineError,
    FailedError,
    Reason,
    StreamClosedError,
)
from proxy_actors.messages import pool as m
from proxy_actors.messages.lifecycle import Stop
from proxy_actors.messages.pool import ConnectionGranted, Purpose
from proxy_actors.policy.pool_limits import PoolGauges, PoolLimits
from proxy_actors.policy.supervision import Budget
from proxy_actors.world.base import ByteStream
from tests.actors.stage import Outcome, Stage

HOST, PORT = "upstream.test", 80
SMALL = PoolLimits(connections_max=2, reserve=1, streams_max=2)


class Keeper(Supervisor):
    """The pool's parent."""

    drained = 0

    def on_receive(self, message: Any) -> Any:
        if isinstance(message, m.PoolDrained):
            self.drained += 1


class Bench:
    """A pool, the upstream that it connects to, and exchanges that borrow from it."""

    def __init__(self, limits: PoolLimits = SMALL, inline: bool | None = None, seed: int = 1):
        self.stage = stage = Stage(seed, inline)
        self.table = ConnectionTable()
        self.slot = Slot("pool")
        self.accepted: list[ByteStream] = []
        self.connect_error: Exception | None = None
        self.ids = 0
        stage.listen(HOST, PORT, self.accept)
        self.keeper = self.keep(limits)

    def keep(self, limits: PoolLimits = SMALL) -> Keeper:
        worker = Worker(self.slot, lambda: ConnectionPool(
            self.stage, self.slot, limits, self.table, self.connect, "up"
        ))
        keeper = Keeper(self.stage, "keeper", [worker], budget=Budget(100, 1.0))
        self.stage.begin(keeper)
        return keeper

    def accept(self, stream: ByteStream) -> None:
        self.accepted.append(stream)

    def connect(self, deadline_s: float) -> ByteStream:
        if self.connect_error is not None:
            raise self.connect_error
        return self.stage.connect(HOST, PORT, deadline_s)

    @property
    def pool(self) -> ConnectionPool:
        assert self.slot.ref is not None
        pool = self.slot.ref._own
        assert isinstance(pool, ConnectionPool)
        return pool

    def ask(self, purpose: Purpose = Purpose.CALL, seconds: float = 5.0) -> Outcome:
        """Start to check out, as waiter and exchange of the next number."""
        self.ids += 1
        checkout = m.CheckoutConnection(self.ids, self.ids, purpose, math.inf, 60.0)
        deadline_s = self.stage.now_s() + seconds
        return self.stage.start(lambda: self.slot.ask(checkout, deadline_s))

    def lease(self, purpose: Purpose = Purpose.CALL) -> ConnectionGranted:
        outcome = self.ask(purpose)
        self.stage.run(0.5)
        granted = outcome.result()
        assert isinstance(granted, ConnectionGranted)
        return granted

    def tell(self, message: m.PoolMessage) -> None:
        assert self.slot.tell(message)
        self.stage.run(0.1)

    def crash(self) -> None:
        """Crash the pool: it does not take checkouts that nobody asks for."""
        self.tell(m.CheckoutConnection(0, 0, Purpose.CALL, math.inf, 60.0))

    def gauges(self) -> PoolGauges:
        return PoolGauges(**self.pool.describe())  # type: ignore[arg-type]

    def is_open(self, granted: ConnectionGranted) -> bool:
        """Whether a leased connection still carries bytes."""
        stream = self.table.streams.get(granted.connection_id)
        if stream is None:
            return False
        try:
            stream.write((b"?",), self.stage.now_s() + 1.0)
        except StreamClosedError:
            return False
        return True


def test_lease_is_granted_used_returned_and_granted_again() -> None:
    bench = Bench()
    first = bench.lease()
    assert first.fresh
    assert bench.is_open(first)
    bench.tell(m.ReturnConnection(first.lease_id, True))
    assert bench.gauges() == PoolGauges(0, 1, 0, 0, 0, 0)
    second = bench.lease()
    assert second.connection_id == first.connection_id
    assert len(bench.accepted) == 1


def test_connection_that_is_not_reusable_is_closed() -> None:
    bench = Bench()
    granted = bench.lease()
    bench.tell(m.ReturnConnection(granted.lease_id, False))
    assert bench.table.streams == bench.table.leases == {}
    assert bench.stage.do(lambda: bench.accepted[0].read(1, math.inf)) == b""


@pytest.mark.parametrize("inline", [True, False], ids=["inline", "queued"])
def test_asker_is_told_that_nobody_can_be_connected_to(inline: bool) -> None:
    bench = Bench(inline=inline)
    bench.stage.listeners.clear()
    asked = bench.ask()
    bench.stage.run(1.0)
    with pytest.raises(FailedError) as caught:
        asked.result()
    assert caught.value.reason is Reason.CONNECT_FAILED
    assert caught.value.upstream == "up"
    assert bench.gauges() == PoolGauges(0, 0, 0, 0, 0, 0)


def test_unforeseen_error_of_a_connect_holds_no_place() -> None:
    bench = Bench()
    bench.connect_error = LookupError("planted")
    asked = bench.ask()
    bench.stage.run(1.0)
    with pytest.raises(FailedError):
        asked.result()
    assert bench.gauges().opening == 0
    assert bench.stage.errors == [bench.connect_error], "it is logged, too"


@pytest.mark.parametrize("cancelled", [True, False], ids=["cancel first", "grant first"])
def test_connection_for_who_no_longer_waits_goes_to_the_next(cancelled: bool) -> None:
    bench = Bench(PoolLimits(connections_max=1, reserve=1))
    held = bench.lease()
    late = bench.ask(seconds=1.0)
    following = bench.ask(seconds=30.0)
    bench.stage.run(2.0)
    with pytest.raises(DeadlineError):
        late.result()
    if cancelled:
        bench.tell(m.CancelCheckout(2))
    bench.tell(m.ReturnConnection(held.lease_id, True))
    assert following.result().connection_id == held.connection_id
    bench.tell(m.CancelCheckout(2))
    assert bench.gauges() == PoolGauges(0, 0, 1, 0, 0, 0)
    assert len(bench.table.leases) == 1


def test_grant_to_a_killed_asker_comes_back_with_its_cancel() -> None:
    bench = Bench(PoolLimits(connections_max=1, reserve=1))
    held = bench.lease()
    killed = bench.ask()
    bench.stage.run(0.1)
    killed.task.kill()
    bench.stage.run(0.1)
    bench.tell(m.ReturnConnection(held.lease_id, True))
    assert bench.gauges().leased == 1
    bench.tell(m.CancelCheckout(2))
    assert bench.gauges() == PoolGauges(0, 1, 0, 0, 0, 0)
    assert bench.table.leases == {}


def test_end_of_an_exchange_closes_its_lease_and_answers_its_asker() -> None:
    bench = Bench(PoolLimits(connections_max=1, reserve=1))
    held = bench.lease()
    waiting = bench.ask(seconds=60.0)
    bench.stage.run(0.1)
    bench.tell(m.ExchangeEnded(2))
    with pytest.raises(FailedError):
        waiting.result()
    bench.tell(m.ExchangeEnded(1))
    assert not bench.is_open(held)
    assert bench.gauges() == PoolGauges(0, 0, 0, 0, 0, 0)
    assert bench.pool._asks == bench.pool._checkouts == bench.table.leases == {}


def test_idle_connection_that_its_peer_closes_is_closed_at_once() -> None:
    bench = Bench()
    bench.tell(m.ReturnConnection(bench.lease().lease_id, True))
    bench.accepted[0].close()
    bench.stage.run(0.1)
    assert bench.table.streams == {}
    assert bench.gauges() == PoolGauges(0, 0, 0, 0, 0, 0)


def test_connection_kept_open_in_advance_is_watched_as_well() -> None:
    bench = Bench(PoolLimits(connections_max=2, reserve=1, idle_min=1))
    assert bench.gauges().idle == 1
    bench.accepted[0].close()
    bench.stage.run(0.1)
    assert bench.gauges().idle == 0


def test_connection_on_which_the_peer_spoke_unasked_is_not_granted() -> None:
    """HTTP-F: what came would be taken for the answer of the next exchange."""
    bench = Bench()
    first = bench.lease()
    bench.tell(m.ReturnConnection(first.lease_id, True))
    bench.accepted[0].write((b"HTTP/1.1 408 Too slow\r\n\r\n",), math.inf)
    bench.stage.run(0.1)
    assert bench.lease().connection_id != first.connection_id
    assert len(bench.table.streams) == 1


def test_hundreds_of_dead_connections_are_passed_over_in_one_turn() -> None:
    """An upstream restarts: every idle connection speaks or ends, and the pool must not."""
    bench = Bench(PoolLimits(connections_max=500, reserve=1, idle_timeout_s=60.0))
    leases = [bench.lease() for _ in range(450)]
    for granted in leases:
        assert bench.slot.tell(m.ReturnConnection(granted.lease_id, True))
    bench.stage.run(0.1)
    for stream in bench.accepted:
        stream.write((b"!",), math.inf)
    bench.stage.run(0.1)
    assert bench.lease().fresh
    assert bench.pool.incarnation == 1
    assert len(bench.table.streams) == 1


# Ends of the pool.


def test_checkout_that_nobody_asks_for_is_an_error() -> None:
    bench = Bench()
    bench.crash()
    assert bench.pool.incarnation == 2


def test_crash_closes_what_is_idle_and_leaves_what_is_leased() -> None:
    bench = Bench()
    leases = [bench.lease() for _ in range(2)]
    bench.tell(m.ReturnConnection(bench.lease(Purpose.RESERVED).lease_id, True))
    bench.crash()
    assert len(bench.table.streams) == 2
    assert bench.gauges() == PoolGauges(0, 0, 2, 0, 0, 0)
    assert all(bench.is_open(granted) for granted in leases)
    waiting = bench.ask()
    bench.stage.run(0.5)
    assert not waiting.ended, "what is leased counts as before"
    bench.tell(m.ReturnConnection(leases[0].lease_id, True))
    bench.stage.run(0.5)
    assert waiting.result().fresh
    assert not bench.is_open(leases[0])


def test_askers_of_a_pool_that_crashes_do_not_wait_for_the_next() -> None:
    bench = Bench(PoolLimits(connections_max=1, reserve=1))
    bench.lease()
    waiting = bench.ask(seconds=60.0)
    bench.stage.run(0.1)
    bench.crash()
    with pytest.raises(ActorStoppedError):
        waiting.result()


def test_stream_is_a_stream_after_a_crash_too() -> None:
    """Else it would take a call's place for as long as it lives."""
    bench = Bench()
    granted = bench.lease()
    bench.tell(m.ConnectionBecameStream(granted.lease_id))
    bench.crash()
    assert bench.gauges() == PoolGauges(0, 0, 0, 1, 0, 0)


@pytest.mark.parametrize(
    "end",
    [
        lambda granted: m.ReturnConnection(granted.lease_id, True),
        lambda granted: m.CancelCheckout(1),
        lambda granted: m.ExchangeEnded(1),
    ],
    ids=["return", "cancel", "exchange ended"],
)
def test_what_was_given_back_to_a_pool_that_crashed_is_closed(end: Any) -> None:
    """PYK-P8: the mail was accepted, so its sender is done with it."""
    bench = Bench()
    granted = bench.lease()
    assert bench.slot.tell(m.CheckoutConnection(0, 0, Purpose.CALL, math.inf, 60.0))
    assert bench.slot.tell(end(granted))
    bench.stage.run(0.5)
    assert bench.pool.incarnation == 2
    assert bench.table.streams == bench.table.leases == {}
    assert bench.gauges() == PoolGauges(0, 0, 0, 0, 0, 0)


def test_what_finds_no_pool_is_closed_by_its_sender() -> None:
    bench = Bench(PoolLimits(connections_max=4, reserve=1))
    first, second, third, fourth = (bench.lease() for _ in range(4))
    bench.table.discard_lease(first.lease_id)
    bench.table.discard_granted(2)
    bench.table.discard_exchange(3)
    assert list(bench.table.leases) == [fourth.lease_id]
    assert list(bench.table.streams) == [fourth.connection_id]
    for again in (first, second, third):
        bench.table.discard_lease(again.lease_id)
    assert bench.is_open(fourth)


@pytest.mark.parametrize("seed", range(10))
def test_connection_that_was_being_opened_in_a_crash_is_closed(seed: int) -> None:
    bench = Bench(seed=seed)
    asked = bench.ask()
    bench.stage.run(0.001 * seed)
    bench.slot.tell(m.CheckoutConnection(0, 0, Purpose.CALL, math.inf, 60.0))
    bench.stage.run(0.5)
    assert asked.ended
    assert set(bench.table.streams) == {row.connection_id for row in bench.table.leases.values()}
    assert bench.gauges().opening == 0


def test_return_of_before_the_parents_restart_frees_no_lease_of_now() -> None:
    """The parent counts incarnations anew; the name under which both lived does not."""
    bench = Bench()
    old = bench.lease()
    bench.keeper.ref.tell(Stop())
    bench.stage.run(1.0)
    assert bench.table.streams == {}
    bench.keep()
    new = bench.lease()
    bench.tell(m.ReturnConnection(old.lease_id, False))
    assert bench.gauges() == PoolGauges(0, 0, 1, 0, 0, stale=1)
    assert bench.is_open(new)


def test_stopped_pool_leaves_nobody_waiting_and_nothing_open() -> None:
    bench = Bench(PoolLimits(connections_max=1, reserve=1))
    held = bench.lease()
    waiting = bench.ask(seconds=60.0)
    bench.stage.run(0.1)
    bench.keeper.ref.tell(Stop())
    bench.stage.run(1.0)
    with pytest.raises(ActorStoppedError):
        waiting.result()
    assert not bench.is_open(held)
    assert bench.table.streams == bench.table.leases == {}
    bench.table.discard_lease(held.lease_id)


def test_connection_that_arrives_after_the_end_is_closed() -> None:
    bench = Bench()
    bench.ask()
    bench.stage.run_until(lambda: bench.stage.tasks()["connect"] == 1)
    bench.keeper.ref.tell(Stop())
    bench.stage.run(1.0)
    assert len(bench.accepted) == 1
    assert bench.table.streams == {}


def test_parent_hears_of_the_drain_when_the_last_lease_has_come_back() -> None:
    bench = Bench()
    held = bench.lease()
    bench.tell(m.DrainPool())
    refused = bench.ask()
    bench.stage.run(0.1)
    with pytest.raises(FailedError) as caught:
        refused.result()
    assert caught.value.reason is Reason.DRAINING
    assert bench.keeper.drained == 0
    bench.tell(m.ReturnConnection(held.lease_id, True))
    assert bench.keeper.drained == 1


def test_abort_closes_what_is_leased() -> None:
    bench = Bench()
    held = bench.lease()
    bench.tell(m.AbortPool())
    assert not bench.is_open(held)
    assert bench.keeper.drained == 1
    bench.tell(m.ReturnConnection(held.lease_id, True))
    assert bench.table.leases == {}
