"""Opens the stores that a run asks for: of sessions, and of event streams."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from proxy_actors.errors import ConfigurationError
from proxy_actors.messages.sessions import SessionRow, SessionWrite
from proxy_actors.messages.stream_store import FoundStream, StreamWrite
from proxy_actors.storage.memory import MemoryStore
from proxy_actors.world.stores import SessionStore, StreamStore

FILE_NAME = "sessions.sqlite"
STREAMS_FILE_NAME = "streams.sqlite"

Commit = Callable[[Sequence[Sequence[SessionWrite]]], list[str]]
Threaded = Callable[[Iterable[SessionRow], Commit, Callable[[], None]], SessionStore]
StreamsThreaded = Callable[
    [
        Callable[[Sequence[StreamWrite]], str],
        Callable[[str, int], FoundStream | None],
        Callable[[], None],
    ],
    StreamStore,
]


def open_store(state_dir: str | None, threaded: Threaded) -> SessionStore:
    """Open the store in `state_dir`, or one in memory without it. Blocks: call before serving.

    `threaded` makes a store of what is stored and of two blocking functions, which it is to call
    in one thread: one commits and one closes.

    Raises:
        ConfigurationError: the directory cannot be used, or another process uses it.
    """
    if state_dir is None:
        return MemoryStore()
    from proxy_actors.storage.sessions import SessionFile  # with peewee: nobody else waits for it

    file = SessionFile(Path(state_dir) / FILE_NAME)
    return threaded(file.load(), file.commit, file.close)


def open_stream_store(
    state_dir: str | None,
    age_s_max: float,
    bytes_max: int,
    wall_s: Callable[[], float],
    threaded: StreamsThreaded,
) -> StreamStore:
    """Open the file of streams in `state_dir`. Blocks: call before serving.

    Raises:
        ConfigurationError: there is no directory, it cannot be used, or another process uses it.
    """
    if state_dir is None:
        raise ConfigurationError('streams.store = "sqlite" needs a state directory: set state-dir')
    from proxy_actors.storage.streams import StreamFile  # as above

    file = StreamFile(Path(state_dir) / STREAMS_FILE_NAME, age_s_max, bytes_max, wall_s)
    return threaded(file.commit, file.read, file.close)
