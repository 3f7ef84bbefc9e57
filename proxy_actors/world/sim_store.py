"""The simulated store of sessions: a disk that survives a crash, commits that take their time.

Owns what has been submitted and not settled. A crash of the simulated process may come before a
commit, and then its writes are lost, or between a commit and its answer: durable, unknown to
anyone. Used by tests alone; the same contract suite as the real store's holds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from proxy_actors.errors import DeadlineError
from proxy_actors.messages.sessions import SessionEnded, SessionRow, SessionWrite
from proxy_actors.policy.session_rows import apply, written_down
from proxy_actors.world.sim_world import SimWorld

_Submitted = tuple[Sequence[SessionWrite], Callable[[str], object]]


class SimDisk:
    """What survives the simulated process.

    Attributes:
        rows: the rows that have been committed.
        fail: the chance that a commit fails, from 0 to 1.
        latency_s_max: how long a commit may take, and its answer on top.
    """

    def __init__(self, fail: float = 0.0, latency_s_max: float = 0.05) -> None:
        self.rows: dict[str, SessionRow] = {}
        self.fail = fail
        self.latency_s_max = latency_s_max


class SimStore:
    """A `SessionStore` of one life of the simulated process; make one anew after a crash."""

    def __init__(self, world: SimWorld, disk: SimDisk) -> None:
        self.unfinished: dict[str, SessionEnded] = {}
        self._world = world
        self._disk = disk
        self._rows = dict(disk.rows)
        self._waiting: list[_Submitted] = []
        self._running = False
        self._crashed = False

    def rows(self) -> Sequence[SessionRow]:
        """See `SessionStore.rows`."""
        return tuple(self._rows.values())

    def submit(
        self, writes: Sequence[SessionWrite], done: Callable[[str], object]
    ) -> None:
        """See `SessionStore.submit`."""
        self._waiting.append((writes, done))
        if not self._running:
            self._start()

    def close(self, deadline_s: float) -> bool:
        """See `SessionStore.close`."""
        while self._running and self._world.now_s() < deadline_s:
            try:
                self._world.waiter().wait(self._world.now_s() + 0.01)
            except DeadlineError:
                pass
        return not self._running

    def crash(self) -> None:
        """The process is gone: nothing further is committed, and nobody hears of what was."""
        self._crashed = True

    def _start(self) -> None:
        batch, self._waiting = self._waiting, []
        self._running = True
        self._later(lambda: self._commit(batch))

    def _commit(self, batch: list[_Submitted]) -> None:
        error = "disk full" if self._world.draw(self._disk.fail, "commit_failed") else ""
        if not error:
            for writes, _ in batch:
                apply(self._disk.rows, written_down(self._rows, writes))
        self._later(lambda: self._settle(batch, error))

    def _settle(self, batch: list[_Submitted], error: str) -> None:
        for writes, done in batch:
            if not error:
                apply(self._rows, writes)
            done(error)
        self._running = False
        if self._waiting:
            self._start()

    def _later(self, step: Callable[[], None]) -> None:
        world = self._world

        def unless_crashed() -> None:
            if not self._crashed:
                step()

        world.at(world.now_s() + world.random() * self._disk.latency_s_max, unless_crashed)
