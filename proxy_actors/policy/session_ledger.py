"""The sessions of the registry: which there are, in which phase, and who uses them.

Owns the counts and orders over them, so that

    occupied = creating + live;  idle = live without an open use, in the order of last use

holds after every call. `policy/session_shares.py` finds what makes room; `policy/sessions.py`
decides, and alone uses this.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, OrderedDict
from collections.abc import Mapping
from enum import Enum
from functools import lru_cache
from itertools import count

import msgspec

from proxy_actors.messages.sessions import Session
from proxy_actors.policy.session_shares import Rank, SessionShares


class Phase(Enum):
    """How far a session has come; see `policy/sessions.py`."""

    CREATING = "creating"
    LIVE = "live"
    ENDING = "ending"


class SessionGauges(msgspec.Struct, frozen=True):
    """The registry in figures. `uses` are open ones; `stale` counts ends of uses unknown."""

    creating: int
    live: int
    ending: int
    uses: int
    stale: int


class Entry:
    """A session. Times are on the monotonic clock.

    Attributes:
        holder: hash of out of whose share it comes, a principal's or an address's.
        rank: its place among the idle; the last one that it had if it is not idle.
        used_s, stored_s: its last use, and the last use that has been written down.
        uses: how many calls and streams are open on it.
        front_id: what the client will hold; only while creating.
        asks: who waits for its creation or its end.
        saving, deleting: whether such a write is underway.
        changed: whether it has to be saved again.
        revives: whether it is live again if its deletion fails.
    """

    __slots__ = (
        "asks", "born_s", "changed", "deleting", "front_id", "holder", "phase", "rank",
        "resumable", "revives", "saving", "session", "stored_s", "used_s", "uses",
    )  # fmt: skip

    def __init__(
        self, session: Session, resumable: bool, born_s: float, used_s: float, holder: str
    ) -> None:
        self.session = session
        self.holder = holder
        self.rank: Rank = (used_s, 0, session.key)
        self.resumable = resumable
        self.born_s = born_s
        self.used_s = self.stored_s = used_s
        self.uses = 0
        self.phase = Phase.CREATING
        self.front_id = ""
        self.asks: list[int] = []
        self.saving = False
        self.deleting = False
        self.changed = False
        self.revives = False


@lru_cache(4096)
def hash_of_principal(principal: str) -> str:
    """Return what is kept of a principal: enough to recognize it, not to read it."""
    return hashlib.sha256(f"principal:{principal}".encode("utf-8", "surrogatepass")).hexdigest()


def key_of(front_id: str) -> str:
    """Return the key of the session that has this id."""
    return hashlib.sha256(front_id.encode("utf-8", "surrogatepass")).hexdigest()


class SessionLedger:
    """The table. `entries` are in the order of creation, `idle` mostly in that of last use.

    Of these there may be `most`, and at some upstreams so many as `of_upstream` says.
    """

    def __init__(self, most: int, of_upstream: Mapping[str, int]) -> None:
        self.entries: dict[str, Entry] = {}
        self.idle: OrderedDict[str, Entry] = OrderedDict()
        self._in_order = True
        self._numbers = count(1)
        self._latest_s = -math.inf
        self._uses: dict[int, Entry] = {}
        self._shares = SessionShares(most)
        self._shares_at = {name: SessionShares(most) for name, most in of_upstream.items()}
        self._stale = 0

    def enter(self, entry: Entry) -> None:
        """Take in a session that is being created."""
        self.entries[entry.session.key] = entry
        self._occupy(entry)

    def enter_ending(self, entry: Entry) -> None:
        """Take in a session that is ending already."""
        entry.phase = Phase.ENDING
        self.entries[entry.session.key] = entry

    def make_live(self, entry: Entry) -> None:
        """From now on it can be used; it was used last of all."""
        entry.phase = Phase.LIVE
        self._rest(entry, max(entry.used_s, self._latest_s), next(self._numbers))

    def make_ending(self, entry: Entry) -> None:
        """From now on a live one cannot be used and occupies no place."""
        entry.phase = Phase.ENDING
        if not entry.uses:
            self._wake(entry)
        self._vacate(entry)

    def revive(self, entry: Entry) -> None:
        """Make live again what was ending, as the one unused for longest."""
        entry.phase = Phase.LIVE
        self._occupy(entry)
        self._rest(entry, -math.inf, -next(self._numbers))
        self.idle.move_to_end(entry.session.key, last=False)

    def remove(self, entry: Entry) -> None:
        """Forget a session that is creating or ending."""
        del self.entries[entry.session.key]
        if entry.phase is Phase.CREATING:
            self._vacate(entry)

    def claim(self, entry: Entry, holder: str) -> None:
        """From now on a live one comes out of this holder's share."""
        idle = entry.session.key in self.idle
        for shares in self._counting(entry):
            if idle:
                shares.wake(entry.holder, entry.rank)
            shares.vacate(entry.holder)
            shares.occupy(holder)
            if idle:
                shares.rest(holder, entry.rank)
        entry.holder = holder

    def begin_use(self, entry: Entry, exchange_id: int, now_s: float) -> None:
        """Count a use of a live session; exchange 0 is nobody's name."""
        if not entry.uses:
            self._wake(entry)
        entry.uses += 1
        entry.used_s = now_s
        if exchange_id:
            self._uses[exchange_id] = entry

    def end_use(self, key: str, exchange_id: int, used_s: float) -> None:
        """Close the use of an exchange, or without one some use of the session `key`."""
        if exchange_id:
            entry = self._uses.pop(exchange_id, None)
        else:
            entry = self.entries.get(key)
        if entry is None or not entry.uses:
            self._stale += 1
            return
        entry.uses -= 1
        entry.used_s = max(entry.used_s, used_s)
        if not entry.uses and entry.phase is Phase.LIVE:
            self._in_order = self._in_order and self._latest_s <= entry.used_s
            self._rest(entry, entry.used_s, next(self._numbers))

    def live(self, key: str) -> Session | None:
        """Return a session that can be used."""
        entry = self.entries.get(key)
        return entry.session if entry is not None and entry.phase is Phase.LIVE else None

    @property
    def excess(self) -> int:
        """How many there are above what there may be, as when that is less after a restart."""
        return self._shares.occupied - self._shares.most

    def full_at(self, holder: str, upstream: str) -> SessionShares | None:
        """Find the shares in which somebody has to make room for one more of this holder's."""
        there = self._shares_at.get(upstream)
        if there is not None and not there.has_room(holder):
            return there
        return None if self._shares.has_room(holder) else self._shares

    def longest_unused(self) -> Entry | None:
        """Return the first of the idle."""
        self._order()
        return next(iter(self.idle.values()), None)

    def to_give_way(self, holder: str, shares: SessionShares | None = None) -> Entry | None:
        """Find which idle session is to end so that this holder can have one more.

        See `SessionShares`; those of all count where none are given.
        """
        key = (self._shares if shares is None else shares).to_give_way(holder)
        return None if key is None else self.entries[key]

    def _order(self) -> None:
        """Put the idle in the order of last use, if a use ended that was over for a while."""
        if not self._in_order:
            for entry in [x for x in self.idle.values() if x.rank[0] == -math.inf]:
                self._wake(entry)  # what was revived was first for now
                self._rest(entry, entry.used_s, next(self._numbers))
            by_rank = sorted(self.idle.items(), key=lambda item: item[1].rank)
            self.idle = OrderedDict(by_rank)
            self._in_order = True

    def gauges(self) -> SessionGauges:
        """Count."""
        phases = Counter(entry.phase for entry in self.entries.values())
        return SessionGauges(
            creating=phases[Phase.CREATING],
            live=phases[Phase.LIVE],
            ending=phases[Phase.ENDING],
            uses=sum(entry.uses for entry in self.entries.values()),
            stale=self._stale,
        )

    def _occupy(self, entry: Entry) -> None:
        for shares in self._counting(entry):
            shares.occupy(entry.holder)

    def _vacate(self, entry: Entry) -> None:
        for shares in self._counting(entry):
            shares.vacate(entry.holder)

    def _rest(self, entry: Entry, used_s: float, number: int) -> None:
        """List a live one as idle, last in `idle`; among those that make room by its rank."""
        self._latest_s = max(self._latest_s, used_s)
        entry.rank = (used_s, number, entry.session.key)
        self.idle[entry.session.key] = entry
        for shares in self._counting(entry):
            shares.rest(entry.holder, entry.rank)

    def _wake(self, entry: Entry) -> None:
        """It is idle no more."""
        del self.idle[entry.session.key]
        for shares in self._counting(entry):
            shares.wake(entry.holder, entry.rank)

    def _counting(self, entry: Entry) -> tuple[SessionShares, ...]:
        """Return the shares that it counts in."""
        there = self._shares_at.get(entry.session.upstream)
        return (self._shares,) if there is None else (self._shares, there)
