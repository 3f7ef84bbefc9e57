"""Contracts of `SessionStore`, whatever it keeps its rows on.

A contract is a function `contract_x(world, disk)`. The `Disk` opens one store after another, each a
life of the process, and can be copied as a crash at that moment would leave it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from msgspec.structs import replace
from tests.contracts.staging import Box, soon

from proxy_actors.messages.sessions import (
    DeleteSession,
    SaveSession,
    Session,
    SessionRow,
    SessionWrite,
    TouchSession,
)
from proxy_actors.policy.session_rows import apply
from proxy_actors.world.base import World
from proxy_actors.world.stores import SessionStore

Rows = dict[str, SessionRow]


class Disk(Protocol):
    """What a store keeps its rows on; `lasts` says whether they outlive the process."""

    lasts: bool

    def open(self) -> SessionStore:
        """Begin a life of the process. The one before must have been closed."""

    def copy(self) -> Disk:
        """Return the disk as a crash at this moment would leave it."""


def contract_first_life_finds_neither_rows_nor_notes(world: World, disk: Disk) -> None:
    store = disk.open()
    assert list(store.rows()) == []
    assert store.unfinished == {}
    assert store.close(soon(world))


def contract_row_is_there_from_the_moment_its_writing_is_answered(
    world: World, disk: Disk
) -> None:
    store, box = disk.open(), Box(world)
    store.submit([SaveSession(row("a"))], lambda error: box.tell((error, rows_of(store))))
    if not box.mail:
        assert rows_of(store) == {}, "a row is there that is not durable"
    assert box.wait_for(1) == [("", by_key(row("a")))]
    assert store.close(soon(world))


def contract_what_was_answered_outlives_a_crash(world: World, disk: Disk) -> None:
    """Durable before the answer leaves: a crash may come as soon as it has been given."""
    store, crashes = disk.open(), Box(world)
    steps = [
        [SaveSession(row("a")), SaveSession(row("b"))],
        [TouchSession(key("a"), 3000.0)],
        [SaveSession(changed(row("b"), log_level="debug")), SaveSession(row("c"))],
        [DeleteSession(key("a")), DeleteSession(key("c"))],
    ]
    expected: Rows = {}
    for number, writes in enumerate(steps, 1):
        store.submit(writes, lambda error: crashes.tell((error, disk.copy())))
        error, left = crashes.wait_for(number)[-1]
        assert error == ""
        apply(expected, writes)
        assert rows_of(store) == expected
        assert after_restart(world, left) == (expected if disk.lasts else {}), f"step {number}"
    assert store.close(soon(world))


def contract_crash_leaves_what_was_submitted_first_and_never_half_of_it(
    world: World, disk: Disk
) -> None:
    store, box = disk.open(), Box(world)
    names = [f"{number:02}" for number in range(20)]
    for name in names:
        store.submit([SaveSession(row(f"{name}-one")), SaveSession(row(f"{name}-two"))], box.tell)
    for answered in range(1, len(names) + 1):
        box.wait_for(answered)
        left = after_restart(world, disk.copy())
        whole = len(left) // 2
        halves = [row(f"{name}-{half}") for name in names[:whole] for half in ("one", "two")]
        assert left == by_key(*halves)
        assert whole >= answered or not disk.lasts
    assert box.mail == [""] * len(names)
    assert store.close(soon(world))


def contract_close_finishes_what_was_submitted(world: World, disk: Disk) -> None:
    store, box = disk.open(), Box(world)
    rows = [row(f"{number}") for number in range(20)]
    for saved in rows:
        store.submit([SaveSession(saved)], box.tell)
    assert store.close(soon(world))
    assert box.mail == [""] * len(rows)
    assert after_restart(world, disk) == (by_key(*rows) if disk.lasts else {})


def contract_every_value_comes_back_as_it_was(world: World, disk: Disk) -> None:
    odd = changed(
        row("odd", used_s=0.1 + 0.2),
        principal="",
        endpoint="x" * 1000,
        upstream_session_id="quote ' and \" and NUL \0 and \u20ac",
        version="",
        initialize_params=bytes(range(256)) * 256,
        log_level="",
        subscriptions=("file:///a b", "", "\u00e9\U0001f600", "[\"'\\]"),
    )
    bare = changed(row("bare"), upstream_session_id=None, initialize_params=b"")
    later = replace(row("later"), created_s=1e10 + 0.015625, owner="7")
    rows = by_key(odd, bare, later)
    store = disk.open()
    assert written(world, store, *map(SaveSession, rows.values())) == ""
    assert rows_of(store) == rows
    assert store.close(soon(world))
    assert after_restart(world, disk) == (rows if disk.lasts else {})


def contract_what_is_not_resumable_is_kept_but_never_written_down(
    world: World, disk: Disk
) -> None:
    store = disk.open()
    kept, passing = row("kept"), row("passing", resumable=False)
    assert written(world, store, SaveSession(passing), SaveSession(kept)) == ""
    assert written(world, store, TouchSession(key("passing"), 3000.0)) == ""
    assert rows_of(store) == by_key(kept, replace(passing, used_s=3000.0))
    assert after_restart(world, disk.copy()) == (by_key(kept) if disk.lasts else {})
    assert written(world, store, DeleteSession(key("passing"))) == ""
    assert rows_of(store) == by_key(kept)
    assert store.close(soon(world))


def contract_writes_about_nothing_are_no_errors(world: World, disk: Disk) -> None:
    store = disk.open()
    assert written(world, store) == ""
    assert written(world, store, TouchSession(key("nobody"), 1.0)) == ""
    assert written(world, store, DeleteSession(key("nobody"))) == ""
    assert rows_of(store) == {}
    assert written(world, store, SaveSession(row("a"))) == ""
    assert written(world, store, DeleteSession(key("a")), DeleteSession(key("a"))) == ""
    assert written(world, store, TouchSession(key("a"), 1.0)) == ""
    assert rows_of(store) == {}
    assert store.close(soon(world))
    assert after_restart(world, disk) == {}


def contract_writes_take_effect_in_the_order_of_submission(world: World, disk: Disk) -> None:
    """However they are gathered, the rows end up as if they had been written one by one."""
    store, box = disk.open(), Box(world)
    expected: Rows = {}
    for number in range(1, 301):
        writes = [drawn_write(world, number) for _ in range(int(world.random() * 4))]
        store.submit(writes, box.tell)
        apply(expected, writes)
        if world.random() < 0.05:
            box.wait_for(number)
            assert rows_of(store) == expected
    assert box.wait_for(300) == [""] * 300
    assert rows_of(store) == expected
    assert store.close(soon(world))
    resumable = {key: kept for key, kept in expected.items() if kept.resumable}
    assert after_restart(world, disk) == (resumable if disk.lasts else {})


def contract_who_is_answered_may_submit_more(world: World, disk: Disk) -> None:
    """The registry does. What it submits comes after all that was submitted before, heard or not.

    What is not resumable needs no disk, and must not overtake what does.
    """
    store, box = disk.open(), Box(world)
    passing = row("passing", resumable=False)
    assert written(world, store, SaveSession(passing)) == ""
    expected = by_key(passing)

    def submit(*writes: SessionWrite, then: Sequence[SessionWrite] = ()) -> None:
        def done(error: str) -> None:
            box.tell(error)
            if then:
                submit(*then)

        apply(expected, writes)
        store.submit(writes, done)

    submit(SaveSession(row("first")))  # what follows may have to wait for this
    submit(SaveSession(row("a")), then=[DeleteSession(key("passing"))])
    submit(SaveSession(replace(passing, used_s=3000.0)), then=[SaveSession(row("b"))])
    submit(TouchSession(key("first"), 3000.0))
    assert box.wait_for(6) == [""] * 6
    assert rows_of(store) == expected
    assert store.close(soon(world))


def contract_nobody_waits_for_the_disk(world: World, disk: Disk) -> None:
    """FLT-P7: others run between a submission and its answer, and `submit` returns at once."""
    store, box = disk.open(), Box(world)
    turns = Box(world)
    world.spawn("other", lambda: turns.tell("ran") and None)
    for number in range(10):
        store.submit([SaveSession(row(f"{number}"))], box.tell)
    assert turns.mail == [], "submit has switched"
    assert turns.wait_for(1) == ["ran"]
    assert box.wait_for(10) == [""] * 10
    assert store.close(soon(world))


# Rows.


def row(name: str, used_s: float = 2000.0, resumable: bool = True) -> SessionRow:
    session = Session(
        key=key(name),
        principal="p" * 64,
        upstream="default",
        endpoint="" if resumable else "child-1",
        upstream_session_id=f"upstream of {name}",
        version="2025-11-25",
        initialize_params=b"{}",
    )
    return SessionRow(session, resumable, 1000.0, used_s)


def key(name: str) -> str:
    return name.rjust(64, "0")


def changed(saved: SessionRow, **values: object) -> SessionRow:
    return replace(saved, session=replace(saved.session, **values))


def by_key(*rows: SessionRow) -> Rows:
    return {saved.session.key: saved for saved in rows}


def rows_of(store: SessionStore) -> Rows:
    """The rows of a store, each of which it has once."""
    rows = list(store.rows())
    found = by_key(*rows)
    assert len(found) == len(rows)
    return found


def after_restart(world: World, disk: Disk) -> Rows:
    """What the next life of the process finds."""
    store = disk.open()
    rows = rows_of(store)
    assert store.unfinished == {}
    assert store.close(soon(world))
    return rows


def written(world: World, store: SessionStore, *writes: SessionWrite) -> str:
    """Submit, and wait for the answer."""
    box = Box(world)
    store.submit(writes, box.tell)
    error: str = box.wait_for(1)[0]
    return error


def drawn_write(world: World, number: int) -> SessionWrite:
    """A write to one of a few rows. Whether a row is resumable never changes."""
    names = ("a", "b", "c", "d", "e")
    name = names[int(world.random() * len(names))]
    kind = world.random()
    if kind < 0.4:
        return SaveSession(row(name, float(number), resumable=name < "d"))
    if kind < 0.7:
        return TouchSession(key(name), float(number))
    return DeleteSession(key(name))
