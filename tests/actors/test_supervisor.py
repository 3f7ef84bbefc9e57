"""Supervisors as actors: PYK-P4, and that the decisions of the policy are carried out."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from proxy_actors.actors.base import Actor
from proxy_actors.actors.refs import Slot
from proxy_actors.actors.root import Root
from proxy_actors.actors.supervisor import Supervisor, Worker
from proxy_actors.errors import ActorStoppedError, ConfigurationError
from proxy_actors.messages.lifecycle import DescribeState, Stop
from proxy_actors.messages.supervision import DrainTree, Restart, Strategy, SupervisorReady
from proxy_actors.policy.supervision import Budget
from tests.actors.stage import Act, Kept, Puppet, Stage, failing

CRASH = failing(LookupError("planted"))


class House:
    """A supervisor with workers a, b and c, and the history of their starts and ends."""

    def __init__(
        self, strategy: Strategy = Strategy.ONE_FOR_ONE, budget: Budget = Budget(2, 10.0)
    ) -> None:
        self.stage = Stage()
        self.history: list[str] = []
        self.slots = {name: Slot(name) for name in "abc"}
        workers = [Worker(slot, self.maker(slot.name)) for slot in self.slots.values()]
        self.supervisor = Supervisor(self.stage, "house", workers, strategy, budget)
        self.stage.begin(self.supervisor)

    def maker(self, name: str) -> Callable[[], Actor]:
        return lambda: Inmate(self.stage, name, self.history)

    def crash(self, name: str) -> list[str]:
        """Crash a worker; return what happened then."""
        self.history.clear()
        assert self.slots[name].tell(CRASH)
        self.stage.run(1.0)
        return list(self.history)


class Inmate(Puppet):
    """A worker that writes into the house's history."""

    def __init__(self, stage: Stage, name: str, history: list[str]) -> None:
        super().__init__(stage, name)
        self.history = history

    def on_start(self) -> None:
        self.history.append(f"+{self.name}")

    def on_stop(self) -> None:
        self.history.append(f"-{self.name}")


def test_workers_start_in_order_and_the_parent_hears_when_all_have() -> None:
    house = House()
    assert house.history == ["+a", "+b", "+c"]
    assert house.stage.ear.heard[-1] == SupervisorReady("house")
    assert all(slot.ref is not None for slot in house.slots.values())


def test_crashed_worker_comes_back_under_its_name() -> None:
    """PYK-P4, PYK-P5."""
    house = House()
    assert house.crash("b") == ["+b"]
    ref = house.slots["b"].ref
    assert ref is not None and ref.incarnation == 2
    state = house.stage.do(
        lambda: house.supervisor.ref.ask(DescribeState(), house.stage.now_s() + 5.0)
    )
    assert state.detail == {"restarts": 1}
    assert set(state.children) == {"a", "b", "c"}


def test_siblings_are_restarted_as_the_strategy_says() -> None:
    assert House(Strategy.REST_FOR_ONE).crash("b") == ["-c", "+b", "+c"]
    everybody = House(Strategy.ONE_FOR_ALL).crash("b")
    assert sorted(everybody[:2]) == ["-a", "-c"]
    assert everybody[2:] == ["+a", "+b", "+c"]


def test_restarts_at_the_limit_are_borne_and_one_more_ends_the_house() -> None:
    house = House(budget=Budget(2, 10.0))
    assert [house.crash("b"), house.crash("b")] == [["+b"], ["+b"]]
    assert house.crash("b") == ["-c", "-a"], "last started, first stopped"
    assert house.stage.ear.last_words() == [("house", "crashed")]
    assert dict(house.stage.tasks()) == {}


def test_stop_ends_workers_in_reverse_and_what_was_started_besides_first() -> None:
    house = House()
    guest = Inmate(house.stage, "guest", house.history)
    house.supervisor.start_child(guest)
    house.stage.run(1.0)
    house.history.clear()
    house.supervisor.ref.tell(Stop())
    house.stage.run(1.0)
    assert house.history == ["-guest", "-c", "-b", "-a"]
    assert house.stage.ear.last_words() == [("house", "normal")]


def test_guest_that_crashes_is_not_restarted() -> None:
    house = House()
    guest = Inmate(house.stage, "guest", house.history)
    house.supervisor.start_child(guest)
    house.stage.run(1.0)
    house.history.clear()
    guest.ref.tell(CRASH)
    house.stage.run(1.0)
    assert house.history == []
    assert set(house.supervisor.children) == {"a", "b", "c"}


def storm(outer: Budget, inner: Budget, error: Exception) -> tuple[Stage, int]:
    """A worker that never starts, two levels down; return how often it was tried."""
    stage = Stage()
    tries = 0

    def make() -> Actor:
        nonlocal tries
        tries += 1
        worker = Puppet(stage, "worker")

        def fail() -> None:
            raise error

        worker.starting = fail
        return worker

    def make_inner() -> Actor:
        return Supervisor(stage, "inner", [Worker(Slot("worker"), make)], budget=inner)

    stage.begin(Supervisor(stage, "outer", [Worker(Slot("inner"), make_inner)], budget=outer))
    stage.run(10.0)
    return stage, tries


def test_restart_storm_at_two_levels_multiplies() -> None:
    stage, tries = storm(Budget(2, 10.0), Budget(3, 10.0), LookupError())
    assert tries == (2 + 1) * (3 + 1)
    assert stage.ear.last_words() == [("outer", "crashed")]
    assert dict(stage.tasks()) == {}


