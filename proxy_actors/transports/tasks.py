"""Owns the greenlets that the world spawns: who owns them, how many live, how they ended.

Every greenlet of actors and data plane is spawned here, so a leak shows under its owner's name.
Never kills one.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Mapping

import gevent

_log = logging.getLogger("proxy_actors.world")

# As many of those that take turns are begun at once: what comes meanwhile waits for no more.
BEGUN_AT_ONCE = 64

OnExit = Callable[[BaseException | None], None]


class TaskTable:
    """The living greenlets of one world, counted by owner."""

    def __init__(self) -> None:
        self._living: Counter[str] = Counter()
        self._begun = 0
        self._in_turn: deque[TaskInTurn] = deque()

    def spawn(
        self, owner: str, function: Callable[[], None], on_exit: OnExit | None = None
    ) -> GreenletTask:
        """See `World.spawn`. `on_exit` runs in the greenlet itself, as its last act."""
        self._living[owner] += 1
        task = GreenletTask(self, owner, function, on_exit)
        task.begin()
        return task

    def spawn_in_turn(self, owner: str, function: Callable[[], None]) -> GreenletTask:
        """See `World.spawn_in_turn`."""
        self._living[owner] += 1
        task = TaskInTurn(self, owner, function, None)
        if self._begun < BEGUN_AT_ONCE:
            self._begun += 1
            task.begin()
        else:
            self._in_turn.append(task)
        return task

    def next_turn(self) -> None:
        """Begin the next of those that take turns; called by one that runs now."""
        if self._in_turn:
            self._in_turn.popleft().begin()
        else:
            self._begun -= 1

    def living(self) -> Mapping[str, int]:
        """See `World.tasks`."""
        return dict(self._living)

    def forget(self, owner: str) -> None:
        """Count one greenlet less; called by the task at its end."""
        self._living[owner] -= 1
        if not self._living[owner]:
            del self._living[owner]


class GreenletTask:
    """A `Task`: one function in a raw greenlet, a third cheaper than one of gevent's own."""

    __slots__ = ("done", "_table", "_owner", "_function", "_on_exit")

    def __init__(
        self,
        table: TaskTable,
        owner: str,
        function: Callable[[], None],
        on_exit: OnExit | None,
    ) -> None:
        self.done = False
        self._table = table
        self._owner = owner
        self._function = function
        self._on_exit = on_exit

    def begin(self) -> None:
        """Have it run, behind all that is ready to run now."""
        gevent.spawn_raw(self._run).name = self._owner

    def _run(self) -> None:
        try:
            self._function()
        except (KeyboardInterrupt, SystemExit) as error:
            self._end(error)
            raise  # the hub hands these to the main greenlet: the process is to end
        except BaseException as error:
            self._end(error)
        else:
            self._end(None)

    def _end(self, error: BaseException | None) -> None:
        self.done = True
        self._table.forget(self._owner)
        if self._on_exit is not None:
            try:
                self._on_exit(error)
            except Exception:
                _log.exception("exit_callback_failed owner=%s", self._owner)
        elif error is not None and not isinstance(error, gevent.GreenletExit):
            _log.error("greenlet_failed owner=%s", self._owner, exc_info=error)


class TaskInTurn(GreenletTask):
    """One of many that take turns."""

    __slots__ = ()

    def _run(self) -> None:
        self._table.next_turn()
        super()._run()
