"""Names that come and go: streams and child processes, found by name at the moment of sending.

Written by the parent of what is listed, read by the data plane. What is permanent does not need
it: its `Slot` is handed to whoever may send to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from proxy_actors.actors.refs import Slot
from proxy_actors.errors import ActorStoppedError


class Directory:
    """Slots by name.

    Attributes:
        on_cut: hears that a channel that was listed has ended, and calls that were streams with it.
    """

    def __init__(self) -> None:
        self._slots: dict[str, Slot] = {}
        self.on_cut: Callable[[], None] = lambda: None

    def enter(self, slot: Slot) -> None:
        """List a slot under its name."""
        self._slots[slot.name] = slot

    def remove(self, name: str) -> None:
        """Forget a name. Idempotent."""
        self._slots.pop(name, None)

    def find(self, name: str) -> Slot:
        """Find a slot.

        Raises:
            ActorStoppedError: nobody of that name is listed (any more).
        """
        slot = self._slots.get(name)
        if slot is None:
            raise ActorStoppedError(f"{name} is not running")
        return slot

    def __iter__(self) -> Iterator[Slot]:
        """Go through what is listed."""
        return iter(self._slots.values())

    def __len__(self) -> int:
        return len(self._slots)
