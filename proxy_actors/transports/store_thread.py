"""Keeps sessions in a file without ever blocking the loop: commits run in one native thread.

Owns the rows as they are durable, what waits to be committed, and the thread. While one commit runs
all that is submitted gathers for the next, so a sync of the disk is paid for once however many wait
for it. How a commit is done is handed in; what it does to the rows is `policy/session_rows.py`'s.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from gevent.event import Event
from gevent.threadpool import ThreadPool

from proxy_actors.messages.sessions import SessionEnded, SessionRow, SessionWrite
from proxy_actors.policy.session_rows import apply, written_down

Writes = Sequence[SessionWrite]
Done = Callable[[str], object]

_log = logging.getLogger("proxy_actors.transports")


class StoreThread:
    """A `SessionStore` on the hub of the thread that makes it.

    Args:
        rows: what is durable already.
        commit: makes groups of writes durable; returns for each "" or what went wrong.
        release: closes whatever `commit` writes to.

    Both functions block. They are called in the thread only, one call at a time.
    """

    def __init__(
        self,
        rows: Iterable[SessionRow],
        commit: Callable[[Sequence[Writes]], list[str]],
        release: Callable[[], None],
    ) -> None:
        self.unfinished: dict[str, SessionEnded] = {}
        self._rows = {row.session.key: row for row in rows}
        self._commit = commit
        self._release = release
        self._pool: Any = ThreadPool(1)  # Any: gevent has no type hints
        self._waiting: list[tuple[Writes, Done]] = []
        self._running = False
        self._quiet = Event()
        self._quiet.set()

    def rows(self) -> Sequence[SessionRow]:
        """See `SessionStore.rows`."""
        return tuple(self._rows.values())

    def submit(self, writes: Writes, done: Done) -> None:
        """See `SessionStore.submit`."""
        self._waiting.append((writes, done))
        if not self._running:
            self._start()

    def close(self, deadline_s: float) -> bool:
        """See `SessionStore.close`. A disk that hangs is left to itself."""
        if not self._quiet.wait(_left_s(deadline_s)):
            _log.error("store_not_flushed waiting=%d", len(self._waiting))
            return False
        released = self._pool.spawn(self._release)
        released.wait(_left_s(deadline_s))
        if not released.successful():
            _log.error("store_not_released", exc_info=released.exception)
            return False
        self._pool.kill()
        return True

    def _start(self) -> None:
        batch, self._waiting = self._waiting, []
        groups = [written_down(self._rows, writes) for writes, _ in batch]
        if not any(groups):
            self._settle(batch, [""] * len(batch))
            return
        self._running = True
        self._quiet.clear()
        task = self._pool.spawn(self._commit, groups)
        task.rawlink(lambda task: self._committed(batch, task))

    def _committed(self, batch: list[tuple[Writes, Done]], task: Any) -> None:  # Any: as above
        """The commit is over; the loop calls this."""
        self._running = False
        if task.successful():
            errors = task.value
        else:
            _log.error("commit_failed", exc_info=task.exception)
            errors = [str(task.exception)] * len(batch)
        self._settle(batch, errors)
        if self._waiting and not self._running:
            self._start()
        if not self._running:
            self._quiet.set()

    def _settle(self, batch: list[tuple[Writes, Done]], errors: list[str]) -> None:
        # All rows before all answers: who is answered may submit what comes after them.
        for (writes, _), error in zip(batch, errors, strict=True):
            if not error:
                apply(self._rows, writes)
        for (_, done), error in zip(batch, errors, strict=True):
            done(error)


def _left_s(deadline_s: float) -> float:
    return max(deadline_s - time.monotonic(), 0.0)
