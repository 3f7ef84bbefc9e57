"""Supervision as in OTP, by vectors (PYK-P3, PYK-P4) and through every order of events."""

from __future__ import annotations

import pickle
from collections.abc import Hashable, Iterator

import pytest

from proxy_actors.messages.lifecycle import ChildStarted, ChildStopped, StopReason
from proxy_actors.messages.supervision import (
    Begin,
    Escalate,
    Ready,
    Restart,
    StartChild,
    StopChild,
    Strategy,
    SupervisionEffect,
    SupervisionMessage,
)
from proxy_actors.policy.supervision import Budget, ChildSpec, SupervisionPolicy
from tests.defects import Defect, planted

PERMANENT, TRANSIENT, TEMPORARY = Restart
NORMAL, CRASHED, CONFIGURATION = StopReason


class Family:
    """A supervisor under test and what lives under it."""

    def __init__(
        self,
        *restarts: Restart,
        strategy: Strategy = Strategy.ONE_FOR_ONE,
        budget: Budget = Budget(5, 10.0),
        begun: bool = True,
    ) -> None:
        specs = [ChildSpec(name, restart) for name, restart in zip("abc", restarts)]
        self.policy = SupervisionPolicy(specs, strategy, budget)
        self.incarnations = dict.fromkeys("abc", 0)
        self.now_s = 50.0
        if begun:
            self.tell(Begin())
            for name, _ in zip("abc", restarts):
                self.started(name)

    def tell(self, message: SupervisionMessage) -> list[SupervisionEffect]:
        effects = self.policy.handle(message, self.now_s)
        for effect in effects:
            if isinstance(effect, StartChild):
                self.incarnations[effect.child] = effect.incarnation
        return effects

    def started(self, name: str) -> list[SupervisionEffect]:
        return self.tell(ChildStarted(name, self.incarnations[name]))

    def stopped(self, name: str, reason: StopReason = NORMAL) -> list[SupervisionEffect]:
        return self.tell(ChildStopped(name, self.incarnations[name], reason, "why"))

    def crashed(self, name: str) -> list[SupervisionEffect]:
        return self.stopped(name, CRASHED)


def test_children_start_in_order_each_when_the_one_before_has_started() -> None:
    family = Family(PERMANENT, PERMANENT, begun=False)
    assert family.tell(Begin()) == [StartChild("a", 1)]
    assert family.started("a") == [StartChild("b", 1)]
    assert family.started("b") == [Ready()]
    family.crashed("b")
    assert family.started("b") == [], "ready is said once"


def test_supervisor_of_nobody_is_ready_at_once() -> None:
    assert Family(begun=False).tell(Begin()) == [Ready()]


@pytest.mark.parametrize("restarts_max", [0, 1, 3])
def test_restarts_at_the_limit_are_borne_and_one_more_escalates(restarts_max: int) -> None:
    family = Family(PERMANENT, budget=Budget(restarts_max, 10.0))
    for restart in range(restarts_max):
        assert family.crashed("a") == [StartChild("a", restart + 2)]
        family.started("a")
    assert family.policy.restarts() == restarts_max
    assert family.crashed("a") == [Escalate("a", "why")]


def test_restarts_of_all_children_count_together() -> None:
    family = Family(PERMANENT, PERMANENT, budget=Budget(1, 10.0))
    family.crashed("a")
    family.started("a")
    assert family.crashed("b") == [Escalate("b", "why")]


def test_restarts_that_are_long_past_do_not_count() -> None:
    family = Family(PERMANENT, budget=Budget(1, 10.0))
    for _ in range(5):
        assert family.crashed("a")[0] == StartChild("a", family.incarnations["a"])
        family.started("a")
        family.now_s += 10.0
    family.now_s -= 0.1
    assert family.crashed("a") == [Escalate("a", "why")]


def test_crash_in_start_counts_as_any_other() -> None:
    family = Family(PERMANENT, budget=Budget(1, 10.0), begun=False)
    family.tell(Begin())
    assert family.crashed("a") == [StartChild("a", 2)]
    assert family.crashed("a") == [Escalate("a", "why")]


