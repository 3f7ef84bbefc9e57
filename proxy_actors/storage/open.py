"""Opens the store of sessions that a run asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from proxy_actors.messages.sessions import SessionRow, SessionWrite
from proxy_actors.storage.memory import MemoryStore
from proxy_actors.world.base import SessionStore

FILE_NAME = "sessions.sqlite"

Commit = Callable[[Sequence[Sequence[SessionWrite]]], list[str]]
Threaded = Callable[[Iterable[SessionRow], Commit, Callable[[], None]], SessionStore]


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
