"""The event streams of this process, found by name and by the ids of their events.

Owns how many streams may be kept after their end. An event's id is its stream's own name, without
the path to it, and its number there: `call-mXf2Qq3TzA0.17`. The name ends with a token of a CSPRNG,
so no stream can be guessed, and it says whether a call's answer or a standalone stream is meant,
when the stream itself is no more.
"""

from __future__ import annotations

from proxy_actors.actors.directory import Directory
from proxy_actors.actors.refs import Slot
from proxy_actors.messages.stream import CloseStream
from proxy_actors.policy.stream_limits import StreamLimits

CALL = "call-"
STANDALONE = "standalone-"
NUMBER_DIGITS_MAX = 18


class StreamDirectory(Directory):
    """Slots of streams by name and by id."""

    def __init__(self, limits: StreamLimits = StreamLimits()) -> None:
        super().__init__()
        self.limits = limits
        self._by_id: dict[str, Slot] = {}
        self._ended: dict[str, Slot] = {}

    def enter(self, slot: Slot) -> None:
        """List a stream."""
        super().enter(slot)
        self._by_id[stream_id(slot.name)] = slot

    def remove(self, name: str) -> None:
        """Forget a stream. Idempotent."""
        super().remove(name)
        self._by_id.pop(stream_id(name), None)
        self._ended.pop(name, None)

    def find_by_id(self, id: str) -> Slot | None:
        """Find the stream of an event; None when it is not there (any more)."""
        return self._by_id.get(id)

    def keep_ended(self, slot: Slot) -> None:
        """Count a stream that has ended, at the cost of the one that ended first."""
        if slot.name not in self._slots:
            return
        self._ended[slot.name] = slot
        if len(self._ended) > self.limits.ended_max:
            oldest = self._ended.pop(next(iter(self._ended)))
            oldest.tell(CloseStream())


def stream_id(name: str) -> str:
    """Return what stands for a stream of that name in the ids of its events."""
    return name.rpartition("/")[2]


def event_id(stream: str, number: int) -> bytes:
    """Return the id of an event; number 0 is before the first."""
    return f"{stream}.{number}".encode("ascii")


def read_event_id(value: bytes) -> tuple[str, int] | None:
    """Read the stream's id and the event's number; None for what no event of ours has."""
    stream, dot, number = value.rpartition(b".")
    if not dot or not number.isdigit() or len(number) > NUMBER_DIGITS_MAX or not stream.isascii():
        return None
    return stream.decode("ascii"), int(number)
