"""Tells where the loop is when it comes to nothing: what does not switch holds up everybody.

A timer of the loop counts, and a thread looks whether it has; twice in vain, and the stack of the
loop's thread is logged, which nobody could tell afterwards. A call that holds the interpreter's
lock as well is told when it lets go of it. Owns the thread and the timer, and stops nothing.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
import traceback
from typing import Any

# Between two looks; a stall is told when it has lasted for one to two of them.
LOOK_S = 0.5
FRAMES_MAX = 12

logger = logging.getLogger("proxy_actors.transports")


class StallWatch:
    """Watches the loop of the thread that makes it, until `close`.

    Args:
        loop: gevent's.
        look_s: how often is looked.
    """

    def __init__(self, loop: Any, look_s: float = LOOK_S) -> None:  # Any: gevent has no type hints
        self._thread_id = threading.get_ident()
        self._look_s = look_s
        self._beats = self._seen = 0
        self._seen_s = time.monotonic()
        self._missed = 0
        self._over = threading.Event()
        self._timer = loop.timer(look_s / 4, look_s / 4)
        self._timer.start(self.beat, update=True)
        # A daemon: it must not keep a process from ending that does not close it.
        threading.Thread(target=self._run, name="stall watch", daemon=True).start()

    def beat(self) -> None:
        """The loop goes round."""
        self._beats += 1

    def look(self) -> None:
        """Tell of a stall that has begun or ended since the last look."""
        now_s = time.monotonic()
        if self._beats != self._seen:
            if self._missed > 1:
                logger.warning("loop_goes_on blocked_s=%.1f", now_s - self._seen_s)
            self._seen, self._seen_s, self._missed = self._beats, now_s, 0
            return
        self._missed += 1
        # Once is nothing: a process that was stopped has not been blocked, if its loop is late.
        if self._missed == 2:
            logger.warning("loop_blocked stack=%s", _stack(self._thread_id))

    def close(self) -> None:
        """Watch no more."""
        self._over.set()
        self._timer.stop()
        self._timer.close()

    def _run(self) -> None:
        while not self._over.wait(self._look_s):
            self.look()


def _stack(thread_id: int) -> str:
    """Write the stack of a thread into one line, the innermost call first."""
    frame = sys._current_frames().get(thread_id)
    frames = [] if frame is None else traceback.extract_stack(frame, FRAMES_MAX)
    return " < ".join(f"{x.name} ({x.filename}:{x.lineno})" for x in reversed(frames))
