"""The thread that writes event streams: in order, bounded, and nobody waits for it (FLT-P7)."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

import gevent
import gevent.event
import pytest

from proxy_actors.messages.stream_store import (
    FoundStream,
    KeepEvent,
    OpenStream,
    StoredStream,
    StreamWrite,
)
from proxy_actors.transports import stream_store_thread
from proxy_actors.transports.stream_store_thread import StreamStoreThread

PATIENCE_S = 30.0
STREAM = StoredStream("call-a", "key", b"1")


def event(number: int, size: int = 1) -> KeepEvent:
    return KeepEvent(STREAM, number, 1, bytes(size))


class Disk:
    """Commits wait for `gate` in their thread; reads tell how many commits they came after."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.commits: list[list[StreamWrite]] = []
        self.error = ""
        self.released = False

    def commit(self, writes: Sequence[StreamWrite]) -> str:
        assert self.gate.wait(PATIENCE_S)
        if self.error == "a defect":
            raise ValueError(self.error)
        if not self.error:
            self.commits.append(list(writes))
        return self.error

    def read(self, stream: str, after: int) -> FoundStream | None:
        if not stream:
            return None
        return FoundStream(STREAM, (b"%d" % len(self.commits),), b"")

    def release(self) -> None:
        self.released = True


def on_the_hub(act: Callable[[StreamStoreThread, Disk], None]) -> Disk:
    """Run in a greenlet with a store, which is closed afterwards."""
    disk = Disk()

    def run() -> None:
        store = StreamStoreThread(disk.commit, disk.read, disk.release)
        try:
            act(store, disk)
        finally:
            disk.gate.set()
            assert store.close(time.monotonic() + PATIENCE_S)

    gevent.spawn(run).get(timeout=2 * PATIENCE_S)
    assert disk.released
    return disk


def sync(store: StreamStoreThread) -> None:
    done = gevent.event.AsyncResult()
    store.sync(done.set)
    done.get(timeout=PATIENCE_S)


def test_what_is_written_in_one_turn_is_one_commit() -> None:
    """The answer and the end of a stream are there together, or not at all."""

    def act(store: StreamStoreThread, disk: Disk) -> None:
        for number in (1, 2, 3):
            store.write(event(number))
        sync(store)
        assert disk.commits == [[event(1), event(2), event(3)]]

    on_the_hub(act)


def test_writes_gather_while_one_is_written_and_keep_their_order() -> None:
    def act(store: StreamStoreThread, disk: Disk) -> None:
        disk.gate.clear()
        store.write(OpenStream(STREAM))
        gevent.sleep(0)
        for number in range(1, 100):
            store.write(event(number))
            gevent.sleep(0)
        disk.gate.set()
        sync(store)
        assert [len(writes) for writes in disk.commits] == [1, 99]
        written = [x.number for x in disk.commits[1] if isinstance(x, KeepEvent)]
        assert written == list(range(1, 100))

    on_the_hub(act)


def test_read_comes_after_everything_written_before() -> None:
    def act(store: StreamStoreThread, disk: Disk) -> None:
        disk.gate.clear()
        store.write(event(1))
        gevent.sleep(0)
        store.write(event(2))
        found = gevent.event.AsyncResult()
        store.read(STREAM.id, 0, found.set)
        disk.gate.set()
        assert found.get(timeout=PATIENCE_S).events == (b"2",)

    on_the_hub(act)


def test_close_writes_what_waits() -> None:
    disk = on_the_hub(lambda store, disk: store.write(event(1)))
    assert disk.commits == [[event(1)]]


@pytest.mark.parametrize("error", ["database or disk is full", "a defect"])
def test_failure_is_counted_and_told_when_it_begins_and_ends(
    error: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)

    def act(store: StreamStoreThread, disk: Disk) -> None:
        disk.error = error
        for number in (1, 2):
            store.write(event(number))
            sync(store)
        assert store.lost == 2
        disk.error = ""
        store.write(event(3))
        sync(store)
        assert store.lost == 2

    disk = on_the_hub(act)
    assert disk.commits == [[event(3)]]
    told = [record.getMessage().partition(" ")[0] for record in caplog.records]
    assert [x for x in told if x != "stream_commit_failed"] == [
        "stream_write_failed", "stream_writes_recovered"
    ]


def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that hangs costs what was to be written, not the memory of the proxy."""
    monkeypatch.setattr(stream_store_thread, "WAITING_BYTES_MAX", 1000)

    def act(store: StreamStoreThread, disk: Disk) -> None:
        disk.gate.clear()
        store.write(event(1))
        gevent.sleep(0)
        for number in range(2, 30):
            store.write(event(number, 100))
        disk.gate.set()
        sync(store)
        written = [x.number for commit in disk.commits for x in commit if isinstance(x, KeepEvent)]
        assert store.lost + len(written) == 29
        assert 20 <= store.lost < 29
        assert written == [1, *range(30 - len(written) + 1, 30)]

    on_the_hub(act)
