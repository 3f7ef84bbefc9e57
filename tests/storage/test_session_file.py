"""The file of sessions: its modes, version and owner, and whatever befalls it (FLT-P6, FLT-P7).

That rows come back as they were is a contract of every store: tests/contracts/suite_store.py.
"""

from __future__ import annotations

import logging
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from stat import S_IMODE

import pytest

from proxy_actors.errors import ConfigurationError
from proxy_actors.messages import sessions as m
from proxy_actors.messages.sessions import DeleteSession, SaveSession, SessionRow, TouchSession
from proxy_actors.policy.session_ledger import hash_of_principal
from proxy_actors.policy.sessions import SessionLimits, SessionPolicy
from proxy_actors.storage import sqlite_file
from proxy_actors.storage.open import FILE_NAME, open_store
from proxy_actors.storage.sessions import SCHEMA_VERSION, SessionFile
from proxy_actors.transports.store_thread import StoreThread
from tests.contracts.suite_store import changed, key, row

NOBODY = 65534
ADDRESS = "address canary"

# Holds the database argv[1] as whoever else may have it, until its input ends.
HOLDER = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None)
database.execute("BEGIN EXCLUSIVE")
print("holds it", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / FILE_NAME


@pytest.fixture(autouse=True)
def nobody_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is in use stays so for as long as a test runs."""
    monkeypatch.setattr(sqlite_file, "LOCK_S_MAX", 0.0)


@contextmanager
def opened(path: Path) -> Iterator[SessionFile]:
    file = SessionFile(path)
    try:
        yield file
    finally:
        file.close()


def fill(path: Path, count: int = 3) -> list[SessionRow]:
    """Make a file with so many rows and close it."""
    rows = [row(f"{number}") for number in range(count)]
    with opened(path) as file:
        assert file.commit([[SaveSession(saved) for saved in rows]]) == [""]
    return rows


def edit(path: Path, sql: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute(sql)


def look(path: Path, sql: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as database:
        return database.execute(sql).fetchall()


def keys(file: SessionFile) -> list[str]:
    return sorted(saved.session.key for saved in file.load())


def crash(path: Path) -> Path:
    """Copy what a kill -9 at this moment would leave."""
    left = path.parent.with_name("left")
    shutil.copytree(path.parent, left)
    return left / path.name


# What lies there.


def test_file_its_wal_and_a_directory_made_for_them_are_the_owners_alone(path: Path) -> None:
    """THR-T20; and whatever the umask is."""
    umask = os.umask(0)
    try:
        with opened(path) as file:
            file.commit([[SaveSession(row("a"))]])
            modes = {entry.name: S_IMODE(entry.stat().st_mode) for entry in path.parent.iterdir()}
    finally:
        os.umask(umask)
    assert modes == {FILE_NAME: 0o600, f"{FILE_NAME}-wal": 0o600}
    assert S_IMODE(path.parent.stat().st_mode) == 0o700


def test_modes_are_mended_of_a_file_but_not_of_a_directory_that_was_there(path: Path) -> None:
    path.parent.mkdir(mode=0o755)
    fill(path)
    path.chmod(0o644)
    with opened(path):
        assert S_IMODE(path.stat().st_mode) == 0o600
    assert S_IMODE(path.parent.stat().st_mode) == 0o755


def test_every_commit_is_on_the_disk_when_it_returns(path: Path) -> None:
    """WAL, and each commit synced: the loss of power loses no more than kill -9 does."""
    with opened(path) as file:
        pragma = file._database.pragma
        assert pragma("journal_mode") == "wal"
        assert pragma("synchronous") == 2, "2 is FULL"
        assert pragma("locking_mode") == "exclusive"


def test_closed_file_is_one_file_and_sound(path: Path) -> None:
    fill(path)
    assert [entry.name for entry in path.parent.iterdir()] == [FILE_NAME]
    assert look(path, "PRAGMA integrity_check") == [("ok",)]
    assert look(path, "PRAGMA user_version") == [(SCHEMA_VERSION,)]


def test_crash_leaves_a_sound_file_with_every_commit_in_it(path: Path) -> None:
    """FLT-P3."""
    with opened(path) as file:
        for number in range(3):
            assert file.commit([[SaveSession(row(f"{number}"))]]) == [""]
        left = crash(path)
    with opened(left) as file:
        assert keys(file) == [key("0"), key("1"), key("2")]
    assert look(left, "PRAGMA integrity_check") == [("ok",)]


def test_file_of_a_later_version_is_refused_and_left_alone(path: Path) -> None:
    fill(path)
    edit(path, f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match="written by a later version"):
        SessionFile(path)
    assert path.read_bytes() == before


def test_nothing_that_a_client_holds_is_in_the_file(path: Path) -> None:
    """THR-T5: who reads it can use no session, and learns of nobody whose session it is."""
    tokens = iter(["canary-token-1", "canary-token-2"])
    policy = SessionPolicy(SessionLimits(), lambda: next(tokens), lambda: 5000.0, {})
    with opened(path) as file:
        for principal in ("canary-principal-1", "canary-principal-2"):
            create = m.CreateSession(
                principal, "up", "", "upstream-id", "2025-11-25", b"{}", True, ADDRESS
            )
            (write,) = policy.handle(create, 1000.0, 1)
            assert isinstance(write, m.Write)
            assert file.commit([write.writes]) == [""]
        (accepted,) = policy.handle(m.WriteDone(1, ""), 1000.0)
        assert isinstance(accepted, m.Accept)
        assert accepted.front_id == "v1.0.canary-token-1"
        data = b"".join(part.read_bytes() for part in path.parent.iterdir())
    assert b"upstream-id" in data, "this is where it would be"
    assert b"canary" not in data
    assert hash_of_principal(ADDRESS).encode() not in data, "which is too easily guessed"


def test_no_value_is_logged_at_whatever_level(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """THR-T14: peewee logs its statements with their values, if it is let."""
    caplog.set_level(logging.DEBUG)
    with opened(path) as file:
        secret = changed(row("a"), upstream_session_id="canary")
        assert file.commit([[SaveSession(secret), TouchSession(key("a"), 1.0)]]) == [""]
    assert "canary" not in caplog.text
    assert key("a") not in caplog.text


# Commits.


@contextmanager
def commits_counted(file: SessionFile) -> Iterator[list[str]]:
    """What SQLite is told of transactions."""
    told: list[str] = []
    connection = file._database.connection()
    connection.set_trace_callback(
        lambda sql: told.append(sql) if sql in ("BEGIN IMMEDIATE", "COMMIT", "ROLLBACK") else None
    )
    yield told
    connection.set_trace_callback(None)


def test_all_groups_are_one_commit(path: Path) -> None:
    with opened(path) as file, commits_counted(file) as told:
        assert file.commit([[SaveSession(row(f"{n}"))] for n in range(50)]) == [""] * 50
        assert told == ["BEGIN IMMEDIATE", "COMMIT"]


def test_group_that_cannot_be_written_fails_alone_and_whole(path: Path) -> None:
    bad = changed(row("bad"), version="\ud800")
    groups = [[SaveSession(row("a"))], [SaveSession(row("b")), SaveSession(bad)], []]
    with opened(path) as file:
        first, second, third = file.commit([*groups, [SaveSession(row("c"))]])[:3]
        assert (first, third) == ("", "")
        assert "surrogates" in second
        left = crash(path)
    with opened(left) as file:
        assert keys(file) == [key("a"), key("c")]


def test_touches_and_deletions_among_saves_keep_their_order(path: Path) -> None:
    writes: list[m.SessionWrite] = [
        TouchSession(key("a"), 1.0),
        SaveSession(row("a", 2.0)),
        TouchSession(key("a"), 3.0),
        TouchSession(key("a"), 4.0),
        SaveSession(row("b", 5.0)),
        DeleteSession(key("b")),
        TouchSession(key("b"), 6.0),
    ]
    with opened(path) as file:
        assert file.commit([writes]) == [""]
    with opened(path) as file:
        assert list(file.load()) == [row("a", 4.0)]


# What befalls the disk.


def full(file: SessionFile) -> Callable[[], object]:
    pages = file._database.pragma("page_count")
    file._database.pragma("max_page_count", pages)
    return lambda: file._database.pragma("max_page_count", 1_000_000)


def failing(file: SessionFile) -> Callable[[], object]:
    """No file of this process can grow; SIGXFSZ is ignored by Python."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    bytes_max = os.path.getsize(f"{file._path}-wal")
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_max, limits[1]))
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize(
    ("fault", "text"), [(full, "database or disk is full"), (failing, "disk I/O error")]
)
def test_disk_that_takes_no_more_loses_nothing_and_is_used_again(
    path: Path, fault: Callable[[SessionFile], Callable[[], object]], text: str
) -> None:
    """FLT-P6: what could not be written is said to be so, with its cause."""
    large = [changed(row(f"large-{n}"), initialize_params=b"x" * 20_000) for n in range(3)]
    with opened(path) as file:
        assert file.commit([[SaveSession(row("before"))]]) == [""]
        end = fault(file)
        try:
            for saved in large:
                groups = [[SaveSession(saved)], [SaveSession(row("small"))]]
                assert file.commit(groups) == [text, text]
        finally:
            end()
        left = crash(path)
        assert file.commit([[SaveSession(large[0])]]) == [""]
        after = path.parent.with_name("after")
        shutil.copytree(path.parent, after)
    with opened(left) as file:
        assert keys(file) == [key("before")]
    with opened(after / path.name) as file:
        assert keys(file) == sorted([key("before"), key("large-0")])
    assert look(after / path.name, "PRAGMA integrity_check") == [("ok",)]


