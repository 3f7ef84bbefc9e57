"""A loop that does nothing for a while is told of, and where it is (FLT-P18).

The loop is gevent's, the thread is real.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

import gevent
import pytest

from proxy_actors.transports.stall_watch import StallWatch

# Only ever waited out when nothing is told.
PATIENCE_S = 60.0
# By hand: the thread does not come to it.
NEVER_S = 1e6


class Told(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.any = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        self.any.set()


@pytest.fixture
def told() -> Iterator[Told]:
    told, logger = Told(), logging.getLogger("proxy_actors.transports")
    logger.addHandler(told)
    yield told
    logger.removeHandler(told)


@pytest.fixture
def by_hand() -> Iterator[StallWatch]:
    watch = StallWatch(gevent.get_hub().loop, NEVER_S)
    yield watch
    watch.close()


def block_the_loop(told: Told) -> bool:
    """Wait as nothing may that runs in the loop."""
    return told.any.wait(PATIENCE_S)


def test_stall_is_told_while_it_lasts_with_the_stack_of_what_blocks(told: Told) -> None:
    watch = StallWatch(gevent.get_hub().loop, 0.02)
    try:
        assert block_the_loop(told)
    finally:
        watch.close()
    (line,) = told.lines
    assert line.startswith("loop_blocked stack=")
    assert line.index("wait (") < line.index("block_the_loop (") < line.index("test_stall_is")


def test_loop_that_goes_round_is_not_told_of(told: Told, by_hand: StallWatch) -> None:
    for _ in range(5):
        by_hand.beat()
        by_hand.look()
    assert told.lines == []


def test_process_that_was_stopped_has_not_been_blocked(told: Told, by_hand: StallWatch) -> None:
    """The thread may come to look before the loop does."""
    by_hand.look()
    by_hand.beat()
    by_hand.look()
    assert told.lines == []


def test_stall_is_told_once_and_its_end(told: Told, by_hand: StallWatch) -> None:
    for _ in range(2):
        told.lines.clear()
        for _ in range(4):
            by_hand.look()
        by_hand.beat()
        by_hand.look()
        assert [line.partition(" ")[0] for line in told.lines] == ["loop_blocked", "loop_goes_on"]


def test_thread_ends_with_the_watch() -> None:
    watch = StallWatch(gevent.get_hub().loop, 0.01)
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "stall watch"]
    watch.close()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
