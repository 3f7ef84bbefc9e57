"""Waiting for what real processes and threads do: for an event where there is one, else by looking.

A wait ends as soon as it can; its patience is spent only when something is broken.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

PATIENCE_S = 30.0
_LOOK_AGAIN_S = 0.005

T = TypeVar("T")


def eventually(condition: Callable[[], T]) -> T:
    """Look until the condition says something true; return that."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not (said := condition()):
        assert time.monotonic() < deadline_s, "it did not come to pass"
        threading.Event().wait(_LOOK_AGAIN_S)
    return said