@pytest.mark.parametrize("strategy", Strategy)
@pytest.mark.parametrize("restart", [PERMANENT, TRANSIENT])
def test_configuration_error_is_never_retried(strategy: Strategy, restart: Restart) -> None:
    """A restart reads the same configuration."""
    family = Family(restart, PERMANENT, strategy=strategy)
    assert family.stopped("a", CONFIGURATION) == [Escalate("a", "why")]


def test_nothing_happens_after_escalation() -> None:
    family = Family(PERMANENT, PERMANENT, budget=Budget(0, 10.0))
    family.crashed("a")
    assert family.crashed("b") == []
    assert family.tell(Begin()) == []


def test_one_for_one_leaves_siblings_alone() -> None:
    family = Family(PERMANENT, PERMANENT, PERMANENT)
    assert family.crashed("b") == [StartChild("b", 2)]


def test_one_for_all_stops_in_reverse_and_starts_in_order() -> None:
    family = Family(PERMANENT, PERMANENT, PERMANENT, strategy=Strategy.ONE_FOR_ALL)
    assert family.crashed("b") == [StopChild("c"), StopChild("a")]
    assert family.stopped("a") == [], "nobody is started while another is stopping"
    assert family.stopped("c") == [StartChild("a", 2)]
    assert family.started("a") == [StartChild("b", 2)]
    assert family.started("b") == [StartChild("c", 2)]
    assert family.started("c") == []


def test_rest_for_one_restarts_those_started_after() -> None:
    family = Family(PERMANENT, PERMANENT, PERMANENT, strategy=Strategy.REST_FOR_ONE)
    assert family.crashed("b") == [StopChild("c")]
    assert family.stopped("c") == [StartChild("b", 2)]
    assert family.started("b") == [StartChild("c", 2)]
    assert family.incarnations["a"] == 1


def test_last_child_has_no_rest() -> None:
    family = Family(PERMANENT, PERMANENT, strategy=Strategy.REST_FOR_ONE)
    assert family.crashed("b") == [StartChild("b", 2)]


def test_temporary_child_is_not_restarted_as_a_victim() -> None:
    family = Family(PERMANENT, TEMPORARY, PERMANENT, strategy=Strategy.ONE_FOR_ALL)
    assert family.crashed("a") == [StopChild("c"), StopChild("b")]
    family.stopped("b")
    assert family.stopped("c") == [StartChild("a", 2)]
    assert family.started("a") == [StartChild("c", 2)]


def test_crash_of_a_temporary_child_concerns_nobody() -> None:
    family = Family(TEMPORARY, PERMANENT, strategy=Strategy.ONE_FOR_ALL, budget=Budget(0, 10.0))
    assert family.crashed("a") == []


@pytest.mark.parametrize(
    "restart, reason, again",
    [
        (PERMANENT, NORMAL, True),
        (PERMANENT, CRASHED, True),
        (TRANSIENT, NORMAL, False),
        (TRANSIENT, CRASHED, True),
        (TEMPORARY, NORMAL, False),
        (TEMPORARY, CRASHED, False),
    ],
)
def test_whether_a_child_is_restarted(restart: Restart, reason: StopReason, again: bool) -> None:
    assert bool(Family(restart).stopped("a", reason)) == again


def test_victim_that_crashes_while_it_stops_costs_no_restart() -> None:
    family = Family(PERMANENT, PERMANENT, strategy=Strategy.ONE_FOR_ALL, budget=Budget(1, 10.0))
    family.crashed("a")
    assert family.crashed("b") == [StartChild("a", 2)]
    assert family.policy.restarts() == 1


def test_victim_that_is_still_starting_is_stopped_and_started_again() -> None:
    family = Family(PERMANENT, PERMANENT, strategy=Strategy.ONE_FOR_ALL, begun=False)
    family.tell(Begin())
    family.started("a")
    assert family.crashed("a") == [StopChild("b")]
    assert family.started("b") == [], "it had started before it heard of its stop"
    assert family.stopped("b") == [StartChild("a", 2)]


