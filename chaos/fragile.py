"""Imported into a proxy, gives USR1 a meaning: an actor crashes or is deaf, or the hub is blocked.

For a program under test alone. CHAOS_FRAGILE says what happens: `crash`, `registry`, `deaf` or
`block`; CHAOS_SEED which actor crashes; CHAOS_DEAF which are deaf, one after another.
"""

from __future__ import annotations

import os
import random
import signal
import time
from itertools import count
from typing import Any

from proxy_actors import service
from proxy_actors.messages.base import Message

BLOCKED_S = 2.0
DEAF_S = 1.0
DEAF_MAIL_MAX = 8
_watch_signals = service._Service._watch_signals


class Fault(Message, frozen=True):
    """Whoever handles it fails, with the n-th kind of failure."""

    serial: int


class Deafness(Message, frozen=True):
    """Whoever handles it handles nothing else for DEAF_S, while its mailbox takes little mail."""


def _raise(serial: int) -> None:
    import gevent

    kinds: list[BaseException] = [
        ValueError("chaos"), gevent.Timeout(), gevent.GreenletExit(), MemoryError(),
        RecursionError(), SystemExit(3),
    ]  # fmt: skip
    raise kinds[serial % len(kinds)]


def _fragile(self: Any) -> None:  # Any: the service's own private parts
    import gevent

    from proxy_actors.actors.base import Actor

    _watch_signals(self)
    chance, serials = random.Random(os.environ["CHAOS_SEED"]), count()
    act, deaf = os.environ["CHAOS_FRAGILE"], os.environ.get("CHAOS_DEAF", "").split()
    dispatch = Actor._dispatch

    def fail(actor: Any, message: Any) -> Any:
        if isinstance(message, Fault):
            return _raise(message.serial)
        if isinstance(message, Deafness):
            actor.actor_inbox.mail_max, before = DEAF_MAIL_MAX, actor.actor_inbox.mail_max
            gevent.sleep(DEAF_S)
            actor.actor_inbox.mail_max = before
            return None
        return dispatch(actor, message)

    Actor._dispatch = fail

    def strike() -> None:
        if act == "block":
            time.sleep(BLOCKED_S)
            return
        refs, found = [self._app.root.ref], []
        while refs:
            children = refs.pop().children()
            refs += children
            found += children
        if act == "deaf":
            name = deaf.pop(0)
            for ref in found:
                if ref._own.name == name:
                    ref.tell(Deafness())
            return
        if act == "registry":
            found = [ref for ref in found if ref.actor_class.__name__ == "SessionRegistry"]
        chance.choice(found).tell(Fault(next(serials)))

    gevent.signal_handler(signal.SIGUSR1, strike)


service._Service._watch_signals = _fragile
