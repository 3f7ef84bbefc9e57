"""Shares of a bound on what cannot be taken back once it has begun, and whose turn is when.

What a client has begun lasts for as long as it likes: a call that was sent, a stream, a session in
use, a child. So nobody may have so much that the next finds nothing. The one rule of all of these
is `may_have_one_more`: the more somebody has, the more must be free for another one to begin
(Choudhury and Hahne, "Dynamic Queue Length Thresholds", 1998). Who takes all that it can get has
eight ninths, the next one as much of the rest, and so on; the last place is for one that has none.
So it bounds what one client can do and not what a crowd can: n of them leave one part in 9^n.

`Shares` is the same rule, stricter and at two levels, where there is little and much is asked for:
what everybody has, what the owner has and what the session has, together, must be less than the
bound. A session alone gets a third of it, and an owner alone half; n owners with all that they can
get leave one part in 2^n of the bound, rounded down, or one place less.

What is guaranteed: there are never more than the bound, and where all places are taken the first
that becomes free is for an owner that has none. Nothing is said of when what was begun will end.

`Shares` owns its counts. `policy/stdio_calls.py` has one for the calls at a child,
`actors/stdio_shared.py` one for those who wait for the first child.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from operator import attrgetter, itemgetter
from typing import TypeVar

from proxy_actors.messages.pool import Owner

_Owned = TypeVar("_Owned")
_Key = TypeVar("_Key")

SHARE_OF_REST = 8
"""How many times as much as is left for others somebody may have; their alpha."""


def may_have_one_more(own: int, free: float, of_rest: int = SHARE_OF_REST) -> bool:
    """Whether who has `own` may have one more where so many are free; who has none, the last."""
    return own <= of_rest * (free - 1)


class Shares:
    """Counts what each has of so many as `bound` says."""

    __slots__ = ("_bound", "_in_all", "_of_names", "_of_owners")

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._in_all = 0
        self._of_names: dict[str, int] = {}
        self._of_owners: dict[Owner, int] = {}

    def has_room(self, owner: Owner) -> bool:
        """Whether one more may begin for this owner's session."""
        own = self._of_names.get(owner.name, 0) + self._of_owners.get(owner, 0)
        return may_have_one_more(own, self._bound - self._in_all, of_rest=1)

    def enter(self, owner: Owner) -> None:
        """One more has begun."""
        self._in_all += 1
        self._of_names[owner.name] = self._of_names.get(owner.name, 0) + 1
        self._of_owners[owner] = self._of_owners.get(owner, 0) + 1

    def leave(self, owner: Owner) -> None:
        """One has ended."""
        self._in_all -= 1
        take_one(self._of_names, owner.name)
        take_one(self._of_owners, owner)


def in_turn(rows: Iterable[_Owned]) -> list[_Owned]:
    """Order what has an `owner` so that owners take turns, and so do the sessions of one."""
    for share in (attrgetter("owner"), attrgetter("owner.name")):
        rounds: Counter[object] = Counter()
        placed = []
        for row in rows:
            placed.append((rounds[share(row)], row))
            rounds[share(row)] += 1
        rows = [row for _, row in sorted(placed, key=itemgetter(0))]
    return list(rows)


def take_one(counts: dict[_Key, int], key: _Key) -> None:
    """Count one less of what is counted by key; of what has none no row stays."""
    if counts[key] == 1:
        del counts[key]
    else:
        counts[key] -= 1
