"""The file of sessions: what `storage/sqlite_file.py` is made to hold for the registry.

Owns the schema. A commit is on the disk when it returns: a WAL with synchronous=FULL. NORMAL would
survive the kill of the process alone, not the loss of power, and one commit for all that is waiting
pays the sync but once. `transports/store_thread.py` uses it. The file holds hashes of what clients
hold, and the upstreams' session ids in clear, which are the proxy's credentials.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, assert_never

import msgspec
from peewee import BlobField, FloatField, Model, SqliteDatabase, TextField

from proxy_actors.messages.sessions import (
    DeleteSession,
    SaveSession,
    Session,
    SessionRow,
    SessionWrite,
    TouchSession,
)
from proxy_actors.storage.sqlite_file import ERRORS, OPERATIONAL, DamagedError, SqliteFile

SCHEMA_VERSION = 1
_TOUCH = 'UPDATE "session" SET "used_s" = ? WHERE "key" = ?'


class SessionRecord(Model):
    """One resumable session."""

    key = TextField(primary_key=True)
    principal = TextField()
    upstream = TextField()
    endpoint = TextField()
    upstream_session_id = TextField(null=True)
    version = TextField()
    initialize_params = BlobField()
    log_level = TextField(null=True)
    subscriptions = BlobField()
    owner = TextField()
    created_s = FloatField()
    used_s = FloatField()

    class Meta:
        """Where it is stored."""

        table_name = "session"
        without_rowid = True


class SessionFile(SqliteFile):
    """An open file of sessions."""

    subject = "session"
    loss = "all sessions of clients are lost"
    version = SCHEMA_VERSION
    models = (SessionRecord,)
    pragmas = {"synchronous": "full"}

    def load(self) -> Sequence[SessionRow]:
        """Return the rows that were in the file when it was opened."""
        return self._rows

    def commit(self, groups: Sequence[Sequence[SessionWrite]]) -> list[str]:
        """Write all groups in one transaction; return for each "" or what went wrong.

        When that fails for a reason that may lie in one of the groups, each is tried by itself.
        """
        error = self._transact(lambda: self._write(x for group in groups for x in group))
        if error is None:
            return [""] * len(groups)
        if isinstance(error, (OSError, *OPERATIONAL)) or len(groups) == 1:
            return [str(error) or type(error).__name__] * len(groups)
        return [text for group in groups for text in self.commit([group])]

    def _load(self, database: SqliteDatabase) -> None:
        try:
            records = SessionRecord.select().dicts().execute(database)
            self._rows = [_row(record) for record in records]
        except (msgspec.MsgspecError, TypeError, *ERRORS) as error:
            raise DamagedError(f"a row cannot be read: {error}") from error

    def _write(self, writes: Iterable[SessionWrite]) -> None:
        touches: list[tuple[float, str]] = []
        for write in writes:
            if isinstance(write, TouchSession):
                touches.append((write.used_s, write.key))
                continue
            self._touch(touches)
            match write:
                case SaveSession(row):
                    insert = SessionRecord.insert(_record(row)).on_conflict_replace()
                    insert.execute(self._database)
                case DeleteSession(key):
                    delete = SessionRecord.delete().where(SessionRecord.key == key)
                    delete.execute(self._database)
                case _:
                    assert_never(write)
        self._touch(touches)

    def _touch(self, touches: list[tuple[float, str]]) -> None:
        """Write what has gathered, in one call of C.

        Built by peewee, ten thousand would hold the interpreter's lock for most of a second.
        """
        if touches:
            self._cursor().executemany(_TOUCH, touches)
            touches.clear()


def _record(row: SessionRow) -> dict[str, object]:
    session = row.session
    return {
        "key": session.key,
        "principal": session.principal,
        "upstream": session.upstream,
        "endpoint": session.endpoint,
        "upstream_session_id": session.upstream_session_id,
        "version": session.version,
        "initialize_params": session.initialize_params,
        "log_level": session.log_level,
        "subscriptions": msgspec.json.encode(session.subscriptions),
        "owner": row.owner,
        "created_s": row.created_s,
        "used_s": row.used_s,
    }


def _row(record: dict[str, Any]) -> SessionRow:  # Any: whatever SQLite has stored
    created_s, used_s, owner = record.pop("created_s"), record.pop("used_s"), record.pop("owner")
    record["subscriptions"] = msgspec.json.decode(record["subscriptions"])
    session = msgspec.convert(record, Session, builtin_types=(bytes,))
    return msgspec.convert(
        {
            "session": session, "resumable": True, "created_s": created_s, "used_s": used_s,
            "owner": owner,
        },
        SessionRow,
    )
