"""Keeps event streams in a file without ever blocking the loop: one native thread writes and reads.

Owns what waits to be written, within a bound, and the thread. While one commit runs all that comes
gathers for the next. Nobody waits for a write: what could not be written is counted, streams go on
from memory, and it is logged when that begins and when it is over. How a commit is done is handed
in; `storage/streams.py` does it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import gevent
from gevent.event import Event
from gevent.threadpool import ThreadPool

from proxy_actors.messages.stream_store import FoundStream, KeepEvent, StreamWrite

# Of events that wait to be written; the rings hold them as well.
WAITING_BYTES_MAX = 64 * 1024 * 1024
Found = Callable[[FoundStream | None], object]

_log = logging.getLogger("proxy_actors.transports")


class StreamStoreThread:
    """A `StreamStore` on the hub of the thread that makes it.

    Args:
        commit: writes all of it or nothing; returns "" or what went wrong.
        read: what followed an event of a stream.
        release: closes whatever `commit` writes to.

    The functions block. They are called in the thread only, one call at a time.
    """

    def __init__(
        self,
        commit: Callable[[Sequence[StreamWrite]], str],
        read: Callable[[str, int], FoundStream | None],
        release: Callable[[], None],
    ) -> None:
        self.lost = 0
        self._commit = commit
        self._read = read
        self._release = release
        self._pool: Any = ThreadPool(1)  # Any: gevent has no type hints
        self._loop: Any = gevent.get_hub().loop
        self._writes: list[StreamWrite] = []
        self._bytes = 0
        self._asked: list[tuple[str, int, Found]] = []
        self._running = self._due = False
        self._error = ""
        self._quiet = Event()
        self._quiet.set()

    def write(self, write: StreamWrite) -> None:
        """See `StreamStore.write`."""
        if isinstance(write, KeepEvent):
            self._bytes += len(write.data)
            if self._bytes > WAITING_BYTES_MAX:
                self._give_up(self._writes, "too much waits to be written")
                self._writes, self._bytes = [], len(write.data)
        self._writes.append(write)
        self._start_soon()

    def read(self, stream: str, after: int, done: Found) -> None:
        """See `StreamStore.read`."""
        self._asked.append((stream, after, done))
        self._start_soon()

    def sync(self, done: Callable[[None], object]) -> None:
        """See `StreamStore.sync`."""
        self.read("", 0, lambda _: done(None))

    def close(self, deadline_s: float) -> bool:
        """See `StreamStore.close`. A disk that hangs is left to itself."""
        if not self._quiet.wait(_left_s(deadline_s)):
            _log.error("streams_not_flushed waiting=%d", len(self._writes))
            return False
        released = self._pool.spawn(self._release)
        released.wait(_left_s(deadline_s))
        if not released.successful():
            _log.error("streams_not_released", exc_info=released.exception)
            return False
        self._pool.kill()
        return True

    def _start_soon(self) -> None:
        """Start when the turn of the loop is over: what is written in one turn is one commit."""
        if not self._running and not self._due:
            self._due = True
            self._quiet.clear()
            self._loop.run_callback(self._start)

    def _start(self) -> None:
        self._due, self._running = False, True
        writes, self._writes, self._bytes = self._writes, [], 0
        asked, self._asked = self._asked, []
        task = self._pool.spawn(self._work, writes, asked)
        task.rawlink(lambda task: self._done(writes, asked, task))

    def _work(
        self, writes: list[StreamWrite], asked: list[tuple[str, int, Found]]
    ) -> tuple[str, list[FoundStream | None]]:
        """Commit, then read, in the thread."""
        error = self._commit(writes) if writes else ""
        return error, [self._read(stream, after) for stream, after, _ in asked]

    def _done(
        self, writes: list[StreamWrite], asked: list[tuple[str, int, Found]], task: Any
    ) -> None:  # Any: as above
        """The work is done; the loop calls this."""
        error, found = "", [None] * len(asked)
        if task.successful():
            error, found = task.value
        else:
            _log.error("stream_commit_failed", exc_info=task.exception)
            error = str(task.exception)
        if error:
            self._give_up(writes, error)
        elif writes and self._error:
            _log.warning("stream_writes_recovered")
            self._error = ""
        for (_, _, done), stream in zip(asked, found, strict=True):
            done(stream)
        self._running = False
        if self._writes or self._asked:
            self._start_soon()
        else:
            self._quiet.set()

    def _give_up(self, writes: Sequence[StreamWrite], error: str) -> None:
        self.lost += sum(isinstance(write, KeepEvent) for write in writes)
        if not self._error:
            _log.error("stream_write_failed error=%s: streams go on from memory", error)
        self._error = error


def _left_s(deadline_s: float) -> float:
    return max(deadline_s - time.monotonic(), 0.0)
