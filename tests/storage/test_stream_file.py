"""The file of event streams: what followed an event exactly, or not at all, and never too much.

MCP-S-16; FLT-P6, FLT-P7.
"""

from __future__ import annotations

import logging
import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from stat import S_IMODE

import pytest

from proxy_actors.errors import ConfigurationError
from proxy_actors.messages.stream_store import (
    ForgetStream,
    KeepEvent,
    LeaveStream,
    OpenStream,
    StoredStream,
    StreamWrite,
    TrimStream,
)
from proxy_actors.storage import streams
from proxy_actors.storage.open import STREAMS_FILE_NAME
from proxy_actors.storage.streams import SCHEMA_VERSION, StreamFile

CALL = StoredStream("call-a", "key", b'"1"')
ALONE = StoredStream("standalone-a", "key")
AGE_S = 60.0


class Clock:
    """The time of day."""

    def __init__(self) -> None:
        self.now_s = 1_000_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / STREAMS_FILE_NAME


@pytest.fixture
def file(path: Path, clock: Clock) -> Iterator[StreamFile]:
    file = StreamFile(path, AGE_S, 1 << 20, clock)
    yield file
    file.close()


def kept(*numbers: int, stream: StoredStream = CALL, first: int = 1) -> list[StreamWrite]:
    return [KeepEvent(stream, number, first, b"%d" % number) for number in numbers]


def following(file: StreamFile, after: int, stream: StoredStream = CALL) -> list[int] | None:
    found = file.read(stream.id, after)
    assert found is not None and found.stream == stream
    return None if found.events is None else [int(data) for data in found.events]


def rows(path: Path, table: str) -> int:
    with closing(sqlite3.connect(path)) as database:
        count: int = database.execute(f'SELECT COUNT(*) FROM "{table}"').fetchone()[0]
        return count


def test_what_followed_is_there_whole(file: StreamFile) -> None:
    assert file.commit([OpenStream(CALL), *kept(1, 2, 3)]) == ""
    assert [following(file, after) for after in range(5)] == [[1, 2, 3], [2, 3], [3], [], []]
    assert file.read("call-b", 0) is None


def test_stream_without_an_event_is_known(file: StreamFile) -> None:
    """Its client has an id already, the one before the first event."""
    assert file.commit([OpenStream(CALL)]) == ""
    found = file.read(CALL.id, 0)
    assert found is not None
    assert (found.stream, found.events, found.newest) == (CALL, (), b"")


def test_gap_is_never_passed_over(file: StreamFile) -> None:
    """Writes may be lost, to a full disk for example: what followed them is not all there."""
    file.commit(kept(1, 2))
    file.commit(kept(5, 6))
    assert [following(file, after) for after in (0, 2, 3, 4, 5)] == [None, None, None, [5, 6], [6]]


def test_ring_drops_in_the_file_too(file: StreamFile) -> None:
    file.commit(kept(1, 2, 3))
    file.commit(kept(4, first=3))
    assert [following(file, after) for after in (1, 2)] == [None, [3, 4]]
    file.commit([TrimStream(CALL, 5)])
    assert [following(file, after) for after in (3, 4)] == [None, []]
    file.commit([*kept(5, 6), *kept(7, first=7)])
    assert [following(file, after) for after in (5, 6)] == [None, [7]]


def test_old_events_are_not_sent_again(file: StreamFile, clock: Clock) -> None:
    file.commit(kept(1))
    clock.now_s += 40.0
    file.commit(kept(2))
    clock.now_s += 30.0
    assert [following(file, after) for after in (0, 1, 2)] == [None, [2], []]


def test_streams_are_kept_for_a_while_after_their_end(
    path: Path, file: StreamFile, clock: Clock
) -> None:
    other = StoredStream("call-b", "key", b"2")
    file.commit([*kept(1, 2), *kept(1, stream=other)])
    file.commit([LeaveStream(CALL)])
    clock.now_s += AGE_S - 1.0
    assert following(file, 0) == [1, 2]
    clock.now_s += AGE_S + 2.0
    file.commit(kept(2, stream=other))
    assert file.read(CALL.id, 2) is None
    assert following(file, 2, other) == []
    file.commit([ForgetStream(other)])
    file.close()
    assert (rows(path, "event"), rows(path, "stream")) == (0, 0)