def test_configuration_error_passes_every_level_at_once() -> None:
    stage, tries = storm(Budget(2, 10.0), Budget(3, 10.0), ConfigurationError("no url"))
    assert tries == 1
    assert stage.ear.last_words() == [("outer", "configuration")]


def test_supervisor_under_a_plain_supervisor_may_say_that_it_is_ready() -> None:
    stage = Stage()
    inner = Worker(Slot("inner"), lambda: Supervisor(stage, "inner", []))
    outer = Supervisor(stage, "outer", [inner])
    stage.begin(outer)
    assert stage.ear.last_words() == []
    assert outer.describe() == {"restarts": 0}


def test_mail_that_a_supervisor_does_not_know_is_an_error() -> None:
    house = House()
    with pytest.raises(ActorStoppedError):
        house.stage.do(
            lambda: house.supervisor.ref.ask(Act(), house.stage.now_s() + 5.0)
        )


def test_worker_that_cannot_be_made_is_its_supervisors_crash() -> None:
    """There is no child to report it, and no reason to believe that another try would do."""
    stage = Stage()

    def make() -> Actor:
        raise ConfigurationError("no such directory")

    stage.begin(Supervisor(stage, "house", [Worker(Slot("a"), make)]))
    assert stage.ear.last_words() == [("house", "configuration")]


def test_transient_worker_that_ends_by_itself_stays_away() -> None:
    stage = Stage()
    slot = Slot("worker")
    worker = Worker(slot, lambda: Puppet(stage, "worker"), Restart.TRANSIENT)
    stage.begin(Supervisor(stage, "house", [worker]))
    slot.tell(Stop())
    stage.run(1.0)
    assert slot.ref is None
    assert slot.starts == 1
    assert stage.ear.last_words() == []


# News that outlive a crash.


def told(news: str) -> Kept:
    return Kept(lambda actor: actor.history.append(f"{news} to {actor.ref.incarnation}"))


def test_news_in_the_box_of_a_worker_that_crashes_are_told_to_the_next() -> None:
    house = House()
    house.history.clear()
    for message in (CRASH, told("first"), Act(lambda actor: actor.history.append("lost")),
                    told("second")):  # fmt: skip
        assert house.slots["b"].tell(message)
    house.stage.run(1.0)
    assert house.history == ["+b", "first to 2", "second to 2"]


def test_news_between_two_incarnations_are_told_to_the_second() -> None:
    house = House()
    slot = house.slots["b"]
    house.history.clear()
    assert slot.tell(CRASH)
    assert house.stage.run_until(lambda: slot.ref is None)
    assert slot.tell(told("news"))
    assert not slot.tell(Act())
    house.stage.run(1.0)
    assert house.history == ["+b", "news to 2"]


def test_news_that_a_worker_crashed_over_are_told_once_more() -> None:
    """FLT-P15: the crash may have had nothing to do with them."""
    house = House()
    house.history.clear()

    def crash_once(actor: Inmate) -> None:
        actor.history.append(f"news to {actor.ref.incarnation}")
        if actor.ref.incarnation == 1:
            raise LookupError("planted")

    assert house.slots["b"].tell(Kept(crash_once))
    house.stage.run(1.0)
    assert house.history == ["news to 1", "+b", "news to 2"]


def test_news_that_two_workers_crashed_over_are_not_told_again() -> None:
    """Else they would end every incarnation, and with them the house."""
    house = House()
    house.history.clear()

    def fail(actor: Inmate) -> None:
        actor.history.append("crash")
        raise LookupError("planted")

    assert house.slots["b"].tell(Kept(fail))
    assert house.slots["b"].tell(told("news"))
    house.stage.run(1.0)
    assert house.history == ["crash", "+b", "crash", "+b", "news to 3"]


# A drain.


class DrainingHouse(House):
    """A root with workers a, which has a part in a drain, and b, which has none."""

    def __init__(self) -> None:
        self.stage = Stage()
        self.history = []
        self.slots = {name: Slot(name) for name in "ab"}
        drain = Act(lambda actor: actor.history.append(f"~{actor.name}"))
        workers = [
            Worker(self.slots["a"], self.maker("a"), drain=drain),
            Worker(self.slots["b"], self.maker("b")),
        ]
        self.supervisor = Root(self.stage, "house", workers)
        self.stage.begin(self.supervisor)

    def drain(self) -> None:
        assert self.supervisor.ref.tell(DrainTree())


def test_drain_is_told_to_those_that_have_a_part_in_it_and_once() -> None:
    house = DrainingHouse()
    house.drain()
    house.drain()
    house.stage.run(1.0)
    assert house.history == ["+a", "+b", "~a"]


def test_worker_that_is_started_anew_in_a_drain_is_told_of_it() -> None:
    """What must outlive a crash lies with the parent."""
    house = DrainingHouse()
    house.drain()
    house.stage.run(1.0)
    assert house.crash("a") == ["+a", "~a"]
    assert house.crash("b") == ["+b"]


def test_drain_between_two_incarnations_is_told_to_the_second() -> None:
    house = DrainingHouse()
    house.history.clear()
    assert house.slots["a"].tell(CRASH)
    assert house.stage.run_until(lambda: house.slots["a"].ref is None)
    house.drain()
    house.stage.run(1.0)
    assert house.history == ["+a", "~a"]
