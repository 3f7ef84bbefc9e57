"""The event streams of this process, found by name and by the ids of their events.

Owns the books of how many are open, the budget of what their rings hold, and how many are kept
after their end; it outlives every actor. An event's id is its stream's own name, without the path
to it, and its number there: `call-mXf2Qq3TzA0.17`. The name ends with a token of a CSPRNG, so no
stream can be guessed, and it says whether a call's answer or a standalone stream is meant, when the
stream itself is no more.

Who starts a stream asks for its `refusal` and enters it in one turn. Its row is closed by its end,
by its own actor whatever ends that, or by its parent: the first of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from proxy_actors.actors.directory import Directory
from proxy_actors.actors.meters import StreamMeters
from proxy_actors.actors.refs import Slot
from proxy_actors.actors.stored_ring import StoredRing
from proxy_actors.errors import Reason, Side, StreamsFullError
from proxy_actors.messages.stream import CloseStream
from proxy_actors.messages.stream_store import StoredStream
from proxy_actors.policy.endpoint_state import EndpointState, actor_of
from proxy_actors.policy.replay_ring import ReplayRing
from proxy_actors.policy.ring_budget import RingBudget
from proxy_actors.policy.stream_bounds import StreamBooks, StreamBound, StreamKind, StreamOwner
from proxy_actors.policy.stream_limits import StreamLimits
from proxy_actors.world.stores import StreamStore

CALL = f"{StreamKind.CALL}-"
STANDALONE = f"{StreamKind.STANDALONE}-"
NUMBER_DIGITS_MAX = 18
RETRY_AFTER_S = 1.0


class StreamDirectory(Directory):
    """Slots of streams by name and by id.

    Args:
        upstreams: how many streams each upstream may have open, by its name.
        meters: where is counted.
        store: where streams are written down that may be asked for after a restart.

    Attributes:
        draining: whether the process is about to end, so that nothing written is forgotten.
        endpoints: where calls that stream are counted, by the names of the endpoints' actors.
        watchers: by upstream, who hears that a server's list of tools is another, if anybody does.
    """

    def __init__(
        self,
        limits: StreamLimits = StreamLimits(),
        upstreams: Mapping[str, int] = {},
        meters: StreamMeters | None = None,
        store: StreamStore | None = None,
    ) -> None:
        super().__init__()
        self.limits = limits
        self.meters = StreamMeters() if meters is None else meters
        self.books = StreamBooks(limits, upstreams)
        self.budget = RingBudget(limits.bytes_total_max)
        self.store = store
        self.draining = False
        self.endpoints: dict[str, EndpointState] = {}
        self.watchers: dict[str, Callable[[], None]] = {}
        self.meters.store = store
        self.meters.open, self.meters.budget = self.books.open, self.budget
        self._by_id: dict[str, Slot] = {}
        self._ended: dict[str, Slot] = {}

    def refusal(self, owner: StreamOwner) -> StreamsFullError | None:
        """Return the error that refuses this owner one more stream, if there is no room."""
        bound = self.books.reached(owner)
        if bound is None:
            return None
        self.meters.refused[bound] += 1
        return _full(bound, owner.upstream)

    def enter_stream(self, slot: Slot, owner: StreamOwner) -> None:
        """List a stream, and count it as open."""
        kind = StreamKind.CALL if _is_call(slot.name) else StreamKind.STANDALONE
        self.books.enter(slot.name, kind, owner)
        self.meters.opened[kind] += 1
        self._count(slot.name, kind, 1)
        self.enter(slot)

    def ring(self, name: str, owner: StreamOwner, request_id: bytes | None) -> ReplayRing:
        """Make the ring of a stream.

        Args:
            request_id: the raw JSON id of the call that it answers, empty where it answers none;
                None where nobody could come back to it after a restart.
        """
        if self.store is None or request_id is None:
            return ReplayRing(self.limits, self.budget, owner.name)
        stream = StoredStream(stream_id(name), owner.session_key, request_id)
        return StoredRing(self.limits, self.budget, self.store, stream, owner.name)

    def enter(self, slot: Slot) -> None:
        """List a stream that is counted elsewhere."""
        super().enter(slot)
        self._by_id[stream_id(slot.name)] = slot

    def remove(self, name: str) -> None:
        """Forget a stream. Idempotent."""
        super().remove(name)
        self._leave(name)
        self._by_id.pop(stream_id(name), None)
        self._ended.pop(name, None)

    def find_by_id(self, id: str) -> Slot | None:
        """Find the stream of an event; None when it is not there (any more)."""
        return self._by_id.get(id)

    def tools_changed(self, upstream: str) -> None:
        """Tell that a channel has heard, or must take, a server's list of tools to be another."""
        changed = self.watchers.get(upstream)
        if changed is not None:
            changed()

    def keep_ended(self, slot: Slot) -> None:
        """Count a stream as one that has ended, at the cost of the one that ended first."""
        self._leave(slot.name)
        if slot.name not in self._slots:
            return
        self._ended[slot.name] = slot
        if len(self._ended) > self.limits.ended_max:
            oldest = self._ended.pop(next(iter(self._ended)))
            oldest.tell(CloseStream())

    def _leave(self, name: str) -> None:
        kind = self.books.leave(name)
        if kind is not None:
            self._count(name, kind, -1)

    def _count(self, name: str, kind: StreamKind, more: int) -> None:
        """Count a call at its endpoint, where the upstream has several."""
        state = self.endpoints.get(actor_of(name)) if self.endpoints else None
        if state is not None and kind is StreamKind.CALL:
            state.streaming += more


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


def _is_call(name: str) -> bool:
    return stream_id(name).startswith(CALL)


def _full(bound: StreamBound, upstream: str) -> StreamsFullError:
    """Make the error: 429 where others would be served, 503 where nobody would.

    Both are over when a stream of theirs ends, which nobody can tell; so both say when to try.
    """
    whose = {
        StreamBound.SESSION: "of this session ",
        StreamBound.PRINCIPAL: "of this principal ",
        StreamBound.SHARE: "of this client ",
        StreamBound.UPSTREAM: "of this server ",
        StreamBound.ALL: "",
    }
    own = bound in (StreamBound.SESSION, StreamBound.PRINCIPAL, StreamBound.SHARE)
    return StreamsFullError(
        Reason.RATE_LIMITED if own else Reason.OVERLOADED,
        f"too many event streams {whose[bound]}are open",
        upstream=upstream or None,
        side=Side.CLIENT if own else Side.PROXY,
        retry_after_s=RETRY_AFTER_S,
    )
