"""Which calls that failed say something new: a process that ends fails all that it had in hand.

To whoever judges an endpoint that is one failure, however many calls there were. They are told
within a moment, one after another, and are known by that: none says which process it was. So of
several processes of an endpoint that end at once the first counts, and one that ends again and
again counts once in each `ONE_EXIT_S`. Owns when an exit was counted last, of each endpoint. The
guard of the upstream (`actors/upstream_guard.py`) asks it before all others.
"""

from __future__ import annotations

from proxy_actors.messages.guard import CallFailed, Fault

# Calls that fail within this, since the process has ended, have failed once.
ONE_EXIT_S = 0.1


class Exits:
    """The exits of the processes of one upstream."""

    __slots__ = ("_counted_s",)

    def __init__(self) -> None:
        self._counted_s: dict[str, float] = {}

    def counts(self, call: CallFailed, now_s: float) -> bool:
        """Say of a call, once, whether it is a failure of its own."""
        if call.fault is not Fault.EXIT:
            return True
        counted_s = self._counted_s.get(call.endpoint)
        if counted_s is not None and now_s - counted_s < ONE_EXIT_S:
            return False
        self._counted_s[call.endpoint] = now_s
        return True
