"""The registry's shell on the simulated store, and its crashes at every point (FLT-P3, PYK-P8).

What it decides is in tests/policy/test_sessions.py; how uses are kept, in tests/gateway.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from typing import Any

import pytest

from proxy_actors.actors.refs import Slot
from proxy_actors.actors.session_registry import RETRY_AFTER_S, SessionRegistry
from proxy_actors.actors.session_uses import SessionUses, UseState
from proxy_actors.actors.supervisor import Supervisor, Worker
from proxy_actors.errors import (
    ActorStoppedError,
    DeadlineError,
    Executed,
    FailedError,
    Reason,
    RefusedError,
    Side,
)
from proxy_actors.messages import sessions as m
from proxy_actors.messages.base import Message
from proxy_actors.messages.lifecycle import DescribeState, Stop
from proxy_actors.messages.sessions import EndReason, SessionCreated
from proxy_actors.messages.upstream import DescribeReadiness, Readiness
from proxy_actors.policy.session_ledger import key_of
from proxy_actors.policy.sessions import SessionLimits
from proxy_actors.policy.supervision import Budget
from proxy_actors.world.sim_store import SimDisk, SimStore
from tests.actors.stage import Outcome, Stage

UPSTREAM = "up"
WHO = "alice"
PATIENCE_S = 60.0


class PlantedError(Exception):
    """A crash on purpose."""


class Fragile(SessionRegistry):
    """The registry under test; `bench.step` may crash it before and after each of its steps."""

    def __init__(self, bench: Bench, slot: Slot, store: SimStore, uses: SessionUses) -> None:
        super().__init__(
            bench.stage, slot, bench.limits, store, uses, {UPSTREAM: bench}, {UPSTREAM: ""}
        )
        self._bench = bench

    def on_receive(self, message: Any) -> object:
        self._bench.step()
        answer = super().on_receive(message)
        self._bench.step()
        return answer

    def _perform(self, effect: m.SessionEffect) -> None:
        self._bench.step()
        super()._perform(effect)


class Bench:
    """A registry under a supervisor, a disk, and an upstream that hears of ends."""

    def __init__(
        self,
        seed: int = 1,
        inline: bool | None = None,
        limits: SessionLimits = SessionLimits(),
        disk: SimDisk | None = None,
    ) -> None:
        self.stage = Stage(seed, inline)
        self.disk = disk or SimDisk()
        self.limits = limits
        self.crash_at = 0
        self.steps = 0
        self.told: list[m.SessionEnded] = []
        self.begin_process()

    def begin_process(self) -> None:
        """Start everything that ends with the process."""
        slot, store, uses = Slot("registry"), SimStore(self.stage, self.disk), SessionUses()
        self.slot, self.store, self.uses = slot, store, uses
        worker = Worker(slot, lambda: Fragile(self, slot, store, uses))
        self.keeper = Supervisor(self.stage, "keeper", [worker], budget=Budget(1000, 1.0))
        self.stage.begin(self.keeper)

    def crash_process(self) -> None:
        """kill -9, and a restart. Nothing that the old registry still does has an effect."""
        self.store.crash()
        self.begin_process()

    def tell(self, message: Any) -> bool:
        """Be the upstream."""
        self.told.append(message)
        return True

    def step(self) -> None:
        """Crash if it is time to."""
        self.steps += 1
        if self.steps == self.crash_at:
            raise PlantedError

    # As the data plane does.

    def ask(self, message: Message, seconds: float = PATIENCE_S) -> Any:
        return self.slot.ask(message, self.stage.now_s() + seconds)

    def create(self, principal: str = WHO) -> SessionCreated:
        created = self.ask(
            m.CreateSession(principal, UPSTREAM, "", "theirs", "2025-11-25", b"{}", True, principal)
        )
        assert isinstance(created, SessionCreated)
        return created

    def end(self, front_id: str) -> bool:
        ended = self.ask(m.EndSession(key_of(front_id), EndReason.DELETED))
        assert isinstance(ended, bool)
        return ended

    def is_alive(self, front_id: str, principal: str = WHO) -> bool:
        try:
            session = self.ask(m.BeginUse(front_id, principal))
        except RefusedError as error:
            assert error.status == 404
            return False
        assert session.key == key_of(front_id)
        self.slot.tell(m.EndUse(session.key))
        return True

    # From outside of the world.

    def start(self, act: Callable[[], Any]) -> Outcome:
        return self.stage.start(act)

    def do(self, act: Callable[[], Any]) -> Any:
        return self.stage.do(act)

    def figures(self) -> dict[str, Any]:
        detail: dict[str, Any] = self.do(lambda: self.ask(DescribeState())).detail
        return detail

    def rows(self) -> set[str]:
        """The keys that are on the disk."""
        return set(self.disk.rows)


both_ways = pytest.mark.parametrize("inline", [True, False], ids=["inline", "queued"])


# Asking.


@both_ways
def test_answer_comes_when_the_row_is_on_the_disk(inline: bool) -> None:
    bench = Bench(inline=inline)
    asked = bench.start(bench.create)
    bench.stage.run_until(lambda: bool(bench.store._waiting or bench.store._running))
    assert not bench.rows() and not asked.ended
    bench.stage.run_until(lambda: bool(bench.rows()))
    assert not asked.ended, "on the disk, and the store has not said so"
    bench.stage.run(1.0)
    created = asked.result()
    assert bench.rows() == {created.session.key} == {key_of(created.front_id)}
    assert bench.do(lambda: bench.is_alive(created.front_id))


def test_ids_are_long_random_and_name_their_owner() -> None:
    """THR-T5: 128 bits at least, from the world's CSPRNG; DESIGN 4.1: who serves it."""
    bench = Bench()
    ids = [bench.do(bench.create).front_id for _ in range(3)]
    assert len(set(ids)) == 3
    for front_id in ids:
        assert front_id.startswith("v1.0.")
        assert len(bytes.fromhex(front_id.removeprefix("v1.0."))) >= 16


