"""Which children serve all sessions in SHARED and POOL mode, and who waits for one.

Owns the children by state: starting, free, busy with one call (POOL), or waiting out a backoff. In
SHARED mode there is one, and it takes any number of calls by itself. In POOL mode a call checks a
child out and its end gives it back; who finds none free waits up to its deadline. What becomes
free goes to the owner that holds least, and there to the session that holds least; a full line
refuses the last of whoever has most in it (`policy/fair_queue.py`).

A child that ends is started again after a backoff. While none is ready after a failure, one at a
time is tried, the probe; whoever asks waits for it until the budget of failures is spent, and from
then on is refused at once and told when to come back. `actors/stdio_shared.py` is the shell.

With `idle_stop_s` the children rest when nobody has used them for so long: all are stopped, and
that is no failure. The first who asks wakes them, and waits like all who ask after it for the one
start that there is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import assert_never

import msgspec

from proxy_actors.errors import Reason
from proxy_actors.messages import stdio as m
from proxy_actors.messages import stdio_effects as e
from proxy_actors.messages.health import Verdict
from proxy_actors.messages.pool import Owner
from proxy_actors.messages.stdio_effects import ChildrenEffect
from proxy_actors.messages.upstream import DrainUpstream
from proxy_actors.policy.backoff import Backoff, BackoffLimits
from proxy_actors.policy.child_counts import ChildCounts
from proxy_actors.policy.fair_queue import FairQueue

TAKE_SWEEP_S = 0.5
DRAINED = "the upstream is being drained"
DRAINED_RETRY_S = 5.0
# When to come back while a probe is out: nobody knows how long it will take.
PROBE_RETRY_S = 1.0
# A child that has lived so long was no failure to start.
STEADY_S = 10.0
# Not sooner than so is it looked again whether anybody is there.
IDLE_LOOK_S_MIN = 0.1

SharedChildrenMessage = (
    m.TakeChild | m.ReleaseChild | m.CallEnded | m.DescribeServer | m.ProcessReady
    | m.ProcessGone | m.ProcessDrained | m.RespawnDue | m.TakeSweepDue | m.IdleDue | DrainUpstream
)  # fmt: skip


class SharedChildrenLimits(msgspec.Struct, frozen=True):
    """`children` run at once, 1 to 256; `waiters_max` may wait for one, 0 to 100,000.

    They rest after `idle_stop_s` without use; 0: never.
    """

    children: int = 1
    waiters_max: int = 1000
    backoff: BackoffLimits = BackoffLimits()
    idle_stop_s: float = 0.0


class SharedChildrenPolicy:
    """Decides for one upstream. `name` makes the name of the n-th child that is started."""

    def __init__(
        self,
        limits: SharedChildrenLimits,
        name: Callable[[int], str],
        random: Callable[[], float],
    ) -> None:
        self._limits = limits
        self._name = name
        self._backoff = Backoff(limits.backoff, random)
        self._serial = 0
        self._starting: set[str] = set()
        self._free: list[str] = []
        self._busy: dict[int, tuple[str, Owner]] = {}
        self._waiting = FairQueue[m.TakeChild]()
        self._described: m.ServerDescribed | None = None
        self._ready_since_s: dict[str, float] = {}
        self._respawn_at_s: float | None = None
        self._generation = 0
        self._sweep = 0
        self._sweep_armed = False
        self._undrained: set[str] | None = None
        self._idle = 0
        self.rests = False
        self.counts = ChildCounts()
        self.text = "not tried yet"

    @property
    def ready(self) -> bool:
        """Whether a child can serve."""
        return bool(self._ready_since_s)

    @property
    def serves(self) -> bool:
        """Whether who asks is served: by a child, or by one that is then started."""
        return self.ready or self.rests

    def described(self) -> m.StartDescribed:
        """Say how starting goes; one that is ready has shaken hands."""
        if self.serves:
            return m.StartDescribed(Verdict.WELL)
        verdict = Verdict.FAILED if self._backoff.failures else Verdict.UNKNOWN
        return m.StartDescribed(verdict, self.text)

    def begin(self) -> list[ChildrenEffect]:
        """Start the children."""
        effects: list[ChildrenEffect] = []
        self._start_missing(effects)
        self._watch_idle(self._limits.idle_stop_s, effects)
        return effects

    def handle(self, message: SharedChildrenMessage, now_s: float) -> list[ChildrenEffect]:
        """Apply one message and return what is to be done, in order."""
        effects: list[ChildrenEffect] = []
        match message:
            case m.TakeChild():
                self._take(message, now_s, effects)
            case m.ReleaseChild(exchange_id):
                self._release(exchange_id)
            case m.CallEnded(_, call_id):
                self._release(call_id)
            case m.DescribeServer():
                self._describe(now_s, effects)
            case m.ProcessReady(child, described):
                self._became_ready(child, described, now_s, effects)
            case m.ProcessGone(child, text):
                self._gone(child, text, now_s, effects)
            case m.RespawnDue(generation):
                if generation == self._generation:
                    self._respawn_at_s = None
                    self._start_missing(effects)
            case m.TakeSweepDue(generation):
                if generation == self._sweep:
                    self._sweep_armed = False
                    self._expire(now_s, effects)
            case m.IdleDue(generation, idle_s):
                if generation == self._idle:
                    self._rest(idle_s, now_s, effects)
            case DrainUpstream():
                self._drain(effects)
            case m.ProcessDrained(child):
                self._drained(child, effects)
            case _:
                assert_never(message)
        self._serve(effects)
        return effects

    def _rest(self, idle_s: float, now_s: float, effects: list[ChildrenEffect]) -> None:
        """Stop the children if nobody has used them for long enough, and nothing is amiss."""
        used = self._busy or self._waiting.rows or self._starting
        amiss = not self._is_well(now_s) or self._respawn_at_s is not None
        if used or amiss or self._undrained is not None:
            idle_s = 0.0
        left_s = self._limits.idle_stop_s - idle_s
        if left_s > 0:
            self._watch_idle(left_s, effects)
            return
        self.rests = True
        self._backoff.succeeded()  # else who comes next would pay for what has long been mended
        effects.extend(e.StopProcess(child) for child in self._ready_since_s)
        self._ready_since_s.clear()  # so that their ends are nobody's, and no crashes
        self._free.clear()

    def _is_well(self, now_s: float) -> bool:
        """Whether a child can serve, and where some have failed, has been able to for a while."""
        since_s = min(self._ready_since_s.values(), default=None)
        steady = since_s is not None and now_s - since_s >= STEADY_S
        return self.ready and (steady or not self._backoff.failures)

    def _wake(self, effects: list[ChildrenEffect]) -> None:
        if self.rests and self._undrained is None:
            self.rests = False
            self._start_missing(effects)
            self._watch_idle(self._limits.idle_stop_s, effects)

    def _watch_idle(self, after_s: float, effects: list[ChildrenEffect]) -> None:
        if self._limits.idle_stop_s:
            self._idle += 1
            effects.append(e.WakeIdle(max(after_s, IDLE_LOOK_S_MIN), self._idle))

    def _take(self, take: m.TakeChild, now_s: float, effects: list[ChildrenEffect]) -> None:
        self._wake(effects)
        if self._undrained is not None:
            reason = Reason.DRAINING
            effects.append(e.RefuseChild(take.exchange_id, reason, DRAINED, DRAINED_RETRY_S))
        elif self._is_down():
            reason, text = Reason.UPSTREAM_UNAVAILABLE, "the server process does not start"
            wait_s = self._wait_s(now_s)
            effects.append(e.RefuseChild(take.exchange_id, reason, text, wait_s))
        else:
            self._wait(take, effects)

    def _wait(self, take: m.TakeChild, effects: list[ChildrenEffect]) -> None:
        """Enter a call into the line; a full one has somebody leave, the newcomer or another."""
        full = not self._free and len(self._waiting.rows) >= self._limits.waiters_max
        leaving = self._waiting.to_give_way(take) if full else None
        self._waiting.append(take)
        if leaving is not None:
            self._waiting.take(leaving)
            text = "too many calls wait for a server process"
            effects.append(e.RefuseChild(leaving, Reason.OVERLOADED, text, 1.0))

    def _is_down(self) -> bool:
        """Whether it does not help to wait."""
        return not self.ready and (not self._starting or self._backoff.spent)

    def _release(self, exchange_id: int) -> None:
        busy = self._busy.pop(exchange_id, None)
        if busy is None:
            self._waiting.take(exchange_id)
            return
        child, owner = busy
        self._free.append(child)
        self._waiting.lend(owner, -1)

    def _describe(self, now_s: float, effects: list[ChildrenEffect]) -> None:
        self._wake(effects)
        if self._undrained is not None:
            effects.append(e.FailDescribed(Reason.DRAINING, DRAINED, DRAINED_RETRY_S))
        elif self._described is not None and self.ready:
            effects.append(e.AnswerDescribed(self._described))
        elif self._is_down():
            text = "the server process does not start"
            wait_s = self._wait_s(now_s)
            effects.append(e.FailDescribed(Reason.UPSTREAM_UNAVAILABLE, text, wait_s))

    def _became_ready(
        self,
        child: str,
        described: m.ServerDescribed | None,
        now_s: float,
        effects: list[ChildrenEffect],
    ) -> None:
        if described is None or child not in self._starting:
            return
        self._starting.discard(child)
        self._ready_since_s[child] = now_s
        self._free.append(child)
        self._described = described
        self.text = ""
        effects += [e.NameChild(child), e.AnswerDescribed(described)]
        self._start_missing(effects)

    def _gone(
        self, child: str, text: str, now_s: float, effects: list[ChildrenEffect]
    ) -> None:
        since_s = self._ready_since_s.pop(child, None)
        known = since_s is not None or child in self._starting
        self._starting.discard(child)
        self._free = [other for other in self._free if other != child]
        for exchange_id, (busy, owner) in list(self._busy.items()):
            if busy == child:
                del self._busy[exchange_id]
                self._waiting.lend(owner, -1)
        self._drained(child, effects)
        if not known:
            return
        self.counts.crash()
        self.text = text
        if self._respawn_at_s is None:  # those that end meanwhile are part of the same failure
            if since_s is not None and now_s - since_s >= STEADY_S:
                self._backoff.succeeded()
            wait_s = self._backoff.failed()
            self._respawn_at_s = now_s + wait_s
            self._generation += 1
            effects.append(e.WakeRespawn(wait_s, self._generation))
        if self._is_down():
            wait_s = self._wait_s(now_s)
            self._refuse_all(Reason.UPSTREAM_UNAVAILABLE, text, wait_s, effects)

    def _refuse_all(
        self, reason: Reason, text: str, wait_s: float, effects: list[ChildrenEffect]
    ) -> None:
        effects.append(e.FailDescribed(reason, text, wait_s))
        for exchange_id in list(self._waiting.rows):
            self._waiting.take(exchange_id)
            effects.append(e.RefuseChild(exchange_id, reason, text, wait_s))

    def _serve(self, effects: list[ChildrenEffect]) -> None:
        while self._waiting.rows and self._free:
            take, child = next(self._waiting.in_turn()), self._free.pop()
            self._waiting.take(take.exchange_id)
            self._waiting.lend(take.owner, 1)
            self._busy[take.exchange_id] = child, take.owner
            effects.append(e.GiveChild(take.exchange_id, child))
        if self._waiting.rows and not self._sweep_armed:
            self._sweep += 1
            self._sweep_armed = True
            effects.append(e.WakeTakeSweep(TAKE_SWEEP_S, self._sweep))

    def _expire(self, now_s: float, effects: list[ChildrenEffect]) -> None:
        late = [take for take in self._waiting.rows.values() if take.deadline_s <= now_s]
        for take in late:
            self._waiting.take(take.exchange_id)
            text = "no server process became free in time"
            effects.append(e.RefuseChild(take.exchange_id, Reason.POOL_EXHAUSTED, text, 1.0))

    def _start_missing(self, effects: list[ChildrenEffect]) -> None:
        """Start what is missing, or a probe, unless a backoff is being waited out."""
        if self._undrained is not None or self._respawn_at_s is not None or self.rests:
            return
        probing = self._backoff.failures > 0 and not self.ready
        wanted = 1 if probing else self._limits.children
        for _ in range(wanted - len(self._starting) - len(self._ready_since_s)):
            self._serial += 1
            child = self._name(self._serial)
            self._starting.add(child)
            self.counts.start()
            effects.append(e.StartProcess(child))
            if not self._backoff.spent:
                effects.append(e.NameChild(child))

    def _wait_s(self, now_s: float) -> float:
        if self._respawn_at_s is None:
            return PROBE_RETRY_S
        return max(self._respawn_at_s - now_s, 0.0)

    def _drain(self, effects: list[ChildrenEffect]) -> None:
        if self._undrained is not None:
            return
        self._undrained = {*self._starting, *self._ready_since_s}
        self._refuse_all(Reason.DRAINING, DRAINED, DRAINED_RETRY_S, effects)
        effects.extend(e.DrainChild(child) for child in sorted(self._undrained))
        self._finish_drain(effects)

    def _drained(self, child: str, effects: list[ChildrenEffect]) -> None:
        if self._undrained is not None and child in self._undrained:
            self._undrained.discard(child)
            self._finish_drain(effects)

    def _finish_drain(self, effects: list[ChildrenEffect]) -> None:
        if not self._undrained:
            effects.append(e.ChildrenDrained())
