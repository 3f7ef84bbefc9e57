"""How a greenlet of the simulated world parks, and how it is killed.

Owns the meeting of one greenlet with a value, an error or a deadline on virtual time. Only
`sim_world` makes these; it alone decides who runs next.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import greenlet

from proxy_actors.errors import DeadlineError

if TYPE_CHECKING:
    from proxy_actors.world.sim_world import SimWorld


class SimWaiter:
    """The port's Waiter on virtual time.

    A value and the deadline can meet before the greenlet runs again. Which of the two it sees is
    drawn then: in the real world either can be the first to reach it.
    """

    __slots__ = ("_error", "_late", "_parked", "_value", "_world", "is_set")

    def __init__(self, world: SimWorld) -> None:
        self._world = world
        self._parked: greenlet.greenlet | None = None
        self._value: Any = None  # Any: the value is the setter's
        self._error: Exception | None = None
        self._late = False
        self.is_set = False

    def wait(self, deadline_s: float) -> Any:  # Any: the value is the setter's
        """Park until set, or until the virtual clock reaches the deadline."""
        if not self.is_set:
            self._park(deadline_s)
        if self._error is None:
            return self._value
        try:
            raise self._error
        finally:
            del self  # see `HubWaiter.wait`

    def set(self, value: Any = None) -> bool:  # Any: the value is the setter's
        """Unpark with a value; only the first of set and fail has an effect."""
        return self._settle(value, None)

    def fail(self, error: Exception) -> bool:
        """Unpark with an error; only the first of set and fail has an effect."""
        return self._settle(None, error)

    def _settle(self, value: Any, error: Exception | None) -> bool:  # Any: see set
        if self.is_set:
            return False
        self.is_set = True
        self._value, self._error = value, error
        if self._parked is not None:
            self._world.soon(self._resume)
        return True

    def _park(self, deadline_s: float) -> None:
        world = self._world
        if deadline_s <= world.now_s():
            raise DeadlineError
        self._late = False
        self._parked = greenlet.getcurrent()
        cancel = world.at(deadline_s, self._expire) if deadline_s < math.inf else None
        try:
            while not self.is_set and not self._late:
                world.park()
        finally:
            self._parked = None
            if cancel is not None:
                cancel()
        if self._late and (not self.is_set or world.draw(0.5, "deadline_overtook_value")):
            raise DeadlineError

    def _expire(self) -> None:
        self._late = True
        self._resume()

    def _resume(self) -> None:
        if self._parked is not None:
            self._parked.switch()


class SimTask:
    """A greenlet of the simulation."""

    def __init__(self, world: SimWorld, owner: str) -> None:
        self.owner = owner
        self.done = False
        self.greenlet: greenlet.greenlet | None = None
        self._world = world

    def kill(self) -> None:
        """Throw GreenletExit into it, as a fault: wherever it is parked, it ends there."""
        if self.done:
            return
        if self.greenlet:
            self._world.kill(self.greenlet)
        else:
            self.greenlet = None
