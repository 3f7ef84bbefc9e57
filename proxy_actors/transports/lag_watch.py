"""Owns the timer that shows how late the loop comes to what is due.

It looks at both queues of the loop: how late the timer itself rings, and how long what a greenlet
or an actor leaves to the loop then waits for its turn. gevent runs the latter for a few
milliseconds at a time between two polls, so that either may be long while the other is short. It
rings in the loop, without a greenlet. Never decides what is late.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def watch_lag(
    loop: Any, every_s: float, on_look: Callable[[float], None]  # Any: gevent has no type hints
) -> Callable[[], None]:
    """See `World.watch_lag`."""
    timer = loop.timer(every_s, every_s)
    due_s = time.monotonic() + every_s
    left_s = 0.0
    lag_s = 0.0

    def ring() -> None:
        nonlocal due_s, left_s, lag_s
        now_s = time.monotonic()
        if now_s < due_s - every_s / 2:
            return  # libev makes up for a ring that was late
        late_s, due_s = now_s - due_s, now_s + every_s
        if left_s:  # what was left at the last ring still waits
            on_look(max(late_s, now_s - left_s))
            return
        left_s, lag_s = now_s, late_s
        loop.run_callback(turn)

    def turn() -> None:
        nonlocal left_s
        waited_s, left_s = time.monotonic() - left_s, 0.0
        if timer is not None:
            on_look(max(lag_s, waited_s))

    def cancel() -> None:
        nonlocal timer
        if timer is not None:
            timer.stop()
            timer.close()
            timer = None

    timer.start(ring, update=True)
    return cancel
