"""Ends a run that is told to end, with all that it has started.

TERM and INT raise SystemExit where the main thread is, so that every `with` on its stack is left:
servers and relays end, proxies are killed (and their guardians end the rest), what was mounted is
unmounted. A second signal changes nothing: what is underway is bounded.
"""

from __future__ import annotations

import signal
from typing import NoReturn

SIGNALS = (signal.SIGTERM, signal.SIGINT)


def unwind_when_told() -> None:
    """Have TERM and INT end this process in order, with the status that a shell makes of them."""
    for number in SIGNALS:
        signal.signal(number, _unwind)


def _unwind(told: int, _: object) -> NoReturn:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise SystemExit(128 + told)
