"""Which child serves whom in SESSION mode: one each, a spare ahead, a bound on all.

Owns the list of children by use: one spare that nobody has, those taken for a handshake, those
bound to a session. A child is handed out once. A spare that ends before anybody took it is a
failure to start, answered by backoff: while that is being waited out, whoever asks is refused at
once and told when to come back. `actors/stdio_upstream.py` is the shell.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import assert_never

import msgspec

from proxy_actors.errors import Reason
from proxy_actors.messages import stdio as m
from proxy_actors.messages import stdio_effects as e
from proxy_actors.messages.sessions import SessionEnded
from proxy_actors.messages.stdio_effects import ChildrenEffect
from proxy_actors.messages.upstream import DrainUpstream
from proxy_actors.policy.backoff import Backoff, BackoffLimits

FULL_RETRY_S = 5.0

ChildrenMessage = (
    m.TakeChild
    | m.BindChild
    | m.ReleaseChild
    | m.ProcessReady
    | m.ProcessGone
    | m.ProcessDrained
    | m.RespawnDue
    | SessionEnded
    | DrainUpstream
)


class ChildrenLimits(msgspec.Struct, frozen=True):
    """`children_max` bounds the children that serve somebody, 1 to 10,000; the spare is extra."""

    children_max: int = 64
    backoff: BackoffLimits = BackoffLimits()


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
        self._taken: dict[int, str] = {}
        self._bound: dict[str, str] = {}
        self._sessions: dict[str, str] = {}
        self._respawn_at_s: float | None = None
        self._generation = 0
        self._undrained: set[str] | None = None
        self.ready = False
        self.text = "not tried yet"

    @property
    def serving(self) -> int:
        """How many children serve somebody."""
        return len(self._taken) + len(self._bound)

    def begin(self) -> list[ChildrenEffect]:
        """Start the first spare."""
        effects: list[ChildrenEffect] = []
        self._start_spare(effects)
        return effects

    def handle(self, message: ChildrenMessage, now_s: float) -> list[ChildrenEffect]:
        """Apply one message and return what is to be done, in order."""
        effects: list[ChildrenEffect] = []
        match message:
            case m.TakeChild(exchange_id):
                self._take(exchange_id, now_s, effects)
            case m.BindChild(child, session_key):
                self._bind(child, session_key, effects)
            case m.ReleaseChild(exchange_id):
                taken = self._taken.pop(exchange_id, None)
                if taken is not None:
                    effects.append(e.StopProcess(taken))
            case SessionEnded(session):
                bound = self._sessions.pop(session.key, None)
                if bound is not None:
                    del self._bound[bound]
                    effects.append(e.StopProcess(bound))
            case m.ProcessReady(child):
                if child == self._spare:
                    self.ready, self.text = True, ""
            case m.ProcessGone(child, text):
                self._gone(child, text, now_s, effects)
            case m.RespawnDue(generation):
                if generation == self._generation and self._spare is None:
                    self._start_spare(effects)
            case DrainUpstream():
                self._drain(effects)
            case m.ProcessDrained(child):
                self._drained(child, effects)
            case _:
                assert_never(message)
        return effects

    def _take(self, exchange_id: int, now_s: float, effects: list[ChildrenEffect]) -> None:
        spare = self._spare
        if self._undrained is not None:
            text = "the upstream is being drained"
            effects.append(e.RefuseChild(exchange_id, Reason.DRAINING, text, FULL_RETRY_S))
        elif self.serving >= self._limits.children_max:
            text = "too many sessions have a server process"
            effects.append(e.RefuseChild(exchange_id, Reason.OVERLOADED, text, FULL_RETRY_S))
        elif spare is None:
            wait_s = max((self._respawn_at_s or now_s) - now_s, 0.0)
            text = "the server process does not start"
            effects.append(
                e.RefuseChild(exchange_id, Reason.UPSTREAM_UNAVAILABLE, text, wait_s)
            )
        else:
            self._taken[exchange_id] = spare
            effects.append(e.GiveChild(exchange_id, spare))
            self._start_spare(effects)

    def _bind(self, child: str, session_key: str, effects: list[ChildrenEffect]) -> None:
        for exchange_id, taken in list(self._taken.items()):
            if taken == child:
                del self._taken[exchange_id]
                self._bound[child] = session_key
                self._sessions[session_key] = child
                self._backoff.succeeded()
                return
        # It ended between its answer and now: the session is lost before its first call.
        effects.append(e.LoseSession(session_key))

    def _gone(
        self, child: str, text: str, now_s: float, effects: list[ChildrenEffect]
    ) -> None:
        if child == self._spare:
            self._spare = None
            self.ready, self.text = False, text
            wait_s = self._backoff.failed()
            self._respawn_at_s = now_s + wait_s
            self._generation += 1
            effects.append(e.WakeRespawn(wait_s, self._generation))
        session_key = self._bound.pop(child, None)
        if session_key is not None:
            del self._sessions[session_key]
            effects.append(e.LoseSession(session_key))
        for exchange_id, taken in list(self._taken.items()):
            if taken == child:
                del self._taken[exchange_id]
        self._drained(child, effects)

    def _start_spare(self, effects: list[ChildrenEffect]) -> None:
        self._serial += 1
        self._spare = self._name(self._serial)
        self._respawn_at_s = None
        effects.append(e.StartProcess(self._spare))

    def _drain(self, effects: list[ChildrenEffect]) -> None:
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
