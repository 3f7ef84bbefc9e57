"""Which child serves whom where each session has its own: one each, a spare ahead, a bound on all.

Owns the children by use: one spare that nobody has, those taken for a handshake, those bound to a
session, those that are ending. A child is handed out once. `actors/session_channels.py` is the
shell. Where children cost nothing to start, as those that are connections, no spare is kept: each
is started for who asks, and what becomes of one says nothing of the next.

A child that ends by itself before it is bound, be it the spare or one in its handshake, is a
failure to start, and starting is left for a backoff. Until a handshake has succeeded again there is
then one child at a time whose fate is open, the probe; whoever asks meanwhile is refused at once
and told when to come back. When the budget of failures is spent, nobody gets a probe before it is
known to run.

With `idle_stop_s` the spare is stopped when there has been no other child for so long: the upstream
rests, without a process, and is as ready as before. Who asks then wakes it: a child is started and
given away at once, and another as the next spare. One child at most ends while the upstream rests,
so that waking it often cannot multiply them.

The number of sessions is bounded by the registry, which can end the longest unused to make room;
here the number of processes is, so that neither handshakes nor slow ends can multiply them. A child
is its client's from when it is taken until it has ended, and nobody may have so many that the next
finds none (`policy/shares.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import assert_never

import msgspec

from proxy_actors.errors import Reason
from proxy_actors.messages import stdio as m
from proxy_actors.messages import stdio_effects as e
from proxy_actors.messages.health import Verdict
from proxy_actors.messages.sessions import SessionEnded
from proxy_actors.messages.stdio_effects import ChildrenEffect
from proxy_actors.messages.upstream import DrainUpstream
from proxy_actors.policy.backoff import Backoff, BackoffLimits
from proxy_actors.policy.child_counts import ChildCounts
from proxy_actors.policy.shares import may_have_one_more, take_one
from proxy_actors.policy.stdio_shared_children import DRAINED, DRAINED_RETRY_S, IDLE_LOOK_S_MIN

FULL_RETRY_S = 5.0
# When to come back while a probe is out: nobody knows how long it will take.
PROBE_RETRY_S = 1.0
# A spare that has lived so long after others have not is no failure to start.
STEADY_S = 10.0

ChildrenMessage = (
    m.TakeChild
    | m.BindChild
    | m.ReleaseChild
    | m.ProcessReady
    | m.ProcessGone
    | m.ProcessDrained
    | m.RespawnDue
    | m.IdleDue
    | SessionEnded
    | DrainUpstream
)


class ChildrenLimits(msgspec.Struct, frozen=True):
    """The bounds of one upstream.

    Attributes:
        sessions_max: sessions that have a child, 1 to 10,000; kept by the session registry.
        handshakes_max: further children that shake hands or are ending, 1 to 1000. The spare is
            beside these.
        backoff: between two starts when children fail to start.
        spare: whether a child is started before anybody asks for it.
        idle_stop_s: how long a spare is kept while there is no other child; 0: always.
    """

    sessions_max: int = 48
    handshakes_max: int = 16
    backoff: BackoffLimits = BackoffLimits()
    spare: bool = True
    idle_stop_s: float = 0.0

    @property
    def children_max(self) -> int:
        """The most children beside the spare."""
        return self.sessions_max + self.handshakes_max


class ChildrenPolicy:
    """Decides for one upstream.

    Args:
        name: makes the name of the n-th child.
        random: for the backoff, uniform in [0, 1).
    """

    def __init__(
        self,
        limits: ChildrenLimits,
        name: Callable[[int], str],
        random: Callable[[], float],
    ) -> None:
        self._limits = limits
        self._name = name
        self._backoff = Backoff(limits.backoff, random)
        self._serial = 0
        self._spare: str | None = None
        self._spare_runs = False
        self._spare_since_s = 0.0
        self._taken: dict[int, str] = {}
        self._bound: dict[str, str] = {}
        self._sessions: dict[str, str] = {}
        self._ending: set[str] = set()
        self._owners: dict[str, str] = {}  # of children that are or were taken, while they are
        self._held: Counter[str] = Counter()
        self._respawn_at_s: float | None = None
        self._generation = 0
        self._undrained: set[str] | None = None
        self._used_s = 0.0
        self._idle = 0
        self.rests = False
        self.counts = ChildCounts()
        self.ready = False
        self.text = "not tried yet"

    @property
    def children(self) -> int:
        """How many children there are beside the spare."""
        return len(self._taken) + len(self._bound) + len(self._ending)

    def described(self, now_s: float) -> m.StartDescribed:
        """Say how starting goes. That a process runs says little where others have just ended."""
        if not self._backoff.failures:
            return m.StartDescribed(Verdict.WELL if self.ready else Verdict.UNKNOWN, self.text)
        runs = self._spare is not None and self._spare_runs
        if runs and now_s - self._spare_since_s >= STEADY_S:
            return m.StartDescribed(Verdict.WELL)
        return m.StartDescribed(Verdict.FAILED, self.text or "a process has ended by itself")

    def begin(self) -> list[ChildrenEffect]:
        """Start the first spare."""
        effects: list[ChildrenEffect] = []
        self._replenish(effects)
        self._watch_idle(self._limits.idle_stop_s, effects)
        return effects

    def handle(self, message: ChildrenMessage, now_s: float) -> list[ChildrenEffect]:
        """Apply one message and return what is to be done, in order."""
        effects: list[ChildrenEffect] = []
        if self.children:
            self._used_s = now_s
        match message:
            case m.TakeChild():
                self._take(message, now_s, effects)
            case m.BindChild(child, session_key):
                self._bind(child, session_key, effects)
            case m.ReleaseChild(exchange_id):
                self._release(exchange_id, effects)
            case SessionEnded(session):
                self._session_ended(session.key, session.endpoint, effects)
            case m.ProcessReady(child):
                self._runs(child, now_s)
            case m.ProcessGone(child, text):
                self._gone(child, text, now_s, effects)
            case m.RespawnDue(generation):
                if generation == self._generation:
                    self._respawn_at_s = None
                    self._replenish(effects)
            case m.IdleDue(generation):
                if generation == self._idle:
                    self._rest(now_s, effects)
            case DrainUpstream():
                self._drain(effects)
            case m.ProcessDrained(child):
                self._drained(child, effects)
            case _:
                assert_never(message)
        return effects

    def _rest(self, now_s: float, effects: list[ChildrenEffect]) -> None:
        """Stop the spare if it has long been the only child, and nothing is amiss."""
        if self._undrained is not None:
            return
        spare, left_s = self._spare, self._limits.idle_stop_s
        well = self._spare_runs and self.described(now_s).verdict is Verdict.WELL
        if well and self._respawn_at_s is None:
            left_s -= now_s - self._used_s
        if spare is None or left_s > 0:
            self._watch_idle(left_s, effects)
            return
        self.rests, self._spare = True, None
        self._backoff.succeeded()  # those that failed are forgotten: one has run for long since
        self._end(spare, effects)

    def _wake(self, effects: list[ChildrenEffect]) -> None:
        if self.rests and self._undrained is None:
            self.rests = False
            self._replenish(effects)
            self._watch_idle(self._limits.idle_stop_s, effects)

    def _watch_idle(self, after_s: float, effects: list[ChildrenEffect]) -> None:
        if self._limits.idle_stop_s:
            self._idle += 1
            effects.append(e.WakeIdle(max(after_s, IDLE_LOOK_S_MIN), self._idle))

    def _take(self, take: m.TakeChild, now_s: float, effects: list[ChildrenEffect]) -> None:
        self._wake(effects)
        exchange_id, owner, spare = take.exchange_id, take.owner.name, self._spare
        free = self._limits.children_max - self.children
        if self._undrained is not None:
            reason = Reason.DRAINING
            effects.append(e.RefuseChild(exchange_id, reason, DRAINED, DRAINED_RETRY_S))
        elif free <= 0:
            text = "too many sessions have a server process"
            effects.append(e.RefuseChild(exchange_id, Reason.OVERLOADED, text, FULL_RETRY_S))
        elif owner and not may_have_one_more(self._held[owner], free):
            text = "this client has its share of the server processes"
            effects.append(e.RefuseChild(exchange_id, Reason.RATE_LIMITED, text, FULL_RETRY_S))
        elif not self._limits.spare:
            self._give(exchange_id, owner, self._start(effects), effects)
        elif spare is None or (self._backoff.spent and not self._spare_runs):
            wait_s = PROBE_RETRY_S
            if self._respawn_at_s is not None:
                wait_s = max(self._respawn_at_s - now_s, 0.0)
            text = "the server process does not start"
            effects.append(
                e.RefuseChild(exchange_id, Reason.UPSTREAM_UNAVAILABLE, text, wait_s)
            )
        else:
            self._spare = None
            self._give(exchange_id, owner, spare, effects)
            self._replenish(effects)

    def _give(
        self, exchange_id: int, owner: str, child: str, effects: list[ChildrenEffect]
    ) -> None:
        self._taken[exchange_id] = child
        self._owners[child] = owner
        self._held[owner] += 1
        effects.append(e.GiveChild(exchange_id, child))

    def _bind(self, child: str, session_key: str, effects: list[ChildrenEffect]) -> None:
        if not self._untake(child):
            # It ended between its answer and now: the session is lost before its first call.
            effects.append(e.LoseSession(session_key))
            return
        self._bound[child] = session_key
        self._sessions[session_key] = child
        self._backoff.succeeded()
        self.ready, self.text = True, ""
        self._replenish(effects)

    def _release(self, exchange_id: int, effects: list[ChildrenEffect]) -> None:
        child = self._taken.pop(exchange_id, None)
        if child is not None:
            self._end(child, effects)

    def _session_ended(
        self, session_key: str, endpoint: str, effects: list[ChildrenEffect]
    ) -> None:
        """End the session's child, even where nobody has said yet that it is bound."""
        child = self._sessions.pop(session_key, None)
        if child is not None:
            del self._bound[child]
            self._end(child, effects)
        elif self._untake(endpoint):
            self._end(endpoint, effects)

    def _end(self, child: str, effects: list[ChildrenEffect]) -> None:
        self._ending.add(child)
        effects.append(e.StopProcess(child))
        self._replenish(effects)

    def _runs(self, child: str, now_s: float) -> None:
        if child == self._spare or child in self._taken.values():
            if child == self._spare:
                self._spare_runs, self._spare_since_s = True, now_s
            self.ready, self.text = True, ""

    def _gone(
        self, child: str, text: str, now_s: float, effects: list[ChildrenEffect]
    ) -> None:
        session_key = self._bound.pop(child, None)
        if session_key is not None:
            del self._sessions[session_key]
            self.counts.crash(replaced=False)
            effects.append(e.LoseSession(session_key))
        elif child == self._spare:
            self._spare = None
            self.counts.crash()
            self._failed(text, now_s, effects)
        elif self._untake(child):
            self.counts.crash(replaced=self._spare is None)
            self._failed(text, now_s, effects)
        self._ending.discard(child)
        self._disown(child)
        self._drained(child, effects)

    def _disown(self, child: str) -> None:
        owner = self._owners.pop(child, None)
        if owner is not None:
            take_one(self._held, owner)

    def _failed(self, text: str, now_s: float, effects: list[ChildrenEffect]) -> None:
        if not self._limits.spare:
            return
        self.ready, self.text = self._spare is not None and self._spare_runs, text
        if self._respawn_at_s is None:  # those that end meanwhile are part of the same failure
            wait_s = self._backoff.failed()
            self._respawn_at_s = now_s + wait_s
            self._generation += 1
            effects.append(e.WakeRespawn(wait_s, self._generation))

    def _untake(self, child: str) -> bool:
        for exchange_id, taken in self._taken.items():
            if taken == child:
                del self._taken[exchange_id]
                return True
        return False

    def _replenish(self, effects: list[ChildrenEffect]) -> None:
        """Start a spare, unless there is one, or the last start has failed and is yet to pay."""
        probing = self._backoff.failures > 0 and bool(self._taken)
        if self._spare is None and self._respawn_at_s is None and not probing:
            if self._undrained is None and self._limits.spare and not self.rests:
                self._spare = self._start(effects)
                self._spare_runs = False

    def _start(self, effects: list[ChildrenEffect]) -> str:
        self._serial += 1
        child = self._name(self._serial)
        self.counts.start()
        effects.append(e.StartProcess(child))
        return child

    def _drain(self, effects: list[ChildrenEffect]) -> None:
        if self._undrained is not None:
            return
        self._undrained = {*self._taken.values(), *self._bound}
        effects.extend(e.DrainChild(child) for child in sorted(self._undrained))
        self._finish_drain(effects)

    def _drained(self, child: str, effects: list[ChildrenEffect]) -> None:
        if self._undrained is not None and child in self._undrained:
            self._undrained.discard(child)
            self._finish_drain(effects)

    def _finish_drain(self, effects: list[ChildrenEffect]) -> None:
        if not self._undrained:
            effects.append(e.ChildrenDrained())
