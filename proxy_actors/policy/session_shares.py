"""Who holds how many of some sessions, and which of the idle ones is to make room for another.

Nobody can end what is in use, so how many there may be of one holder depends on how many are left
for others (`policy/shares.py`), whether they are in use yet or not. Who wants more than that has an
idle one of its own end for it, or of somebody who holds more.

Owns the counts and the ranks, and keeps them so that it never looks through the sessions: a change
searches two sorted lists, a decision looks at each number that somebody holds.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter

from proxy_actors.policy.shares import may_have_one_more, take_one

# When it was used last, as the ledger counts; a number that no other has; the key of the session.
Rank = tuple[float, int, str]


class SessionShares:
    """The shares of all sessions, or of those at an upstream, of which there may be `most`.

    `held` are the shares, `idle` the ranks of the idle sessions of each holder that has any, and
    `firsts` the first of those, of all the holders of each share.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.occupied = 0
        self.held: Counter[str] = Counter()
        self.idle: dict[str, list[Rank]] = {}
        self.firsts: dict[int, list[Rank]] = {}

    def occupy(self, holder: str) -> None:
        """Count one more."""
        self._remove_first(holder)
        self.held[holder] += 1
        self.occupied += 1
        self._add_first(holder)

    def vacate(self, holder: str) -> None:
        """Count one less, which is not idle."""
        self._remove_first(holder)
        take_one(self.held, holder)
        self.occupied -= 1
        self._add_first(holder)

    def rest(self, holder: str, rank: Rank) -> None:
        """List one that is idle now."""
        idle = self.idle.get(holder)
        if idle is None:
            self.idle[holder] = [rank]
            self._add_first(holder)
        elif rank > idle[0]:
            insort(idle, rank)
        else:
            self._remove_first(holder)
            idle.insert(0, rank)
            self._add_first(holder)

    def wake(self, holder: str, rank: Rank) -> None:
        """Drop one that is idle no more."""
        idle = self.idle[holder]
        if rank > idle[0]:
            _remove(idle, rank)
            return
        self._remove_first(holder)
        del idle[0]
        if not idle:
            del self.idle[holder]
        self._add_first(holder)

    def has_room(self, holder: str) -> bool:
        """Whether this holder can have one more beside all that there are."""
        return may_have_one_more(self.held[holder], self.most - self.occupied)

    def to_give_way(self, holder: str) -> str | None:
        """Find the key of the idle session that is to end so that this holder can have one more.

        It is the longest unused of whoever holds most when the newcomer is counted; of those who
        hold as much the newcomer's own is first. Who holds no more than its holder has already does
        not give way to it.
        """
        share, own = self.held[holder], self.idle.get(holder)
        most = max(self.firsts, default=0)
        if own and most < share + 2:
            return own[0][-1]
        return self.firsts[most][0][-1] if most > share else None

    def _add_first(self, holder: str) -> None:
        if holder in self.idle:
            insort(self.firsts.setdefault(self.held[holder], []), self.idle[holder][0])

    def _remove_first(self, holder: str) -> None:
        if holder in self.idle:
            share = self.held[holder]
            _remove(self.firsts[share], self.idle[holder][0])
            if not self.firsts[share]:
                del self.firsts[share]


def _remove(ranks: list[Rank], rank: Rank) -> None:
    del ranks[bisect_left(ranks, rank)]
