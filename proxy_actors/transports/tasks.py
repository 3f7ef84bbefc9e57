"""Owns the greenlets that the world spawns: who owns them, how many live, how they ended.

Every greenlet of actors and data plane is spawned here, so a leak shows under its owner's name.
Never kills one.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping

import gevent

_log = logging.getLogger("proxy_actors.world")

OnExit = Callable[[BaseException | None], None]


class TaskTable:
    """The living greenlets of one world, counted by owner."""

    def __init__(self) -> None:
        self._living: Counter[str] = Counter()

    def spawn(
        self, owner: str, function: Callable[[], None], on_exit: OnExit | None = None
    ) -> GreenletTask:
        """See `World.spawn`. `on_exit` runs in the greenlet itself, as its last act."""
        self._living[owner] += 1
        return GreenletTask(self, owner, function, on_exit)

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
        gevent.spawn_raw(self._run).name = owner

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
