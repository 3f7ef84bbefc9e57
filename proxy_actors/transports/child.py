"""Owns our side of one child process: its three pipes as streams, and its signals.

The guardian starts and ends the process; the world makes this for whoever asked. Never closes a
pipe by itself: they belong to the child's owner, who may read what a dead child left in them.
"""

from __future__ import annotations

import signal
from collections.abc import Callable

from proxy_actors.transports.deadlines import DeadlineSweep
from proxy_actors.transports.guardian_client import GuardianClient, SpawnedChild
from proxy_actors.transports.pipe_stream import reading_pipe, writing_pipe
from proxy_actors.world.base import ChildCommand, ExitStatus


class GuardedChild:
    """A `Child`.

    Args:
        guardian: who signals it.
        sweep: where the waits on its pipes are watched over.
        spawned: the process; its descriptors are taken over.
    """

    def __init__(
        self, guardian: GuardianClient, sweep: DeadlineSweep, spawned: SpawnedChild
    ) -> None:
        self.pid = spawned.pid
        name = f"child {spawned.pid}"
        self.stdin = writing_pipe(sweep, spawned.stdin_fd, name)
        self.stdout = reading_pipe(sweep, spawned.stdout_fd, name)
        self.stderr = reading_pipe(sweep, spawned.stderr_fd, name)
        self._guardian = guardian
        self._ended = False

    def terminate(self) -> None:
        """See `Child.terminate`."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """See `Child.kill`; the guardian finds the descendants."""
        self._signal(signal.SIGKILL)

    def note_end(self) -> None:
        """From now on its process id may be another's: send no more signals."""
        self._ended = True

    def _signal(self, signum: signal.Signals) -> None:
        if not self._ended:
            self._guardian.signal(self.pid, signum)


def spawn_child(
    guardian: GuardianClient,
    sweep: DeadlineSweep,
    command: ChildCommand,
    deadline_s: float,
    on_exit: Callable[[ExitStatus], None],
) -> GuardedChild:
    """See `World.spawn_child`."""

    def note_exit(code: int | None, signum: int | None) -> None:
        child.note_end()  # assigned by now: the guardian reports no exit before spawn has returned
        on_exit(ExitStatus(code=code, signal=signum))

    spawned = guardian.spawn(command.argv, command.env, command.cwd, deadline_s, note_exit)
    child = GuardedChild(guardian, sweep, spawned)
    return child
