"""The rules of who gets which child in SESSION mode, and everything that can happen to children.

The world beside the policy: exchanges that shake hands, the registry that creates and ends
sessions, processes that start, run and end. What of it travels as a message arrives in any order.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator
from dataclasses import dataclass

import msgspec

from proxy_actors.errors import Reason
from proxy_actors.messages import stdio as m
from proxy_actors.messages import stdio_effects as e
from proxy_actors.messages.pool import Owner
from proxy_actors.messages.stdio_effects import ChildrenEffect
from proxy_actors.messages.upstream import DrainUpstream
from proxy_actors.policy.backoff import BackoffLimits
from proxy_actors.policy.stdio_children import (
    FULL_RETRY_S,
    PROBE_RETRY_S,
    STEADY_S,
    ChildrenLimits,
    ChildrenMessage,
    ChildrenPolicy,
)
from proxy_actors.policy.stdio_shared_children import IDLE_LOOK_S_MIN
from tests.policy.search import Subject, check
from tests.policy.stdio_frames import ended

BASE_S, CAP_S, FAILURES_MAX = 2.0, 4.0, 2
LIMITS = ChildrenLimits(1, 1, BackoffLimits(BASE_S, CAP_S, FAILURES_MAX))
SPARELESS = msgspec.structs.replace(LIMITS, spare=False)
SHARED = msgspec.structs.replace(LIMITS, sessions_max=2, spare=False)
IDLE_S = 60.0
RESTING = msgspec.structs.replace(LIMITS, idle_stop_s=IDLE_S)
DRAWN = 0.5
DRAIN = DrainUpstream()


@dataclass(frozen=True)
class Create:
    """The registry creates a session for the exchange; it is to be bound."""

    exchange_id: int


@dataclass(frozen=True)
class Passes:
    """Half of the backoff passes."""


@dataclass(frozen=True)
class Idles:
    """So much time passes that who is idle by then may rest."""


Move = ChildrenMessage | Create | Passes | Idles


@dataclass
class Child:
    """A process that has not ended. A spare has no exchange and no session, and is nobody's."""

    name: str
    owner: str = ""
    runs: bool = False
    since_s: float = 0.0
    taken: bool = False
    key: str = ""
    ending: bool = False
    undrained: bool = False

    @property
    def spare(self) -> bool:
        return not (self.taken or self.key or self.ending)


@dataclass
class Exchange:
    """A handshake; `key` once its session has been created, `over` if that has ended already."""

    child: str
    key: str = ""
    over: bool = False


