"""The waiters of one budget, each in the line of its owner's session, and whose turn it is.

Whoever holds least of the budget is served first, and of those who hold as little whoever has held
so little for longest: of owners at first, then of the sessions of one owner. With nothing lent that
is round robin; with everything lent to one owner, the others get what comes back. Within a line
who came first is first. A full queue makes room for a newcomer at the cost of whoever has most in
it (McKenney, "Stochastic Fairness Queueing", 1990: the longest queue loses).

Owns the lines and the count of what is lent; takes no decision about what is lent, or about time.
`policy/ledger.py` has one for each budget of connections, `policy/stdio_shared_children.py` one for
children. While nobody waits it only counts.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Generic, TypeVar

from proxy_actors.messages.pool import CheckoutConnection, Owner
from proxy_actors.messages.stdio import TakeChild

Waiter = TypeVar("Waiter", CheckoutConnection, TakeChild)


class _Turns:
    """For whom somebody waits, by what they hold: owners, or the sessions of one.

    Attributes:
        waiting: how many wait for each.
    """

    __slots__ = ("_held", "_levels", "_lengths", "waiting")

    def __init__(self) -> None:
        self.waiting: dict[str, int] = {}
        self._held: dict[str, int] = {}
        # By what they hold, in the order of their coming to it; there are no empty levels.
        self._levels: dict[int, OrderedDict[str, None]] = {}
        # How many have so many waiters.
        self._lengths: dict[int, int] = {}

    def add(self, name: str, held: int) -> None:
        """One more waits for a share that holds so much."""
        before = self.waiting.get(name, 0)
        self.waiting[name] = before + 1
        self._count(before, before + 1)
        if not before:
            self._held[name] = held
            self._enter(name, held)

    def remove(self, name: str) -> None:
        """One less waits for a share."""
        before = self.waiting.pop(name)
        self._count(before, before - 1)
        if before > 1:
            self.waiting[name] = before - 1
        else:
            self._leave(name, self._held.pop(name))

    def holds(self, name: str, held: int) -> None:
        """A share holds so much now; it comes last among those who do. No matter if none waits."""
        before = self._held.get(name)
        if before is not None and before != held:
            self._leave(name, before)
            self._held[name] = held
            self._enter(name, held)

    def put_first(self, name: str) -> None:
        """Put a share before those who hold as much."""
        self._levels[self._held[name]].move_to_end(name, last=False)

    def in_turn(self) -> Iterator[str]:
        """Walk over the shares from the one whose turn it is."""
        for held in sorted(self._levels):
            yield from self._levels[held]

    def ahead_of(self, name: str, held: int, place: int) -> int:
        """Estimate how many are served before who has `place` others of its share before it.

        Turns make the others as many as these, where they are so many. Who holds more has its turn
        later, and is left out in proportion.
        """
        own = self.waiting.get(name, 0)
        others = len(self.waiting) - bool(own)
        if not others:
            return place
        turns = place + 1
        theirs = sum(min(length, turns) * count for length, count in self._lengths.items())
        before = sum(len(level) for holding, level in self._levels.items() if holding <= held)
        return place + (theirs - min(own, turns)) * (before - bool(own)) // others

    def longest(self, name: str) -> str | None:
        """Return a share with more waiters than this one would have with one more, if any has."""
        most = max(self._lengths, default=0)
        if most <= self.waiting.get(name, 0) + 1:
            return None
        return next(share for share, length in self.waiting.items() if length == most)

    def _count(self, before: int, after: int) -> None:
        lengths = self._lengths
        if after:
            lengths[after] = lengths.get(after, 0) + 1
        if before:
            if lengths[before] == 1:
                del lengths[before]
            else:
                lengths[before] -= 1

    def _enter(self, name: str, held: int) -> None:
        level = self._levels.get(held)
        if level is None:
            level = self._levels[held] = OrderedDict()
        level[name] = None

    def _leave(self, name: str, held: int) -> None:
        level = self._levels[held]
        del level[name]
        if not level:
            del self._levels[held]


class _Sessions(_Turns, Generic[Waiter]):
    """The sessions of one owner for which somebody waits, and their lines."""

    __slots__ = ("lines",)

    def __init__(self) -> None:
        super().__init__()
        self.lines: dict[str, OrderedDict[int, Waiter]] = {}


class FairQueue(Generic[Waiter]):
    """See the module.

    Attributes:
        rows: who waits, by id; to be read alone.
    """

    __slots__ = ("_held", "_held_in_all", "_owners", "_sessions", "rows")

    def __init__(self) -> None:
        self.rows: dict[int, Waiter] = {}
        self._owners = _Turns()
        self._sessions: dict[str, _Sessions[Waiter]] = {}
        self._held: dict[Owner, int] = {}
        self._held_in_all: dict[str, int] = {}

    def append(self, waiter: Waiter) -> None:
        """Enter a waiter at the end of its line."""
        owner, name, session = waiter.owner, waiter.owner.name, waiter.owner.session
        self.rows[waiter.waiter_id] = waiter
        self._owners.add(name, self._held_in_all.get(name, 0))
        sessions = self._sessions.get(name)
        if sessions is None:
            sessions = self._sessions[name] = _Sessions()
        sessions.add(session, self._held.get(owner, 0))
        line = sessions.lines.get(session)
        if line is None:
            line = sessions.lines[session] = OrderedDict()
        line[waiter.waiter_id] = waiter

    def put_back(self, waiter: Waiter) -> None:
        """Enter a waiter that was served in vain before all that wait beside it."""
        self.append(waiter)
        name, session = waiter.owner.name, waiter.owner.session
        self._owners.put_first(name)
        self._sessions[name].put_first(session)
        self._sessions[name].lines[session].move_to_end(waiter.waiter_id, last=False)

    def take(self, waiter_id: int) -> Waiter | None:
        """Take a waiter out; None when there is no such row."""
        waiter = self.rows.pop(waiter_id, None)
        if waiter is None:
            return None
        name, session = waiter.owner.name, waiter.owner.session
        sessions = self._sessions[name]
        line = sessions.lines[session]
        del line[waiter_id]
        if not line:
            del sessions.lines[session]
            if not sessions.lines:
                del self._sessions[name]
        sessions.remove(session)
        self._owners.remove(name)
        return waiter

    def in_turn(self) -> Iterator[Waiter]:
        """Walk over the waiters from the one whose turn it is; a change ends the walk."""
        for name in self._owners.in_turn():
            sessions = self._sessions[name]
            for session in sessions.in_turn():
                yield from sessions.lines[session].values()

    def lend(self, owner: Owner, change: int) -> None:
        """So much more of the budget is lent to the owner."""
        name = owner.name
        held = self._held.get(owner, 0) + change
        in_all = self._held_in_all.get(name, 0) + change
        if held:
            self._held[owner] = held
        else:
            del self._held[owner]
        if in_all:
            self._held_in_all[name] = in_all
        else:
            del self._held_in_all[name]
        sessions = self._sessions.get(name)
        if sessions is not None:
            self._owners.holds(name, in_all)
            sessions.holds(owner.session, held)

    def claimed(self, name: str) -> int:
        """Return how many are lent to an owner, or waited for."""
        return self._held_in_all.get(name, 0) + self._owners.waiting.get(name, 0)

    def ahead_of(self, owner: Owner) -> int:
        """Estimate how many are served before one more waiter of this owner's."""
        name, session = owner.name, owner.session
        sessions = self._sessions.get(name)
        place = 0
        if sessions is not None:
            own = sessions.waiting.get(session, 0)
            place = sessions.ahead_of(session, self._held.get(owner, 0), own)
        return self._owners.ahead_of(name, self._held_in_all.get(name, 0), place)

    def to_give_way(self, newcomer: Waiter) -> int:
        """Find who is to leave a full queue when this one comes: the newcomer or one that waits.

        It is the last in the longest line of the owner with most waiting; the newcomer if none has
        more than its own would have with it, first of owners and then of the owner's sessions.
        """
        name, session = newcomer.owner.name, newcomer.owner.session
        longest = self._owners.longest(name)
        if longest is not None:
            sessions = self._sessions[longest]
            session = max(sessions.waiting, key=sessions.waiting.__getitem__)
            return next(reversed(sessions.lines[session]))
        own = self._sessions.get(name)
        other = None if own is None else own.longest(session)
        if own is None or other is None:
            return newcomer.waiter_id
        return next(reversed(own.lines[other]))
