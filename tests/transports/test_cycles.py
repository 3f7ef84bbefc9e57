"""The net under what nobody foresaw: a full collection when the process has grown."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import gevent
import pytest

from proxy_actors.transports.cycles import GROWTH_BYTES_MIN, CycleWatch

BEGIN = 40 << 20


class Thing:
    """What a cycle is made of."""

    def __init__(self) -> None:
        self.itself = self


class Process:
    """Has as much memory as it is told."""

    def __init__(self) -> None:
        self.rss_bytes = BEGIN
        self.watch = CycleWatch(gevent.get_hub().loop, lambda: self.rss_bytes)

    def finds(self, rss_bytes: int) -> bool:
        """Make a cycle and look; whether it is found."""
        thing = weakref.ref(Thing())
        self.rss_bytes = rss_bytes
        self.watch.look()
        return thing() is None


@pytest.fixture
def process() -> Iterator[Process]:
    """The collector itself is off meanwhile."""
    thresholds = gc.get_threshold()
    process = Process()
    process.watch.begin()
    gc.disable()
    yield process
    process.watch.close()
    gc.enable()
    gc.unfreeze()
    gc.set_threshold(*thresholds)


def test_cycles_are_looked_for_when_there_is_much_more_than_before(process: Process) -> None:
    assert not process.finds(BEGIN)
    assert not process.finds(BEGIN + GROWTH_BYTES_MIN)
    assert process.finds(BEGIN + GROWTH_BYTES_MIN + 1)


def test_growth_counts_from_what_the_last_look_has_left(process: Process) -> None:
    """Else a process that has much for good would be looked through at each look."""
    assert process.finds(10 * BEGIN)
    assert not process.finds(10 * BEGIN)
    assert not process.finds(12 * BEGIN)
    assert process.finds(13 * BEGIN)


def test_growth_counts_from_the_least_there_has_been_since(process: Process) -> None:
    assert process.finds(10 * BEGIN)
    assert not process.finds(5 * BEGIN)
    assert process.finds(10 * BEGIN)
