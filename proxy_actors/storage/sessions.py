"""The file of sessions: SQLite, written by one process and used by one thread at a time.

Owns the schema, the connection and the permissions. It blocks, so the loop's thread uses it before
anything is served, and a thread of its own from then on (`transports/store_thread.py`). It decides
nothing and never logs while it commits.

Durability: a WAL with synchronous=FULL, so a commit is on the disk when it returns. NORMAL would
survive the kill of the process alone, not the loss of power, and one commit for all that is waiting
pays the sync but once. The lock is exclusive for as long as the file is open: a second process
could only act on rows that are out of date.

The file holds hashes of what clients hold, and the upstreams' session ids in clear, which are the
proxy's credentials: it is 0600, and a directory made for it 0700.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, assert_never

import msgspec
from peewee import (
    BlobField,
    DatabaseError,
    FloatField,
    Model,
    OperationalError,
    PeeweeException,
    SqliteDatabase,
    TextField,
)

from proxy_actors.errors import ConfigurationError
from proxy_actors.messages.sessions import (
    DeleteSession,
    SaveSession,
    Session,
    SessionRow,
    SessionWrite,
    TouchSession,
)

SCHEMA_VERSION = 1
LOCK_S_MAX = 2.0
_PRAGMAS = {
    "locking_mode": "exclusive",  # before the first access: then the WAL needs no shared memory
    "journal_mode": "wal",
    "synchronous": "full",
}
_TOUCH = 'UPDATE "session" SET "used_s" = ? WHERE "key" = ?'
# peewee translates what a statement raises as it begins, not as its rows are fetched.
_ERRORS = (PeeweeException, sqlite3.Error)
_DAMAGE = (DatabaseError, sqlite3.DatabaseError)
_OPERATIONAL = (OperationalError, sqlite3.OperationalError)

logger = logging.getLogger("proxy_actors.storage")
# At the debug level peewee logs every statement with its values, credentials among them (THR-T14).
logging.getLogger("peewee").setLevel(logging.INFO)


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


class _DamagedError(Exception):
    """What is in the file cannot be read."""


class SessionFile:
    """An open file of sessions.

    A file that is no database, or is damaged, is set aside under another name, which the log tells
    as an error, and an empty one takes its place.

    Raises:
        ConfigurationError: the file cannot be made or opened, is in use by another process, or is
            of a later version.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                self._database, self._rows = self._open()
            except _DamagedError as error:
                self._set_aside(error)
                self._database, self._rows = self._open()
            self._inodes = self._identify()
        except (OSError, *_ERRORS) as error:
            advice = "is the directory writable?"
            if "locked" in str(error):
                advice = "another process uses it, and each proxy needs a directory of its own"
            raise ConfigurationError(f"{path}: {error}; {advice}") from error

    def load(self) -> Sequence[SessionRow]:
        """Return the rows that were in the file when it was opened."""
        return self._rows

    def commit(self, groups: Sequence[Sequence[SessionWrite]]) -> list[str]:
        """Write all groups in one transaction; return for each "" or what went wrong.

        When that fails for a reason that may lie in one of the groups, each is tried by itself.
        """
        error = self._transact([write for group in groups for write in group])
        if error is None:
            return [""] * len(groups)
        if isinstance(error, (OSError, *_OPERATIONAL)) or len(groups) == 1:
            return [str(error) or type(error).__name__] * len(groups)
        return [text for group in groups for text in self.commit([group])]

    def close(self) -> None:
        """Fold the WAL into the file and release it. Idempotent."""
        self._database.close()

    def _open(self) -> tuple[SqliteDatabase, Sequence[SessionRow]]:
        was_empty = self._make()
        database = SqliteDatabase(
            str(self._path),
            pragmas=_PRAGMAS,
            timeout=LOCK_S_MAX,
            thread_safe=False,  # one connection, opened here and used in another thread
            check_same_thread=False,
        )
        try:
            database.connect()
            if was_empty:
                logger.error("session_file_was_empty path=%s: sessions may be lost", self._path)
            return database, self._read(database)
        except BaseException as error:
            database.close()
            if isinstance(error, _DAMAGE) and not isinstance(error, _OPERATIONAL):
                raise _DamagedError(str(error)) from error
            raise

    def _make(self) -> bool:
        """Make the file if there is none; say whether there is one without a byte.

        To SQLite that is a new database, and a WAL beside it is thrown away.
        """
        try:
            # Made with its mode, not given it afterwards; SQLite gives the WAL the same.
            os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        except FileExistsError:
            os.chmod(self._path, 0o600)
            return not os.path.getsize(self._path)
        return False

    def _read(self, database: SqliteDatabase) -> Sequence[SessionRow]:
        version = database.pragma("user_version")
        if version > SCHEMA_VERSION:
            raise ConfigurationError(f"{self._path} was written by a later version of the proxy")
        if database.pragma("quick_check") != "ok":
            raise _DamagedError("the database is malformed")
        if version == 0:
            with _transaction(database), database.bind_ctx([SessionRecord]):
                database.create_tables([SessionRecord])
                database.pragma("user_version", SCHEMA_VERSION)
        try:
            records = SessionRecord.select().dicts().execute(database)
            return [_row(record) for record in records]
        except (msgspec.MsgspecError, TypeError, *_ERRORS) as error:
            raise _DamagedError(f"a row cannot be read: {error}") from error

    def _set_aside(self, error: Exception) -> None:
        # A WAL has been folded in by now; beside a new file SQLite would throw it away.
        names = (Path(f"{self._path}.damaged-{number}") for number in count(1))
        aside = next(name for name in names if not name.exists())
        self._path.rename(aside)
        logger.error(
            "session_file_set_aside path=%s as=%s error=%s: all sessions of clients are lost",
            self._path, aside, error,
        )

    def _identify(self) -> list[int]:
        return [os.stat(f"{self._path}{suffix}").st_ino for suffix in ("", "-wal")]

    def _transact(self, writes: Iterable[SessionWrite]) -> Exception | None:
        try:
            # What is written to a file that was removed would be gone with the process.
            if self._identify() != self._inodes:
                raise OSError(f"{self._path} was replaced: restart the proxy")
            with _transaction(self._database):
                self._write(writes)
        except (OSError, ValueError, TypeError, *_ERRORS) as error:
            return error
        return None

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
            database: Any = self._database  # Any: peewee's stubs leave its cursors out
            database.cursor().executemany(_TOUCH, touches)
            touches.clear()


@contextmanager
def _transaction(database: SqliteDatabase) -> Iterator[None]:
    """Commit what is done inside, or nothing of it.

    Not peewee's `atomic`: on a full disk SQLite rolls back by itself, and an error of the rollback
    that follows would take the place of what went wrong.
    """
    database.begin("IMMEDIATE")
    try:
        yield
        database.commit()
    except BaseException:
        connection: Any = database.connection()  # type: ignore[no-untyped-call]  # as in _touch
        if connection.in_transaction:
            database.rollback()
        raise


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
