"""The rules of the children that serve all sessions, and everything that can happen to them.

The world beside the policy: calls that take a child and give it back, exchanges that ask who is
behind the upstream, processes that start, become ready and end, and time.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from proxy_actors.errors import Reason
from proxy_actors.messages import stdio as m
from proxy_actors.messages import stdio_effects as e
from proxy_actors.messages.pool import NOBODY, Owner
from proxy_actors.messages.stdio_effects import ChildrenEffect
from proxy_actors.messages.upstream import DrainUpstream
from proxy_actors.policy.backoff import BackoffLimits
from proxy_actors.policy.stdio_shared_children import (
    PROBE_RETRY_S,
    STEADY_S,
    TAKE_SWEEP_S,
    SharedChildrenLimits,
    SharedChildrenMessage,
    SharedChildrenPolicy,
)
from tests.policy.search import Subject, check
from tests.policy.stdio_frames import DESCRIBED

BASE_S, CAP_S, FAILURES_MAX = 2.0, 4.0, 2
DRAWN = 0.5
WAIT_S = 1.0
DRAIN = DrainUpstream()
DOES_NOT_START = "the server process does not start"
DRAINED = "the upstream is being drained"
FULL = "too many calls wait for a server process"


@dataclass(frozen=True)
class Passes:
    """Time passes."""

    seconds: float


Move = SharedChildrenMessage | Passes


@dataclass
class Child:
    """A process that has not ended. `busy` is the exchange whose call it runs, of this `owner`."""

    name: str
    ready_s: float = math.inf
    busy: int = 0
    owner: Owner = NOBODY
    undrained: bool = False

    @property
    def ready(self) -> bool:
        return self.ready_s < math.inf


class SharedChildrenSubject(Subject):
    """One upstream of so many children, for which so many calls may wait.

    Where `owners` make them time stands still, and there is one failure.
    """

    def __init__(
        self,
        children: int,
        waiters_max: int,
        calls_max: int,
        drains: bool = False,
        owners: tuple[Owner, ...] = (NOBODY,),
    ) -> None:
        self.owners = owners
        self.now_s = 100.0
        self.limits = SharedChildrenLimits(
            children, waiters_max, BackoffLimits(BASE_S, CAP_S, FAILURES_MAX)
        )
        self.calls_max, self.drains = calls_max, drains
        self.children: dict[str, Child] = {}
        self.waiting: list[m.TakeChild] = []
        self.describers = self.numbers = self.started = self.failures = 0
        self.orphan = self.ended = -1
        self.named = ""
        self.due_s = self.sweep_s = math.inf
        self.wait_s = 0.0
        self.generation = self.sweep = 0
        self.draining = self.drained = False
        self.policy = SharedChildrenPolicy(self.limits, str, draw)
        self._check_starts(self.policy.begin())

    # What can happen.

    def moves(self) -> Iterator[Move]:
        busy = [child.busy for child in self.children.values() if child.busy]
        if len(self.waiting) + len(busy) < self.calls_max:
            for owner in self.owners:
                yield m.TakeChild(self.numbers + 1, self.now_s + WAIT_S, owner)
        for take in self.waiting:
            yield m.ReleaseChild(take.exchange_id)
        for exchange_id in busy:
            yield m.ReleaseChild(exchange_id)
            yield m.CallEnded("", exchange_id)
        timed = len(self.owners) == 1
        if timed and not self.describers:
            yield m.DescribeServer()
        for child in self.children.values():
            if not child.ready:
                yield m.ProcessReady(child.name, DESCRIBED)
            if child.undrained:
                yield m.ProcessDrained(child.name)
            if timed or not self.failures:
                yield m.ProcessGone(child.name, "gone")
        if self.due_s < math.inf:
            yield m.RespawnDue(self.generation)
        if not timed:
            return
        if self.sweep_s < math.inf:
            yield m.TakeSweepDue(self.sweep)
        future = [self.due_s, *(take.deadline_s for take in self.waiting)]
        if any(self.now_s < time_s < math.inf for time_s in future):
            yield Passes(WAIT_S)
        if any(self.now_s - x.ready_s < STEADY_S for x in self.children.values() if x.ready):
            yield Passes(STEADY_S)
        if self.drains:
            yield DRAIN

    def make(self, move: Move) -> None:
        if isinstance(move, Passes):
            self.now_s += move.seconds
        else:
            self._tell(move)

    def settle(self) -> None:
        """Time alone answers everybody, and ends what was left to the backoff."""
        self._ignores_nonsense()
        for _ in range(2):
            self.now_s += WAIT_S
            if self.sweep_s < math.inf:
                self._tell(m.TakeSweepDue(self.sweep))
        check(not self.waiting, "a call waits for ever")
        check(self.sweep_s == math.inf, "the timer of those that wait rings for nobody")
        if self.due_s < math.inf:
            self.now_s = max(self.now_s, self.due_s)
            self._tell(m.RespawnDue(self.generation))
        check(self.children or self.draining, "no child is started any more")
        if self.draining:
            for child in [child for child in self.children.values() if child.undrained]:
                self._tell(m.ProcessGone(child.name, "gone"))
            check(self.drained, "a drain never ends")

    def key(self) -> Hashable:
        present = [
            (
                child.ready, self.now_s - child.ready_s >= STEADY_S, bool(child.busy),
                child.undrained, child.name == self.named, child.owner if child.busy else None,
            )
            for child in self.children.values()
        ]  # fmt: skip
        return (
            tuple(sorted(present, key=repr)),
            tuple((self.now_s >= x.deadline_s, x.owner) for x in self.waiting),
            tuple(x.owner for x in self.policy._waiting.in_turn()),
            self.describers, min(self.failures, FAILURES_MAX), max(self.due_s - self.now_s, 0.0),
            self.sweep_s < math.inf, self.draining, self.drained, self.orphan > 0,
            len(self.policy._free), len(self.policy._busy),
        )  # fmt: skip

    # What must become of it.

    def _tell(self, message: SharedChildrenMessage) -> None:
        effects = self.policy.handle(message, self.now_s)
        answered: list[ChildrenEffect] = []
        match message:
            case m.TakeChild():
                answered = self._taken(message, effects)
            case m.ReleaseChild(exchange_id) | m.CallEnded(_, exchange_id):
                self._given_back(exchange_id)
            case m.DescribeServer():
                answered = self._asked()
            case m.ProcessReady(name):
                answered = self._became_ready(self.children[name])
            case m.ProcessGone(name):
                answered = self._gone(self.children.pop(name))
            case m.ProcessDrained(name):
                answered = self._no_longer_undrained(self.children[name])
            case m.RespawnDue():
                self.due_s = math.inf
            case m.TakeSweepDue():
                answered = self._swept()
            case DrainUpstream():
                answered = self._drain()
        apart = e.StartProcess | e.NameChild | e.GiveChild | e.WakeTakeSweep
        others = [effect for effect in effects if not isinstance(effect, apart)]
        check(others == answered, f"{others} where {answered} is right")
        self._check_starts(effects)
        self._check_gifts(effects)
        self._check_sweep(effects)
        ready = any(child.ready for child in self.children.values())
        check(self.policy.ready == ready, f"ready is {self.policy.ready}")

    def _taken(
        self, take: m.TakeChild, effects: Sequence[ChildrenEffect]
    ) -> list[ChildrenEffect]:
        self.numbers += 1
        free = any(child.ready and not child.busy for child in self.children.values())
        refusal: tuple[Reason, str, float]
        if self.draining:
            refusal = Reason.DRAINING, DRAINED, 5.0
        elif self._is_down():
            refusal = Reason.UPSTREAM_UNAVAILABLE, DOES_NOT_START, self._retry_s()
        else:
            self.waiting.append(take)
            if free or len(self.waiting) <= self.limits.waiters_max:
                return []
            may_leave = self._may_leave(take)
            refused = [x.exchange_id for x in effects if isinstance(x, e.RefuseChild)]
            check(len(refused) == 1 and refused[0] in may_leave, f"{refused}, not of {may_leave}")
            self.waiting = [x for x in self.waiting if x.exchange_id != refused[0]]
            return [e.RefuseChild(refused[0], Reason.OVERLOADED, FULL, 1.0)]
        return [e.RefuseChild(take.exchange_id, *refusal)]

    def _may_leave(self, newcomer: m.TakeChild) -> set[int]:
        """Of a line with one too many: the last of those with most, rather the newcomer."""
        names = Counter(take.owner.name for take in self.waiting)
        leave = set()
        for name in most(names, newcomer.owner.name):
            lines = Counter(take.owner for take in self.waiting if take.owner.name == name)
            for owner in most(lines, newcomer.owner):
                leave.add(max(x.exchange_id for x in self.waiting if x.owner == owner))
        return leave

    def _given_back(self, exchange_id: int) -> None:
        self.ended = exchange_id
        self.waiting = [take for take in self.waiting if take.exchange_id != exchange_id]
        for child in self.children.values():
            if child.busy == exchange_id:
                child.busy = 0

    def _asked(self) -> list[ChildrenEffect]:
        if self.draining:
            return [e.FailDescribed(Reason.DRAINING, DRAINED, 5.0)]
        if any(child.ready for child in self.children.values()):
            return [e.AnswerDescribed(DESCRIBED)]
        if self._is_down():
            reason = Reason.UPSTREAM_UNAVAILABLE
            return [e.FailDescribed(reason, DOES_NOT_START, self._retry_s())]
        self.describers += 1
        return []

    def _became_ready(self, child: Child) -> list[ChildrenEffect]:
        child.ready_s = self.now_s
        self.describers = 0
        return [e.AnswerDescribed(DESCRIBED)]

    def _gone(self, child: Child) -> list[ChildrenEffect]:
        effects: list[ChildrenEffect] = []
        self.orphan = child.busy or self.orphan
        effects += self._no_longer_undrained(child)
        if self.due_s == math.inf:
            if self.now_s - child.ready_s >= STEADY_S:
                self.failures = 0
            self.wait_s = DRAWN * min(CAP_S, BASE_S * 2**self.failures)
            self.failures += 1
            self.generation += 1
            self.due_s = self.now_s + self.wait_s
            effects.append(e.WakeRespawn(self.wait_s, self.generation))
        if self._is_down():
            self.describers = 0
            reason, after_s = Reason.UPSTREAM_UNAVAILABLE, self._retry_s()
            effects.append(e.FailDescribed(reason, "gone", after_s))
            effects += [e.RefuseChild(x.exchange_id, reason, "gone", after_s) for x in self.waiting]
            self.waiting = []
        return effects

    def _swept(self) -> list[ChildrenEffect]:
        self.sweep_s = math.inf
        late = [take for take in self.waiting if take.deadline_s <= self.now_s]
        self.waiting = [take for take in self.waiting if take not in late]
        reason, text = Reason.POOL_EXHAUSTED, "no server process became free in time"
        return [e.RefuseChild(take.exchange_id, reason, text, 1.0) for take in late]

    def _drain(self) -> list[ChildrenEffect]:
        if self.draining:
            return []
        self.draining = True
        effects: list[ChildrenEffect] = [e.FailDescribed(Reason.DRAINING, DRAINED, 5.0)]
        effects += [
            e.RefuseChild(take.exchange_id, Reason.DRAINING, DRAINED, 5.0) for take in self.waiting
        ]
        self.waiting, self.describers = [], 0
        for name, child in sorted(self.children.items()):
            child.undrained = True
            effects.append(e.DrainChild(name))
        return effects + self._drained_if_all()

    def _no_longer_undrained(self, child: Child) -> list[ChildrenEffect]:
        if not child.undrained:
            return []
        child.undrained = False
        return self._drained_if_all()

    def _drained_if_all(self) -> list[ChildrenEffect]:
        if any(child.undrained for child in self.children.values()):
            return []
        check(not self.drained, "a drain is over once")
        self.drained = True
        return [e.ChildrenDrained()]

    def _is_down(self) -> bool:
        """None is ready, and none is being tried, or the trying is not worth waiting for."""
        if any(child.ready for child in self.children.values()):
            return False
        return not self.children or self.failures >= FAILURES_MAX

    def _retry_s(self) -> float:
        if self.due_s == math.inf:
            return PROBE_RETRY_S
        return max(self.due_s - self.now_s, 0.0)

    def _check_starts(self, effects: Sequence[ChildrenEffect]) -> None:
        """All that may be started is, and is named to those that may wait for it."""
        waits = self.draining or self.due_s < math.inf
        ready = any(child.ready for child in self.children.values())
        wanted = 1 if self.failures and not ready else self.limits.children
        expected = 0 if waits else max(wanted - len(self.children), 0)
        started = [effect.child for effect in effects if isinstance(effect, e.StartProcess)]
        check(len(started) == expected, f"{len(started)} started where {expected} may be")
        for name in started:
            self.started += 1
            check(name == str(self.started), "a name was used before")
            self.children[name] = Child(name)
        for effect in effects:
            if isinstance(effect, e.NameChild):
                self.named = effect.child
        if self.limits.children == 1:
            for child in self.children.values():
                found = child.ready or self.failures < FAILURES_MAX
                check((self.named == child.name) == found, "calls find what is down, or nothing")

    def _check_gifts(self, effects: Sequence[ChildrenEffect]) -> None:
        """Who waits gets a child as soon as one is free, in turn, and has it alone."""
        for effect in effects:
            if isinstance(effect, e.GiveChild):
                child = self.children.get(effect.child)
                check(child and child.ready, "a child was given that is not ready")
                assert child is not None
                check(not child.busy, "a child was given to two")
                (take,) = [x for x in self.waiting if x.exchange_id == effect.exchange_id]
                self._check_turn(take)
                self.waiting.remove(take)
                child.busy, child.owner = take.exchange_id, take.owner
        free = [x for x in self.children.values() if x.ready and not x.busy]
        check(not (self.waiting and free), "a child is free and a call waits")

    def _check_turn(self, take: m.TakeChild) -> None:
        """Nobody waits who holds less, or of the same session and longer."""
        holders = [child.owner for child in self.children.values() if child.busy]
        names = Counter(owner.name for owner in holders)
        least = min(names[other.owner.name] for other in self.waiting)
        check(names[take.owner.name] == least, "an owner that holds less waits")
        own = [x for x in self.waiting if x.owner.name == take.owner.name]
        held = Counter(holders)
        check(held[take.owner] == min(held[x.owner] for x in own), "a session that has less waits")
        first = next(x for x in own if x.owner == take.owner)
        check(first is take, "a child was given out of turn")

    def _check_sweep(self, effects: Sequence[ChildrenEffect]) -> None:
        for effect in effects:
            if isinstance(effect, e.WakeTakeSweep):
                check(self.sweep_s == math.inf, "the timer is armed twice")
                self.sweep, self.sweep_s = effect.generation, self.now_s + effect.after_s
                check(effect.after_s == TAKE_SWEEP_S, "the timer rings at another time")
        check(not self.waiting or self.sweep_s < math.inf, "nobody watches those that wait")

    def _ignores_nonsense(self) -> None:
        """What comes twice, late, or speaks of nobody changes nothing."""
        before = self.key()
        for message in (
            m.ReleaseChild(-7), m.CallEnded("", -7), m.ReleaseChild(self.orphan),
            m.CallEnded("", self.orphan), m.ReleaseChild(self.ended),
            m.RespawnDue(self.generation - 1), m.TakeSweepDue(self.sweep - 1),
            m.ProcessReady("nobody", DESCRIBED), m.ProcessGone("nobody", "gone"),
            m.ProcessDrained("nobody"), *([DRAIN] if self.draining else []),
            *(m.ProcessReady(name) for name in self.children),
            *(m.ProcessReady(x.name, DESCRIBED) for x in self.children.values() if x.ready),
        ):
            effects = self.policy.handle(message, self.now_s)
            check(not effects, f"{message} had the effects {effects}")
        check(self.key() == before, "nonsense changed something")


def most(counts: Counter[Any], rather: Any) -> list[Any]:  # Any: what is counted
    """Of whom there are most: this one, if it is among them."""
    names = [name for name, count in counts.items() if count == max(counts.values())]
    return [rather] if rather in names else names


def draw() -> float:
    return DRAWN
