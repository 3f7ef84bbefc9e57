"""A log destination that blocks holds nobody up. RELIABILITY FLT-P14."""

from __future__ import annotations

import logging
import threading

from proxy_actors.transports.log_queue import LogQueue

PATIENCE_S = 30.0


class Destination(logging.Handler):
    """Writes to a list, once it is let."""

    def __init__(self, blocked: bool = False) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.reached = threading.Event()
        self.free = threading.Event()
        if not blocked:
            self.free.set()

    def emit(self, record: logging.LogRecord) -> None:
        self.reached.set()
        assert self.free.wait(PATIENCE_S)
        self.lines.append(self.format(record))


def record(text: str, *args: object, level: int = logging.INFO) -> logging.LogRecord:
    return logging.LogRecord("a", level, __file__, 1, text, args, None)


def test_records_are_written_in_order() -> None:
    destination = Destination()
    queue = LogQueue([destination])
    for number in range(100):
        queue.handle(record("n=%d", number))
    assert queue.drain(PATIENCE_S)
    assert destination.lines == [f"n={number}" for number in range(100)]


def test_blocked_destination_blocks_nobody_and_the_loss_is_told() -> None:
    destination = Destination(blocked=True)
    queue = LogQueue([destination], records_max=5)
    queue.handle(record("first"))
    assert destination.reached.wait(PATIENCE_S)
    for number in range(20):
        queue.handle(record("n=%d", number))
    assert not queue.drain(0)
    destination.free.set()
    assert queue.drain(PATIENCE_S)
    assert destination.lines == [
        "first", *(f"n={number}" for number in range(5)), "log_records_dropped count=15"
    ]
    assert queue.dropped_total == 15, "metrics count from the start, whatever has been told"


def test_arguments_are_formatted_when_they_are_logged() -> None:
    """What changes afterwards does not change the record."""
    destination = Destination(blocked=True)
    queue = LogQueue([destination])
    state = {"a": 1}
    queue.handle(record("state=%s", state))
    state["a"] = 2
    destination.free.set()
    assert queue.drain(PATIENCE_S)
    assert destination.lines == ["state={'a': 1}"]


def test_handlers_keep_their_levels() -> None:
    destination = Destination()
    destination.setLevel(logging.WARNING)
    queue = LogQueue([destination])
    queue.handle(record("quiet"))
    queue.handle(record("loud", level=logging.ERROR))
    assert queue.drain(PATIENCE_S)
    assert destination.lines == ["loud"]
