"""Whose turn it is, who leaves a full queue, and how good the guess at a newcomer's place is.

That turns are kept in every order of messages is in test_pool_exhaustive.py.
"""

from __future__ import annotations

import itertools

import pytest

from proxy_actors.messages.pool import CheckoutConnection, Owner, Purpose
from proxy_actors.policy.fair_queue import FairQueue

ONE_A, ONE_B, TWO_C = Owner("one", "a"), Owner("one", "b"), Owner("two", "c")


class Bench:
    """A queue whose waiters are known by number."""

    def __init__(self) -> None:
        self.queue = FairQueue[CheckoutConnection]()
        self.ids = 0

    def checkout(self, owner: Owner) -> CheckoutConnection:
        self.ids += 1
        return CheckoutConnection(self.ids, self.ids, Purpose.CALL, 0.0, 0.0, owner)

    def come(self, *owners: Owner) -> None:
        for owner in owners:
            self.queue.append(self.checkout(owner))

    def serve(self) -> CheckoutConnection:
        """Lend to whose turn it is."""
        checkout = next(self.queue.in_turn())
        assert self.queue.take(checkout.waiter_id) is checkout
        self.queue.lend(checkout.owner, 1)
        return checkout

    def served(self, keep: bool) -> list[int]:
        """Serve all; each keeps what it gets, or gives it back before the next."""
        order = []
        while self.queue.rows:
            checkout = self.serve()
            order.append(checkout.waiter_id)
            if not keep:
                self.queue.lend(checkout.owner, -1)
        return order


@pytest.mark.parametrize("keep", [True, False])
def test_owners_take_turns_and_so_do_sessions_of_one(keep: bool) -> None:
    bench = Bench()
    bench.come(ONE_A, ONE_A, ONE_A, ONE_B, TWO_C, TWO_C)
    assert bench.served(keep) == [1, 5, 4, 6, 2, 3]


def test_who_holds_nothing_comes_before_who_holds_all() -> None:
    bench = Bench()
    for _ in range(3):
        bench.queue.lend(ONE_A, 1)
    bench.come(ONE_A, ONE_A, TWO_C, TWO_C)
    assert bench.served(keep=True) == [3, 4, 1, 2]


def test_who_was_served_in_vain_is_next() -> None:
    bench = Bench()
    bench.come(ONE_A, ONE_A, TWO_C)
    checkout = bench.serve()
    bench.queue.lend(checkout.owner, -1)
    bench.queue.put_back(checkout)
    assert bench.served(keep=True) == [1, 3, 2]


def test_last_of_the_longest_line_gives_way() -> None:
    bench = Bench()
    bench.come(ONE_A, ONE_B, TWO_C)
    assert bench.queue.to_give_way(bench.checkout(TWO_C)) == 4, "it would have as many as the other"
    bench.come(ONE_A)
    assert bench.queue.to_give_way(bench.checkout(TWO_C)) == 5
    assert bench.queue.to_give_way(bench.checkout(ONE_B)) == 7, "its sessions would have as many"
    bench.come(ONE_A)
    assert bench.queue.to_give_way(bench.checkout(ONE_B)) == 8
    assert bench.queue.to_give_way(bench.checkout(ONE_A)) == bench.ids


def test_nothing_is_remembered_of_who_has_nothing_and_wants_nothing() -> None:
    bench = Bench()
    bench.come(ONE_A, ONE_B, TWO_C)
    bench.queue.ahead_of(Owner("three"))
    bench.queue.to_give_way(bench.checkout(Owner("four")))
    bench.served(keep=False)
    assert not any(getattr(bench.queue, name) for name in ("rows", "_sessions", "_held"))
    assert not bench.queue._held_in_all
    assert not bench.queue._owners.waiting


def test_place_of_a_newcomer_is_known_but_for_whose_turn_it_is() -> None:
    """Every small queue, every newcomer: the guess against what comes of it."""
    owners = (ONE_A, ONE_B, TWO_C, Owner("three", "d"))
    for counts in itertools.product(range(3), repeat=4):
        for newcomer in owners:
            bench = Bench()
            for owner, count in zip(owners, counts, strict=True):
                bench.come(*[owner] * count)
            guess = bench.queue.ahead_of(newcomer)
            bench.come(newcomer)
            place = bench.served(keep=False).index(bench.ids)
            assert abs(guess - place) <= 3, (counts, newcomer, guess, place)


def test_only_its_own_line_is_before_who_holds_less_than_all_others() -> None:
    bench = Bench()
    for _ in range(9):
        bench.queue.lend(ONE_A, 1)
    bench.come(*[ONE_A] * 50)
    assert bench.queue.ahead_of(TWO_C) == 0
    bench.come(TWO_C)
    assert bench.queue.ahead_of(TWO_C) == 1
    assert bench.queue.ahead_of(ONE_A) == 51
