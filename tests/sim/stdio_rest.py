"""Watches, in a run, processes of a stdio server that rest: who is cut short, started, left.

It knows the upstream's actor and the children, and of the policies only whether they rest. A rest
begins under no call that somebody waits for; soon after no process is there; whoever ends it has as
many started as are needed, however many come at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from proxy_actors.actors.base import Actor
from proxy_actors.actors.stdio_process import StdioProcess
from proxy_actors.messages import stdio as m
from proxy_actors.messages import stdio_effects as e
from proxy_actors.options import StdioMode
from proxy_actors.world.sim_world import SimWorld

IDLE_S = (0.2, 1.0, 4.0)
# How long a process may still be there: it is being spawned, then given the three steps of an end.
ENDS_S_MAX = 10.0
_ASKS = (m.TakeChild, m.DescribeServer)


class RestWatch:
    """The rests of one run.

    Args:
        wanted: how many processes all sessions share.
        running: how many processes run.

    Attributes:
        woken: how often a rest was ended.
    """

    def __init__(
        self, world: SimWorld, mode: StdioMode, wanted: int, running: Callable[[], int]
    ) -> None:
        self.world = world
        self.mode = mode
        self.wanted = wanted
        self.running = running
        self.woken = 0
        self.rests = False
        self._processes: list[StdioProcess] = []
        self._who: Actor | None = None
        self._since_s = math.inf
        self._starting = False
        self._asked = self._started = 0

    def reached(self, actor: Actor, what: Any) -> None:
        """The upstream's actor is about to handle a message, or to carry out an effect."""
        if actor is not self._who:
            return
        if type(what).__module__ != e.__name__:
            self.look(actor, self._processes)  # a rest may begin and end between two steps
        if isinstance(what, _ASKS):
            self._asked += 1
            if self._starting and self._asked == 2:
                self.world.seen["woken_by_several"] += 1
        elif isinstance(what, e.StartProcess):
            self._started += 1
            if self._starting:
                own = self.mode is StdioMode.SESSION
                most = self._asked + 1 if own else self.wanted
                assert self._started <= most, f"{self._started} are started for {self._asked}"
        elif isinstance(what, m.ProcessReady | m.ProcessGone):
            self._starting = False

    def look(self, actor: Actor | None, processes: list[StdioProcess]) -> None:
        """Look between two steps, or two messages of the upstream's actor."""
        self._processes = processes
        if actor is not self._who:
            self._who, self.rests, self._starting = actor, False, False
        if actor is None:
            return
        rests = _policy(actor).rests
        if rests and not self.rests:
            self._fell_asleep(processes)
        elif self.rests and not rests:
            self.world.seen["woken"] += 1
            self.woken += 1
        self.rests = rests
        if rests:
            self._starting, self._asked, self._started = True, 0, 0
            late = self.world.now_s() - self._since_s > ENDS_S_MAX
            assert not late or not self.running(), "a process is left at rest"

    def _fell_asleep(self, processes: list[StdioProcess]) -> None:
        self.world.seen["rested"] += 1
        self._since_s = self.world.now_s()
        for process in processes:
            assert not process._asks, f"{process.name} is stopped with calls in flight"


def _policy(actor: Any) -> Any:
    return actor._policy if hasattr(actor, "_policy") else actor._children
