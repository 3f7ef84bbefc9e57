"""Shares of what cannot be taken back, in every order of beginnings and ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from functools import partial

import pytest

from proxy_actors.messages.pool import Owner
from proxy_actors.policy import shares
from proxy_actors.policy.shares import Shares, in_turn, may_have_one_more
from tests.defects import Defect, planted
from tests.policy.search import Subject, check, search

# A newcomer, and two sessions of one owner beside two more owners.
NOBODY = Owner("new", "n")
OWNERS = (Owner("one", "a"), Owner("one", "b"), Owner("two", "c"), Owner("three", "d"))


@dataclass(frozen=True)
class Begins:
    owner: Owner


@dataclass(frozen=True)
class Ends:
    owner: Owner


class SharesSubject(Subject):
    """So many places; whoever asks is told whether there is room, and takes it if there is."""

    def __init__(self, bound: int) -> None:
        self.bound = bound
        self.shares = Shares(bound)
        self.has: Counter[Owner] = Counter()

    def moves(self) -> Iterator[Begins | Ends]:
        for owner in OWNERS:
            if self.shares.has_room(owner):
                yield Begins(owner)
            if self.has[owner]:
                yield Ends(owner)

    def make(self, move: Begins | Ends) -> None:
        if isinstance(move, Begins):
            self.shares.enter(move.owner)
            self.has[move.owner] += 1
        else:
            self.shares.leave(move.owner)
            self.has[move.owner] -= 1
        self._check_room()

    def _check_room(self) -> None:
        free = self.bound - self.has.total()
        names = self._names()
        check(free >= 0, "there are more than may be")
        left = self.bound + 1 >> len(+names)
        check(free >= left - 1, f"{len(+names)} owners left {free}, not {left} less one")
        check(self.shares.has_room(NOBODY) == (free > 0), "who has nothing is refused, or too late")
        for owner in OWNERS:
            if names[owner.name] and self.shares.has_room(owner):
                check(free > 1, "who has something takes the last place")
        for owner in OWNERS:
            for other in OWNERS:
                less = names[other.name] <= names[owner.name] and self.has[other] <= self.has[owner]
                if less and self.shares.has_room(owner):
                    check(self.shares.has_room(other), "who has more is preferred")
        if len(+self.has) == 1:
            (alone,) = +self.has
            check(3 * self.has[alone] <= self.bound + 2, "a session alone has more than a third")
            others = [owner for owner in OWNERS if owner != alone]
            check(all(map(self.shares.has_room, others)), "a session alone leaves nothing")
            if 3 * self.has[alone] < self.bound:
                check(self.shares.has_room(alone), "a session alone has less than a third")

    def settle(self) -> None:
        """Nothing is remembered of what has ended, and what is full has room for who comes."""
        for owner in OWNERS:
            if self.has[owner]:
                self.shares.leave(owner)
                check(self.shares.has_room(NOBODY), "what became free is not for who has nothing")
                self.shares.enter(owner)
        for owner in self.has.elements():
            self.shares.leave(owner)
        check(not self.shares._of_names and not self.shares._of_owners, "the past is remembered")
        check(not self.shares._in_all, "the past counts")

    def key(self) -> Hashable:
        return tuple(self.has[owner] for owner in OWNERS)

    def _names(self) -> Counter[str]:
        names: Counter[str] = Counter()
        for owner, count in self.has.items():
            names[owner.name] += count
        return names


SCOPES = {bound: partial(SharesSubject, bound) for bound in (5, 7, 8, 15)}


@pytest.mark.parametrize("bound", SCOPES)
def test_shares_are_as_guaranteed_in_every_order_of_beginnings_and_ends(bound: int) -> None:
    findings = search(SCOPES[bound])
    assert findings.violation is None, (findings.violation, findings.trace)
    assert findings.states > bound


DEFECTS = (
    Defect("one has all", Shares, "has_room", "(own, ", "(0, "),
    Defect("an owner has all by many sessions", Shares, "has_room",
           "self._of_names.get(owner.name, 0) + ", ""),
    Defect("sessions of one owner have no shares", Shares, "has_room",
           "+ self._of_owners.get(owner, 0)", "* 2"),
    Defect("what others have does not matter", Shares, "has_room",
           "self._in_all", "2 * own"),
    Defect("there is one too many", Shares, "has_room", "self._in_all", "self._in_all + 1"),
    Defect("a place is never used", Shares, "has_room", "self._in_all", "self._in_all - 1"),
    Defect("what has ended counts in all", Shares, "leave", "self._in_all -= 1", "pass"),
    Defect("what has ended counts for its owner", Shares, "leave",
           "take_one(self._of_names, owner.name)", "pass"),
    Defect("what has ended counts for its session", Shares, "leave",
           "take_one(self._of_owners, owner)", "pass"),
    Defect("who has nothing any more is remembered", shares, "take_one",
           "del counts[key]", "counts[key] = 0"),
)  # fmt: skip


@pytest.mark.parametrize("defect", DEFECTS, ids=str)
def test_planted_defect_is_found(defect: Defect) -> None:
    """What the search would say if the shares were wrong."""
    with planted(defect):
        found = [search(SCOPES[bound]).violation for bound in (5, 15)]
    assert any(found), "nothing found"


@dataclass(frozen=True)
class Row:
    number: int
    owner: Owner


def test_owners_take_turns_and_so_do_sessions_of_one() -> None:
    """In the order in which `FairQueue` would serve them."""
    one_a, one_b, two_c, _ = OWNERS
    owners = [one_a, one_a, one_a, one_b, two_c, two_c]
    rows = [Row(number, owner) for number, owner in enumerate(owners, 1)]
    assert [row.number for row in in_turn(rows)] == [1, 5, 4, 6, 2, 3]
    assert in_turn([]) == []


def test_each_who_takes_all_that_it_can_get_leaves_a_ninth_and_the_last_place() -> None:
    for bound in range(2, 1000):
        free = bound
        while free > 1:
            own = 0
            while may_have_one_more(own, free - own):
                own += 1
            left = free - own
            assert left >= max(free // 9, 1), f"{own} of {free}"
            assert left <= (free + 7) // 9, f"{own} of {free}: less than it could have"
            free = left
        assert may_have_one_more(0, 1) and not may_have_one_more(1, 1)
        assert not may_have_one_more(0, 0)
