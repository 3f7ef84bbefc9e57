"""Looks for cycles in the whole heap when the process has grown by more than could be chance.

What has ended is freed by counting references. For what nobody foresaw there is the collector; a
full collection stops everything for as long as it takes to look at every object, so that it must be
rare where there is much, and must not wait for ever. It comes in the loop's thread, since what it
frees may be greenlets. Owns its timer and, from `begin` on, the interpreter's thresholds.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from typing import Any

# Young objects are looked at as ever. The third is a hundred times Python's: with 3,000 streams a
# full collection takes 0.3 s, and there is nothing to find.
THRESHOLDS = (700, 10, 1000)
LOOK_S = 60.0
GROWTH = 1.25
GROWTH_BYTES_MIN = 16 << 20

logger = logging.getLogger("proxy_actors.transports")


class CycleWatch:
    """Watches from `begin` until `close`.

    Args:
        loop: gevent's.
        rss_bytes: tells how much memory the process has.
        look_s: how often is looked.
    """

    def __init__(
        self, loop: Any, rss_bytes: Callable[[], int], look_s: float = LOOK_S
    ) -> None:  # Any: gevent has no type hints
        self._rss_bytes = rss_bytes
        self._least_bytes = 0
        self._timer = loop.timer(look_s, look_s)

    def begin(self) -> None:
        """Leave alone what is there now: to look at modules and classes alone takes 25 ms."""
        gc.collect()
        gc.freeze()
        gc.set_threshold(*THRESHOLDS)
        self._least_bytes = self._rss_bytes()
        self._timer.start(self.look)

    def look(self) -> None:
        """Collect, if there is so much more than after the last time, or than the least since."""
        now_bytes = self._rss_bytes()
        self._least_bytes = min(self._least_bytes, now_bytes)
        if now_bytes <= max(self._least_bytes * GROWTH, self._least_bytes + GROWTH_BYTES_MIN):
            return
        found = gc.collect()
        self._least_bytes = self._rss_bytes()
        logger.info(
            "cycles_collected objects=%d rss_bytes_before=%d rss_bytes=%d",
            found, now_bytes, self._least_bytes,
        )

    def close(self) -> None:
        """Watch no more."""
        self._timer.stop()
        self._timer.close()
