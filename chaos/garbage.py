"""Imported into a proxy, has it free by counting references alone, and USR1 tell what is left.

For a program under test alone. The collector of cycles does not run by itself. With USR1 it looks
once, and what it finds of the proxy's own is logged by kind: objects of its classes, and frames of
its functions, which hold whatever they had in hand.
"""

from __future__ import annotations

import gc
import logging
import signal
from collections import Counter
from types import FrameType
from typing import Any

from proxy_actors import service

PACKAGE = "proxy_actors"
_watch_signals = service._Service._watch_signals

logger = logging.getLogger("chaos.garbage")


def _own(thing: object) -> str:
    """Name what is of the proxy's own; "" for anything else."""
    if isinstance(thing, FrameType):
        module, name = thing.f_globals.get("__name__", ""), f"frame {thing.f_code.co_qualname}"
    else:
        kind = type(thing)
        module, name = kind.__module__, kind.__qualname__
    return name if module.partition(".")[0] == PACKAGE else ""


def _tell() -> None:
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    gc.set_debug(0)
    found = Counter(filter(None, map(_own, gc.garbage)))
    gc.garbage.clear()
    gc.collect()
    logger.warning("garbage_found kinds=%s", dict(found))


def _telling(self: Any) -> None:  # Any: the service's own private parts
    import gevent

    _watch_signals(self)
    gc.disable()
    gevent.signal_handler(signal.SIGUSR1, _tell)


service._Service._watch_signals = _telling
