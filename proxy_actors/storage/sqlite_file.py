"""A file of SQLite, written by one process and used by one thread at a time.

Owns the connection, the lock and the permissions; what is in it is a subclass's. It blocks, so the
loop's thread uses it before anything is served, and a thread of its own from then on. It decides
nothing and never logs while it commits.

The lock is exclusive for as long as the file is open: a second process could only act on rows that
are out of date. What clients and servers have said is nobody else's: the file is 0600, and a
directory made for it 0700.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from peewee import (
    DatabaseError,
    Model,
    OperationalError,
    PeeweeException,
    SqliteDatabase,
)

from proxy_actors.errors import ConfigurationError

LOCK_S_MAX = 2.0
_PRAGMAS = {
    "locking_mode": "exclusive",  # before the first access: then the WAL needs no shared memory
    "journal_mode": "wal",
}
# peewee translates what a statement raises as it begins, not as its rows are fetched.
ERRORS = (PeeweeException, sqlite3.Error)
_DAMAGE = (DatabaseError, sqlite3.DatabaseError)
OPERATIONAL = (OperationalError, sqlite3.OperationalError)

logger = logging.getLogger("proxy_actors.storage")
# At the debug level peewee logs every statement with its values, credentials among them (THR-T14).
logging.getLogger("peewee").setLevel(logging.INFO)


class DamagedError(Exception):
    """What is in the file cannot be read."""


class SqliteFile(ABC):
    """An open file.

    A file that is no database, or is damaged, is set aside under another name, which the log tells
    as an error, and an empty one takes its place.

    Attributes:
        subject: what is in it, in the log.
        loss: what that it is set aside means.
        version: of the schema, stored in the file.
        models: its tables.
        pragmas: further settings of the connection.

    Raises:
        ConfigurationError: the file cannot be made or opened, is in use by another process, or is
            of a later version.
    """

    subject: str
    loss: str
    version: int
    models: tuple[type[Model], ...]
    pragmas: Mapping[str, object]

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                self._database = self._open()
            except DamagedError as error:
                self._set_aside(error)
                self._database = self._open()
            self._inodes = self._identify()
        except (OSError, *ERRORS) as error:
            advice = "is the directory writable?"
            if "locked" in str(error):
                advice = "another process uses it, and each proxy needs a directory of its own"
            raise ConfigurationError(f"{path}: {error}; {advice}") from error

    def close(self) -> None:
        """Fold the WAL into the file and release it. Idempotent."""
        self._database.close()

    @abstractmethod
    def _load(self, database: SqliteDatabase) -> None:
        """Read what is there as the file is opened.

        Raises:
            DamagedError: it cannot be read.
        """

    def _transact(self, work: Callable[[], object]) -> Exception | None:
        """Do this in one transaction; return what kept it from being done."""
        try:
            # What is written to a file that was removed would be gone with the process.
            if self._identify() != self._inodes:
                raise OSError(f"{self._path} was replaced: restart the proxy")
            with _transaction(self._database):
                work()
        except (OSError, ValueError, TypeError, *ERRORS) as error:
            return error
        return None

    def _cursor(self) -> Any:  # Any: peewee's stubs leave its cursors out
        database: Any = self._database
        return database.cursor()

    def _open(self) -> SqliteDatabase:
        was_empty = self._make()
        database = SqliteDatabase(
            str(self._path),
            pragmas={**_PRAGMAS, **self.pragmas},
            timeout=LOCK_S_MAX,
            thread_safe=False,  # one connection, opened here and used in another thread
            check_same_thread=False,
        )
        try:
            database.connect()
            if was_empty:
                logger.error(
                    "%s_file_was_empty path=%s: %ss may be lost",
                    self.subject, self._path, self.subject,
                )
            self._read(database)
            return database
        except BaseException as error:
            database.close()
            if isinstance(error, _DAMAGE) and not isinstance(error, OPERATIONAL):
                raise DamagedError(str(error)) from error
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

    def _read(self, database: SqliteDatabase) -> None:
        version = database.pragma("user_version")
        if version > self.version:
            raise ConfigurationError(f"{self._path} was written by a later version of the proxy")
        if database.pragma("quick_check") != "ok":
            raise DamagedError("the database is malformed")
        if version == 0:
            with _transaction(database), database.bind_ctx(self.models):
                database.create_tables(self.models)
                database.pragma("user_version", self.version)
        self._load(database)

    def _set_aside(self, error: Exception) -> None:
        # A WAL has been folded in by now; beside a new file SQLite would throw it away.
        names = (Path(f"{self._path}.damaged-{number}") for number in count(1))
        aside = next(name for name in names if not name.exists())
        self._path.rename(aside)
        logger.error(
            "%s_file_set_aside path=%s as=%s error=%s: %s",
            self.subject, self._path, aside, error, self.loss,
        )

    def _identify(self) -> list[int]:
        return [os.stat(f"{self._path}{suffix}").st_ino for suffix in ("", "-wal")]


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
        connection: Any = database.connection()  # type: ignore[no-untyped-call]  # as in _cursor
        if connection.in_transaction:
            database.rollback()
        raise
