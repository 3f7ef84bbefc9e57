"""Owns how a greenlet parks, and the one sweep over the deadlines of everything that is parked.

A libev timer for each wait costs more than the wait. So whatever is parked under a deadline is in
one set, and a single timer looks through it once a grain and throws `DeadlineError` into who is
late: never early, at most a grain and a loop turn late. Looking through 10,000 takes half a
millisecond. The timer stands still while the set is empty.

Used by every transport of this package and by the real world. Never performs I/O and never decides
what lateness means.
"""

from __future__ import annotations

import math
import time
from typing import Any

from gevent import getcurrent

from proxy_actors.errors import DeadlineError

GRAIN_S = 0.05


class DeadlineSweep:
    """The deadlines of all parked greenlets of one loop.

    `parked` holds every place where a greenlet is parked under a deadline; `Parking` enters and
    leaves it by itself.

    Args:
        hub: the gevent hub of the thread that everything runs in.
    """

    def __init__(self, hub: Any) -> None:  # Any: gevent has no type hints
        self.loop = hub.loop
        self.switch_to_hub = hub.switch
        self.run_callback = hub.loop.run_callback
        self.parked: set[Parking] = set()
        self.ticking = False
        self._timer = hub.loop.timer(GRAIN_S, GRAIN_S)

    def start(self) -> None:
        """Begin to look through `parked`; stops by itself once that is empty."""
        self.ticking = True
        self._timer.again(self._sweep, update=True)

    def _sweep(self) -> None:
        now_s = time.monotonic()
        for parking in [parking for parking in self.parked if parking.deadline_s <= now_s]:
            # One that was late may have let another go, which may have parked anew.
            if parking.deadline_s <= now_s:
                parking.throw(DeadlineError("the deadline was reached"))
        if not self.parked:
            self.ticking = False
            self._timer.stop()


class Parking:
    """A place where one greenlet at a time parks.

    `greenlet` is the one that is parked, or None. `unpark` and `throw` switch to it at once, so
    only the loop may call them; anyone else hands them to `DeadlineSweep.run_callback`.
    """

    __slots__ = ("greenlet", "deadline_s", "_sweep")

    def __init__(self, sweep: DeadlineSweep) -> None:
        self.greenlet: Any = None  # Any: gevent has no type hints
        self.deadline_s = math.inf
        self._sweep = sweep

    def park(self, deadline_s: float) -> Any:  # Any: whatever `unpark` is given
        """Switch to the loop until unparked; returns what `unpark` was given.

        Raises:
            DeadlineError: the deadline came first.
            RuntimeError: another greenlet is parked here.
        """
        if self.greenlet is not None:
            raise RuntimeError("two greenlets wait for the same thing")
        sweep = self._sweep
        self.deadline_s = deadline_s
        if deadline_s != math.inf:
            sweep.parked.add(self)
            if not sweep.ticking:
                sweep.start()
        self.greenlet = getcurrent()
        switch = sweep.switch_to_hub
        # A greenlet that is killed here leaves through `finally` like any other.
        try:
            return switch()
        finally:
            self.greenlet = None
            sweep.parked.discard(self)

    def unpark(self, value: object = None) -> None:
        """Resume the parked greenlet, if there is one, with `value`."""
        if self.greenlet is not None:
            self.greenlet.switch(value)

    def throw(self, error: Exception) -> None:
        """Resume the parked greenlet, if there is one, with an error."""
        if self.greenlet is not None:
            self.greenlet.throw(error)


class HubWaiter(Parking):
    """The real `Waiter`: a one-shot value or error that one greenlet parks for.

    `set` and `fail` are called from actors, which must not switch: they leave the switch to the
    loop. Belongs to the loop's thread. A wait that met its deadline changes nothing: the waiter can
    be set, and waited on, afterwards.
    """

    __slots__ = ("is_set", "_value", "_error")

    def __init__(self, sweep: DeadlineSweep) -> None:
        # Not super().__init__: one is made for every ask, and the call costs as much as the rest.
        self.greenlet = None
        self._sweep = sweep
        self.is_set = False
        self._error: Exception | None = None

    def wait(self, deadline_s: float) -> Any:  # Any: the value is the setter's
        """See `proxy_actors.world.base.Waiter.wait`."""
        if not self.is_set:
            self.park(deadline_s)
        if self._error is None:
            return self._value
        try:
            raise self._error
        finally:
            # The error's traceback holds this frame, which must not hold the error's owner.
            del self

    def set(self, value: Any = None) -> bool:  # Any: see wait
        """See `proxy_actors.world.base.Waiter.set`."""
        if self.is_set:
            return False
        self.is_set = True
        self._value = value
        if self.greenlet is not None:
            self._sweep.run_callback(self.unpark)
        return True

    def fail(self, error: Exception) -> bool:
        """See `proxy_actors.world.base.Waiter.fail`."""
        if not self.is_set:
            self._error = error
        return self.set()