def test_sibling_that_crashes_while_another_starts_waits_its_turn() -> None:
    family = Family(PERMANENT, PERMANENT, PERMANENT)
    family.crashed("a")
    assert family.crashed("c") == []
    assert family.started("a") == [StartChild("c", 2)]


@pytest.mark.parametrize("incarnation", [1, 3])
def test_other_incarnations_have_no_say(incarnation: int) -> None:
    """PYK-P5."""
    family = Family(PERMANENT, PERMANENT)
    family.crashed("a")
    assert family.tell(ChildStarted("a", incarnation)) == []
    assert family.tell(ChildStopped("a", incarnation, CRASHED)) == []
    assert family.tell(ChildStopped("nobody", 1, CRASHED)) == []
    assert family.started("a") == []
    assert family.policy.restarts() == 1


# Every order of events, for three children.


class Registry:
    """Who lives, told by the effects alone; raises when a rule of supervision is broken."""

    def __init__(self, restarts: tuple[Restart, ...], strategy: Strategy, budget: Budget) -> None:
        self.restarts = dict(zip("abc", restarts))
        self.strategy = strategy
        self.budget = budget
        self.now_s = 50.0
        self.state = dict.fromkeys(self.restarts, "new")
        self.incarnation = dict.fromkeys(self.restarts, 0)
        self.counted: list[float] = []
        self.ready = False
        self.escalated = False

    def events(self) -> Iterator[SupervisionMessage]:
        """Yield what can happen next."""
        for name, state in self.state.items():
            incarnation = self.incarnation[name]
            if state == "starting":
                yield ChildStarted(name, incarnation)
            if state in ("starting", "running", "stopping"):
                yield ChildStopped(name, incarnation, CRASHED)
            if state in ("running", "stopping"):
                yield ChildStopped(name, incarnation, NORMAL)

    def observe(self, event: SupervisionMessage, effects: list[SupervisionEffect]) -> None:
        victims = self._enter(event)
        assert [x.child for x in effects if isinstance(x, StopChild)] == victims
        assert any(isinstance(x, Escalate) for x in effects) == self.escalated
        assert not self.escalated or len(effects) == 1
        for effect in effects:
            if isinstance(effect, StopChild):
                self.state[effect.child] = "stopping"
            elif isinstance(effect, StartChild):
                self._start(effect)
            elif isinstance(effect, Ready):
                assert not self.ready
                assert "new" not in self.state.values()
                self.ready = True
        states = self.state.values()
        if not self.escalated and "starting" not in states and "stopping" not in states:
            assert set(states) <= {"running", "ended"}, f"{self.state}, and nobody starts"
            assert self.ready

    def _enter(self, event: SupervisionMessage) -> list[str]:
        """Note an event; return who must be stopped because of it, in order."""
        if isinstance(event, ChildStarted) and self.state[event.name] == "starting":
            self.state[event.name] = "running"
        if not isinstance(event, ChildStopped):
            return []
        name, restart = event.name, self.restarts[event.name]
        commanded = self.state[name] == "stopping"
        done = restart is TEMPORARY or (
            restart is TRANSIENT and event.reason is NORMAL and not commanded
        )
        self.state[name] = "ended" if done else "down"
        if done or commanded:
            return []
        self.counted = [x for x in self.counted if x > self.now_s - self.budget.period_s]
        self.counted.append(self.now_s)
        self.escalated = len(self.counted) > self.budget.restarts_max
        if self.escalated or self.strategy is Strategy.ONE_FOR_ONE:
            return []
        names = list(self.state)
        if self.strategy is Strategy.REST_FOR_ONE:
            names = names[names.index(name) + 1 :]
        return [x for x in reversed(names) if self.state[x] in ("starting", "running")]

    def _start(self, effect: StartChild) -> None:
        states = list(self.state.values())
        assert "starting" not in states and "stopping" not in states
        assert self.state[effect.child] in ("new", "down")
        place = list(self.state).index(effect.child)
        assert not {"new", "down"} & set(states[:place]), "an elder sibling waits"
        assert effect.incarnation == self.incarnation[effect.child] + 1
        assert effect.incarnation == 1 or self.restarts[effect.child] is not TEMPORARY
        self.incarnation[effect.child] += 1
        self.state[effect.child] = "starting"

    def key(self) -> Hashable:
        ages = tuple(round(self.now_s - x, 3) for x in self.counted)
        return tuple(self.state.values()), ages, self.ready, self.escalated