@both_ways
def test_end_is_answered_when_the_row_is_gone_and_told_to_the_upstream_once(inline: bool) -> None:
    bench = Bench(inline=inline)
    created = bench.do(bench.create)
    asked = bench.start(lambda: bench.end(created.front_id))
    bench.stage.run_until(lambda: bool(bench.store._running))
    assert not asked.ended and not bench.told
    bench.stage.run_until(lambda: asked.ended)
    assert asked.result() is True
    assert bench.rows() == set()
    assert bench.told == [m.SessionEnded(created.session, EndReason.DELETED)]
    assert bench.do(lambda: bench.end(created.front_id)) is False
    assert not bench.do(lambda: bench.is_alive(created.front_id))


def test_wrong_principal_and_unknown_id_are_the_same_404() -> None:
    """MCP-S-4, THR-T5."""
    bench = Bench()
    created = bench.do(bench.create)
    texts = set()
    for front_id, principal in ((created.front_id, "mallory"), ("v1.0.x", WHO)):
        with pytest.raises(RefusedError) as caught:
            bench.do(lambda: bench.ask(m.BeginUse(front_id, principal)))
        texts.add((caught.value.status, str(caught.value)))
    assert len(texts) == 1


@pytest.mark.parametrize(
    "message",
    [m.CreateSession(WHO, UPSTREAM, "", None, "v", b"", True, WHO), m.BeginUse("v1.0.x", WHO)],
)
def test_what_must_be_asked_and_is_told_is_an_error(message: m.SessionMessage) -> None:
    bench = Bench()
    assert bench.slot.tell(message)
    bench.stage.run(1.0)
    assert bench.slot.ref is not None and bench.slot.ref.incarnation == 2


def test_params_that_are_too_large_are_a_413() -> None:
    bench = Bench(limits=SessionLimits(params_bytes_max=1))
    with pytest.raises(RefusedError) as caught:
        bench.do(bench.create)
    assert caught.value.status == 413


