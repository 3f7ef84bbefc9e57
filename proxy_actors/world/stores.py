"""The ports of what outlives the process: sessions, and the events of streams.

`storage/` implements them, in memory and on disk; `transports/` gives the disk a thread of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from proxy_actors.messages.sessions import SessionEnded, SessionRow, SessionWrite
from proxy_actors.messages.stream_store import FoundStream, StreamWrite


class SessionStore(Protocol):
    """Where sessions are kept. Outlives the actor that uses it.

    A row that is not resumable is kept as long as the process lives and never written down.
    """

    unfinished: dict[str, SessionEnded]
    """The registry's notes to its next incarnation, never written down: by their keys, the sessions
    that are being created or ended, and what their upstreams are owed when they are gone."""

    def rows(self) -> Sequence[SessionRow]:
        """The rows that are durable, in no particular order."""

    def submit(
        self, writes: Sequence[SessionWrite], done: Callable[[str], object]
    ) -> None:
        """Make all of `writes` durable, or none. Never raises, never waits.

        `done` is called once, perhaps before this returns: with "" when they are durable and in
        `rows`, else with what went wrong. Writes take effect in the order of submission.
        """

    def close(self, deadline_s: float) -> bool:
        """Finish what was submitted, then release everything; whether all was done in time.

        Called once and last, by who made the store, in a greenlet that may wait.
        """


class StreamStore(Protocol):
    """Where event streams are kept that are to outlive the process; nobody waits for a write."""

    lost: int
    """How many events could not be written."""

    def write(self, write: StreamWrite) -> None:
        """Write this down, in the order of writing, soon. Never raises, never waits.

        What is written in one turn of an actor is written together, or nothing of it.
        """

    def read(
        self, stream: str, after: int, done: Callable[[FoundStream | None], object]
    ) -> None:
        """Call `done` with what followed an event, all writes of before included.

        None where nothing is known of the stream, or the file cannot be read.
        """

    def sync(self, done: Callable[[None], object]) -> None:
        """Call `done` when all writes of before are written, or could not be."""

    def close(self, deadline_s: float) -> bool:
        """Finish what was written, then release everything; whether all was done in time."""
