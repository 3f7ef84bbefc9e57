"""Where requests wait, unparsed, while the proxy's own thread is what there is too little of.

Owns who waits, in the order of their coming. It never decides when: `policy/intake.py` does. Only
requests wait. What a client sends to be rid of something, to look after the proxy, or because a
server has asked it, goes on at once.
"""

from __future__ import annotations

from collections import OrderedDict

from proxy_actors.errors import DeadlineError
from proxy_actors.world.base import Waiter, World

# Whoever has waited so long goes on, whatever the lag: it has to be answered.
WAIT_S_MAX = 5.0


class ReadGate:
    """The gate of one process. `closed` is all that is looked at while it is open."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._waiting: OrderedDict[Waiter, None] = OrderedDict()
        self.closed = False

    def __len__(self) -> int:
        return len(self._waiting)

    def wait(self) -> None:
        """Wait to be let in."""
        waiter = self._world.waiter()
        self._waiting[waiter] = None
        try:
            waiter.wait(self._world.now_s() + WAIT_S_MAX)
        except DeadlineError:
            pass
        finally:
            self._waiting.pop(waiter, None)

    def close(self) -> None:
        """Let requests wait from now on."""
        self.closed = True

    def let_in(self, requests: int) -> None:
        """Let so many go on that have waited longest."""
        for _ in range(min(requests, len(self._waiting))):
            waiter, _ = self._waiting.popitem(last=False)
            waiter.set()

    def open(self) -> None:
        """Let all go on. Idempotent."""
        self.closed = False
        self.let_in(len(self._waiting))


def is_request(data: bytes) -> bool:
    """Guess whether what begins a message is a JSON-RPC request, or may be.

    A guess will do, since it decides about an order alone: pages, streams and DELETE have no body,
    a notification has no id, a response no method. Of what shows nothing yet the worst is thought.
    """
    if not data.startswith(b"POST "):
        return False
    body = data.partition(b"\r\n\r\n")[2]
    return not body or (b'"id"' in body and b'"method"' in body)
