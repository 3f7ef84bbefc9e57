"""Owns the timer that shows how late the loop comes to what is due.

It rings in the loop itself, without a greenlet, and costs a comparison. Never decides what is late.
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

    def ring() -> None:
        nonlocal due_s
        now_s = time.monotonic()
        lag_s = now_s - due_s
        if lag_s < -every_s / 2:
            return  # libev makes up for a ring that was late
        due_s = now_s + every_s
        on_look(max(lag_s, 0.0))

    def cancel() -> None:
        timer.stop()
        timer.close()

    timer.start(ring, update=True)
    return cancel