def remove_all(path: Path) -> None:
    shutil.rmtree(path.parent)


def remove_file(path: Path) -> None:
    path.unlink()


def remove_wal(path: Path) -> None:
    """What is in it is lost with the process, whatever the file itself has."""
    path.with_name(f"{path.name}-wal").unlink()


def replace(path: Path) -> None:
    """As when a backup is restored beneath a running proxy."""
    shutil.copy(path, path.with_name("backup"))
    path.with_name("backup").rename(path)


@pytest.mark.parametrize("harm", [remove_all, remove_file, remove_wal, replace])
def test_nothing_counts_as_written_to_a_file_that_is_no_longer_there(
    path: Path, harm: Callable[[Path], None]
) -> None:
    """FLT-P7: deleted file."""
    with opened(path) as file:
        assert file.commit([[SaveSession(row("a"))]]) == [""]
        harm(path)
        errors = file.commit([[SaveSession(row("b"))], [DeleteSession(key("a"))]])
        assert len(errors) == 2
        assert all(str(path) in error for error in errors)


# Whose it is.


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Another process has the database."""
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"holds it\n"
        yield


def test_file_that_another_process_has_is_refused_with_the_remedy(path: Path) -> None:
    """FLT-P7: locked."""
    rows = fill(path)
    with held(path), pytest.raises(ConfigurationError) as caught:
        SessionFile(path)
    assert str(caught.value) == (
        f"{path}: database is locked; another process uses it, and each proxy needs a directory "
        "of its own"
    )
    with opened(path) as file:
        assert list(file.load()) == rows


def test_nobody_else_gets_a_lock_that_the_writer_would_wait_for(path: Path) -> None:
    """FLT-P7: a second writer with BEGIN EXCLUSIVE is refused, for as long as the file is open."""
    command = [sys.executable, "-c", HOLDER, str(path)]
    with opened(path) as file:
        for number in range(2):
            other = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
            )
            assert "database is locked" in other.stderr
            assert file.commit([[SaveSession(row(f"{number}"))]]) == [""]


# Files that cannot be used.


def random_header(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(os.urandom(100) + data[100:])


def other_kind(path: Path) -> None:
    path.write_text("these are not the sessions you are looking for\n" * 100)


def half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def hole(path: Path) -> None:
    data = path.read_bytes()
    middle = len(data) // 2 & ~4095
    path.write_bytes(data[:middle] + bytes(4096) + data[middle + 4096 :])


def lost_page(path: Path) -> None:
    """Nothing that is read has anything wrong with it."""
    with path.open("r+b") as data:
        data.seek(28)  # the size of the database in pages
        pages = int.from_bytes(data.read(4), "big")
        data.seek(28)
        data.write((pages + 1).to_bytes(4, "big"))
        data.truncate((pages + 1) * 4096)


def no_table(path: Path) -> None:
    edit(path, "DROP TABLE session")


def fewer_columns(path: Path) -> None:
    edit(path, "ALTER TABLE session DROP COLUMN used_s")


def wrong_type(path: Path) -> None:
    edit(path, "UPDATE session SET used_s = 'yesterday'")


def wrong_json(path: Path) -> None:
    edit(path, "UPDATE session SET subscriptions = '[1'")


DAMAGES = [
    random_header, other_kind, half, hole, lost_page, no_table, fewer_columns, wrong_type,
    wrong_json,
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_file_is_set_aside_and_an_empty_one_begun_loudly(
    path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    """FLT-P7: corrupted."""
    fill(path, 100)
    damage(path)
    damaged = path.read_bytes()
    with opened(path) as file:
        assert list(file.load()) == []
        assert file.commit([[SaveSession(row("new"))]]) == [""]
    aside = path.with_name(f"{FILE_NAME}.damaged-1")
    assert aside.read_bytes() == damaged
    assert S_IMODE(aside.stat().st_mode) == 0o600
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage().startswith(f"session_file_set_aside path={path} as={aside} error=")
    with opened(path) as file:
        assert keys(file) == [key("new")]


def test_every_damaged_file_is_kept(path: Path) -> None:
    for number in range(1, 4):
        fill(path)
        other_kind(path)
        with opened(path):
            pass
        assert path.with_name(f"{FILE_NAME}.damaged-{number}").exists()


def test_crash_with_damage_leaves_nothing_that_meets_the_new_file(path: Path) -> None:
    """A WAL beside it would be a crash to recover from, with the pages of another file."""
    fill(path, 100)
    with opened(path) as file:
        assert file.commit([[DeleteSession(key("99"))]]) == [""]
        left = crash(path)
    random_header(left)
    with opened(left) as file:
        assert list(file.load()) == []
        assert file.commit([[SaveSession(row("new"))]]) == [""]
        again = left.parent.with_name("again")
        shutil.copytree(left.parent, again)
    with opened(again / FILE_NAME) as file:
        assert keys(file) == [key("new")]


def test_emptied_file_is_begun_anew_and_not_in_silence(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """To SQLite it is a new database like any other."""
    fill(path)
    assert caplog.records == []
    os.truncate(path, 0)
    with opened(path) as file:
        assert list(file.load()) == []
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage().startswith(f"session_file_was_empty path={path}")


@pytest.fixture
def foreign() -> Iterator[Path]:
    """A directory that everybody can read, and only somebody else can write to."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        fill(directory / FILE_NAME)
        (directory / FILE_NAME).chmod(0o444)
        directory.chmod(0o555)
        yield directory
        directory.chmod(0o700)


@contextmanager
def unprivileged() -> Iterator[None]:
    """Root may write everywhere, so be nobody."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)


def test_read_only_file_or_directory_is_refused_with_the_remedy(foreign: Path) -> None:
    """FLT-P7: read-only."""
    if os.geteuid() != 0:
        (foreign / FILE_NAME).unlink(missing_ok=True)
    with unprivileged():
        for path in (foreign / FILE_NAME, foreign / "new", foreign / "deeper" / "new"):
            with pytest.raises(ConfigurationError, match="is the directory writable?") as caught:
                SessionFile(path)
            assert str(caught.value).startswith(str(path))


def test_path_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=r"file/state/sessions\.sqlite: .*Not a directory"):
        open_store(str(tmp_path / "file" / "state"), StoreThread)
