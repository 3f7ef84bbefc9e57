"""What something costs that has nothing to do.

An actor of which there are thousands holds no greenlet while it has no mail, and neither does a
client's connection whose event stream is silent: what would wake its greenlet starts one. And of
Pykka's flag of an actor's end it has no more than what is asked of it.
"""

from __future__ import annotations

from collections.abc import Callable


class Flag:
    """Set once. For one thread: `threading.Event` brings locks for many, and a kilobyte."""

    __slots__ = ("_set",)

    def __init__(self) -> None:
        self._set = False

    def is_set(self) -> bool:
        """Whether it is."""
        return self._set

    def set(self) -> None:
        """Set it."""
        self._set = True


class Nap:
    """Stands where the waiter of a parked greenlet does; whoever sets it first has all go on."""

    __slots__ = ("_go_on", "is_set")

    def __init__(self, go_on: Callable[[], object]) -> None:
        self._go_on = go_on
        self.is_set = False

    def set(self) -> bool:
        """Have it go on, unless it is about to."""
        if self.is_set:
            return False
        self._go_on()  # first: who crashes here has not had it go on
        self.is_set = True
        return True
