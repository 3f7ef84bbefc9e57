"""When children are started, restarted and given up: the supervisor behaviour of Erlang/OTP.

Owns the state of every child of one supervisor and the window of its restarts. Source: Erlang/OTP
Design Principles, "Supervisor Behaviour". Two differences: a child's start is asynchronous, so
ordered start is a state of this machine and not a stack frame; and a configuration error is never
retried, since a restart reads the same configuration.

The states of a child:

    waiting -> starting -> running -> stopping -> waiting (to be restarted with its siblings)
       ^          |           |            `----> ended   (temporary)
       `--crash---+-----------+--normal end of a transient or temporary----> ended

Children are started one at a time, in the order of their specifications; none is started while
another is stopping. At most `restarts_max` restarts happen in any `period_s`; one more escalates.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from enum import Enum
from typing import assert_never

import msgspec

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


class ChildSpec(msgspec.Struct, frozen=True):
    """What a supervisor knows of a child: its name among siblings and when to restart it."""

    child: str
    restart: Restart = Restart.PERMANENT


class Budget(msgspec.Struct, frozen=True):
    """How many restarts are borne in a time: 0 to 1000 in 0.1 to 3600 seconds."""

    restarts_max: int = 5
    period_s: float = 30.0


class _State(Enum):
    WAITING = 1
    STARTING = 2
    RUNNING = 3
    STOPPING = 4
    ENDED = 5


class _Child:
    __slots__ = ("incarnation", "spec", "state")

    def __init__(self, spec: ChildSpec) -> None:
        self.spec = spec
        self.state = _State.WAITING
        self.incarnation = 0


class SupervisionPolicy:
    """Decides for one supervisor. Names in `specs` must differ."""

    def __init__(
        self,
        specs: Sequence[ChildSpec],
        strategy: Strategy = Strategy.ONE_FOR_ONE,
        budget: Budget = Budget(),
    ) -> None:
        self._children = [_Child(spec) for spec in specs]
        self._strategy = strategy
        self._budget = budget
        self._restarts: deque[float] = deque()
        self._ready = False
        self._escalated = False

    def handle(self, message: SupervisionMessage, now_s: float) -> list[SupervisionEffect]:
        """Apply one message and return what is to be done, in order."""
        effects: list[SupervisionEffect] = []
        if self._escalated:
            return effects
        match message:
            case Begin():
                pass
            case ChildStarted(name, incarnation):
                child = self._present(name, incarnation)
                if child is not None and child.state is _State.STARTING:
                    child.state = _State.RUNNING
            case ChildStopped(name, incarnation):
                child = self._present(name, incarnation)
                if child is not None:
                    self._stopped(child, message, now_s, effects)
            case _:
                assert_never(message)
        if not self._escalated:
            self._start_next(effects)
        return effects

    def restarts(self) -> int:
        """Count the restarts since the beginning."""
        return sum(max(child.incarnation - 1, 0) for child in self._children)

    def _present(self, name: str, incarnation: int) -> _Child | None:
        """Find the child that a message speaks of; an earlier incarnation has no say."""
        for child in self._children:
            if child.spec.child == name and child.incarnation == incarnation:
                return child
        return None

    def _stopped(
        self,
        child: _Child,
        message: ChildStopped,
        now_s: float,
        effects: list[SupervisionEffect],
    ) -> None:
        commanded = child.state is _State.STOPPING
        restart = child.spec.restart
        if restart is Restart.TEMPORARY:
            child.state = _State.ENDED
        elif commanded:
            child.state = _State.WAITING
        elif restart is Restart.TRANSIENT and message.reason is StopReason.NORMAL:
            child.state = _State.ENDED
        else:
            child.state = _State.WAITING
            self._count_restart(child, message, now_s, effects)
            if not self._escalated:
                self._stop_siblings(child, effects)

    def _count_restart(
        self,
        child: _Child,
        message: ChildStopped,
        now_s: float,
        effects: list[SupervisionEffect],
    ) -> None:
        self._restarts.append(now_s)
        while self._restarts[0] <= now_s - self._budget.period_s:
            self._restarts.popleft()
        spent = len(self._restarts) > self._budget.restarts_max
        if spent or message.reason is StopReason.CONFIGURATION:
            self._escalated = True
            effects.append(Escalate(child.spec.child, message.error))

    def _stop_siblings(self, child: _Child, effects: list[SupervisionEffect]) -> None:
        place = self._children.index(child)
        match self._strategy:
            case Strategy.ONE_FOR_ONE:
                concerned = []
            case Strategy.ONE_FOR_ALL:
                concerned = [sibling for sibling in self._children if sibling is not child]
            case Strategy.REST_FOR_ONE:
                concerned = self._children[place + 1 :]
            case _:
                assert_never(self._strategy)
        for sibling in reversed(concerned):
            if sibling.state in (_State.STARTING, _State.RUNNING):
                sibling.state = _State.STOPPING
                effects.append(StopChild(sibling.spec.child))

    def _start_next(self, effects: list[SupervisionEffect]) -> None:
        states = {child.state for child in self._children}
        if _State.STARTING in states or _State.STOPPING in states:
            return
        for child in self._children:
            if child.state is _State.WAITING:
                child.state = _State.STARTING
                child.incarnation += 1
                effects.append(StartChild(child.spec.child, child.incarnation))
                return
        if not self._ready:
            self._ready = True
            effects.append(Ready())