def test_registry_full_of_sessions_in_use_is_a_503_to_be_tried_again() -> None:
    bench = Bench(limits=SessionLimits(sessions_max=1))
    created = bench.do(bench.create)
    bench.do(lambda: bench.ask(m.BeginUse(created.front_id, WHO, 1)))
    with pytest.raises(FailedError) as caught:
        bench.do(bench.create)
    error = caught.value
    assert (error.reason, error.side, error.retryable) == (Reason.OVERLOADED, Side.PROXY, True)
    assert error.retry_after_s == RETRY_AFTER_S
    bench.slot.tell(m.EndUse(exchange_id=1))
    bench.do(bench.create)
    assert bench.told[-1].reason is EndReason.EVICTED


def test_open_use_of_a_session_that_ended_is_not_kept_for_another_request() -> None:
    """Else a client that never pauses would go on with a session beyond its hard cap."""
    limits = SessionLimits(lifetime_max_s=100.0)
    bench = Bench(limits=limits)
    created = bench.do(bench.create)
    bench.do(lambda: bench.ask(m.BeginUse(created.front_id, WHO, 5)))
    row = bench.uses.find(5)
    assert row is not None and row.state is UseState.OPEN
    bench.stage.run(limits.lifetime_max_s + limits.flush_interval_s)
    assert [ended.reason for ended in bench.told] == [EndReason.EXPIRED]
    assert row.state is UseState.REVOKED


def test_session_whose_asker_gave_up_is_ended_again() -> None:
    """Nobody has its id, so nobody would ever end it."""
    bench = Bench(inline=True, disk=SimDisk(latency_s_max=10.0))
    create = m.CreateSession(WHO, UPSTREAM, "", "theirs", "2025-11-25", b"{}", True, WHO)
    impatient = bench.start(lambda: bench.ask(create, 0.001))
    bench.stage.run(100.0)
    with pytest.raises(DeadlineError):
        impatient.result()
    assert bench.rows() == set()
    assert [ended.reason for ended in bench.told] == [EndReason.DELETED]
    assert bench.figures()["live"] == 0


# A disk that fails.


def test_failing_disk_refuses_and_is_described_and_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """FLT-P6: sessions that are go on; what began or was to end did not, and may be tried again."""
    bench = Bench()
    kept = bench.do(bench.create)
    bench.disk.fail = 1.0
    for act in (bench.create, bench.create, lambda: bench.end(kept.front_id)):
        with pytest.raises(FailedError) as caught:
            bench.do(act)
        assert caught.value.executed is Executed.UNKNOWN
        assert caught.value.retryable
    assert bench.figures()["store_error"] == "disk full"
    assert bench.do(lambda: bench.ask(DescribeReadiness())) == Readiness(False, "disk full")
    assert bench.rows() == {kept.session.key}
    bench.disk.fail = 0.0
    bench.do(bench.create)
    assert bench.do(lambda: bench.ask(DescribeReadiness())) == Readiness(True)
    lines = [x.getMessage() for x in caplog.records if x.name == "proxy_actors.sessions"]
    about_store = [x for x in lines if x.startswith("session_write")]
    assert about_store == ["session_write_failed error=disk full", "session_writes_recovered"]
    bench.stage.run(bench.limits.flush_interval_s)
    assert kept.session.key not in bench.rows(), "its end was tried again by itself"


def test_no_id_and_no_principal_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """THR-T14: a key is logged in part, and is a hash."""
    caplog.set_level(logging.DEBUG)
    bench = Bench()
    created = bench.do(bench.create)
    bench.do(lambda: bench.end(created.front_id))
    for secret in (created.front_id, created.front_id[5:], created.session.key, WHO, "theirs"):
        assert secret not in caplog.text
    assert created.session.key[:12] in caplog.text


# Stopping.


def test_stopping_ends_no_session_and_writes_last_uses_down() -> None:
    bench = Bench()
    created = bench.do(bench.create)
    bench.stage.run(7.0)
    assert bench.do(lambda: bench.is_alive(created.front_id))
    used_s = bench.stage.wall_s()
    bench.keeper.ref.tell(Stop())
    bench.stage.run(1.0)
    assert bench.do(lambda: bench.store.close(bench.stage.now_s() + 1.0))
    assert bench.told == []
    row = bench.disk.rows[created.session.key]
    assert row.created_s + 6.0 < row.used_s <= used_s


