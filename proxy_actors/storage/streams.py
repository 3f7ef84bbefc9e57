"""The file of event streams: what their rings hold, for those who come back after a restart.

Owns the schema, and which rows have become too old. A commit is with the kernel when it returns, so
that it survives the kill of the process: a WAL with synchronous=NORMAL. The loss of power may take
the latest commits with it, in the order of writing, and nothing else. The file holds what servers
have said to their clients, in clear. `transports/stream_store_thread.py` uses it.

It is bounded: rows go when their rings drop them, streams a while after their end, and the file has
a greatest number of pages. When those are full the streams that have ended make room.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, assert_never

from peewee import BlobField, FloatField, IntegerField, Model, SqliteDatabase, TextField

from proxy_actors.messages.stream_store import (
    ForgetStream,
    FoundStream,
    KeepEvent,
    LeaveStream,
    OpenStream,
    StoredStream,
    StreamWrite,
    TrimStream,
)
from proxy_actors.storage.sqlite_file import ERRORS, SqliteFile

SCHEMA_VERSION = 1
PAGE_BYTES = 4096
# Rows, indices and what is free in pages, beside the events themselves.
SPARE_BYTES = 64 * 1024 * 1024
_OPEN = (
    'INSERT INTO "stream" ("id", "session", "request", "last") VALUES (?, ?, ?, 0) '
    'ON CONFLICT ("id") DO NOTHING'
)
# Of a stream whose opening could not be written, too.
_ADVANCE = (
    'INSERT INTO "stream" ("id", "session", "request", "last") VALUES (?, ?, ?, ?) '
    'ON CONFLICT ("id") DO UPDATE SET "last" = excluded."last" RETURNING "serial"'
)
_KEEP = 'INSERT OR REPLACE INTO "event" ("stream", "number", "at_s", "data") VALUES (?, ?, ?, ?)'
_TRIM = 'DELETE FROM "event" WHERE "stream" = ? AND "number" < ?'
_FIND = 'SELECT "serial", "session", "request", "last" FROM "stream" WHERE "id" = ?'
_FOLLOWING = (
    'SELECT "data", "at_s" FROM "event" WHERE "stream" = ? AND "number" > ? ORDER BY "number"'
)
_NEWEST = 'SELECT "data" FROM "event" WHERE "stream" = ? AND "number" = ?'
_NEXT = (
    'SELECT "id" FROM "stream" WHERE "session" = ? AND "request" = ? AND "serial" > ? '
    'ORDER BY "serial" LIMIT 1'
)
_OLD = 'SELECT "serial" FROM "stream" WHERE "ended_s" <= ?'


class StreamRecord(Model):
    """One stream. `last` is the number of its newest event; `ended_s` is when its actor ended."""

    serial = IntegerField(primary_key=True)
    id = TextField(unique=True)
    session = TextField(index=True)
    request = BlobField()
    last = IntegerField()
    ended_s = FloatField(null=True, index=True)

    class Meta:
        """Where it is stored."""

        table_name = "stream"


class EventRecord(Model):
    """One event of a stream."""

    stream = IntegerField()
    number = IntegerField()
    at_s = FloatField()
    data = BlobField()

    class Meta:
        """Where it is stored."""

        table_name = "event"
        primary_key = False
        indexes = ((("stream", "number"), True),)


class StreamFile(SqliteFile):
    """An open file of streams.

    Args:
        age_s_max: how old an event may be to be read, and how long a stream is kept after its end.
        bytes_max: of the events of all streams; the file may have twice as many, and a few more.
        wall_s: seconds since the epoch.
    """

    subject = "stream"
    loss = "no client can come back to a stream of before"
    version = SCHEMA_VERSION
    models = (StreamRecord, EventRecord)

    def __init__(
        self, path: Path, age_s_max: float, bytes_max: int, wall_s: Callable[[], float]
    ) -> None:
        self._age_s_max = age_s_max
        self._wall_s = wall_s
        self._swept_s = 0.0
        self.pragmas = {
            "synchronous": "normal",
            "max_page_count": (2 * bytes_max + SPARE_BYTES) // PAGE_BYTES,
            "journal_size_limit": SPARE_BYTES,
        }
        super().__init__(path)

    def commit(self, writes: Sequence[StreamWrite]) -> str:
        """Write all in one transaction, or nothing; return "" or what went wrong."""
        error = self._transact(lambda: self._write(writes))
        if error is not None and "full" in str(error):
            # What has ended goes first; where it is the disk that is full, this fails as well.
            self._transact(lambda: self._sweep(float("inf")))
            error = self._transact(lambda: self._write(writes))
        if error is None:
            return ""
        return str(error) or type(error).__name__

    def read(self, id: str, after: int) -> FoundStream | None:
        """Return what followed an event; None where nothing of its stream is to be had."""
        try:
            return self._find(id, after)
        except ERRORS:
            return None

    def _find(self, id: str, after: int) -> FoundStream | None:
        cursor = self._cursor()
        row = cursor.execute(_FIND, (id,)).fetchone()
        if row is None:
            return None
        serial, session_key, request_id, last = row
        oldest_s = self._wall_s() - self._age_s_max
        found = cursor.execute(_FOLLOWING, (serial, after)).fetchall()
        # An event that is missing anywhere in between would be passed over in silence.
        whole = len(found) == max(last - after, 0) and all(at_s >= oldest_s for _, at_s in found)
        newest = cursor.execute(_NEWEST, (serial, last)).fetchone()
        following = cursor.execute(_NEXT, (session_key, b"", serial)).fetchone()
        return FoundStream(
            StoredStream(id, session_key, request_id),
            tuple(data for data, _ in found) if whole else None,
            b"" if newest is None else newest[0],
            "" if following is None else following[0],
        )

    def _load(self, database: SqliteDatabase) -> None:
        """Streams whose actors ended with an earlier process may be asked for from now on."""
        update = 'UPDATE "stream" SET "ended_s" = ? WHERE "ended_s" IS NULL'
        untyped: Any = database  # Any: as in _cursor
        untyped.execute_sql(update, (self._wall_s(),))

    def _write(self, writes: Sequence[StreamWrite]) -> None:
        last: dict[str, KeepEvent] = {}
        first: dict[str, int] = {}
        for write in writes:
            match write:
                case KeepEvent(stream):
                    last[stream.id] = write
                    first[stream.id] = write.first
                case TrimStream(stream, number):
                    first[stream.id] = number
                case OpenStream() | LeaveStream() | ForgetStream():
                    pass
                case _:
                    assert_never(write)
        cursor, now_s = self._cursor(), self._wall_s()
        serials = {}
        cursor.executemany(_OPEN, [
            (x.stream.id, x.stream.session_key, x.stream.request_id)
            for x in writes
            if isinstance(x, OpenStream)
        ])
        for id, keep in last.items():
            row = (id, keep.stream.session_key, keep.stream.request_id, keep.number)
            ((serials[id],),) = cursor.execute(_ADVANCE, row).fetchall()
        cursor.executemany(_KEEP, [
            (serials[write.stream.id], write.number, now_s, write.data)
            for write in writes
            if isinstance(write, KeepEvent) and write.number >= first[write.stream.id]
        ])
        for id, number in first.items():
            if number > 1:
                cursor.execute(_TRIM, (serials.get(id) or self._serial(id), number))
        self._end([x.stream.id for x in writes if isinstance(x, LeaveStream)], now_s)
        self._forget([self._serial(x.stream.id) for x in writes if isinstance(x, ForgetStream)])
        if now_s - self._swept_s >= self._age_s_max:
            self._swept_s = now_s
            self._sweep(now_s - self._age_s_max)

    def _serial(self, id: str) -> int | None:
        row = self._cursor().execute(_FIND, (id,)).fetchone()
        return None if row is None else int(row[0])

    def _end(self, ids: Sequence[str], now_s: float) -> None:
        update = 'UPDATE "stream" SET "ended_s" = ? WHERE "id" = ?'
        self._cursor().executemany(update, [(now_s, id) for id in ids])

    def _forget(self, serials: Sequence[int | None]) -> None:
        rows = [(serial,) for serial in serials]
        self._cursor().executemany('DELETE FROM "event" WHERE "stream" = ?', rows)
        self._cursor().executemany('DELETE FROM "stream" WHERE "serial" = ?', rows)

    def _sweep(self, before_s: float) -> None:
        """Forget the streams that had ended by then."""
        old = self._cursor().execute(_OLD, (before_s,)).fetchall()
        self._forget([serial for (serial,) in old])
