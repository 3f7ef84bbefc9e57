"""Owns every timer that tells an actor something: a heap, and one libev timer for its head.

Ten thousand timers cost ten thousand heap entries and one watcher. A cancelled entry stays in the
heap until its time, or until half of the heap is cancelled and it is rebuilt. Unlike deadlines,
timers are exact to the loop's millisecond. Never runs anything but `Mailbox.tell`.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable
from itertools import count
from typing import Any

from proxy_actors.world.base import Mailbox

_REBUILD_ENTRIES_MIN = 64


class TimerService:
    """The timers of one loop.

    Args:
        loop: the gevent loop of the thread that everything runs in.
    """

    def __init__(self, loop: Any) -> None:  # Any: gevent has no type hints
        self._loop = loop
        self._watcher: Any = None  # Any: as above
        self._watched_s = 0.0
        self._heap: list[tuple[float, int, _Alarm]] = []
        self._cancelled = 0
        self._order = count()

    def start(
        self, after_s: float, mailbox: Mailbox, message: Any  # Any: see Mailbox.tell
    ) -> Callable[[], None]:
        """See `World.timer`. Told by the loop, never within this call; equal times in order."""
        alarm = _Alarm(self, mailbox, message)
        due_s = time.monotonic() + max(after_s, 0.0)
        heapq.heappush(self._heap, (due_s, next(self._order), alarm))
        if self._watcher is None or due_s < self._watched_s:
            self._watch(due_s)
        return alarm.cancel

    @property
    def pending(self) -> int:
        """How many timers have neither fired nor been cancelled, for leak checks."""
        return len(self._heap) - self._cancelled

    def _watch(self, due_s: float) -> None:
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher.close()
        self._watched_s = due_s
        self._watcher = self._loop.timer(max(due_s - time.monotonic(), 0.0))
        self._watcher.start(self._fire, update=True)

    def _fire(self) -> None:
        heap = self._heap
        now_s = time.monotonic()
        try:
            while heap and (heap[0][2].mailbox is None or heap[0][0] <= now_s):
                alarm = heapq.heappop(heap)[2]
                mailbox, alarm.mailbox = alarm.mailbox, None
                if mailbox is None:
                    self._cancelled -= 1
                else:
                    mailbox.tell(alarm.message)
        finally:
            self._watcher.close()
            self._watcher = None
            if heap:
                self._watch(heap[0][0])

    def cancelled_one(self) -> None:
        """Count a timer that has been cancelled; called by the timer."""
        self._cancelled += 1
        if self._cancelled * 2 > len(self._heap) > _REBUILD_ENTRIES_MIN:
            self._heap[:] = [entry for entry in self._heap if entry[2].mailbox is not None]
            heapq.heapify(self._heap)
            self._cancelled = 0


class _Alarm:
    """One timer. Without a mailbox it has fired or was cancelled."""

    __slots__ = ("_service", "mailbox", "message")

    def __init__(
        self, service: TimerService, mailbox: Mailbox, message: Any  # Any: see Mailbox.tell
    ) -> None:
        self._service = service
        self.mailbox: Mailbox | None = mailbox
        self.message = message

    def cancel(self) -> None:
        """See `World.timer`."""
        if self.mailbox is not None:
            self.mailbox = self.message = None
            self._service.cancelled_one()