def test_stopping_leaves_no_asker_waiting() -> None:
    bench = Bench(disk=SimDisk(latency_s_max=50.0))
    asked = bench.start(bench.create)
    bench.stage.run_until(lambda: bench.store._running)
    bench.keeper.ref.tell(Stop())
    bench.stage.run(1.0)
    with pytest.raises(ActorStoppedError):
        asked.result()


# Crashes.


class Client:
    """Opens a session, sets something, ends the session, and opens another; notes what it knows."""

    def __init__(self, bench: Bench, principal: str) -> None:
        self.bench = bench
        self.principal = principal
        self.has: str | None = None
        self.closed: set[str] = set()
        self.ended: set[str] = set()
        self.life = bench.slot

    def run(self) -> None:
        for step in (self.open, self.set_level, self.close, self.open, self.use):
            try:
                step()
            except (ActorStoppedError, FailedError, RefusedError):
                pass  # it knows nothing more than before
            if self.life is not self.bench.slot:
                return  # the process is gone, and with it whatever it would have said

    def open(self) -> None:
        created = self.bench.create(self.principal)
        if self.life is self.bench.slot:
            self.has = created.front_id

    def set_level(self) -> None:
        if self.has is not None:
            self.bench.slot.tell(m.SetLogLevel(key_of(self.has), "debug"))

    def use(self) -> None:
        if self.has is not None:
            assert self.bench.is_alive(self.has, self.principal), "a session was lost"

    def close(self) -> None:
        front_id, self.has = self.has, None
        if front_id is None:
            return
        self.closed.add(front_id)
        self.bench.end(front_id)
        if self.life is self.bench.slot:
            self.ended.add(front_id)

    def check(self) -> None:
        """What it was told is true, and stays true."""
        alive = self.bench.is_alive
        assert self.has is None or alive(self.has, self.principal), "a session was lost"
        for front_id in self.ended:
            assert not alive(front_id, self.principal), "a session that was ended lives"


def run_with_crash(bench: Bench, what: str, crash_at: int) -> list[Client]:
    """Run two clients; at that step the actor, or the process, crashes."""
    bench.steps, bench.crash_at = 0, crash_at
    clients = [Client(bench, "alice"), Client(bench, "bob")]
    running = [bench.start(client.run) for client in clients]
    if what == "process":
        bench.stage.run_until(
            lambda: bench.steps >= crash_at or all(client.ended for client in running)
        )
        bench.crash_process()
    bench.stage.run(PATIENCE_S)
    for client in running:
        client.result()
    return clients


@pytest.mark.parametrize("what", ["actor", "process"])
@pytest.mark.parametrize("seed", range(4))
def test_crash_at_any_step_loses_no_session_and_revives_none(seed: int, what: str) -> None:
    """Before and after every turn and every effect, so between any two writes."""
    logging.disable(logging.CRITICAL)
    try:
        for crash_at in itertools.count(1):
            bench = Bench(seed)
            clients = run_with_crash(bench, what, crash_at)
            crashed, bench.crash_at = bench.steps >= crash_at, 0
            check_after_crash(bench, clients, what, f"{crash_at=}")
            if not crashed:
                break
        assert crash_at > 50, "where were the steps?"
    finally:
        logging.disable(logging.NOTSET)


def check_after_crash(bench: Bench, clients: list[Client], what: str, when: str) -> None:
    for client in clients:
        bench.do(lambda client=client: client.check())
    figures = bench.figures()
    assert figures["creating"] == figures["ending"] == 0, when
    assert figures["live"] == len(bench.rows()), when
    assert bench.store.unfinished == {}, when
    if what == "actor":
        gone = {key_of(x) for client in clients for x in client.closed} - bench.rows()
        told = {ended.session.key for ended in bench.told}
        assert gone <= told, f"{when}: the upstream was not told"