class ChildrenSubject(Subject):
    """One upstream, with so many handshakes at a time; `drains` if that is to be tried too.

    `owners` are those who have shares; the proxy itself has none.
    """

    def __init__(
        self,
        exchanges_max: int,
        drains: bool = False,
        limits: ChildrenLimits = LIMITS,
        owners: str = "",
    ) -> None:
        self.now_s = 100.0
        self.keeps_spare, self.idle_s = limits.spare, limits.idle_stop_s
        self.rests, self.used_s = False, 0.0
        self.look: int | None = None
        self.exchanges_max, self.drains = exchanges_max, drains
        self.children_max, self.owners = limits.sessions_max + limits.handshakes_max, owners
        self.children: dict[str, Child] = {}
        self.exchanges: dict[int, Exchange] = {}
        self.started = self.numbers = 0
        self.failures = 0
        self.due_s, self.wait_s = math.inf, 0.0
        self.generation = 0
        self.draining = self.drained = False
        self.ready = False
        self.policy = ChildrenPolicy(limits, str, draw)
        self._enter(self._look_again(self.policy.begin(), self.idle_s))

    # What can happen.

    def moves(self) -> Iterator[Move]:
        if len(self.exchanges) < self.exchanges_max:
            for owner in self.owners or ("",):
                yield m.TakeChild(self.numbers + 1, self.now_s + 30.0, Owner(owner, "s"))
        for exchange_id, exchange in self.exchanges.items():
            if exchange.key:
                yield m.BindChild(exchange.child, exchange.key)
                if not exchange.over:
                    yield ended(exchange.key, exchange.child)
            else:
                yield m.ReleaseChild(exchange_id)
                yield Create(exchange_id)
        for child in self.children.values():
            if child.key:
                yield ended(child.key, child.name)
            if not child.runs:
                yield m.ProcessReady(child.name)
            if child.undrained:
                yield m.ProcessDrained(child.name)
            yield m.ProcessGone(child.name, "gone")
        if self.due_s < math.inf:
            yield m.RespawnDue(self.generation)
            if self.due_s - self.now_s == self.wait_s and not self.idle_s:
                yield Passes()
        elif self.idle_s and self.now_s - self.used_s < self.idle_s:
            yield Idles()
        if self.look is not None:
            yield m.IdleDue(self.look)
        # Where it may rest the others are left out: they would be most of the states.
        serves = any(child.taken or child.key for child in self.children.values())
        if self.drains and not (self.idle_s and (serves or self.exchanges)):
            yield DRAIN

    def make(self, move: Move) -> None:
        match move:
            case Create(exchange_id):
                self.numbers += 1
                self.exchanges[exchange_id].key = f"session {self.numbers}"
            case Passes():
                self.now_s += self.wait_s / 2
            case Idles():
                self.now_s += self.idle_s
            case _:
                self._tell(move)

    def settle(self) -> None:
        """When all handshakes are over there is a spare, or the drain is over."""
        self._ignores_nonsense()
        for exchange_id, exchange in list(self.exchanges.items()):
            if exchange.key:
                self._tell(m.BindChild(exchange.child, exchange.key))
            else:
                self._tell(m.ReleaseChild(exchange_id))
        if self.due_s < math.inf:
            self.now_s = self.due_s
            self._tell(m.RespawnDue(self.generation))
        if self.draining:
            for child in [child for child in self.children.values() if child.undrained]:
                self._tell(m.ProcessGone(child.name, "gone"))
            check(self.drained, "a drain never ends")
        elif self.rests:
            self._tell(m.TakeChild(self.numbers + 1, self.now_s + 30.0))
            check(self.exchanges, "nobody is woken")
        elif self.keeps_spare:
            check(any(child.spare for child in self.children.values()), "there is no spare")
            self._falls_asleep()

    def _falls_asleep(self) -> None:
        """When all sessions are over too, nothing is left running in the end."""
        if not self.idle_s:
            return
        for child in [child for child in self.children.values() if not child.spare]:
            if not child.ending:
                self._tell(ended(child.key, child.name))
            self._tell(m.ProcessGone(child.name, "gone"))
        for child in list(self.children.values()):
            self._tell(m.ProcessReady(child.name))
        self.now_s += self.idle_s
        assert self.look is not None
        self._tell(m.IdleDue(self.look))
        check(self.rests, "it never rests")

    def key(self) -> Hashable:
        exchanges = {exchange.child: exchange for exchange in self.exchanges.values()}
        present = []
        for child in self.children.values():
            exchange = exchanges.pop(child.name, None)
            present.append((
                child.runs, child.spare and self._steady(child), child.taken, bool(child.key),
                child.ending, child.undrained, child.owner,
                exchange and (bool(exchange.key), exchange.over),
            ))  # fmt: skip
        orphans = sorted((bool(x.key), x.over) for x in exchanges.values())
        return (
            tuple(sorted(present, key=repr)), tuple(orphans), min(self.failures, FAILURES_MAX),
            self.due_s - self.now_s, self.draining, self.drained, self.ready,
            self.policy._spare_runs, self.policy._spare is not None,
            self.rests, self.look is not None,
            self.idle_s and min(self.now_s - self.used_s, self.idle_s),
        )  # fmt: skip

    # What must become of it.

    def _tell(self, message: ChildrenMessage) -> None:
        if any(not child.spare for child in self.children.values()):
            self.used_s = self.now_s
        rested, left_s = self.rests, self._left_s()
        effects = self.policy.handle(message, self.now_s)
        expected = self._expected(message)
        looks = isinstance(message, m.IdleDue) and not (self.rests or self.draining)
        effects = self._look_again(
            effects, self.idle_s if rested and not self.rests else left_s if looks else 0.0
        )
        started = [effect for effect in effects if isinstance(effect, e.StartProcess)]
        given = [effect for effect in effects if isinstance(effect, e.GiveChild)]
        check(self.keeps_spare or len(started) == len(given), "nobody has asked for this child")
        others = [effect for effect in effects if not isinstance(effect, e.StartProcess)]
        check(others == expected, f"{others} where {expected} is right")
        self._enter(started)
        check(self.policy.ready == self.ready, f"ready is {self.policy.ready}")
        serving = [child for child in self.children.values() if not child.spare]
        check(len(serving) == self.policy.children, "children are counted wrongly")
        check(len(serving) <= self.children_max, "there are more children than may be")
        crowd = {child.owner for child in serving} != {"a"} or self.children_max == 1
        check(crowd or len(serving) < self.children_max, "one client has all")

    def _expected(self, message: ChildrenMessage) -> list[ChildrenEffect]:
        match message:
            case m.TakeChild(exchange_id, _, owner):
                self.numbers += 1
                return [self._answer(exchange_id, owner.name)]
            case m.BindChild(name, key):
                return self._bound(name, key)
            case m.ReleaseChild(exchange_id):
                exchange = self.exchanges.pop(exchange_id)
                return self._stopped(self.children.get(exchange.child))
            case m.ProcessReady(name):
                child = self.children[name]
                if child.spare and not child.runs:
                    child.since_s = self.now_s
                child.runs = True
                self.ready = self.ready or child.spare or child.taken
                return []
            case m.ProcessGone(name):
                return self._gone(self.children.pop(name))
            case m.ProcessDrained(name):
                return self._no_longer_undrained(self.children[name])
            case m.RespawnDue():
                self.due_s = math.inf
                return []
            case m.IdleDue():
                return self._rest()
            case DrainUpstream():
                return self._drain()
            case _:
                return self._session_ended(message.session.key)

    def _rest(self) -> list[ChildrenEffect]:
        self.look = None
        if self.draining or self._left_s() > 0:
            return []
        spare, = self.children.values()
        spare.ending, self.rests, self.failures = True, True, 0
        return [e.StopProcess(spare.name)]

    def _left_s(self) -> float:
        """How long it is until it rests, if nothing happens; all of it while something is amiss."""
        others = [child for child in self.children.values() if not child.spare]
        well = any(
            child.spare and child.runs and (not self.failures or self._steady(child))
            for child in self.children.values()
        )
        idle = well and not others and self.due_s == math.inf
        return self.idle_s - (self.now_s - self.used_s) * idle

    def _steady(self, child: Child) -> bool:
        return bool(self.idle_s) and child.runs and self.now_s - child.since_s >= STEADY_S

    def _look_again(
        self, effects: list[ChildrenEffect], after_s: float
    ) -> list[ChildrenEffect]:
        """Take note of the timer, of which there is one unless it rests or is drained."""
        wakes = [effect for effect in effects if isinstance(effect, e.WakeIdle)]
        right = [max(after_s, IDLE_LOOK_S_MIN)] if after_s else []
        check([wake.after_s for wake in wakes] == right, f"{wakes} where {right} is right")
        for wake in wakes:
            check(self.look is None, "two timers are set")
            self.look = wake.generation
        looks = self.look is not None or self.rests or self.draining
        check(looks or not self.idle_s, "nobody looks any more")
        return [effect for effect in effects if not isinstance(effect, e.WakeIdle)]

    def _answer(self, exchange_id: int, owner: str) -> ChildrenEffect:
        spare = next((child for child in self.children.values() if child.spare), None)
        others = len(self.children) - (spare is not None)
        wakes = self.rests and not self.draining
        self.rests = self.rests and not wakes
        refusal: tuple[Reason, str, float]
        if self.draining:
            refusal = Reason.DRAINING, "the upstream is being drained", FULL_RETRY_S
        elif others >= self.children_max:
            text = "too many sessions have a server process"
            refusal = Reason.OVERLOADED, text, FULL_RETRY_S
        elif self._has_its_share(owner, self.children_max - others - 1):
            text = "this client has its share of the server processes"
            refusal = Reason.RATE_LIMITED, text, FULL_RETRY_S
        elif wakes or not self.keeps_spare:
            name = str(self.started + 1)
            self.children[name] = Child(name, owner, taken=True)
            self.exchanges[exchange_id] = Exchange(name)
            return e.GiveChild(exchange_id, name)
        elif spare is not None and (spare.runs or self.failures < FAILURES_MAX):
            spare.taken, spare.owner = True, owner
            self.exchanges[exchange_id] = Exchange(spare.name)
            return e.GiveChild(exchange_id, spare.name)
        else:
            after_s = self.due_s - self.now_s if self.due_s < math.inf else PROBE_RETRY_S
            text = "the server process does not start"
            refusal = Reason.UPSTREAM_UNAVAILABLE, text, after_s
        return e.RefuseChild(exchange_id, *refusal)

    def _has_its_share(self, owner: str, left: int) -> bool:
        """Whether one more leaves others less than an eighth of what the owner has."""
        return bool(owner) and left < sum(x.owner == owner for x in self.children.values()) / 8

    def _bound(self, name: str, key: str) -> list[ChildrenEffect]:
        self.exchanges = {x: y for x, y in self.exchanges.items() if y.key != key}
        child = self.children.get(name)
        if child is None or not child.taken:
            return [e.LoseSession(key)]
        child.taken, child.key = False, key
        self.failures, self.ready = 0, True
        return []

    def _session_ended(self, key: str) -> list[ChildrenEffect]:
        for exchange in self.exchanges.values():
            if exchange.key == key:
                exchange.over = True
                return self._stopped(self.children.get(exchange.child))
        return self._stopped(next(x for x in self.children.values() if x.key == key))

    def _stopped(self, child: Child | None) -> list[ChildrenEffect]:
        if child is None or child.ending:
            return []
        child.taken, child.key, child.ending = False, "", True
        return [e.StopProcess(child.name)]

    def _gone(self, child: Child) -> list[ChildrenEffect]:
        effects: list[ChildrenEffect] = []
        if child.key:
            effects.append(e.LoseSession(child.key))
        elif not child.ending and self.keeps_spare:
            self.ready = any(other.spare and other.runs for other in self.children.values())
            if self.due_s == math.inf:
                self.wait_s = DRAWN * min(CAP_S, BASE_S * 2**self.failures)
                self.failures += 1
                self.generation += 1
                self.due_s = self.now_s + self.wait_s
                effects.append(e.WakeRespawn(self.wait_s, self.generation))
        return effects + self._no_longer_undrained(child)

    def _drain(self) -> list[ChildrenEffect]:
        if self.draining:
            return []
        self.draining = True
        effects: list[ChildrenEffect] = []
        for name, child in sorted(self.children.items()):
            child.undrained = child.taken or bool(child.key)
            if child.undrained:
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

    def _enter(self, effects: list[ChildrenEffect]) -> None:
        """A spare is started when there may be one; after a failure, only as the one probe."""
        waits = self.draining or self.rests or self.due_s < math.inf
        probing = self.failures > 0 and any(child.taken for child in self.children.values())
        for effect in effects:
            assert isinstance(effect, e.StartProcess)
            check(not waits, "a child is started in a backoff, a drain or a rest")
            check(not probing, "there are two probes")
            self.started += 1
            check(effect.child == str(self.started), "a name was used before")
            self.children.setdefault(effect.child, Child(effect.child))
        spares = sum(child.spare for child in self.children.values())
        check(spares <= 1, "there are two spares")
        check(spares or waits or probing or not self.keeps_spare, "a spare is not started")

    def _ignores_nonsense(self) -> None:
        """What comes twice, late, or speaks of nobody changes nothing."""
        before = self.key()
        for message in (
            m.ReleaseChild(-1), m.RespawnDue(self.generation - 1), m.ProcessReady("nobody"),
            m.IdleDue(-1),
            m.ProcessGone("nobody", "gone"), m.ProcessDrained("nobody"), ended("nobody"),
            *([DRAIN] if self.draining else []),
            *(ended("nobody's", x.name) for x in self.children.values() if not x.taken),
        ):
            effects = self.policy.handle(message, self.now_s)
            check(not effects, f"{message} had the effects {effects}")
        check(self.key() == before, "nonsense changed something")


def draw() -> float:
    return DRAWN
