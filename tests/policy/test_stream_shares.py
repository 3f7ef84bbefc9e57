"""Shares of an upstream's streams: whoever has many leaves some to who has none.

In every order of beginnings and ends that few clients of a small pool can get.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator

import pytest

from proxy_actors.errors import Reason
from proxy_actors.messages import pool as m
from proxy_actors.messages.pool import NOBODY, Owner
from proxy_actors.policy.fair_queue import FairQueue
from proxy_actors.policy.pool import PoolPolicy
from proxy_actors.policy.pool_admission import Admission
from proxy_actors.policy.pool_limits import PoolLimits
from tests.defects import Defect, planted
from tests.policy.pool_bench import STREAM, Bench
from tests.policy.search import Subject, check, search

Move = tuple[str, str]


class Streams(Subject):
    """The streams of some clients. `at_once` says that connections open while they are asked for.

    Attributes:
        claims: how many each client has, or waits for.
        loans: the leases of each, oldest first.
    """

    def __init__(self, names: str, most: int, at_once: bool) -> None:
        self.names = names
        self.most = most
        self.at_once = at_once
        self.policy = PoolPolicy(PoolLimits(connections_max=1, reserve=1, streams_max=most))
        self.asked = 0
        self.claims: Counter[str] = Counter()
        self.waiting: dict[int, str] = {}
        self.loans: dict[str, list[int]] = {name: [] for name in names}
        self.openings: list[int] = []
        self.tell(m.SweepDue(0))

    def moves(self) -> Iterator[Move]:
        for name in self.names:
            yield "begin", name
            if self.loans[name]:
                yield "end", name
        if self.openings:
            yield "open", ""

    def make(self, move: Move) -> None:
        match move:
            case "begin", name:
                self.begin(name)
            case "end", name:
                self.claims[name] -= 1
                self.tell(m.ReturnConnection(self.loans[name].pop(0), False))
            case "open", _:
                self.tell(m.ConnectionOpened(self.openings.pop(0)))
        while self.at_once and self.openings:
            self.tell(m.ConnectionOpened(self.openings.pop(0)))
        held = sum(map(len, self.loans.values()))
        check(held <= self.most, "more streams than there may be")
        check(held + len(self.waiting) == self.claims.total(), "a stream was lost")

    def begin(self, name: str, exchange_id: int = 1) -> bool:
        """Ask for one more; say whether it may have or wait for it."""
        own, rest = self.claims[name], self.most - self.claims.total()
        self.asked += 1
        self.claims[name] += 1
        self.waiting[self.asked] = name
        owner = Owner(name, f"session {self.asked}")
        refused = self.tell(m.CheckoutConnection(self.asked, exchange_id, STREAM, 1e9, 60.0, owner))
        if exchange_id > 0:
            check(not refused or own, "who has none was refused")
            check(bool(refused) == (own > max(8 * (rest - 1), 0)), f"{own} of {rest}, {refused}")
        return not refused

    def settle(self) -> None:
        (owners, held) = [name for name in self.names if self.claims[name]], self.claims.total()
        if len(owners) == 1:
            check(held < self.most, "one client has all")
        check(self.begin(owners[0] if owners else "a", -1), "one that is opened anew was refused")

    def tell(self, message: m.PoolMessage) -> list[m.Refuse]:
        """Tell the policy; enter what it did, and return whom it refused."""
        refused = []
        for effect in self.policy.handle(message, 50.0):
            match effect:
                case m.Open(connection_id):
                    self.openings.append(connection_id)
                case m.Grant(waiter_id, lease_id):
                    self.loans[self.waiting.pop(waiter_id)].append(lease_id)
                case m.Refuse(waiter_id, reason):
                    check(reason is Reason.RATE_LIMITED, "refused for another reason")
                    self.claims[self.waiting.pop(waiter_id)] -= 1
                    refused.append(effect)
        return refused

    def key(self) -> Hashable:
        lines = Counter(self.waiting.values())
        rows = [(len(self.loans[name]), lines[name]) for name in self.names]
        return tuple(rows), len(self.openings)


SCOPES: dict[str, Callable[[], Subject]] = {
    "three": lambda: Streams("abc", 12, at_once=True),
    "four": lambda: Streams("abcd", 3, at_once=True),
    "two": lambda: Streams("ab", 12, at_once=False),
}
DEFECTS = {
    Defect("one client may have all", Admission, "_has_its_streams",
           "return own > 0 and not may_have_one_more(own, rest)", "return False"): "three",
    Defect("the last place is anybody's", Admission, "_has_its_streams",
           "(own, rest)", "(own, rest + 1)"): "three",
    Defect("who has none is refused", Admission, "_has_its_streams",
           "own > 0 and not", "not"): "four",
    Defect("half is left to others", Admission, "_has_its_streams",
           "(own, rest)", "(own, rest, 1)"): "three",
    Defect("who waits has nothing yet", FairQueue, "claimed",
           "+ self._owners.waiting.get(name, 0)", ""): "two",
    Defect("who waits leaves its place", Admission, "_has_its_streams",
           "- len(queue.rows)", ""): "two",
    Defect("streams count as nobody's", FairQueue, "claimed",
           "self._held_in_all.get(name, 0)", "0"): "three",
    Defect("what is opened anew is held to the share", Admission, "_has_its_streams",
           "or checkout.exchange_id < 0", ""): "three",
}  # fmt: skip


@pytest.mark.parametrize("name", SCOPES)
def test_streams_are_shared_in_every_order_of_beginnings_and_ends(name: str) -> None:
    findings = search(SCOPES[name])
    assert findings.violation is None, (findings.violation, findings.trace)
    assert findings.states > 30


@pytest.mark.parametrize("defect", DEFECTS, ids=str)
def test_planted_defect_is_found(defect: Defect) -> None:
    """What the search would say if the pool were wrong."""
    with planted(defect):
        findings = search(SCOPES[DEFECTS[defect]])
    assert findings.violation is not None, f"{findings.states} states, and nothing found"


def test_client_alone_has_eight_ninths_of_the_streams() -> None:
    bench, owner = Bench(PoolLimits(streams_max=900)), Owner("one")
    for _ in range(800):
        bench.lease(STREAM, owner=owner)
    refused = m.Refuse(801, Reason.RATE_LIMITED)
    assert bench.ask(STREAM, owner=owner) == [refused]
    assert bench.policy.gauges().shed == 1
    for n in range(100):
        bench.lease(STREAM, owner=Owner(f"other {n}"))
    assert bench.policy.gauges().streaming == 900


def test_answers_of_calls_that_became_streams_count_as_their_client_s() -> None:
    bench = Bench(PoolLimits(streams_max=2))
    bench.tell(m.ConnectionBecameStream(bench.lease(owner=Owner("one")).lease_id))
    assert bench.ask(STREAM, owner=Owner("one")) == [m.Refuse(2, Reason.RATE_LIMITED)]
    bench.lease(STREAM, owner=Owner("two"))


def test_streams_of_the_proxy_s_own_have_no_share() -> None:
    """Those of sessions at a server of HTTP+SSE are bounded as these are."""
    bench = Bench(PoolLimits(streams_max=2))
    for _ in range(2):
        bench.lease(STREAM, owner=NOBODY)
    assert bench.policy.gauges().streaming == 2