def test_streams_of_a_process_that_was_killed_end_when_the_next_begins(
    path: Path, clock: Clock
) -> None:
    file = StreamFile(path, AGE_S, 1 << 20, clock)
    file.commit(kept(1, 2))
    file.close()
    clock.now_s += 10_000.0
    file = StreamFile(path, AGE_S, 1 << 20, clock)
    assert following(file, 1) is None, "too old to be sent again"
    assert following(file, 2) == [], "but the call is known"
    clock.now_s += AGE_S + 1.0
    file.commit([OpenStream(ALONE)])
    assert file.read(CALL.id, 2) is None
    file.close()


def test_next_standalone_stream_of_the_session_is_named(file: StreamFile) -> None:
    """Calls are none, nor are other sessions' streams."""
    following, theirs = StoredStream("standalone-b", "key"), StoredStream("standalone-c", "other")
    file.commit([OpenStream(ALONE)])
    file.commit([*kept(1), OpenStream(theirs)])
    found = file.read(ALONE.id, 0)
    assert found is not None and found.next == ""
    file.commit([OpenStream(following), OpenStream(StoredStream("standalone-d", "key"))])
    found = file.read(ALONE.id, 0)
    assert found is not None and found.next == following.id


def test_opening_that_could_not_be_written_is_made_up_for(file: StreamFile) -> None:
    file.commit(kept(3, 4, first=2))
    assert [following(file, after) for after in (1, 2)] == [None, [3, 4]]


def test_all_of_a_commit_is_written_or_nothing(file: StreamFile) -> None:
    bad = KeepEvent(CALL, 2, 1, object())  # type: ignore[arg-type]
    assert file.commit([*kept(1), bad]) != ""
    assert file.read(CALL.id, 0) is None


def test_file_is_bounded_and_what_has_ended_makes_room(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "SPARE_BYTES", 100_000)
    file = StreamFile(path, AGE_S, 200_000, clock)
    numbers = [StoredStream(f"call-{n}", "key", b"1") for n in range(100)]
    for stream in numbers:
        event = KeepEvent(stream, 1, 1, bytes(20_000))
        assert file.commit([event]) == ""
        assert file.commit([LeaveStream(stream)]) == ""
    assert file.read(numbers[0].id, 0) is None
    found = file.read(numbers[-1].id, 0)
    assert found is not None and found.events is not None and len(found.events) == 1
    too_much = [KeepEvent(CALL, n, 1, bytes(60_000)) for n in range(1, 10)]
    assert "full" in file.commit(too_much)
    file.close()
    assert path.stat().st_size <= 2 * 200_000 + 100_000


def test_any_history_reads_as_its_ring_would(path: Path, clock: Clock) -> None:
    """Random writes in random commits, some of them lost, beside a plain list."""
    for seed in range(30):
        chance = random.Random(seed)
        file = StreamFile(path.with_name(f"{seed}.sqlite"), AGE_S, 1 << 20, clock)
        there: set[int] = set()
        last = stored = first = 0
        for _ in range(40):
            writes: list[StreamWrite] = []
            numbers: list[int] = []
            for _ in range(chance.randrange(1, 4)):
                last += 1
                first = max(first, chance.choice([0, 0, last - 5]), 1)
                numbers.append(last)
                writes += kept(last, first=first)
            if chance.random() < 0.2:
                first = last + 1
                writes.append(TrimStream(CALL, first))
            if chance.random() < 0.1:
                continue  # this commit is lost
            assert file.commit(writes) == ""
            there = {number for number in there | set(numbers) if number >= first}
            stored = last
            for after in range(last + 2):
                rest = list(range(after + 1, stored + 1))
                assert following(file, after) == (rest if there.issuperset(rest) else None)
        file.close()


def test_file_is_nobody_elses(path: Path, file: StreamFile) -> None:
    file.commit(kept(1))
    for name in (path, Path(f"{path}-wal")):
        assert S_IMODE(name.stat().st_mode) == 0o600
    assert S_IMODE(path.parent.stat().st_mode) == 0o700


def test_damaged_file_is_set_aside(
    path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    path.parent.mkdir()
    path.write_bytes(b"this is no database" * 100)
    StreamFile(path, AGE_S, 1 << 20, clock).close()
    assert "stream_file_set_aside" in caplog.text
    assert [x.levelno for x in caplog.records] == [logging.ERROR]
    assert Path(f"{path}.damaged-1").exists()


def test_file_of_a_later_version_is_left_alone(path: Path, clock: Clock) -> None:
    StreamFile(path, AGE_S, 1 << 20, clock).close()
    with closing(sqlite3.connect(path)) as database:
        database.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    with pytest.raises(ConfigurationError, match="later version"):
        StreamFile(path, AGE_S, 1 << 20, clock)
