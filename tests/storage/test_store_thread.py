"""The thread that writes sessions: one commit for all that waits, and nobody held up (FLT-P7)."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import gevent
import gevent.event
import pytest

from proxy_actors.messages.sessions import SaveSession
from proxy_actors.storage.sessions import SessionFile
from proxy_actors.transports.store_thread import StoreThread, Writes
from tests.contracts.suite_store import by_key, row, rows_of

PATIENCE_S = 30.0

# A process whose disk hangs: it stops in time all the same. argv[1] is what hangs.
HANGING = """
import sys, threading, time
import gevent
from proxy_actors.messages.sessions import DeleteSession
from proxy_actors.transports.store_thread import StoreThread

hangs, begun = threading.Event(), threading.Event()

def hang():
    begun.set()
    hangs.wait()

def commit(groups):
    if sys.argv[1] == "commit":
        hang()
    return [""] * len(groups)

def release():
    if sys.argv[1] == "release":
        hang()

def main():
    store = StoreThread([], commit, release)
    store.submit([DeleteSession("x")], lambda error: None)
    if sys.argv[1] == "commit":
        begun.wait()
    else:
        assert store._quiet.wait(30)
    print(store.close(time.monotonic() + 0.05))

gevent.spawn(main).get()
"""


class Disk:
    """A file of sessions whose commits wait for `gate` in their thread."""

    def __init__(self, path: Path) -> None:
        self.file = SessionFile(path)
        self.gate = threading.Event()
        self.gate.set()
        self.commits = 0
        self.errors: list[Exception] = []
        connection = self.file._database.connection()
        connection.set_trace_callback(self._count)

    def commit(self, groups: Sequence[Writes]) -> list[str]:
        assert self.gate.wait(PATIENCE_S)
        if self.errors:
            raise self.errors.pop()
        return self.file.commit(groups)

    def _count(self, sql: str) -> None:
        self.commits += sql == "COMMIT"


class Answers(list[str]):
    """What was answered, in order; `wait_for` lets the hub run until there is enough of it."""

    def __init__(self) -> None:
        super().__init__()
        self._arrived = gevent.event.Event()

    def __call__(self, error: str) -> None:
        self.append(error)
        self._arrived.set()

    def wait_for(self, count: int) -> None:
        while len(self) < count:
            assert self._arrived.wait(PATIENCE_S), f"{len(self)} of {count}"
            self._arrived.clear()


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path / "sessions.sqlite")


def on_the_hub(disk: Disk, act: Callable[[StoreThread, Answers], None]) -> None:
    """Run in a greenlet with a store, which is closed afterwards."""

    def run() -> None:
        store = StoreThread(disk.file.load(), disk.commit, disk.file.close)
        try:
            act(store, Answers())
        finally:
            disk.gate.set()
            assert store.close(time.monotonic() + PATIENCE_S)

    gevent.spawn(run).get()


def test_all_that_waits_is_one_commit(disk: Disk) -> None:
    """Counted, not timed: a sync of the disk is paid for once however many wait for it."""

    def act(store: StoreThread, answers: Answers) -> None:
        disk.gate.clear()
        for number in range(101):
            store.submit([SaveSession(row(f"{number}"))], answers)
        disk.gate.set()
        answers.wait_for(101)
        assert answers == [""] * 101
        assert disk.commits == 2, "the first alone, and a hundred that came meanwhile"

    on_the_hub(disk, act)


def test_disk_that_hangs_holds_up_no_greenlet(disk: Disk) -> None:
    """Others run, who submits goes on, what is there can be read, and stopping has its deadline."""

    def act(store: StoreThread, answers: Answers) -> None:
        store.submit([SaveSession(row("before"))], answers)
        answers.wait_for(1)
        disk.gate.clear()
        for number in range(10):
            store.submit([SaveSession(row(f"{number}"))], answers)
            assert gevent.spawn(lambda: "ran").get(timeout=PATIENCE_S) == "ran"
        assert answers == [""], "answered, and nothing is on the disk"
        assert rows_of(store) == by_key(row("before"))
        assert store.close(time.monotonic()) is False
        disk.gate.set()
        answers.wait_for(11)
        assert answers == [""] * 11

    on_the_hub(disk, act)


def test_what_is_kept_in_memory_alone_needs_no_commit(disk: Disk) -> None:
    def act(store: StoreThread, answers: Answers) -> None:
        store.submit([SaveSession(row("a", resumable=False))], answers)
        assert answers == [""], "there was nothing to wait for"
        assert disk.commits == 0

    on_the_hub(disk, act)


def test_commit_that_raises_is_answered_logged_and_survived(
    disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    """A bug in the writing of one batch must not end the writing of all that follow."""

    def act(store: StoreThread, answers: Answers) -> None:
        disk.errors.append(LookupError("planted"))
        store.submit([SaveSession(row("lost"))], answers)
        answers.wait_for(1)
        store.submit([SaveSession(row("kept"))], answers)
        answers.wait_for(2)
        assert answers == ["planted", ""]
        assert rows_of(store) == by_key(row("kept"))

    on_the_hub(disk, act)
    (record,) = [x for x in caplog.records if x.name == "proxy_actors.transports"]
    assert (record.levelno, record.getMessage()) == (logging.ERROR, "commit_failed")


def test_rows_are_what_is_durable_when_a_write_fails(disk: Disk, tmp_path: Path) -> None:
    """FLT-P7: the file is deleted beneath the proxy. Its sessions go on; none begins or ends."""

    def act(store: StoreThread, answers: Answers) -> None:
        store.submit([SaveSession(row("a"))], answers)
        answers.wait_for(1)
        (tmp_path / "sessions.sqlite").unlink()
        store.submit([SaveSession(row("b"))], answers)
        answers.wait_for(2)
        assert "No such file" in answers[1]
        assert rows_of(store) == by_key(row("a"))

    on_the_hub(disk, act)


@pytest.mark.parametrize("what", ["commit", "release"])
def test_process_stops_though_its_disk_hangs(what: str) -> None:
    """FLT-P1: within the time that stopping has, not when the disk comes back."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", HANGING, what],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "False\n")
    assert "store_not_" in done.stderr