def search(
    restarts: tuple[Restart, ...], strategy: Strategy, budget: Budget, depth: int
) -> int:
    """Explore breadth-first; return the number of states."""
    policy = SupervisionPolicy(
        [ChildSpec(name, restart) for name, restart in zip("abc", restarts)], strategy, budget
    )
    registry = Registry(restarts, strategy, budget)
    registry.observe(Begin(), policy.handle(Begin(), registry.now_s))
    seen = {registry.key()}
    layer = [pickle.dumps((policy, registry))]
    for _ in range(depth):
        following = []
        for frozen in layer:
            for event in pickle.loads(frozen)[1].events():
                for pause_s in (0.0, 6.0):
                    policy, registry = pickle.loads(frozen)
                    registry.now_s += pause_s
                    registry.observe(event, policy.handle(event, registry.now_s))
                    for name, incarnation in registry.incarnation.items():
                        for stale in (incarnation - 1, incarnation + 1):
                            nonsense = ChildStopped(name, stale, CRASHED)
                            assert policy.handle(nonsense, registry.now_s) == []
                    if not registry.escalated and registry.key() not in seen:
                        seen.add(registry.key())
                        following.append(pickle.dumps((policy, registry)))
        layer = following
    return len(seen)


KINDS = [
    (PERMANENT, PERMANENT, PERMANENT),
    (PERMANENT, TRANSIENT, TEMPORARY),
    (TEMPORARY, PERMANENT, TRANSIENT),
]


@pytest.mark.parametrize("kinds", KINDS, ids=lambda kinds: "-".join(kinds))
@pytest.mark.parametrize("strategy", Strategy)
def test_supervision_keeps_its_rules_in_every_order_of_events(
    strategy: Strategy, kinds: tuple[Restart, ...]
) -> None:
    assert search(kinds, strategy, Budget(2, 10.0), depth=8) > 25


DEFECTS = [
    Defect("the limit is one too low", SupervisionPolicy, "_count_restart",
           "> self._budget.restarts_max", ">= self._budget.restarts_max"),
    Defect("the limit is one too high", SupervisionPolicy, "_count_restart",
           "> self._budget.restarts_max", "> self._budget.restarts_max + 1"),
    Defect("restarts are counted for ever", SupervisionPolicy, "_count_restart",
           "self._restarts[0] <= now_s - self._budget.period_s", "False"),
    Defect("a victim's crash counts", SupervisionPolicy, "_stopped",
           "elif commanded:", "elif False:"),
    Defect("temporary victims come back", SupervisionPolicy, "_stopped",
           "restart is Restart.TEMPORARY", "restart is Restart.TEMPORARY and not commanded"),
    Defect("the rest is stopped in order of start", SupervisionPolicy, "_stop_siblings",
           "reversed(concerned)", "concerned"),
    Defect("the rest begins with the child itself", SupervisionPolicy, "_stop_siblings",
           "place + 1", "place + 2"),
    Defect("a sibling that starts is spared", SupervisionPolicy, "_stop_siblings",
           "(_State.STARTING, _State.RUNNING)", "(_State.RUNNING,)"),
    Defect("all start at once", SupervisionPolicy, "_start_next",
           "_State.STARTING in states or ", ""),
    Defect("children start while others stop", SupervisionPolicy, "_start_next",
           " or _State.STOPPING in states", ""),
    Defect("any incarnation has a say", SupervisionPolicy, "_present",
           " and child.incarnation == incarnation", ""),
    Defect("ready is said again", SupervisionPolicy, "_start_next",
           "self._ready = True", "pass"),
]


@pytest.mark.parametrize("defect", DEFECTS, ids=str)
def test_planted_defect_is_found(defect: Defect) -> None:
    """What the search would say if supervision were wrong."""
    with planted(defect), pytest.raises(AssertionError):
        for strategy in Strategy:
            for kinds in KINDS:
                search(kinds, strategy, Budget(2, 10.0), depth=6)
