"""Keeps a blocked log destination from blocking the service.

A terminal that is stopped, a pipe that nobody reads, a full disk: a handler that writes to one of
them waits, and with it the one thread that everything runs in. So records are formatted by who logs
and written by a thread of their own, from a queue of so many; when that is full, further records
are counted and left out, and the count is logged as soon as there is room.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence

RECORDS_MAX = 10_000
FLUSH_S_MAX = 2.0

logger = logging.getLogger("proxy_actors.logs")


class LogQueue(logging.Handler):
    """Stands before other handlers, which write in a thread of their own.

    Args:
        handlers: who write.
        records_max: how many records may wait.

    Attributes:
        dropped_total: how many have been left out so far.
    """

    def __init__(
        self, handlers: Sequence[logging.Handler], records_max: int = RECORDS_MAX
    ) -> None:
        super().__init__()
        self._handlers = handlers
        self._records_max = records_max
        self._records: deque[logging.LogRecord] = deque()
        self._dropped = 0
        self.dropped_total = 0
        self._idle = False
        self._changed = threading.Condition()
        # A daemon: a destination that stays blocked must not keep the process from ending.
        threading.Thread(target=self._write_all, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a record, or count it. Never waits for a destination."""
        # What the arguments are later is nobody's business any more.
        record.msg, record.args = record.getMessage(), None
        with self._changed:
            if len(self._records) < self._records_max:
                self._records.append(record)
            else:
                self._dropped += 1
                self.dropped_total += 1
            self._changed.notify_all()

    def drain(self, seconds: float = FLUSH_S_MAX) -> bool:
        """Wait for what is queued to be written; whether it was."""
        with self._changed:
            return self._changed.wait_for(lambda: self._idle and not self._records, seconds)

    def _write_all(self) -> None:
        while True:
            self._write(self._next())

    def _next(self) -> logging.LogRecord:
        """Wait for the next record, or for a loss to be told once there is room again."""
        with self._changed:
            while not self._records and not self._dropped:
                self._idle = True
                self._changed.notify_all()
                self._changed.wait()
            self._idle = False
            if self._records:
                return self._records.popleft()
            dropped, self._dropped = self._dropped, 0
        return logger.makeRecord(
            logger.name, logging.WARNING, __file__, 0, "log_records_dropped count=%d", (dropped,),
            None,
        )

    def _write(self, record: logging.LogRecord) -> None:
        for handler in self._handlers:
            if record.levelno >= handler.level:
                handler.handle(record)


def install() -> LogQueue:
    """Put a queue before the handlers of the root logger."""
    root = logging.getLogger()
    queue = LogQueue(root.handlers[:])
    root.handlers[:] = [queue]
    return queue
