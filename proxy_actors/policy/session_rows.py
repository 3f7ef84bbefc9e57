"""What a write does to the rows of sessions: the model that every store has to agree with.

Owns nothing. Stores keep their rows as durable with `apply`, and leave out with `written_down` what
is not to survive the process.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import assert_never

from msgspec.structs import replace

from proxy_actors.messages.sessions import (
    DeleteSession,
    SaveSession,
    SessionRow,
    SessionWrite,
    TouchSession,
)


def apply(rows: dict[str, SessionRow], writes: Iterable[SessionWrite]) -> None:
    """Change `rows`, which are by their keys, as the writes say, in order."""
    for write in writes:
        match write:
            case SaveSession(row):
                rows[row.session.key] = row
            case TouchSession(key, used_s):
                if key in rows:
                    rows[key] = replace(rows[key], used_s=used_s)
            case DeleteSession(key):
                rows.pop(key, None)
            case _:
                assert_never(write)


def written_down(
    rows: Mapping[str, SessionRow], writes: Iterable[SessionWrite]
) -> list[SessionWrite]:
    """Return those of the writes that concern resumable sessions, or sessions not known."""

    def concerns_disk(write: SessionWrite) -> bool:
        if isinstance(write, SaveSession):
            return write.row.resumable
        row = rows.get(write.key)
        return row is None or row.resumable

    return [write for write in writes if concerns_disk(write)]
